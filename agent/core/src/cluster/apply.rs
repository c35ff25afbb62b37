use super::numbers::number_after;
use super::state::{HISTORY_KEPT, REQUESTS_KEPT};
use super::{
    Cause, ClusterState, Command, EpochChange, EpochRecord, Member, MemberKind, Pause, Promotion, Settings,
    SwitchoverOutcome, SwitchoverPhase, gate,
};
use crate::ids::{Epoch, NodeId, RequestId};
use crate::reason::Reason;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What an accepted command answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Applied {
    /// Done.
    Done,
    /// The state already was so.
    Unchanged,
    /// A new member has this number.
    Member { node: NodeId },
    /// A new epoch was granted.
    Epoch { epoch: Epoch },
}

/// Why a command was refused; the state is as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejected {
    /// It does not fit the state; the text says why, and what to do.
    #[error("{message}")]
    Conflict { id: String, message: String },
    /// The promotion gate is shut.
    #[error("the promotion gate is shut: {}", shut_gates(gates))]
    Gate { gates: Vec<Reason> },
}

fn shut_gates(gates: &[Reason]) -> String {
    let shut: Vec<String> = gates
        .iter()
        .filter(|gate| !gate.open)
        .map(|gate| format!("{}: {}", gate.id, gate.found))
        .collect();
    shut.join("; ")
}

pub(super) fn conflict(id: &str, message: impl Into<String>) -> Rejected {
    Rejected::Conflict {
        id: id.to_owned(),
        message: message.into(),
    }
}

pub(super) type Outcome = Result<Applied, Rejected>;

