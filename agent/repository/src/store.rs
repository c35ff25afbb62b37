//! The object store, each call with a deadline.

use crate::config::{Place, RepositoryConfig};
use crate::error::Error;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long one call may take, retries included: the server's archiver waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Created {
    /// It is durable under its name.
    Made,
    /// There was one of that name already; nothing was changed.
    Exists,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
    /// When it was written, by the store's clock, ms since 1970.
    pub modified_ms: i64,
}

/// A store.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) name: Arc<str>,
    inner: Arc<dyn ObjectStore>,
    deadline: Duration,
}

impl Store {
    /// Makes what is needed to speak to the store; a directory must exist.
    pub(crate) fn connect(config: &RepositoryConfig) -> Result<Store, Error> {
        let wrong = |why: String| Error::Config {
            repository: config.name.clone(),
            why,
        };
        config.check().map_err(wrong)?;
        let inner: Arc<dyn ObjectStore> = match config.place().map_err(wrong)? {
            Place::Directory(path) => {
                if !path.is_dir() {
                    return Err(wrong(format!(
                        "the directory {} is not there: create it, or mount what it is on",
                        path.display()
                    )));
                }
                let store = LocalFileSystem::new_with_prefix(path)
                    .map_err(|error| wrong(format!("{} cannot be used: {error}", path.display())))?;
                Arc::new(store.with_fsync(true))
            }
            Place::S3(s3) => bucket(s3).map_err(wrong)?,
        };
        Ok(Store::over(&config.name, inner))
    }

    pub(crate) fn over(name: &str, inner: Arc<dyn ObjectStore>) -> Store {
        Store {
            name: name.into(),
            inner,
            deadline: DEADLINE,
        }
    }

    async fn within<T>(
        &self,
        action: &'static str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<object_store::Result<T>, Error> {
        tokio::time::timeout(self.deadline, work)
            .await
            .map_err(|_| Error::Late {
                repository: self.name.to_string(),
                action,
                key: key.to_owned(),
                after: self.deadline,
            })
    }

    fn failed(&self, action: &'static str, key: &str) -> impl FnOnce(object_store::Error) -> Error {
        let (repository, key) = (self.name.to_string(), key.to_owned());
        move |source| Error::Store {
            repository,
            action,
            key,
            source: Box::new(source),
        }
    }

    /// Creates an object, durably, unless one of that name is there.
    pub(crate) async fn create(&self, key: &str, object: Bytes) -> Result<Created, Error> {
        let options = PutOptions::from(PutMode::Create);
        let path = Path::from(key);
        let put = self.inner.put_opts(&path, PutPayload::from(object), options);
        match self.within("create", key, put).await? {
            Ok(_) => Ok(Created::Made),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(Created::Exists)
            }
            Err(error) => Err(self.failed("create", key)(error)),
        }
    }

    /// Writes an object in place of the one of that name: whoever reads gets the one or the other. Only for keys, which are
    /// wrapped anew.
    pub(crate) async fn replace(&self, key: &str, object: Bytes) -> Result<(), Error> {
        let path = Path::from(key);
        let put = self.inner.put_opts(
            &path,
            PutPayload::from(object),
            PutOptions::from(PutMode::Overwrite),
        );
        self.within("replace", key, put)
            .await?
            .map_err(self.failed("replace", key))?;
        Ok(())
    }

    /// The whole object; `None` if the store says that there is none, which a wrong store says too.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let path = Path::from(key);
        let get = async { self.inner.get(&path).await?.bytes().await };
        match self.within("read", key, get).await? {
            Ok(object) => Ok(Some(object)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", key)(error)),
        }
    }

    /// The first bytes of an object, `most` at the utmost, and how many there are in all.
    pub(crate) async fn beginning(&self, key: &str, most: u64) -> Result<Option<(Bytes, u64)>, Error> {
        let path = Path::from(key);
        let options = GetOptions::default().with_range(Some(GetRange::Bounded(0..most)));
        let get = async {
            let result = self.inner.get_opts(&path, options).await?;
            let all = result.meta.size;
            Ok((result.bytes().await?, all))
        };
        match self.within("read", key, get).await? {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", key)(error)),
        }
    }

    /// Every object below `prefix`, by name.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        let path = Path::from(prefix);
        let listing = self.inner.list(Some(&path)).try_collect::<Vec<_>>();
        let found = self
            .within("list", prefix, listing)
            .await?
            .map_err(self.failed("list", prefix))?;
        let mut found: Vec<Listed> = found
            .into_iter()
            .map(|meta| Listed {
                key: meta.location.to_string(),
                bytes: meta.size,
                modified_ms: meta.last_modified.timestamp_millis(),
            })
            .collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The names of the folders in `prefix`.
    pub(crate) async fn folders(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let path = Path::from(prefix);
        let listing = self.inner.list_with_delimiter(Some(&path));
        let found = self
            .within("list", prefix, listing)
            .await?
            .map_err(self.failed("list", prefix))?;
        let mut names: Vec<String> = found
            .common_prefixes
            .iter()
            .filter_map(|folder| folder.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object; that it is gone already is as good.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = Path::from(key);
        match self.within("delete", key, self.inner.delete(&path)).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", key)(error)),
        }
    }
}

#[cfg(feature = "s3")]
fn bucket(s3: &crate::config::S3) -> Result<Arc<dyn ObjectStore>, String> {
    use object_store::aws::AmazonS3Builder;
    use object_store::prefix::PrefixStore;
    use object_store::{ClientOptions, RetryConfig};

    // The HTTP client has no TLS of its own choice; that somebody else has chosen one already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = s3
        .endpoint
        .as_deref()
        .is_some_and(|url| url.starts_with("http://"));
    let options = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(3))
        .with_timeout(Duration::from_secs(30))
        .with_allow_http(plain);
    let retry = RetryConfig {
        max_retries: 4,
        retry_timeout: Duration::from_secs(40),
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&s3.bucket)
        .with_client_options(options)
        .with_retry(retry);
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let (Some(id), Some(secret)) = (&s3.access_key_id, &s3.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    let store = builder.build().map_err(|error| error.to_string())?;
    if s3.prefix.is_empty() {
        Ok(Arc::new(store))
    } else {
        Ok(Arc::new(PrefixStore::new(store, s3.prefix.as_str())))
    }
}

#[cfg(not(feature = "s3"))]
fn bucket(_: &crate::config::S3) -> Result<Arc<dyn ObjectStore>, String> {
    Err("this program was built without S3 (feature s3 of the crate repository)".to_owned())
}
