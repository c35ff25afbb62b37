//! Which agent does a long job beside its server, and the connection to it.

use crate::cli::Globals;
use crate::failure::Failure;
use proto::archive::archive_client::ArchiveClient;
use proto::control::{Cluster, Member};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

const CONNECT: Duration = Duration::from_secs(3);

/// The node whose agent does it.
#[derive(Debug, clap::Args)]
pub struct Through {
    /// The node whose agent and server do it, instead of the best standby
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

/// An agent that was chosen, and is there.
pub struct Chosen {
    pub member: Member,
    pub client: ArchiveClient<Channel>,
}

impl Through {
    /// Chooses a node, and connects to its agent.
    ///
    /// # Errors
    /// There is no such node, none is fit, or its agent is not there.
    pub async fn connect(&self, globals: &Globals) -> Result<Chosen, Failure> {
        let cluster = globals.session()?.cluster().await?;
        let member = match &self.node {
            Some(name) => named(&cluster, name)?,
            None => best(&cluster)?,
        };
        let unreachable = |error: String| Failure::Unreachable {
            tried: vec![format!("{} ({}): {error}", member.name, member.peer)],
        };
        let endpoint = Endpoint::from_shared(format!("http://{}", member.peer))
            .map_err(|error| unreachable(error.to_string()))?
            .connect_timeout(CONNECT);
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| unreachable(error.to_string()))?;
        Ok(Chosen {
            member: member.clone(),
            client: ArchiveClient::new(channel),
        })
    }
}

impl Chosen {
    /// What an agent that refuses, or goes away, means where nothing goes on without this command.
    pub fn failed(&self, status: &tonic::Status) -> Failure {
        Failure::of_agent(status)
            .unwrap_or_else(|| Failure::local(format!("{}: {}", self.member.name, status.message())))
    }

    /// Its stream has ended without an end.
    pub fn fell_silent(&self) -> Failure {
        Failure::local(format!("the agent of {} stopped telling", self.member.name))
    }
}

/// The member of that name.
///
/// # Errors
/// There is none.
pub fn named<'a>(cluster: &'a Cluster, name: &str) -> Result<&'a Member, Failure> {
    let found = cluster.members.iter().find(|member| member.name == name);
    found.ok_or_else(|| Failure::usage(format!("there is no node {name}: see `pgctl list`")))
}

/// The standby that is least behind; the primary if there is none.
fn best(cluster: &Cluster) -> Result<&Member, Failure> {
    let standbys = cluster
        .members
        .iter()
        .filter(|member| member.role == "standby" && member.state == "streaming" && !member.maintenance);
    let standby = standbys.min_by_key(|member| (member.replay_lag_bytes.unwrap_or(u64::MAX), member.id));
    let primary = cluster.members.iter().find(|member| member.role == "primary");
    standby.or(primary).ok_or_else(|| {
        Failure::refused(
            "no-server",
            "there is neither a standby that streams nor a primary: see `pgctl list`",
        )
    })
}