impl ClusterState {
    /// Carries out one committed command. A request that was seen before gets its first answer again.
    ///
    /// # Errors
    /// The reason why the command does not fit the state, which it then leaves as it was.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let request = command.request().cloned();
        if let Some(id) = &request
            && let Some((_, outcome)) = self.requests.iter().find(|(seen, _)| seen == id)
        {
            return outcome.clone();
        }
        let outcome = self.carry_out(command);
        if let Some(id) = request {
            self.requests.push_back((id, outcome.clone()));
            while self.requests.len() > REQUESTS_KEPT {
                self.requests.pop_front();
            }
        }
        outcome
    }

    /// Takes over a membership of the Raft group, committed at log index `version`: one set of voters, or two while
    /// the group is between them.
    pub fn apply_voters(&mut self, version: u64, sets: &[BTreeSet<NodeId>]) {
        let lease_may_run = self.holder.is_some();
        self.voters.install(version, sets, lease_may_run);
    }

    fn carry_out(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Found {
                cluster_id,
                name,
                members,
                settings,
                secrets,
            } => {
                if !self.cluster_id.is_empty() {
                    return Ok(Applied::Unchanged);
                }
                let next = members
                    .keys()
                    .next_back()
                    .map_or(Ok(1), |node| number_after(*node))?;
                self.cluster_id.clone_from(cluster_id);
                self.name.clone_from(name);
                self.members.clone_from(members);
                self.next_node = self.next_node.max(next);
                self.settings.clone_from(settings);
                self.secrets = secrets.clone();
                Ok(Applied::Done)
            }
            Command::AddMember { member, at, .. } => self.add_member(member, *at),
            Command::RemoveMember { node, at, .. } => self.remove_member(*node, *at),
            Command::ReplaceMember { old, member, at, .. } => self.replace_member(*old, member, *at),
            Command::AnnounceMember { node, member } => self.announce(*node, member),
            Command::VotersSettled { version } => Ok(if self.voters.settle(*version) {
                Applied::Done
            } else {
                Applied::Unchanged
            }),
            Command::ChooseCreator { node, at } => self.choose_creator(*node, *at),
            Command::AdoptSystem { node, system_id, at } => {
                if self.system_id.is_some_and(|known| known != *system_id) || self.creator != Some(*node) {
                    return Err(conflict(
                        "not-the-creator",
                        "another node has created the database",
                    ));
                }
                if self.system_id.is_none() {
                    self.system_id = Some(*system_id);
                    self.record(
                        *at,
                        "database-created",
                        format!("{} has system id {system_id}", self.name_of(*node)),
                    );
                }
                Ok(Applied::Done)
            }
            Command::ChangeEpoch(change) => self.change_epoch(change),
            Command::OpenGate {
                epoch,
                timeline,
                lsn,
                at,
            } => self.open_gate(
                Promotion {
                    epoch: *epoch,
                    timeline: *timeline,
                    lsn: *lsn,
                },
                *at,
            ),
            Command::SyncBegin { rule, after, at } => self.sync_begin(rule, after, *at),
            Command::SyncDone { rule, at } => self.sync_done(rule, *at),
            Command::ChangeSettings { settings, at, .. } => self.change_settings(settings, *at),
            Command::Pause { reason, at, .. } => {
                self.pause = Some(Pause {
                    reason: reason.clone(),
                    since: *at,
                });
                self.record(*at, "paused", reason.clone());
                Ok(Applied::Done)
            }
            Command::Resume { at, .. } => {
                if self.pause.take().is_none() {
                    return Ok(Applied::Unchanged);
                }
                self.record(*at, "resumed", "automation is on again".to_owned());
                Ok(Applied::Done)
            }
            Command::Maintenance { node, on, at, .. } => self.set_maintenance(*node, *on, *at),
            Command::StartSwitchover { request, to, at } => self.start_switchover(request, *to, *at),
            Command::StopForSwitchover { request, .. } => match &mut self.switchover {
                Some(running) if running.request == *request => {
                    running.phase = SwitchoverPhase::Stopping;
                    Ok(Applied::Done)
                }
                _ => Err(conflict("no-such-switchover", "that switchover is not under way")),
            },
            Command::EndSwitchover { request, why, at } => self.abort_switchover(request, why, *at),
            Command::OrderFailover {
                request,
                to,
                accept_data_loss,
                at,
            } => self.order_failover(request, *to, *accept_data_loss, *at),
            Command::DropFailoverOrder { request, why, at } => {
                if self
                    .failover_order
                    .as_ref()
                    .is_none_or(|order| order.request != *request)
                {
                    return Ok(Applied::Unchanged);
                }
                self.failover_order = None;
                self.record(*at, "failover-order-dropped", why.clone());
                Ok(Applied::Done)
            }
            Command::FenceNode { node, reason, at, .. } => self.fence_node(*node, reason, *at),
            Command::UnfenceNode { node, at, .. } => self.unfence_node(*node, *at),
            Command::RecordStonith { proof, .. } => self.record_stonith(proof),
            Command::Rollout { request, act, at } => self.rollout(request.as_ref(), act, *at),
            Command::Duty(change) => self.change_duty(change),
            Command::Restore { request, act, at } => self.restore(request.as_ref(), act, *at),
            Command::Note { kind, text, at } => {
                self.record(*at, kind, text.clone());
                Ok(Applied::Done)
            }
        }
    }

    fn add_member(&mut self, member: &Member, at: WallTime) -> Outcome {
        if member.name.is_empty() || member.name.len() > 40 {
            return Err(conflict("bad-name", "a node's name has 1 to 40 characters"));
        }
        if self.member_named(&member.name).is_some() {
            return Err(conflict(
                "name-taken",
                format!(
                    "there is a member {} already: remove it first, or choose another name",
                    member.name
                ),
            ));
        }
        let node = NodeId(self.next_node);
        self.next_node = number_after(node)?;
        self.members.insert(node, member.clone());
        self.record(at, "member-added", format!("{} is node {node}", member.name));
        Ok(Applied::Member { node })
    }

    fn remove_member(&mut self, node: NodeId, at: WallTime) -> Outcome {
        if self.holder == Some(node) {
            return Err(conflict(
                "holder-stays",
                format!(
                    "{} is the primary: switch over to another node first",
                    self.name_of(node)
                ),
            ));
        }
        if self.sync.iter().any(|rule| rule.members.contains(&node)) {
            return Err(conflict(
                "in-synchronous-set",
                format!(
                    "{} is in the synchronous set: stop it, or put it into maintenance first",
                    self.name_of(node)
                ),
            ));
        }
        if self
            .restores
            .running
            .as_ref()
            .is_some_and(|running| running.node == node)
        {
            return Err(conflict(
                "restores-the-cluster",
                format!(
                    "{} restores the cluster: pgctl restore --abort first",
                    self.name_of(node)
                ),
            ));
        }
        let name = self.name_of(node);
        if self.members.remove(&node).is_none() {
            return Ok(Applied::Unchanged);
        }
        self.maintenance.remove(&node);
        self.fenced.remove(&node);
        self.record(at, "member-removed", format!("{name} was node {node}"));
        Ok(Applied::Done)
    }

    fn replace_member(&mut self, old: NodeId, member: &Member, at: WallTime) -> Outcome {
        match self.members.get(&old) {
            Some(known) if known.name == member.name && known.kind == member.kind => {}
            Some(known) => {
                return Err(conflict(
                    "identity-differs",
                    format!(
                        "node {old} is {}, not {}: a node keeps its name and kind",
                        known.name, member.name
                    ),
                ));
            }
            None => {
                return Err(conflict(
                    "not-a-member",
                    format!("node {old} is not a member: pgctl member add"),
                ));
            }
        }
        let fence = self.fenced.get(&old).cloned();
        // Both halves, or neither.
        let mut after = self.clone();
        after.remove_member(old, at)?;
        let added = after.add_member(member, at)?;
        if let (Some(fence), Applied::Member { node }) = (fence, &added) {
            // It is the same machine: losing its state must not set it free.
            after.fenced.insert(*node, fence);
        }
        *self = after;
        Ok(added)
    }

    fn announce(&mut self, node: NodeId, told: &Member) -> Outcome {
        let Some(known) = self.members.get_mut(&node) else {
            return Err(conflict(
                "not-a-member",
                format!("node {node} is not a member: pgctl member add"),
            ));
        };
        if known.name != told.name || known.kind != told.kind {
            return Err(conflict(
                "identity-differs",
                format!(
                    "node {node} is {}, not {}: a node keeps its name and kind",
                    known.name, told.name
                ),
            ));
        }
        if known == told {
            return Ok(Applied::Unchanged);
        }
        *known = told.clone();
        Ok(Applied::Done)
    }

    fn choose_creator(&mut self, node: NodeId, at: WallTime) -> Outcome {
        if self.system_id.is_some() || self.holder.is_some() {
            return Err(conflict("database-exists", "the database exists already"));
        }
        if self
            .members
            .get(&node)
            .is_none_or(|member| member.kind == MemberKind::Witness)
        {
            return Err(conflict(
                "not-a-data-node",
                "only a data node can create the database",
            ));
        }
        if self.creator.is_some() {
            // A node that was chosen may have run initdb already: to choose another could make two databases.
            return Ok(Applied::Unchanged);
        }
        self.creator = Some(node);
        self.record(
            at,
            "creator-chosen",
            format!("{} creates the database", self.name_of(node)),
        );
        Ok(Applied::Done)
    }

    fn change_epoch(&mut self, change: &EpochChange) -> Outcome {
        let gates = gate::check(self, change);
        if !gate::is_open(&gates) {
            return Err(Rejected::Gate { gates });
        }
        let written = gate::written_under(self, change).len();
        let epoch = self.epoch.next();
        let in_place = change.cause == Cause::PledgeRepair;
        let timeline = if in_place {
            self.timeline
        } else {
            self.timeline_after(change)?
        };
        let position = change
            .released
            .get(&change.to)
            .and_then(|release| release.position);
        let record = EpochRecord {
            epoch,
            holder: change.to,
            holder_name: self.name_of(change.to),
            cause: change.cause,
            why: change.why.clone(),
            proof: gates
                .into_iter()
                .map(|gate| format!("{}: {}", gate.id, gate.found))
                .collect(),
            timeline,
            position,
            granted_at: change.at,
            opened_at: None,
            may_have_lost_bytes: change.may_lose_bytes,
            stonith: Vec::new(),
        };
        self.epoch = epoch;
        self.holder = Some(change.to);
        if !in_place {
            self.timeline = timeline;
            self.granted_at = position;
            self.promotion = None;
        }
        let accepted = change.may_lose_bytes.is_some() && change.cause == Cause::ManualFailover;
        if accepted || change.cause == Cause::Restore {
            // The operator has written off what only the old set had.
            self.sync.clear();
        } else {
            self.sync.truncate(written);
        }
        self.sync.push(change.sync.clone());
        self.record(
            change.at,
            "epoch-granted",
            format!(
                "epoch {epoch} to {} ({:?}): {}",
                self.name_of(change.to),
                change.cause,
                change.why
            ),
        );
        self.history.push_back(record);
        while self.history.len() > HISTORY_KEPT {
            self.history.pop_front();
        }
        self.end_orders(change);
        self.restore_after_grant(change);
        Ok(Applied::Epoch { epoch })
    }

    /// An order or a switchover ends with the epoch it was given for, whoever is the new holder.
    fn end_orders(&mut self, change: &EpochChange) {
        if change.cause == Cause::PledgeRepair {
            if let Some(running) = &mut self.switchover {
                running.epoch = self.epoch;
            }
            if let Some(order) = &mut self.failover_order {
                order.epoch = self.epoch;
            }
            return;
        }
        if let Some(running) = self.switchover.take() {
            let succeeded = running.to == change.to;
            let message = if succeeded {
                format!(
                    "{} is the primary of epoch {}",
                    self.name_of(change.to),
                    self.epoch
                )
            } else {
                format!(
                    "{} became the primary instead: {}",
                    self.name_of(change.to),
                    change.why
                )
            };
            self.last_switchover = Some(SwitchoverOutcome {
                request: running.request,
                from: running.from,
                to: running.to,
                succeeded,
                message,
            });
        }
        self.failover_order = None;
    }

    fn open_gate(&mut self, promotion: Promotion, at: WallTime) -> Outcome {
        if promotion.epoch != self.epoch {
            return Err(conflict(
                "epoch-is-over",
                format!("epoch {} is over", promotion.epoch),
            ));
        }
        if self.promotion.is_some_and(|known| known.epoch == promotion.epoch) {
            // A restarted agent opens the gate again; when it was opened first is what history asks.
            return Ok(Applied::Unchanged);
        }
        self.promotion = Some(promotion);
        if let Some(record) = self.history.back_mut() {
            record.opened_at = Some(at);
        }
        let holder = self.holder.map(|node| self.name_of(node)).unwrap_or_default();
        self.record(
            at,
            "gate-opened",
            format!("{holder} serves clients in epoch {}", self.epoch),
        );
        Ok(Applied::Done)
    }

    fn change_settings(&mut self, settings: &Settings, at: WallTime) -> Outcome {
        if settings.version != self.settings.version {
            return Err(conflict(
                "settings-changed",
                "the settings were changed meanwhile: read them again and repeat the change",
            ));
        }
        settings
            .validate()
            .map_err(|error| conflict("bad-settings", error.to_string()))?;
        let changed = Settings {
            version: settings.version.saturating_add(1),
            ..settings.clone()
        };
        let before = std::mem::replace(&mut self.settings, changed);
        self.reschedule(&before, at);
        self.record(
            at,
            "settings-changed",
            format!("version {}", self.settings.version),
        );
        Ok(Applied::Done)
    }

    fn set_maintenance(&mut self, node: NodeId, on: bool, at: WallTime) -> Outcome {
        if !self.members.contains_key(&node) {
            return Err(conflict("not-a-member", format!("node {node} is not a member")));
        }
        let changed = if on {
            self.maintenance.insert(node)
        } else {
            self.maintenance.remove(&node)
        };
        if !changed {
            return Ok(Applied::Unchanged);
        }
        let state = if on { "in" } else { "out of" };
        self.record(
            at,
            "maintenance",
            format!("{} is {state} maintenance", self.name_of(node)),
        );
        Ok(Applied::Done)
    }
}

