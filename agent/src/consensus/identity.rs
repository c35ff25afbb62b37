//! Who this node is: which cluster it belongs to, and under which number. Written once.

use super::store::{self, OpenError};
use crate::durable;
use crate::sealed::{self, Sealed};
use agent_core::cluster::Member;
use agent_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// The file in the state directory.
pub const IDENTITY_FILE: &str = "identity.json";

/// A node's place in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of this file's form.
    pub format: u32,
    /// The cluster's UUID.
    pub cluster_id: String,
    pub node_id: NodeId,
    pub name: String,
    /// Every founding member by number; empty on a node that joined later. Whoever leads first makes the first entry of
    /// the replicated state from it.
    #[serde(default)]
    pub founding_members: BTreeMap<NodeId, Member>,
    /// This node chose the cluster's UUID and gives the others theirs.
    #[serde(default)]
    pub founder: bool,
}

pub(super) const FORMAT: u32 = 2;
/// The last format whose files carry no checksum.
const UNSEALED_FORMAT: u32 = 1;

/// Why an identity could not be taken on.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("this node is node {} of cluster {} already", .0.node_id, .0.cluster_id)]
    Taken(Box<Identity>),
    #[error("cannot write {}: {source}; check the directory's permissions and the space on its disk", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The identity of this node, once it has one.
#[derive(Debug)]
pub struct IdentityCard {
    directory: PathBuf,
    /// Held while the file is written, so that of two who would give this node an identity one is refused.
    writing: Mutex<()>,
    known: watch::Sender<Option<Arc<Identity>>>,
}

impl IdentityCard {
    /// Reads the file, if there is one. `name` is the node's name by its configuration.
    ///
    /// # Errors
    /// The file is damaged, or it belongs to a node of another name.
    pub(super) fn open(directory: &Path, name: &str) -> Result<IdentityCard, OpenError> {
        let path = || directory.join(IDENTITY_FILE).display().to_string();
        let bytes = store::read_file(directory, IDENTITY_FILE).map_err(|source| OpenError::Io {
            what: "cannot read",
            path: path(),
            source,
        })?;
        let known = match bytes {
            None => None,
            Some(bytes) => {
                let identity = read(&bytes).map_err(|why| OpenError::Damaged {
                    path: path(),
                    offset: 0,
                    why,
                })?;
                if identity.format > FORMAT {
                    return Err(OpenError::Newer {
                        path: path(),
                        found: u8::try_from(identity.format).unwrap_or(u8::MAX),
                        known: u8::try_from(FORMAT).unwrap_or(u8::MAX),
                    });
                }
                if identity.name != name {
                    return Err(OpenError::OtherNode {
                        path: path(),
                        found: identity.name,
                        configured: name.to_owned(),
                    });
                }
                Some(Arc::new(identity))
            }
        };
        Ok(IdentityCard {
            directory: directory.to_owned(),
            writing: Mutex::new(()),
            known: watch::channel(known).0,
        })
    }

    /// The identity, if this node has one.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Identity>> {
        self.known.borrow().clone()
    }

    /// Sees when this node gets one.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.known.subscribe()
    }

    /// Takes on `identity`, durably. Taking on the same again is no error.
    ///
    /// # Errors
    /// This node has another identity, or the file could not be written; it then has none.
    pub async fn take(&self, identity: Identity) -> Result<(), IdentityError> {
        let _writing = self.writing.lock().await;
        if let Some(known) = self.get() {
            let same = (&known.cluster_id, known.node_id) == (&identity.cluster_id, identity.node_id);
            return if same {
                Ok(())
            } else {
                Err(IdentityError::Taken(Box::new((*known).clone())))
            };
        }
        let contents = sealed::seal(&String::from_utf8_lossy(&super::wire::to_json(&identity)));
        let path = self.directory.join(IDENTITY_FILE);
        tokio::task::spawn_blocking(move || durable::replace(&path, contents.as_bytes()))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| IdentityError::Io {
                path: self.directory.join(IDENTITY_FILE),
                source,
            })?;
        self.known.send_replace(Some(Arc::new(identity)));
        Ok(())
    }
}

