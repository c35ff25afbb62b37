//! WAL of the other nodes, from agent to agent: nearer than any store, and what is not archived yet is there too.

use super::sight::Sight;
use agent_core::pg::SystemId;
use proto::archive::FetchWalRequest;
use proto::archive::archive_client::ArchiveClient;
use repository::{WalFileContent, WalName};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const CONNECT: Duration = Duration::from_millis(500);
/// How long one peer may take for one file.
const GIVE: Duration = Duration::from_secs(10);
/// For how long one that did not answer is not asked.
const REST: Duration = Duration::from_secs(10);
/// The longest file that is taken: the largest segment there is.
const LENGTH_MAX: u64 = 1 << 30;

/// The agents of the other nodes.
#[derive(Default)]
pub(super) struct Peers {
    channels: Mutex<BTreeMap<String, Channel>>,
    silent: Mutex<BTreeMap<String, Instant>>,
}

impl Peers {
    /// The file from the first peer that has it; `None` if none gave it, which does not mean that none has it.
    pub(super) async fn fetch(&self, sight: &Sight, name: WalName, system_id: SystemId) -> Option<Vec<u8>> {
        for peer in &sight.peers {
            if self.is_silent(peer) {
                continue;
            }
            let asked = self.ask(peer, &sight.cluster_id, name, system_id);
            match tokio::time::timeout(GIVE, asked).await {
                Ok(Ok(Some(content))) => return Some(content),
                Ok(Ok(None)) => {}
                Ok(Err(why)) => self.note_silent(peer, &why),
                Err(_) => self.note_silent(peer, "no answer in time"),
            }
        }
        None
    }

    async fn ask(
        &self,
        peer: &str,
        cluster_id: &str,
        name: WalName,
        system_id: SystemId,
    ) -> Result<Option<Vec<u8>>, String> {
        let channel = self.channel(peer)?;
        let request = FetchWalRequest {
            cluster_id: cluster_id.to_owned(),
            name: name.to_string(),
        };
        let said = |status: tonic::Status| status.message().to_owned();
        let mut pieces = match ArchiveClient::new(channel).fetch_wal(request).await {
            Ok(reply) => reply.into_inner(),
            // It does not have it, is of an older version, or archives nothing.
            Err(status)
                if matches!(
                    status.code(),
                    Code::NotFound | Code::Unimplemented | Code::FailedPrecondition
                ) =>
            {
                return Ok(None);
            }
            Err(status) => return Err(said(status)),
        };
        let (mut content, mut hash) = (Vec::new(), String::new());
        while let Some(piece) = pieces.message().await.map_err(said)? {
            if content.len() as u64 + piece.content.len() as u64 > LENGTH_MAX {
                return Err(format!("it gives more than {LENGTH_MAX} bytes"));
            }
            content.extend_from_slice(&piece.content);
            if !piece.hash.is_empty() {
                hash = piece.hash;
            }
        }
        let file =
            WalFileContent::check(name, system_id, content.clone()).map_err(|error| error.to_string())?;
        if file.hash() != hash {
            return Err(format!("{name} came damaged"));
        }
        Ok(Some(content))
    }

    fn channel(&self, peer: &str) -> Result<Channel, String> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(peer) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{peer}")).map_err(|error| error.to_string())?;
        let channel = endpoint.connect_timeout(CONNECT).tcp_nodelay(true).connect_lazy();
        channels.insert(peer.to_owned(), channel.clone());
        Ok(channel)
    }

    fn is_silent(&self, peer: &str) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.get(peer).is_some_and(|since| since.elapsed() < REST)
    }

    fn note_silent(&self, peer: &str, why: &str) {
        tracing::debug!(peer, why, "gives no WAL");
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.insert(peer.to_owned(), Instant::now());
    }
}
