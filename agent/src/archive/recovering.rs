//! While this node restores the whole cluster: its server is given WAL by the order of that restore, and archives nothing,
//! for what it would have to archive is nobody's yet.

use super::doors::Doors;
use crate::ports::OpenOrder;
use repository::{Error, Line, RecoveryOrder, WalFileContent, WalName};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The order, if there is one.
pub(super) struct Recovering {
    doors: Arc<Doors>,
    open: Mutex<Option<Arc<Open>>>,
}

struct Open {
    order: RecoveryOrder,
    aside_wal: Option<PathBuf>,
}

impl Recovering {
    pub(super) fn new(doors: Arc<Doors>) -> Recovering {
        Recovering {
            doors,
            open: Mutex::default(),
        }
    }

    pub(super) fn set(&self, order: Option<OpenOrder>) -> Result<(), String> {
        let open = match order {
            None => None,
            Some(given) => Some(Arc::new(Open {
                order: serde_json::from_str(&given.order)
                    .map_err(|error| format!("the order of the recovery cannot be read: {error}"))?,
                aside_wal: given.aside_wal,
            })),
        };
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
        Ok(())
    }

    fn open(&self) -> Option<Arc<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_on(&self) -> bool {
        self.open().is_some()
    }

    /// A file for the restored server; `None` without an order.
    pub(super) async fn fetch(&self, name: WalName) -> Option<Result<Option<Vec<u8>>, String>> {
        let open = self.open()?;
        let fetched = self.by_order(&open, name).await;
        if let Err(error) = &fetched {
            tracing::warn!(file = %name, %error, "the restored server waits for WAL");
        }
        Some(fetched.map_err(|error| error.to_string()))
    }

    async fn by_order(&self, open: &Open, name: WalName) -> Result<Option<Vec<u8>>, Error> {
        let order = &open.order;
        let line = Line::of_parts(&order.cluster, &order.incarnation);
        let (usable, trouble) = self.doors.usable(&line).await;
        let planned_with = usable
            .into_iter()
            .find(|opened| opened.plain.id() == order.repository_id);
        let opened = match (planned_with, trouble) {
            (Some(opened), _) => opened,
            (None, Some(trouble)) => return Err(trouble),
            (None, None) => {
                return Err(Error::NotThisOne {
                    repository: order.repository_id.clone(),
                    why: "the repository that this restore was planned with is not configured any more"
                        .to_owned(),
                });
            }
        };
        match order.fetch(&opened.plain, name).await? {
            Some(fetched) => Ok(Some(fetched.content)),
            None => Ok(aside(open, name).await),
        }
    }
}

/// The last WAL before the cluster was stopped may not have been archived: it lies in the data that were set aside.
async fn aside(open: &Open, name: WalName) -> Option<Vec<u8>> {
    let WalName::Segment(segment) = name else {
        return None;
    };
    let order = &open.order;
    // Up to there the repository must have it, and beyond the line it must not come from anywhere.
    let continues = order.reach.0 == segment.timeline && !order.hole_beyond;
    let folder = open.aside_wal.clone().filter(|_| continues)?;
    let system_id = order.incarnation.parse().ok().map(agent_core::pg::SystemId)?;
    let reading = tokio::task::spawn_blocking(move || std::fs::read(folder.join(name.to_string())).ok());
    let content = reading.await.ok().flatten()?;
    // A file that was made ready for later has another address in it.
    WalFileContent::check(name, system_id, content.clone()).ok()?;
    Some(content)
}