/// The identity in a file's `bytes`, or what is wrong with them.
fn read(bytes: &[u8]) -> Result<Identity, String> {
    let (text, sealed) = match sealed::open(bytes) {
        Sealed::Whole(text) => (text.as_bytes(), true),
        Sealed::Plain(bytes) => (bytes, false),
        Sealed::Damaged => return Err("it does not match its checksum".to_owned()),
    };
    let identity: Identity = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if identity.format > UNSEALED_FORMAT && !sealed {
        return Err("its checksum is gone".to_owned());
    }
    Ok(identity)
}

/// An identity and a log belong together: either alone means that the other was lost.
pub(super) fn check_against_log(
    directory: &Path,
    identity: Option<&Identity>,
    log_is_fresh: bool,
) -> Result<(), OpenError> {
    if identity.is_none() && !log_is_fresh {
        return Err(OpenError::Incomplete {
            path: directory.join(IDENTITY_FILE).display().to_string(),
            why: "the file is gone, and with it the number under which this node has voted".to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::store::RECOVERY;
    use proptest::prelude::*;

    fn identity(cluster: &str, node: u64) -> Identity {
        Identity {
            format: FORMAT,
            cluster_id: cluster.into(),
            node_id: NodeId(node),
            name: "n1".into(),
            founding_members: BTreeMap::new(),
            founder: false,
        }
    }

    #[tokio::test]
    async fn an_identity_is_taken_on_once_and_survives_a_restart() {
        let dir = tempfile::tempdir().expect("temp dir");
        let card = IdentityCard::open(dir.path(), "n1").expect("opens");
        assert_eq!(card.get(), None);
        card.take(identity("a", 1)).await.expect("first");
        card.take(identity("a", 1)).await.expect("the same again");
        assert!(matches!(
            card.take(identity("b", 1)).await,
            Err(IdentityError::Taken(_))
        ));
        assert!(matches!(
            card.take(identity("a", 2)).await,
            Err(IdentityError::Taken(_))
        ));
        let card = IdentityCard::open(dir.path(), "n1").expect("opens");
        assert_eq!(card.get().as_deref(), Some(&identity("a", 1)));
    }

    #[tokio::test]
    async fn another_nodes_state_directory_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        IdentityCard::open(dir.path(), "n1")
            .expect("opens")
            .take(identity("a", 1))
            .await
            .expect("first");
        let error = IdentityCard::open(dir.path(), "n2")
            .expect_err("refused")
            .to_string();
        assert!(error.contains("n1") && error.contains("n2"), "{error}");
    }

    #[test]
    fn a_damaged_identity_and_a_log_without_one_are_refused_with_the_way_to_recover() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join(IDENTITY_FILE), b"{\"format\":1,").expect("write");
        let error = IdentityCard::open(dir.path(), "n1")
            .expect_err("refused")
            .to_string();
        assert!(error.contains(RECOVERY), "{error}");
        let error = check_against_log(dir.path(), None, false)
            .expect_err("refused")
            .to_string();
        assert!(error.contains(RECOVERY), "{error}");
        assert!(check_against_log(dir.path(), None, true).is_ok());
    }

    #[test]
    fn an_identity_of_the_first_format_is_read() {
        let old = Identity {
            format: 1,
            ..identity("a", 3)
        };
        assert_eq!(read(&crate::consensus::wire::to_json(&old)), Ok(old));
    }

    #[test]
    fn a_flipped_bit_in_the_number_does_not_make_it_another_node() {
        let good = sealed::seal(&String::from_utf8_lossy(&crate::consensus::wire::to_json(
            &identity("a", 3),
        )));
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone().into_bytes();
                bad[at] ^= 1 << bit;
                assert!(read(&bad).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_identity_is_the_one_that_was_written_or_an_error_with_the_way_back(
            found in mangled::bytes(
                sealed::seal(&String::from_utf8_lossy(&crate::consensus::wire::to_json(&identity("c-1", 3)))).as_bytes(),
            ),
        ) {
            let dir = tempfile::tempdir().expect("temp dir");
            std::fs::write(dir.path().join(IDENTITY_FILE), &found).expect("write");
            match IdentityCard::open(dir.path(), "n1") {
                Ok(card) => prop_assert!(card.get().is_some_and(|found| *found == identity("c-1", 3))),
                Err(error) => {
                    let told = error.to_string();
                    prop_assert!(told.contains(IDENTITY_FILE) && told.contains(RECOVERY), "{}", told);
                }
            }
        }
    }
}
