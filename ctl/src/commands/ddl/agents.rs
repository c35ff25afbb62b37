//! Asking agents about rollouts.

use crate::cli::Globals;
use crate::failure::Failure;
use crate::session::{Intent, Session};
use proto::rollout::rollout_client::RolloutClient;
use proto::rollout::{Status, StatusRequest};
use std::time::Duration;
use tonic::Response;
use tonic::transport::Channel;

/// The largest answer: the schema of a database as SQL.
const ANSWER_MAX: usize = 64 << 20;
/// For what makes an agent read a whole schema, or start a server.
const LONG: Duration = Duration::from_secs(300);

/// A client of one agent.
pub type Client = RolloutClient<Channel>;

/// Asks one agent after the other until one answers.
pub async fn ask<T>(
    session: &Session,
    intent: Intent,
    ask: impl AsyncFn(Client) -> Result<Response<T>, tonic::Status>,
) -> Result<T, Failure> {
    let over = async |channel: Channel| ask(Client::new(channel).max_decoding_message_size(ANSWER_MAX)).await;
    session.call_over(intent, over).await
}

/// A session that waits for what takes long.
pub fn patient(globals: &Globals) -> Result<Session, Failure> {
    Ok(globals.session()?.at_least(LONG))
}

/// How the rollout stands; from the agent that carries it out, where that can be reached, for it alone knows what it is doing.
pub async fn status(session: &Session) -> Result<Status, Failure> {
    let status = ask(session, Intent::Read, async |mut client| {
        client.get_status(StatusRequest {}).await
    })
    .await?;
    let at_work = status
        .rollout
        .as_ref()
        .is_some_and(|rollout| matches!(rollout.phase.as_str(), "running" | "aborting"));
    if status.live.is_none() && at_work && !status.executor.is_empty() {
        let executor = Session::new(vec![status.executor.clone()], Duration::from_secs(1));
        let closer = ask(&executor, Intent::Read, async |mut client| {
            client.get_status(StatusRequest {}).await
        });
        if let Ok(closer) = closer.await {
            return Ok(closer);
        }
    }
    Ok(status)
}
