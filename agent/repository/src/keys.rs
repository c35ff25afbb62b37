//! Keys: the operator's, and the data keys that it wraps.

use crate::cipher::Secret;
use crate::config::RepositoryConfig;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

/// A data key as it lies in the repository.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WrappedKey {
    /// The name of the key that it was wrapped with.
    pub by: String,
    /// Nonce, key and tag, in hexadecimal.
    pub wrapped: String,
}

/// The operator's key; `None` where the repository is not to be encrypted.
pub(crate) fn operators(config: &RepositoryConfig) -> Result<Option<Secret>, String> {
    let text = if let Some(file) = &config.key_file {
        std::fs::read_to_string(file)
            .map_err(|error| format!("key_file {} cannot be read: {error}", file.display()))?
    } else if let Some(variable) = &config.key_variable {
        std::env::var(variable).map_err(|_| format!("the variable {variable} of key_variable is not set"))?
    } else if let Some((program, arguments)) = config.key_command.split_first() {
        let output = Command::new(Path::new(program))
            .args(arguments)
            .output()
            .map_err(|error| format!("key_command {program} cannot be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("key_command {program}: {}", output.status));
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    } else {
        return Ok(None);
    };
    // What was found is not told: it may be most of a key.
    Secret::parse(&text).map(Some).ok_or_else(|| {
        "the key must be 64 hexadecimal digits, as `openssl rand -hex 32` writes them".to_owned()
    })
}
