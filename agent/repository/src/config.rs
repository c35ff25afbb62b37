//! What an operator says of a repository: an entry of `[[repository]]`.

use crate::codec::Codec;
use crate::retention::Policy;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// One repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {
    /// 1 to 40 of `a-z 0-9 _ -`, unique.
    pub name: String,
    /// A directory. It must exist: an empty mount point is not taken for a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    #[serde(default)]
    pub compression: Codec,
    /// Of Zstandard, 1 to 19.
    #[serde(default = "level")]
    pub compression_level: i32,
    /// A file with the key, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// A variable of the environment with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_variable: Option<String>,
    /// A program and its arguments that print the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_command: Vec<String>,
    /// What `pgctl backup expire` keeps; without it nothing is ever deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Policy>,
}

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

impl fmt::Debug for S3 {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// Where a repository is.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    Directory(&'a PathBuf),
    S3(&'a S3),
}

fn level() -> i32 {
    3
}

impl RepositoryConfig {
    /// A directory, with defaults for the rest.
    #[must_use]
    pub fn directory(name: &str, path: impl Into<PathBuf>) -> RepositoryConfig {
        RepositoryConfig {
            name: name.to_owned(),
            path: Some(path.into()),
            s3: None,
            compression: Codec::default(),
            compression_level: level(),
            key_file: None,
            key_variable: None,
            key_command: Vec::new(),
            retention: None,
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// Neither or both of `path` and `s3` are given.
    pub fn place(&self) -> Result<Place<'_>, String> {
        match (&self.path, &self.s3) {
            (Some(path), None) => Ok(Place::Directory(path)),
            (None, Some(s3)) => Ok(Place::S3(s3)),
            _ => Err("give exactly one of path and s3".to_owned()),
        }
    }

    /// What is wrong with it, if anything is.
    ///
    /// # Errors
    /// The first thing that is wrong, with what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if !(1..=40).contains(&self.name.len()) || !self.name.chars().all(plain) {
            return Err(format!("name = {:?} must be 1 to 40 of a-z 0-9 _ -", self.name));
        }
        match self.place()? {
            Place::Directory(path) => {
                if !path.is_absolute() {
                    return Err(format!("path = {:?} must be an absolute path", path.display()));
                }
            }
            Place::S3(s3) => {
                if s3.bucket.is_empty() {
                    return Err("s3.bucket must be the name of a bucket".to_owned());
                }
                let scheme = |url: &String| url.starts_with("http://") || url.starts_with("https://");
                if s3.endpoint.as_ref().is_some_and(|url| !scheme(url)) {
                    return Err("s3.endpoint must begin with https:// or http://".to_owned());
                }
                if s3.access_key_id.is_some() != s3.secret_access_key.is_some() {
                    return Err(
                        "give both of s3.access_key_id and s3.secret_access_key, or neither".to_owned(),
                    );
                }
            }
        }
        if !(1..=19).contains(&self.compression_level) {
            return Err(format!(
                "compression_level = {} must be 1 to 19",
                self.compression_level
            ));
        }
        let sources = [
            self.key_file.is_some(),
            self.key_variable.is_some(),
            !self.key_command.is_empty(),
        ];
        if sources.iter().filter(|given| **given).count() > 1 {
            return Err("give at most one of key_file, key_variable and key_command".to_owned());
        }
        if let Some(retention) = &self.retention {
            retention.check()?;
        }
        Ok(())
    }

    /// Whether what is written is encrypted.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        self.key_file.is_some() || self.key_variable.is_some() || !self.key_command.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let good = RepositoryConfig::directory("main", "/srv/pgctl");
        assert_eq!(good.check(), Ok(()));
        let s3 = S3 {
            bucket: "b".to_owned(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            access_key_id: None,
            secret_access_key: None,
        };
        type Change = Box<dyn Fn(&mut RepositoryConfig)>;
        let wrong: [(&str, Change); 8] = [
            ("name", Box::new(|c| c.name = "Main".to_owned())),
            ("absolute", Box::new(|c| c.path = Some("srv".into()))),
            ("exactly one", Box::new(|c| c.path = None)),
            ("exactly one", {
                let s3 = s3.clone();
                Box::new(move |c| c.s3 = Some(s3.clone()))
            }),
            ("level", Box::new(|c| c.compression_level = 20)),
            ("at most one", {
                Box::new(|c| {
                    c.key_file = Some("/k".into());
                    c.key_variable = Some("K".to_owned());
                })
            }),
            ("endpoint", {
                let s3 = S3 {
                    endpoint: Some("minio:9000".to_owned()),
                    ..s3.clone()
                };
                Box::new(move |c| {
                    c.path = None;
                    c.s3 = Some(s3.clone());
                })
            }),
            ("both", {
                let s3 = S3 {
                    access_key_id: Some("x".to_owned()),
                    ..s3.clone()
                };
                Box::new(move |c| {
                    c.path = None;
                    c.s3 = Some(s3.clone());
                })
            }),
        ];
        for (word, change) in wrong {
            let mut config = good.clone();
            change(&mut config);
            let error = config.check().expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }
}
