//! One repository, opened.

use crate::cipher::{Secret, random_name};
use crate::config::RepositoryConfig;
use crate::envelope::{self, HEADER_MAX, Header, Kind, Packing};
use crate::error::Error;
use crate::keys::{self, WrappedKey};
use crate::layout::{Line, MARKER};
use crate::store::{Created, Listed, Store};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The version of the layout.
pub(crate) const FORMAT: u32 = 1;

/// What is written into an empty repository.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub format: u32,
    /// Tells this repository from any other.
    pub id: String,
}

/// A repository; cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) store: Store,
    packing: Packing,
    operators_key: Option<Secret>,
    id: Arc<str>,
    data_keys: Arc<Mutex<BTreeMap<String, Secret>>>,
}

impl Repository {
    /// Opens a repository to read from it.
    ///
    /// # Errors
    /// It is not there, is of a newer format, or its key is not to be had.
    pub async fn open(config: &RepositoryConfig) -> Result<Repository, Error> {
        let store = Store::connect(config).await?;
        let marker = read_marker(&store).await?.ok_or_else(|| Error::NotThisOne {
            repository: config.name.clone(),
            why: format!("there is no {MARKER}: nothing was ever written here, or this is not the place"),
        })?;
        Repository::with(config, store, marker)
    }

    /// Opens a repository to write into it, after a look at whether it can: begins it if it is empty, and makes sure that
    /// the store does not let one writer overwrite another. `known` is the id that this repository had before, if it was
    /// ever used from here.
    ///
    /// # Errors
    /// As [`Repository::open`]; it is another one than `known`; or the store overwrites.
    pub async fn open_to_write(config: &RepositoryConfig, known: Option<&str>) -> Result<Repository, Error> {
        let store = Store::connect(config).await?;
        let not_this_one = |why: String| Error::NotThisOne {
            repository: config.name.clone(),
            why,
        };
        let marker = match read_marker(&store).await? {
            Some(marker) => marker,
            None if known.is_some() => {
                return Err(not_this_one(format!(
                    "its {MARKER} is gone: mount what it is on, or, if it is lost, give the new one another name"
                )));
            }
            None => begin(&store).await?,
        };
        if known.is_some_and(|known| known != marker.id) {
            return Err(not_this_one(format!(
                "this is another repository (id {}) than the one that was used before: give it another name, or \
                 bring the old one back",
                marker.id
            )));
        }
        probe(&store).await?;
        Repository::with(config, store, marker)
    }

    /// A repository in a store of a test's own.
    #[cfg(test)]
    pub(crate) async fn over(inner: Arc<dyn object_store::ObjectStore>) -> Result<Repository, Error> {
        let store = Store::over("memory", inner);
        let marker = match read_marker(&store).await? {
            Some(marker) => marker,
            None => begin(&store).await?,
        };
        Repository::with(&RepositoryConfig::directory("memory", "/"), store, marker)
    }

    fn with(config: &RepositoryConfig, store: Store, marker: Marker) -> Result<Repository, Error> {
        let repository = config.name.clone();
        if marker.format != FORMAT {
            let why = format!(
                "it has format {}, this program knows {FORMAT}: use a newer one",
                marker.format
            );
            return Err(Error::NotThisOne { repository, why });
        }
        let operators_key = keys::operators(config).map_err(|why| Error::Key { repository, why })?;
        Ok(Repository {
            store,
            packing: Packing {
                codec: config.compression,
                level: config.compression_level,
                key: None,
            },
            operators_key,
            id: marker.id.into(),
            data_keys: Arc::default(),
        })
    }

