//! What lies in a repository: for whoever finds one, and for whoever lost what belongs to it.

use crate::cipher::{Secret, random_name};
use crate::config::{Place, RepositoryConfig};
use crate::envelope::{self, HEADER_MAX, Kind};
use crate::error::Error;
use crate::keys::{self, WrappedKey};
use crate::layout::MARKER;
use crate::repository::{FORMAT, Marker, read_marker};
use crate::store::{Listed, Store};
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many strange names are told.
const NAMED: usize = 50;

/// Objects of one sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Heap {
    pub objects: u64,
    pub stored_bytes: u64,
}

impl Heap {
    fn add(&mut self, listed: &Listed) {
        self.objects += 1;
        self.stored_bytes += listed.bytes;
    }
}

/// What lies in one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LineSurvey {
    pub cluster: String,
    pub incarnation: String,
    /// By folder: wal, backups, history, keys, and so on.
    pub heaps: BTreeMap<String, Heap>,
    /// Of each operator's key, by its name, how many data keys it opens.
    pub keys: BTreeMap<String, u64>,
    /// By the store's clock, ms since 1970.
    pub oldest_ms: Option<i64>,
    pub newest_ms: Option<i64>,
}

/// What lies in a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Without it, it cannot be used: see [`adopt`].
    pub id: Option<String>,
    pub format: Option<u32>,
    pub lines: Vec<LineSurvey>,
    /// The name of the operator's key that was given.
    pub key: Option<String>,
    /// What writes that were broken off have left, in a directory.
    pub temporary: Vec<PathBuf>,
    /// Names that no program of this house makes; the first ones.
    pub strange: Vec<String>,
}

/// The folders of a line.
const FOLDERS: [&str; 15] = [
    "wal",
    "history",
    "labels",
    "partial",
    "diverged",
    "quarantine",
    "backups",
    "keys",
    "owners",
    "pins",
    "drills",
    "dumps",
    "expiring",
    "expired",
    "given-up",
];

/// Looks at everything that lies there. Needs no marker, and no key.
///
/// # Errors
/// The store does not answer.
pub async fn survey(config: &RepositoryConfig) -> Result<Survey, Error> {
    let store = Store::connect(config).await?;
    let mut survey = Survey::default();
    if let Ok(Some(marker)) = read_marker(&store).await {
        survey.id = Some(marker.id);
        survey.format = Some(marker.format);
    }
    survey.key = keys::operators(config).ok().flatten().map(|key| key.id());
    let mut lines: BTreeMap<(String, String), LineSurvey> = BTreeMap::new();
    for listed in store.list("").await? {
        let words: Vec<&str> = listed.key.split('/').collect();
        let (cluster, incarnation, folder) = match words.as_slice() {
            [MARKER] | ["probe", _] => continue,
            [cluster, incarnation, folder, _, ..] => (*cluster, *incarnation, *folder),
            _ => ("", "", ""),
        };
        if !FOLDERS.contains(&folder) {
            if survey.strange.len() < NAMED {
                survey.strange.push(listed.key);
            }
            continue;
        }
        let line = lines
            .entry((cluster.to_owned(), incarnation.to_owned()))
            .or_insert_with(|| LineSurvey {
                cluster: cluster.to_owned(),
                incarnation: incarnation.to_owned(),
                ..LineSurvey::default()
            });
        line.heaps.entry(folder.to_owned()).or_default().add(&listed);
        let at = listed.modified_ms;
        line.oldest_ms = Some(line.oldest_ms.unwrap_or(at).min(at));
        line.newest_ms = Some(line.newest_ms.unwrap_or(at).max(at));
        if folder == "keys" {
            let by = wrapped_key(&store, &listed.key)
                .await?
                .map_or_else(|| "damaged".to_owned(), |key| key.by);
            *line.keys.entry(by).or_default() += 1;
        }
    }
    survey.lines = lines.into_values().collect();
    if let Ok(Place::Directory(path)) = config.place() {
        temporary(path, &mut survey.temporary);
        survey.temporary.sort();
    }
    Ok(survey)
}

async fn wrapped_key(store: &Store, key: &str) -> Result<Option<WrappedKey>, Error> {
    let object = store.get(key).await?;
    let opened = object.and_then(|object| envelope::open(&object, None).ok());
    Ok(opened.and_then(|(_, json)| serde_json::from_slice(&json).ok()))
}

