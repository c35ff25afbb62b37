//! Calls to the other agents, each with a deadline.

use agent_core::cluster::ClusterState;
use agent_core::ids::NodeId;
use proto::supervision::Envelope;
use proto::supervision::supervision_client::SupervisionClient;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// One kept connection to each agent.
#[derive(Default)]
pub(super) struct Peers {
    channels: Mutex<BTreeMap<NodeId, (String, Channel)>>,
}

/// How long a connection attempt may take.
const CONNECT: Duration = Duration::from_millis(500);

impl Peers {
    /// A client for `node`'s agent; connects when it is first used. `None` if its address cannot be one.
    pub(super) fn client(&self, state: &ClusterState, node: NodeId) -> Option<SupervisionClient<Channel>> {
        let peer = &state.members.get(&node)?.peer;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let known = channels
            .get(&node)
            .filter(|(address, _)| address == peer)
            .map(|(_, channel)| channel.clone());
        let channel = match known {
            Some(channel) => channel,
            None => {
                let endpoint = Endpoint::from_shared(format!("http://{peer}"))
                    .ok()?
                    .connect_timeout(CONNECT)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(Duration::from_secs(1))
                    .keep_alive_timeout(Duration::from_secs(2))
                    .keep_alive_while_idle(true);
                let channel = endpoint.connect_lazy();
                channels.insert(node, (peer.clone(), channel.clone()));
                channel
            }
        };
        drop(channels);
        Some(SupervisionClient::new(channel))
    }
}

/// Says which cluster a message belongs to, who sends it, and for whom it is.
pub(super) fn envelope(state: &ClusterState, from: NodeId, to: NodeId) -> Envelope {
    Envelope {
        cluster_id: state.cluster_id.clone(),
        from: from.0,
        to: to.0,
    }
}

/// Waits for a call no longer than `deadline`.
pub(super) async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("no answer within {deadline:?}")),
    }
}