impl Command {
    /// The client's id of the request, for commands that a person sends.
    #[must_use]
    pub fn request(&self) -> Option<&RequestId> {
        match self {
            Command::AddMember { request, .. }
            | Command::RemoveMember { request, .. }
            | Command::ReplaceMember { request, .. }
            | Command::ChangeSettings { request, .. }
            | Command::Pause { request, .. }
            | Command::Resume { request, .. }
            | Command::Maintenance { request, .. }
            | Command::FenceNode { request, .. }
            | Command::UnfenceNode { request, .. }
            | Command::StartSwitchover { request, .. }
            | Command::OrderFailover { request, .. } => Some(request),
            Command::RecordStonith { request, .. }
            | Command::Rollout { request, .. }
            | Command::Restore { request, .. } => request.as_ref(),
            Command::Found { .. }
            | Command::AnnounceMember { .. }
            | Command::VotersSettled { .. }
            | Command::ChooseCreator { .. }
            | Command::AdoptSystem { .. }
            | Command::ChangeEpoch(_)
            | Command::OpenGate { .. }
            | Command::SyncBegin { .. }
            | Command::SyncDone { .. }
            | Command::StopForSwitchover { .. }
            | Command::EndSwitchover { .. }
            | Command::DropFailoverOrder { .. }
            | Command::Duty(_)
            | Command::Note { .. } => None,
        }
    }
}