/// Files that the store writes before it gives them their names: `name#1`.
fn temporary(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            temporary(&path, found);
        } else if let Some((_, suffix)) = entry.file_name().to_string_lossy().rsplit_once('#')
            && !suffix.is_empty()
            && suffix.bytes().all(|byte| byte.is_ascii_digit())
        {
            found.push(path);
        }
    }
}

/// Makes a repository whose marker was lost one again. Gives its id, and whether anything had to be done.
///
/// # Errors
/// Nothing of a repository lies there, it has another id already, or it cannot be written.
pub async fn adopt(config: &RepositoryConfig, id: Option<&str>) -> Result<(String, bool), Error> {
    let store = Store::connect(config).await?;
    let refused = |why: String| Error::NotThisOne {
        repository: config.name.clone(),
        why,
    };
    if let Some(marker) = read_marker(&store).await? {
        if id.is_some_and(|id| id != marker.id) {
            return Err(refused(format!(
                "it has the id {} already, and that never changes",
                marker.id
            )));
        }
        return Ok((marker.id, false));
    }
    if let Some(id) = id
        && (id.is_empty() || id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Err(refused(format!(
            "{id:?} is no id of a repository: those are hexadecimal"
        )));
    }
    if !has_an_object(&store).await? {
        return Err(refused(
            "nothing of a repository lies there: an empty one is begun by the first agent that uses it"
                .to_owned(),
        ));
    }
    let id = match id {
        Some(id) => id.to_owned(),
        None => random_name().ok_or_else(|| refused("the system gives no random numbers".to_owned()))?,
    };
    let marker = Marker {
        format: FORMAT,
        id: id.clone(),
    };
    let json = serde_json::to_vec(&marker).map_err(|error| refused(error.to_string()))?;
    store.create(MARKER, Bytes::from(json)).await?;
    let there = read_marker(&store).await?;
    match there {
        Some(there) if there.id == id => Ok((id, true)),
        _ => Err(refused(
            "somebody else adopts it at this moment: try again".to_owned(),
        )),
    }
}

/// Whether something lies there that a program of this house has written.
async fn has_an_object(store: &Store) -> Result<bool, Error> {
    for listed in store.list("").await? {
        if let Some((beginning, _)) = store.beginning(&listed.key, HEADER_MAX as u64).await?
            && envelope::header(&beginning).is_ok()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a change of keys has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rekeyed {
    /// Data keys that the new key opens from now on.
    pub changed: u64,
    /// Those that it opened already.
    pub already: u64,
}

/// Has the key of `config` open every data key that `old` opened. No data is written again. May be broken off and repeated:
/// each data key is opened by the one or by the other at any moment.
///
/// # Errors
/// `config` names no key, a data key is opened by neither, or it cannot be written. Those before it are changed.
pub async fn rekey(config: &RepositoryConfig, old: &Secret) -> Result<Rekeyed, Error> {
    let store = Store::connect(config).await?;
    let no = |why: String| Error::Key {
        repository: config.name.clone(),
        why,
    };
    let new = keys::operators(config)
        .map_err(no)?
        .ok_or_else(|| no("the configuration names no key: set the new one there".to_owned()))?;
    let mut done = Rekeyed::default();
    for listed in store.list("").await? {
        let words: Vec<&str> = listed.key.split('/').collect();
        let [_, _, "keys", name] = words.as_slice() else {
            continue;
        };
        let wrapped = wrapped_key(&store, &listed.key).await?.ok_or_else(|| {
            no(format!(
                "{} is damaged: what it opens cannot be read by anybody",
                listed.key
            ))
        })?;
        if new.unwrap_key(&wrapped.wrapped, name).is_some() {
            done.already += 1;
            continue;
        }
        let data = old.unwrap_key(&wrapped.wrapped, name).ok_or_else(|| {
            no(format!(
                "{} was wrapped with the key {}; the new one is {}, the old one that was given {}",
                listed.key,
                wrapped.by,
                new.id(),
                old.id()
            ))
        })?;
        let object = sealed(&new, &data, name).map_err(no)?;
        store.replace(&listed.key, Bytes::from(object)).await?;
        done.changed += 1;
    }
    Ok(done)
}

fn sealed(operators: &Secret, data: &Secret, name: &str) -> Result<Vec<u8>, String> {
    let wrapped = WrappedKey {
        by: operators.id(),
        wrapped: operators
            .wrap(data, name)
            .ok_or("the data key cannot be wrapped")?,
    };
    let json = serde_json::to_vec(&wrapped).map_err(|error| error.to_string())?;
    envelope::seal(
        Kind::Key,
        name,
        BTreeMap::new(),
        &json,
        None,
        &envelope::Packing::plain(),
    )
}
