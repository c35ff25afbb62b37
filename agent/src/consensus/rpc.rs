//! The answers to other agents, apart from the gRPC service that carries them.

use super::admission;
use super::identity::{FORMAT, Identity, IdentityError};
use super::membership;
use super::node::{Node, Refusal};
use super::room::Room;
use super::types::{Proposal, RaftTypes};
use super::wire::{self, WireError};
use agent_core::cluster::{Applied, Command, Member};
use agent_core::ids::{NodeId, RequestId};
use openraft::errors::RaftError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use proto::peer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Passing a request to join on to the Raft leader.
const PASS_ON_DEADLINE: Duration = Duration::from_secs(7);

/// Answers the consensus part of the peer service. Usable before this node belongs to a cluster; clones share it.
#[derive(Clone)]
pub struct RaftRpc {
    room: Arc<Room>,
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Status {
        Status::invalid_argument(error.to_string())
    }
}

impl RaftRpc {
    pub(super) fn new(room: Arc<Room>) -> RaftRpc {
        RaftRpc { room }
    }

    // --- joining ---

    /// Says who this node is.
    #[must_use]
    pub fn handle_hello(&self, request: &peer::HelloRequest) -> peer::HelloReply {
        let room = &self.room;
        if request.cluster_name != room.config.cluster_name {
            tracing::debug!(
                from = request.from,
                cluster = request.cluster_name,
                "an agent of another cluster looks for its members here"
            );
        }
        let identity = room.card.get();
        peer::HelloReply {
            cluster_name: room.config.cluster_name.clone(),
            cluster_id: identity
                .as_ref()
                .map(|identity| identity.cluster_id.clone())
                .unwrap_or_default(),
            node_id: identity.map(|identity| identity.node_id.0).unwrap_or_default(),
            name: room.config.member.name.clone(),
            members_hash: room.members_hash.clone(),
            members: room
                .members
                .iter()
                .map(|member| peer::ConfiguredMember {
                    name: member.name.clone(),
                    peer: member.peer.clone(),
                    witness: member.witness,
                })
                .collect(),
            start_id: room.config.start_id,
            member: wire::to_json(&room.config.member),
        }
    }

    /// Takes on the place in a new cluster that its founder gives this node.
    ///
    /// # Errors
    /// The message cannot be read.
    pub async fn handle_adopt(&self, request: peer::AdoptRequest) -> Result<peer::AdoptReply, Status> {
        let founding_members: BTreeMap<NodeId, Member> =
            wire::from_json(&request.founding_members, "list of founding members")?;
        let refusal = match self.adopt(request, founding_members).await {
            Ok(()) => String::new(),
            Err(why) => why,
        };
        Ok(peer::AdoptReply {
            accepted: refusal.is_empty(),
            refusal,
        })
    }

    async fn adopt(
        &self,
        request: peer::AdoptRequest,
        founding_members: BTreeMap<NodeId, Member>,
    ) -> Result<(), String> {
        let (room, config) = (&self.room, &self.room.config);
        if request.cluster_name != config.cluster_name {
            return Err(format!(
                "it is of the cluster {}, not {}",
                config.cluster_name, request.cluster_name
            ));
        }
        if request.name != config.member.name {
            return Err(format!("it is {}, not {}", config.member.name, request.name));
        }
        if request.members_hash != room.members_hash {
            return Err("it has another member list".to_owned());
        }
        if request.cluster_id.is_empty() || request.node_id == 0 {
            return Err("the founder sent no place".to_owned());
        }
        let identity = Identity {
            format: FORMAT,
            cluster_id: request.cluster_id,
            node_id: NodeId(request.node_id),
            name: request.name,
            founding_members,
            founder: false,
        };
        room.card.take(identity).await.map_err(|error| match error {
            IdentityError::Taken(_) => format!(
                "{error}; if that cluster was never completed because its founder lost its state, stop all agents, \
                 move their state directories aside and start them again"
            ),
            IdentityError::Io { .. } => error.to_string(),
        })
    }

