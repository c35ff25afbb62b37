//! Connections to other agents: one kept HTTP/2 connection for each address.

use proto::peer::peer_client::PeerClient;
use proto::peer::{HelloReply, HelloRequest};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// No message between agents is longer, bytes.
pub const MESSAGE_MAX: usize = 256 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which calls run into their deadlines and nothing has come for this long is thrown away: while TCP
/// waits longer and longer to send again, a new connection would get through at once.
const SILENCE: Duration = Duration::from_secs(1);

/// The connections of one agent. Clones share them.
#[derive(Clone, Default)]
pub struct PeerChannels(Arc<Mutex<BTreeMap<String, Kept>>>);

struct Kept {
    channel: Channel,
    /// When it was made, or last brought an answer.
    alive: Instant,
}

/// A call that brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other side never got it.
    #[error("{address} cannot be reached: {detail}")]
    Unreachable { address: String, detail: String },
    /// The other side answered with a refusal.
    #[error("{address} refused: {detail}")]
    Refused { address: String, detail: String },
    /// The other side may have got it.
    #[error("{address} did not answer within {waited:?}")]
    Timeout { address: String, waited: Duration },
    /// The other side may have got it.
    #[error("the connection to {address} broke: {detail}")]
    Broken { address: String, detail: String },
}

impl PeerChannels {
    /// Makes one call to the agent at `address` (`host:port`).
    ///
    /// # Errors
    /// No answer came within `deadline`, and whether the other side may have got the call.
    pub async fn call<T, F>(
        &self,
        address: &str,
        deadline: Duration,
        call: impl FnOnce(PeerClient<Channel>) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let client = self.client(address)?;
        match tokio::time::timeout(deadline, call(client)).await {
            Ok(Ok(answer)) => {
                self.heard_of(address);
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => Err(failure(address, &status)),
            Err(_) => {
                self.suspect(address);
                Err(CallError::Timeout {
                    address: address.to_owned(),
                    waited: deadline,
                })
            }
        }
    }

    /// Asks the agent at `address` who it is.
    ///
    /// # Errors
    /// As [`PeerChannels::call`].
    pub async fn hello(
        &self,
        address: &str,
        hello: HelloRequest,
        deadline: Duration,
    ) -> Result<HelloReply, CallError> {
        self.call(
            address,
            deadline,
            |mut peer| async move { peer.hello(hello).await },
        )
        .await
    }

    fn client(&self, address: &str) -> Result<PeerClient<Channel>, CallError> {
        let mut kept = self.lock();
        let channel = match kept.get(address) {
            Some(kept) => kept.channel.clone(),
            None => {
                let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
                    CallError::Unreachable {
                        address: address.to_owned(),
                        detail: error.to_string(),
                    }
                })?;
                let channel = endpoint
                    .connect_timeout(CONNECT_TIMEOUT)
                    .tcp_nodelay(true)
                    .connect_lazy();
                kept.insert(
                    address.to_owned(),
                    Kept {
                        channel: channel.clone(),
                        alive: Instant::now(),
                    },
                );
                channel
            }
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX))
    }

    fn heard_of(&self, address: &str) {
        if let Some(kept) = self.lock().get_mut(address) {
            kept.alive = Instant::now();
        }
    }

    fn suspect(&self, address: &str) {
        let mut kept = self.lock();
        if kept
            .get(address)
            .is_some_and(|kept| kept.alive.elapsed() > SILENCE)
        {
            kept.remove(address);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(address: &str, status: &Status) -> CallError {
    let address = address.to_owned();
    let mut causes = vec![status.message().to_owned()];
    let mut source = std::error::Error::source(status);
    let mut never_sent = false;
    while let Some(cause) = source {
        never_sent |= cause.is::<tonic::ConnectError>();
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes.dedup();
    let detail = causes.join(": ");
    match status.code() {
        _ if never_sent => CallError::Unreachable { address, detail },
        // The codes that this house's own handlers answer with when they did nothing.
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
            CallError::Refused { address, detail }
        }
        _ => CallError::Broken { address, detail },
    }
}
