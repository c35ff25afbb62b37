//! What an operator says of a repository: an entry of `[[repository]]`.

use crate::bucket::{Azure, Gcs, S3};
use crate::codec::Codec;
use crate::retention::Policy;
use serde::{Deserialize, Serialize};
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
    /// A bucket of S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Gcs>,
    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<Azure>,
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

/// Where a repository is.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    Directory(&'a PathBuf),
    S3(&'a S3),
    Gcs(&'a Gcs),
    Azure(&'a Azure),
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
            gcs: None,
            azure: None,
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
    /// None, or more than one, of `path`, `s3`, `gcs` and `azure` are given.
    pub fn place(&self) -> Result<Place<'_>, String> {
        let given = [
            self.path.as_ref().map(Place::Directory),
            self.s3.as_ref().map(Place::S3),
            self.gcs.as_ref().map(Place::Gcs),
            self.azure.as_ref().map(Place::Azure),
        ];
        match given.into_iter().flatten().collect::<Vec<_>>().as_slice() {
            [one] => Ok(*one),
            _ => Err("give exactly one of path, s3, gcs and azure".to_owned()),
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
            Place::S3(s3) => s3.check()?,
            Place::Gcs(gcs) => gcs.check()?,
            Place::Azure(azure) => azure.check()?,
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
        let gcs = Gcs {
            bucket: "b".to_owned(),
            prefix: String::new(),
            service_account_file: Some("/k".into()),
            endpoint: None,
            anonymous: true,
        };
        let azure = Azure {
            container: "c".to_owned(),
            prefix: String::new(),
            account: String::new(),
            access_key_file: None,
            endpoint: None,
        };
        type Change = Box<dyn Fn(&mut RepositoryConfig)>;
        let wrong: [(&str, Change); 10] = [
            ("anonymous", {
                Box::new(move |c| {
                    c.path = None;
                    c.gcs = Some(gcs.clone());
                })
            }),
            ("azure.account", {
                Box::new(move |c| {
                    c.path = None;
                    c.azure = Some(azure.clone());
                })
            }),
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