    /// Lets a node in, or passes its request on to the Raft leader.
    pub async fn handle_join(&self, request: peer::JoinRequest) -> peer::JoinReply {
        let later = |why: String| peer::JoinReply {
            answer: Some(peer::join_reply::Answer::Later(why)),
        };
        let room = &self.room;
        if request.cluster_name != room.config.cluster_name {
            let why = format!(
                "this is the cluster {}, not {}",
                room.config.cluster_name, request.cluster_name
            );
            return peer::JoinReply {
                answer: Some(peer::join_reply::Answer::Refused(why)),
            };
        }
        let Some(node) = room.node() else {
            return later(format!(
                "{} is not part of a running cluster yet",
                room.config.member.name
            ));
        };
        if node.leads() {
            return admission::admit(&node, &request).await;
        }
        let leader = node
            .raft_leader()
            .filter(|leader| *leader != node.id() && !request.passed_on);
        let Some(address) = leader.and_then(|leader| address_of(&node, leader)) else {
            return later(format!("{} knows no Raft leader now", room.config.member.name));
        };
        let request = peer::JoinRequest {
            passed_on: true,
            ..request
        };
        let passed_on = node
            .channels
            .call(&address, PASS_ON_DEADLINE, |mut peer| async move {
                peer.join(request).await
            })
            .await;
        passed_on.unwrap_or_else(|error| later(error.to_string()))
    }

    // --- Raft ---

    /// Appends entries, or takes note that the leader lives.
    ///
    /// # Errors
    /// The message is not for this node or cannot be read, or Raft does not run here.
    pub async fn handle_append(&self, request: peer::AppendRequest) -> Result<peer::AppendReply, Status> {
        let node = self.receive(request.route.as_ref())?;
        let entries: Result<Vec<_>, WireError> = request.entries.into_iter().map(wire::entry_in).collect();
        let rpc = AppendEntriesRequest {
            vote: wire::vote_in(wire::required(request.vote, "vote")?)?,
            prev_log_id: request.previous.map(wire::log_id_in).transpose()?,
            entries: entries?,
            leader_commit: request.leader_commit.map(wire::log_id_in).transpose()?,
        };
        use peer::append_reply::Outcome;
        let outcome = match node.raft.append_entries(rpc).await.map_err(stopped)? {
            AppendEntriesResponse::Success => Outcome::Success(peer::Done {}),
            AppendEntriesResponse::PartialSuccess(matching) => Outcome::Partial(peer::PartialSuccess {
                matching: matching.as_ref().map(wire::log_id_out),
            }),
            AppendEntriesResponse::Conflict => Outcome::Conflict(peer::Done {}),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(wire::vote_out(&vote)),
        };
        Ok(peer::AppendReply {
            outcome: Some(outcome),
        })
    }

    /// Votes.
    ///
    /// # Errors
    /// As [`RaftRpc::handle_append`].
    pub async fn handle_vote(&self, request: peer::VoteRequest) -> Result<peer::VoteReply, Status> {
        let node = self.receive(request.route.as_ref())?;
        let reply = node.raft.vote(vote_request_in(request)?).await.map_err(stopped)?;
        Ok(vote_reply_out(&reply))
    }

    /// Says how it would vote.
    ///
    /// # Errors
    /// As [`RaftRpc::handle_append`].
    pub async fn handle_pre_vote(&self, request: peer::VoteRequest) -> Result<peer::VoteReply, Status> {
        let node = self.receive(request.route.as_ref())?;
        let reply = node
            .raft
            .pre_vote(vote_request_in(request)?)
            .await
            .map_err(stopped)?;
        Ok(vote_reply_out(&reply))
    }