    /// The operator's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.store.name
    }

    /// Given at its beginning; never changes.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lines of a cluster that have anything in here.
    ///
    /// # Errors
    /// The store does not list.
    pub async fn lines(&self, cluster: &str) -> Result<Vec<Line>, Error> {
        let incarnations = self.store.folders(cluster).await?;
        Ok(incarnations
            .iter()
            .map(|it| Line::of_parts(cluster, it))
            .collect())
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        self.store.list(prefix).await
    }

    /// A data key of that name, made now, with which [`Repository::create`] encrypts from here on. Does nothing where
    /// there is no operator's key.
    pub(crate) async fn encrypting(&self, line: &Line, name: &str) -> Result<Repository, Error> {
        let Some(operators) = &self.operators_key else {
            return Ok(self.clone());
        };
        let no = |why: &str| Error::Key {
            repository: self.name().to_owned(),
            why: why.to_owned(),
        };
        let data = Secret::random().ok_or_else(|| no("the system gives no random numbers"))?;
        let name = format!(
            "{name}-{}",
            random_name().ok_or_else(|| no("the system gives no random numbers"))?
        );
        let wrapped = WrappedKey {
            by: operators.id(),
            wrapped: operators
                .wrap(&data, &name)
                .ok_or_else(|| no("the data key cannot be wrapped"))?,
        };
        let json = serde_json::to_vec(&wrapped).map_err(|error| no(&error.to_string()))?;
        self.create(line.key(&name), Kind::Key, &name, BTreeMap::new(), json)
            .await?;
        let mut own = self.clone();
        own.packing.key = Some((name, data));
        Ok(own)
    }

    /// Creates an object that holds `content`, durably, unless one of that name is there. Gives its size in the store.
    pub(crate) async fn create(
        &self,
        key: String,
        kind: Kind,
        name: &str,
        about: BTreeMap<String, String>,
        content: impl AsRef<[u8]> + Send + 'static,
    ) -> Result<(Created, u64), Error> {
        self.create_hashed(key, kind, name, about, content, None).await
    }

    /// [`Repository::create`] of content whose hash is known: to count it is a third of the work.
    pub(crate) async fn create_hashed(
        &self,
        key: String,
        kind: Kind,
        name: &str,
        about: BTreeMap<String, String>,
        content: impl AsRef<[u8]> + Send + 'static,
        known: Option<String>,
    ) -> Result<(Created, u64), Error> {
        let (packing, owned) = (self.packing.clone(), name.to_owned());
        // Small things compress in no time and must be readable with `head` and `cat`.
        let packing = match kind {
            Kind::Key
            | Kind::Backup
            | Kind::History
            | Kind::Label
            | Kind::Pin
            | Kind::Mark
            | Kind::Evidence => Packing {
                codec: crate::codec::Codec::None,
                ..packing
            },
            Kind::Segment | Kind::Partial | Kind::Part | Kind::Manifest => packing,
        };
        let sealing = tokio::task::spawn_blocking(move || {
            envelope::seal(kind, &owned, about, content.as_ref(), known, &packing)
        });
        let sealed = sealing.await.map_err(|error| error.to_string()).and_then(|it| it);
        let object = sealed.map_err(|why| Error::Refused {
            name: name.to_owned(),
            why,
        })?;
        let bytes = object.len() as u64;
        let created = self.store.create(&key, Bytes::from(object)).await?;
        Ok((created, bytes))
    }

    /// What an object is, with a look at whether all of it is there. [`Error::Missing`] only if the store is the right one.
    pub(crate) async fn header(&self, key: &str) -> Result<Header, Error> {
        let Some((beginning, all)) = self.store.beginning(key, HEADER_MAX as u64).await? else {
            return Err(self.truly_missing(key).await);
        };
        let (header, start) = envelope::header(&beginning).map_err(|why| self.damaged(key, why))?;
        if all != start as u64 + header.stored {
            let why = format!(
                "it has {all} bytes, {} were written",
                start as u64 + header.stored
            );
            return Err(self.damaged(key, why));
        }
        Ok(header)
    }

    /// An object's content, verified. [`Error::Missing`] only if the store is the right one.
    pub(crate) async fn read(&self, key: &str) -> Result<(Header, Vec<u8>), Error> {
        let Some(object) = self.store.get(key).await? else {
            return Err(self.truly_missing(key).await);
        };
        let (header, _) = envelope::header(&object).map_err(|why| self.damaged(key, why))?;
        let data_key = match &header.cipher {
            None => None,
            Some(cipher) => Some(self.data_key(key, &cipher.key).await?),
        };
        let opening = tokio::task::spawn_blocking(move || envelope::open(&object, data_key.as_ref()));
        let opened = opening.await.map_err(|error| error.to_string()).and_then(|it| it);
        opened.map_err(|why| self.damaged(key, why))
    }

    /// [`Repository::create`] of what only this writer can have made, whose name has a unique id in it: that it is there
    /// already is the answer to an earlier request that was lost, if it has this very content. It is looked whether the
    /// store has it. Gives its size in the store.
    pub(crate) async fn create_own(
        &self,
        key: String,
        kind: Kind,
        name: &str,
        content: impl AsRef<[u8]> + Send + 'static,
        hash: String,
    ) -> Result<u64, Error> {
        let about = BTreeMap::new();
        let known = Some(hash.clone());
        let (_, bytes) = self
            .create_hashed(key.clone(), kind, name, about, content, known)
            .await?;
        match self.header(&key).await {
            Ok(header) if header.hash == hash => Ok(bytes),
            Ok(_) => Err(self.damaged(&key, "it is there with other content: two have the same id")),
            Err(error) if error.is_missing() => Err(self.forgetful(&key)),
            Err(error) => Err(error),
        }
    }

    /// [`Repository::create`] of a small thing as JSON.
    pub(crate) async fn create_json(
        &self,
        key: String,
        kind: Kind,
        name: &str,
        what: &impl Serialize,
    ) -> Result<Created, Error> {
        let json = serde_json::to_vec_pretty(what).map_err(|error| Error::Refused {
            name: name.to_owned(),
            why: error.to_string(),
        })?;
        let (created, _) = self.create(key, kind, name, BTreeMap::new(), json).await?;
        Ok(created)
    }

    /// What [`Repository::create_json`] has written.
    pub(crate) async fn read_json<T: DeserializeOwned>(&self, key: &str) -> Result<T, Error> {
        let (_, json) = self.read(key).await?;
        serde_json::from_slice(&json).map_err(|error| self.damaged(key, error.to_string()))
    }

    /// Every JSON below a prefix, with its key. What is deleted meanwhile is not among them.
    pub(crate) async fn read_all<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, Error> {
        let mut found = Vec::new();
        for listed in self.list(prefix).await? {
            match self.read_json(&listed.key).await {
                Ok(one) => found.push((listed.key, one)),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Whether there is an object of that name.
    pub(crate) async fn exists(&self, key: &str) -> Result<bool, Error> {
        match self.header(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object; that it is gone already is as good.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), Error> {
        self.store.delete(key).await
    }

    async fn data_key(&self, of: &str, name: &str) -> Result<Secret, Error> {
        let known = self
            .data_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned();
        if let Some(key) = known {
            return Ok(key);
        }
        let no = |why: String| Error::Key {
            repository: self.name().to_owned(),
            why,
        };
        let operators = self.operators_key.as_ref().ok_or_else(|| {
            no(format!(
                "{of} is encrypted: give the key with key_file, key_variable or key_command"
            ))
        })?;
        let line = Line::of_key(of).ok_or_else(|| no(format!("{of} belongs to no line")))?;
        let key = line.key(name);
        let object = self
            .store
            .get(&key)
            .await?
            .ok_or_else(|| no(format!("{key} is not there")))?;
        let (_, json) = envelope::open(&object, None).map_err(|why| self.damaged(&key, why))?;
        let wrapped: WrappedKey =
            serde_json::from_slice(&json).map_err(|error| self.damaged(&key, error.to_string()))?;
        let data = operators.unwrap_key(&wrapped.wrapped, name).ok_or_else(|| {
            no(format!(
                "{key} was wrapped with the key {}, the one that was given is {}",
                wrapped.by,
                operators.id()
            ))
        })?;
        self.data_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), data.clone());
        Ok(data)
    }

    /// A store that lost its mount, or whose bucket is gone, says "not there" to everything; ours has its marker.
    async fn truly_missing(&self, key: &str) -> Error {
        match read_marker(&self.store).await {
            Ok(Some(marker)) if marker.id == *self.id => Error::Missing {
                repository: self.name().to_owned(),
                key: key.to_owned(),
            },
            Ok(_) => Error::NotThisOne {
                repository: self.name().to_owned(),
                why: format!("its {MARKER} is gone: is what it is on still mounted?"),
            },
            Err(error) => error,
        }
    }

    /// The store has said that it has an object, and does not.
    pub(crate) fn forgetful(&self, key: &str) -> Error {
        Error::NotThisOne {
            repository: self.name().to_owned(),
            why: format!(
                "it says that it has taken {key}, and does not have it: nothing counts as archived there"
            ),
        }
    }

    pub(crate) fn damaged(&self, key: &str, why: impl Into<String>) -> Error {
        Error::Damaged {
            repository: self.name().to_owned(),
            key: key.to_owned(),
            why: why.into(),
        }
    }
}

pub(crate) async fn read_marker(store: &Store) -> Result<Option<Marker>, Error> {
    let Some(object) = store.get(MARKER).await? else {
        return Ok(None);
    };
    serde_json::from_slice(&object)
        .map(Some)
        .map_err(|error| Error::Damaged {
            repository: store.name.to_string(),
            key: MARKER.to_owned(),
            why: error.to_string(),
        })
}

/// Makes a repository of an empty place; of several that try, one does.
async fn begin(store: &Store) -> Result<Marker, Error> {
    let no = |why: String| Error::NotThisOne {
        repository: store.name.to_string(),
        why,
    };
    let id = random_name().ok_or_else(|| no("the system gives no random numbers".to_owned()))?;
    let json = serde_json::to_vec(&Marker { format: FORMAT, id }).map_err(|error| no(error.to_string()))?;
    store.create(MARKER, Bytes::from(json)).await?;
    read_marker(store)
        .await?
        .ok_or_else(|| no(format!("{MARKER} was written and is not there")))
}

/// Makes sure that a create does not overwrite: two primaries must never replace each other's WAL.
async fn probe(store: &Store) -> Result<(), Error> {
    let no = |why: &str| Error::NotThisOne {
        repository: store.name.to_string(),
        why: why.to_owned(),
    };
    let name = random_name().ok_or_else(|| no("the system gives no random numbers"))?;
    let key = format!("probe/{name}");
    // That an answer was lost and the create was made again is no matter; that the second one goes through is.
    store.create(&key, Bytes::from_static(b"first")).await?;
    let second = store.create(&key, Bytes::from_static(b"second")).await?;
    let kept = store.get(&key).await?;
    store.delete(&key).await?;
    if second != Created::Exists || kept.as_deref() != Some(b"first") {
        return Err(no(
            "this store overwrites objects although it was told not to (no create-if-absent), or does not keep what it \
             says it has: use another one",
        ));
    }
    Ok(())
}
