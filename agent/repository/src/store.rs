//! The object store, each call with a deadline.

use crate::cloud;
use crate::config::{Place, RepositoryConfig};
use crate::error::Error;
use crate::patience::{Impatient, Patience, look_at};
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
    /// Where a call keeps a thread until it is answered: in a directory.
    patience: Option<Patience>,
}

impl Store {
    /// Makes what is needed to speak to the store; a directory must exist.
    pub(crate) async fn connect(config: &RepositoryConfig) -> Result<Store, Error> {
        let wrong = |why: String| Error::Config {
            repository: config.name.clone(),
            why,
        };
        config.check().map_err(wrong)?;
        match config.place().map_err(wrong)? {
            Place::Directory(path) => {
                let folder = path.clone();
                let looked = look_at(path, DEADLINE, move || directory(&folder)).await;
                let opened =
                    looked.map_err(|why| impatient(&config.name, "open", path.display(), why, DEADLINE))?;
                let mut store = Store::over(&config.name, Arc::new(opened.map_err(wrong)?));
                store.patience = Some(Patience::new());
                Ok(store)
            }
            remote => Ok(Store::over(&config.name, cloud::connect(remote).map_err(wrong)?)),
        }
    }

    pub(crate) fn over(name: &str, inner: Arc<dyn ObjectStore>) -> Store {
        Store {
            name: name.into(),
            inner,
            deadline: DEADLINE,
            patience: None,
        }
    }

    async fn within<T: Send + 'static>(
        &self,
        action: &'static str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<object_store::Result<T>, Error> {
        let done = match &self.patience {
            Some(patience) => patience.wait(self.deadline, work).await,
            None => tokio::time::timeout(self.deadline, work)
                .await
                .map_err(|_| Impatient::Late),
        };
        done.map_err(|why| impatient(&self.name, action, key, why, self.deadline))
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
        match self.put("create", key, object, PutMode::Create).await? {
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
        let put = self.put("replace", key, object, PutMode::Overwrite).await?;
        put.map_err(self.failed("replace", key))
    }

    async fn put(
        &self,
        action: &'static str,
        key: &str,
        object: Bytes,
        mode: PutMode,
    ) -> Result<object_store::Result<()>, Error> {
        let (inner, path) = self.at(key);
        let put = async move {
            let payload = PutPayload::from(object);
            inner
                .put_opts(&path, payload, PutOptions::from(mode))
                .await
                .map(drop)
        };
        self.within(action, key, put).await
    }

    fn at(&self, key: &str) -> (Arc<dyn ObjectStore>, Path) {
        (Arc::clone(&self.inner), Path::from(key))
    }

    /// The whole object; `None` if the store says that there is none, which a wrong store says too.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let (inner, path) = self.at(key);
        let get = async move { inner.get(&path).await?.bytes().await };
        match self.within("read", key, get).await? {
            Ok(object) => Ok(Some(object)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", key)(error)),
        }
    }

    /// The first bytes of an object, `most` at the utmost, and how many there are in all.
    pub(crate) async fn beginning(&self, key: &str, most: u64) -> Result<Option<(Bytes, u64)>, Error> {
        let (inner, path) = self.at(key);
        let options = GetOptions::default().with_range(Some(GetRange::Bounded(0..most)));
        let get = async move {
            let result = inner.get_opts(&path, options).await?;
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
        let (inner, path) = self.at(prefix);
        let listing = async move { inner.list(Some(&path)).try_collect::<Vec<_>>().await };
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
        let (inner, path) = self.at(prefix);
        let listing = async move { inner.list_with_delimiter(Some(&path)).await };
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
        let (inner, path) = self.at(key);
        let delete = async move { inner.delete(&path).await };
        match self.within("delete", key, delete).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", key)(error)),
        }
    }
}

/// What reads and writes a directory.
fn directory(path: &std::path::Path) -> Result<LocalFileSystem, String> {
    if !path.is_dir() {
        return Err(format!(
            "the directory {} is not there: create it, or mount what it is on",
            path.display()
        ));
    }
    let store = LocalFileSystem::new_with_prefix(path);
    let store = store.map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
    Ok(store.with_fsync(true))
}

fn impatient(
    repository: &str,
    action: &'static str,
    key: impl ToString,
    why: Impatient,
    after: Duration,
) -> Error {
    let (repository, key) = (repository.to_owned(), key.to_string());
    match why {
        Impatient::Late => Error::Late {
            repository,
            action,
            key,
            after,
        },
        Impatient::Hangs(calls) => Error::Hangs {
            repository,
            action,
            key,
            calls,
        },
    }
}