    /// Takes a whole snapshot in the place of a log that its sender no longer has.
    ///
    /// # Errors
    /// As [`RaftRpc::handle_append`].
    pub async fn handle_snapshot(
        &self,
        request: peer::SnapshotRequest,
    ) -> Result<peer::SnapshotReply, Status> {
        let node = self.receive(request.route.as_ref())?;
        let vote = wire::vote_in(wire::required(request.vote, "vote")?)?;
        let snapshot = wire::snapshot_in(wire::required(request.snapshot, "snapshot")?)?;
        let reply = node
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|fatal| Status::unavailable(format!("Raft has stopped here: {fatal}")))?;
        Ok(peer::SnapshotReply {
            vote: Some(wire::vote_out(&reply.vote)),
        })
    }

    /// Takes the leadership that its holder offers.
    ///
    /// # Errors
    /// As [`RaftRpc::handle_append`].
    pub async fn handle_transfer(
        &self,
        request: peer::TransferRequest,
    ) -> Result<peer::TransferReply, Status> {
        let node = self.receive(request.route.as_ref())?;
        let from = wire::vote_in(wire::required(request.from_leader, "vote")?)?;
        let rpc = TransferLeaderRequest::<RaftTypes>::new(
            from,
            node.id().0,
            request.last_log.map(wire::log_id_in).transpose()?,
        );
        let reply = node
            .raft
            .handle_transfer_leader(rpc)
            .await
            .map_err(|fatal| Status::unavailable(format!("Raft has stopped here: {fatal}")))?;
        use peer::transfer_reply::Outcome;
        let outcome = match reply {
            Ok(()) => Outcome::Accepted(peer::Done {}),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Outcome::VoteChanged(peer::VoteChanged {
                    expected: Some(wire::vote_out(&expected)),
                    actual: Some(wire::vote_out(&actual)),
                })
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Outcome::NotFlushed(peer::NotFlushed {
                    expected: expected.as_ref().map(wire::log_id_out),
                    actual: actual.as_ref().map(wire::log_id_out),
                })
            }
        };
        Ok(peer::TransferReply {
            outcome: Some(outcome),
        })
    }

    // --- the replicated state ---

    /// Has a change committed, if this node is the Raft leader.
    ///
    /// # Errors
    /// The message is not for this node or cannot be read.
    pub async fn handle_forward(&self, request: peer::ForwardRequest) -> Result<peer::ForwardReply, Status> {
        let node = self.receive(request.route.as_ref())?;
        let change = Change::from_message(wire::required(request.change, "change")?)?;
        let outcome = perform_here(&node, change, Duration::from_millis(request.deadline_ms)).await;
        use peer::forward_reply::Outcome;
        let outcome = match outcome {
            Ok(applied) => Outcome::Applied(wire::to_json(&applied)),
            Err(Refusal::Rejected(rejected)) => Outcome::Rejected(wire::to_json(&rejected)),
            Err(Refusal::NotLeader { leader, detail }) => Outcome::NotLeader(peer::NotLeader {
                leader: leader.map_or(0, |leader| leader.0),
                detail,
            }),
            Err(Refusal::Unknown { detail }) => Outcome::Unknown(detail),
            Err(Refusal::Stopped { detail }) => Outcome::Stopped(detail),
        };
        Ok(peer::ForwardReply {
            outcome: Some(outcome),
            applied_index: node.view.applied_index(),
        })
    }

    /// Raft on this node, if the message is meant for it.
    fn receive(&self, route: Option<&peer::Route>) -> Result<Arc<Node>, Status> {
        let route = wire::required(route, "route")?;
        let name = &self.room.config.member.name;
        let Some(identity) = self.room.card.get() else {
            return Err(Status::failed_precondition(format!(
                "{name} belongs to no cluster yet"
            )));
        };
        if route.cluster_id != identity.cluster_id {
            return Err(Status::failed_precondition(format!(
                "{name} belongs to the cluster {}, and the message is of {}",
                identity.cluster_id, route.cluster_id
            )));
        }
        if route.to != identity.node_id.0 {
            return Err(Status::failed_precondition(format!(
                "{name} is node {} here, and the message is for node {}",
                identity.node_id, route.to
            )));
        }
        if route.from == identity.node_id.0 {
            return Err(Status::failed_precondition(format!(
                "another agent uses the number {} of {name}: two agents must not share one state directory or a copy \
                 of it",
                identity.node_id
            )));
        }
        self.room
            .node()
            .ok_or_else(|| Status::unavailable(format!("{name} has not started Raft yet")))
    }
}

