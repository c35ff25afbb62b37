//! Repositories that are not directories: what an operator says of a bucket or a container.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A bucket of S3, or of what speaks its protocol.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    pub bucket: String,
    /// Put before every key.
    #[serde(default)]
    pub prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where it is not Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Otherwise from the environment (`AWS_ACCESS_KEY_ID`) or the machine's role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    #[serde(default, skip_serializing)]
    pub secret_access_key: Option<String>,
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gcs {
    pub bucket: String,
    /// Put before every key.
    #[serde(default)]
    pub prefix: String,
    /// The service account's key, JSON; otherwise `GOOGLE_APPLICATION_CREDENTIALS`, or the machine's own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_file: Option<PathBuf>,
    /// Where it is not Google's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Sends no credentials: for an emulator.
    #[serde(default)]
    pub anonymous: bool,
}

/// A container of Azure Blob Storage.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Azure {
    pub container: String,
    /// Put before every name.
    #[serde(default)]
    pub prefix: String,
    pub account: String,
    /// A file with the account's key; otherwise `AZURE_STORAGE_ACCOUNT_KEY`, the other variables of Azure's own tools, or
    /// the machine's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_file: Option<PathBuf>,
    /// Where it is not `https://ACCOUNT.blob.core.windows.net`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

impl fmt::Debug for S3 {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

impl fmt::Debug for Gcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}/{}", self.bucket, self.prefix)
    }
}

impl fmt::Debug for Azure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "az://{}/{}/{}", self.account, self.container, self.prefix)
    }
}

impl S3 {
    pub(crate) fn check(&self) -> Result<(), String> {
        named("s3.bucket", "a bucket", &self.bucket)?;
        url("s3.endpoint", self.endpoint.as_deref())?;
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            return Err("give both of s3.access_key_id and s3.secret_access_key, or neither".to_owned());
        }
        Ok(())
    }
}

impl Gcs {
    pub(crate) fn check(&self) -> Result<(), String> {
        named("gcs.bucket", "a bucket", &self.bucket)?;
        url("gcs.endpoint", self.endpoint.as_deref())?;
        if self.anonymous && self.service_account_file.is_some() {
            return Err("give at most one of gcs.service_account_file and gcs.anonymous".to_owned());
        }
        Ok(())
    }
}

impl Azure {
    pub(crate) fn check(&self) -> Result<(), String> {
        named("azure.container", "a container", &self.container)?;
        named("azure.account", "a storage account", &self.account)?;
        url("azure.endpoint", self.endpoint.as_deref())
    }
}

fn named(key: &str, what: &str, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err(format!("{key} must be the name of {what}"));
    }
    Ok(())
}

fn url(key: &str, value: Option<&str>) -> Result<(), String> {
    let has_scheme = |url: &str| url.starts_with("http://") || url.starts_with("https://");
    if value.is_some_and(|url| !has_scheme(url)) {
        return Err(format!("{key} must begin with https:// or http://"));
    }
    Ok(())
}
