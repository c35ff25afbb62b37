//! Archived WAL: put, so that it may be asked for twice and never overwrites; get, so that only what was verified comes out.

use crate::envelope::{Header, Kind, hash};
use crate::error::Error;
use crate::layout::Line;
use crate::page_header::check_segment;
use crate::repository::Repository;
use crate::store::Created;
use crate::wal_name::WalName;
use agent_core::pg::{SystemId, TimelineHistory};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A file of `pg_wal` with its content; cheap to clone.
#[derive(Debug, Clone)]
pub struct WalFileContent {
    pub name: WalName,
    content: Arc<Vec<u8>>,
    hash: Arc<str>,
    /// Bytes of a segment; 0 for other files.
    pub segment_bytes: u64,
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub line: Line,
    /// The node's name.
    pub node: String,
    /// The newest epoch that it knows of.
    pub epoch: u64,
    /// Its wall clock, for people.
    pub now: String,
    /// It lies beyond the point where the cluster left its timeline: it is kept, and apart.
    pub diverged: bool,
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was written; so many bytes in the store.
    Written(u64),
    /// The same content was there.
    Already,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub header: Header,
    pub content: Vec<u8>,
}

impl WalFileContent {
    /// Checks that a file is what its name says.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn check(name: WalName, system_id: SystemId, content: Vec<u8>) -> Result<WalFileContent, Error> {
        let mut segment_bytes = 0;
        match name {
            WalName::Segment(segment) | WalName::Partial(segment) => {
                segment_bytes = check_segment(segment, system_id, &content)?.segment_bytes;
            }
            WalName::History(timeline) => {
                let text = std::str::from_utf8(&content).ok();
                if text
                    .and_then(|text| TimelineHistory::parse(timeline, text))
                    .is_none()
                {
                    return Err(Error::Refused {
                        name: name.to_string(),
                        why: "it is no timeline history".to_owned(),
                    });
                }
            }
            WalName::Label(..) => {}
        }
        Ok(WalFileContent {
            name,
            hash: hash(&content).into(),
            content: Arc::new(content),
            segment_bytes,
        })
    }

    /// BLAKE3 of the content, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether it is a history without content: it stands for a timeline number that nobody uses.
    #[must_use]
    pub fn is_placeholder(&self) -> bool {
        let WalName::History(timeline) = self.name else {
            return false;
        };
        let text = String::from_utf8_lossy(&self.content);
        TimelineHistory::parse(timeline, &text).is_some_and(|history| history.switches.is_empty())
    }

    fn kind(&self) -> Kind {
        match self.name {
            WalName::Segment(_) => Kind::Segment,
            WalName::Partial(_) => Kind::Partial,
            WalName::History(_) => Kind::History,
            WalName::Label(..) => Kind::Label,
        }
    }

    fn key(&self, source: &Source) -> String {
        let (line, name) = (&source.line, self.name.to_string());
        match self.name {
            _ if source.diverged => line.diverged(&name, &source.node, &self.hash),
            WalName::Segment(segment) => line.segment(segment),
            WalName::Partial(_) => line.partial(&name, &source.node, &self.hash),
            WalName::History(timeline) => line.history(timeline),
            WalName::Label(..) => line.label(&name),
        }
    }
}

impl Repository {
    /// This repository with a data key for WAL, where it is encrypted at all. To be called once by whoever archives.
    ///
    /// # Errors
    /// The key cannot be written.
    pub async fn for_wal(&self, line: &Line) -> Result<Repository, Error> {
        self.encrypting(line, "wal").await
    }

    /// Archives a file. Comes back when it is durable. Safe to repeat: what is there with the same content counts as done.
    ///
    /// # Errors
    /// [`Error::Different`] if other content is there: nothing is overwritten, the file goes into quarantine. Any other
    /// error means that it may or may not be there: ask again.
    pub async fn put_wal(&self, file: &WalFileContent, source: &Source) -> Result<Stored, Error> {
        let key = file.key(source);
        // A look first: on all nodes but the quickest it is there, and a look costs less than compressing in vain.
        match self.same_content(&key, file).await {
            Ok(same) => return self.settled(same, &key, file, source).await,
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        let (created, bytes) = self.write(key.clone(), file, source).await?;
        // A store is not taken at its word, neither for "done" nor for "it is there": the server lets go of the file.
        let same = match self.same_content(&key, file).await {
            Err(error) if error.is_missing() => return Err(self.forgetful(&key)),
            same => same?,
        };
        match (created, &same) {
            (Created::Made, None) => Ok(Stored::Written(bytes)),
            _ => self.settled(same, &key, file, source).await,
        }
    }

    /// Whether a file is archived already, with this very content.
    ///
    /// # Errors
    /// The store cannot tell, or what is there is damaged.
    pub async fn has_wal(&self, file: &WalFileContent, source: &Source) -> Result<bool, Error> {
        match self.same_content(&file.key(source), file).await {
            Ok(found) => Ok(found.is_none()),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `None` if the object has the file's content; otherwise the hash of what it has.
    async fn same_content(&self, key: &str, file: &WalFileContent) -> Result<Option<String>, Error> {
        let header = self.header(key).await?;
        let same = header.hash == *file.hash && header.bytes == file.content.len() as u64;
        Ok((!same).then_some(header.hash))
    }

    async fn settled(
        &self,
        theirs: Option<String>,
        key: &str,
        file: &WalFileContent,
        source: &Source,
    ) -> Result<Stored, Error> {
        let Some(theirs) = theirs else {
            return Ok(Stored::Already);
        };
        let quarantine = source
            .line
            .quarantine(&file.name.to_string(), &source.node, &file.hash);
        // Written once: the name has the hash in it.
        self.write(quarantine.clone(), file, source).await?;
        Err(Error::Different {
            repository: self.name().to_owned(),
            key: key.to_owned(),
            hashes: format!("{theirs}, not {}", file.hash),
            quarantine,
        })
    }

    async fn write(
        &self,
        key: String,
        file: &WalFileContent,
        source: &Source,
    ) -> Result<(Created, u64), Error> {
        let about = BTreeMap::from([
            ("node".to_owned(), source.node.clone()),
            ("epoch".to_owned(), source.epoch.to_string()),
            ("at".to_owned(), source.now.clone()),
        ]);
        let content = Shared(Arc::clone(&file.content));
        let known = Some(file.hash.to_string());
        self.create_hashed(key, file.kind(), &file.name.to_string(), about, content, known)
            .await
    }

    /// Fetches a segment or a history by name, verified.
    ///
    /// # Errors
    /// [`Error::Missing`] only if the store was reached, is the right one, and has no such object.
    pub async fn get_wal(&self, line: &Line, name: WalName) -> Result<Fetched, Error> {
        let key = match name {
            WalName::Segment(segment) => line.segment(segment),
            WalName::History(timeline) => line.history(timeline),
            WalName::Label(..) => line.label(&name.to_string()),
            WalName::Partial(_) => {
                return Err(Error::Refused {
                    name: name.to_string(),
                    why: "each node has its own; they lie below partial/".to_owned(),
                });
            }
        };
        let (header, content) = self.read(&key).await?;
        if header.name != name.to_string() {
            return Err(self.damaged(&key, format!("it holds {}", header.name)));
        }
        Ok(Fetched { header, content })
    }
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