fn stopped(error: RaftError<RaftTypes>) -> Status {
    Status::unavailable(format!("Raft has stopped here: {error}"))
}

fn vote_request_in(request: peer::VoteRequest) -> Result<VoteRequest<RaftTypes>, WireError> {
    Ok(VoteRequest {
        vote: wire::vote_in(wire::required(request.vote, "vote")?)?,
        last_log_id: request.last_log.map(wire::log_id_in).transpose()?,
        leadership_transfer: request.leadership_transfer,
    })
}

fn vote_reply_out(reply: &VoteResponse<RaftTypes>) -> peer::VoteReply {
    peer::VoteReply {
        vote: Some(wire::vote_out(&reply.vote)),
        granted: reply.vote_granted,
        last_log: reply.last_log_id.as_ref().map(wire::log_id_out),
    }
}

/// Where `node`'s agent can be called.
pub(super) fn address_of(node: &Node, other: NodeId) -> Option<String> {
    let state = node.view.state();
    if let Some(member) = state.members.get(&other) {
        return Some(member.peer.clone());
    }
    node.metrics()
        .membership_config
        .membership()
        .get_node(&other.0)
        .map(|listed| listed.peer.clone())
}

/// A change that only the Raft leader can make.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    Propose(Box<Command>),
    AddMember { request: RequestId, member: Member },
    RemoveMember { request: RequestId, node: NodeId },
}

impl Change {
    /// Whether the state machine carries it out once however often it is sent.
    pub fn may_be_repeated(&self) -> bool {
        match self {
            Change::Propose(command) => command.request().is_some(),
            Change::AddMember { .. } | Change::RemoveMember { .. } => true,
        }
    }

    pub fn to_message(&self) -> peer::forward_request::Change {
        use peer::forward_request::Change as Message;
        match self {
            Change::Propose(command) => Message::Command(wire::to_json(command)),
            Change::AddMember { request, member } => Message::AddMember(peer::AddMember {
                request: request.0.clone(),
                member: wire::to_json(member),
            }),
            Change::RemoveMember { request, node } => Message::RemoveMember(peer::RemoveMember {
                request: request.0.clone(),
                node_id: node.0,
            }),
        }
    }

    fn from_message(message: peer::forward_request::Change) -> Result<Change, WireError> {
        use peer::forward_request::Change as Message;
        Ok(match message {
            Message::Command(json) => {
                let Proposal(command) = wire::from_json(&json, "command")?;
                Change::Propose(Box::new(command))
            }
            Message::AddMember(add) => Change::AddMember {
                request: RequestId(add.request),
                member: wire::from_json(&add.member, "member")?,
            },
            Message::RemoveMember(remove) => Change::RemoveMember {
                request: RequestId(remove.request),
                node: NodeId(remove.node_id),
            },
        })
    }
}

/// Makes `change`, if this node leads.
pub(super) async fn perform_here(
    node: &Node,
    change: Change,
    deadline: Duration,
) -> Result<Applied, Refusal> {
    match change {
        Change::Propose(command) => node.propose_here(*command, deadline).await,
        Change::AddMember { request, member } => membership::add_here(node, request, member, deadline)
            .await
            .map(|number| Applied::Member { node: number }),
        Change::RemoveMember { request, node: gone } => {
            membership::remove_here(node, request, gone, deadline)
                .await
                .map(|()| Applied::Done)
        }
    }
}
