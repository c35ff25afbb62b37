//! What the consensus room needs to know to start.

use agent_core::cluster::{Member, Settings};
use agent_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Everything that [`ConsensusRoom::open`](super::ConsensusRoom::open) needs.
#[derive(Debug, Clone)]
pub struct StartConfig {
    /// The agent's own directory; created if it is missing. Holds `identity.json`, `raft.log` and `raft.snapshot`.
    pub state_dir: PathBuf,
    /// The operator's name for the cluster. A peer of another name is never joined.
    pub cluster_name: String,
    /// This node as the cluster shall know it: its name, its kind and its addresses, all of them set.
    pub member: Member,
    /// The members that the configuration lists, this node among them where it is a founder.
    pub members: Vec<InitialMember>,
    /// The settings of a cluster that this node founds.
    pub settings: Settings,
    pub timing: RaftTiming,
    /// A number that no other start of this or any other agent has, whatever became of its state: drawn at random.
    pub start_id: u64,
}

/// One member as the configuration lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InitialMember {
    pub name: String,
    /// `host:port` of the agent's gRPC port.
    pub peer: String,
    /// Has no PostgreSQL.
    pub witness: bool,
}

/// How fast Raft notices that its leader is gone. A node stands for election when it has heard of no leader for
/// `election_max` plus a random time between `election_min` and `election_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTiming {
    /// Time between two heartbeats; shorter than `election_min`.
    pub heartbeat: Duration,
    pub election_min: Duration,
    /// Longer than `election_min`. Also how long the leader counts on a majority's last answer.
    pub election_max: Duration,
}

impl RaftTiming {
    /// Within one region.
    pub const LAN: RaftTiming = RaftTiming {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
    };
    /// Between regions.
    pub const WAN: RaftTiming = RaftTiming {
        heartbeat: Duration::from_millis(500),
        election_min: Duration::from_millis(1_500),
        election_max: Duration::from_millis(3_000),
    };

    /// These times as one node of a group uses them: each has a part of the time between `election_min` and `election_max` for
    /// itself, so that two nodes do not stand at the same moment and split the votes, which would cost one more such time. Nodes
    /// whose numbers differ by a multiple of [`SLOTS`] share a part.
    #[must_use]
    pub fn of_node(self, node: NodeId) -> RaftTiming {
        let part = (self.election_max - self.election_min) / SLOTS;
        let slot = (node.0 % u64::from(SLOTS)) as u32;
        let election_min = self.election_min + part * slot;
        RaftTiming {
            election_min,
            election_max: election_min + part,
            ..self
        }
    }

    /// Raft's own configuration for these times.
    ///
    /// # Errors
    /// The times contradict each other.
    pub fn raft_config(&self, cluster_name: &str) -> Result<openraft::Config, openraft::ConfigError> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: cluster_name.to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            // Without it a node that was cut off raises the term when it is back, and unseats a good leader.
            enable_pre_vote: Some(true),
            // Without it a leader that sends but hears nothing keeps its followers from electing another, for ever.
            quorum_loss_probe_interval: Some(ms(self.election_max).saturating_mul(2)),
            // A restarted leader's state machine may lie behind what it had shown before: it must be elected anew.
            enable_leader_restore: Some(false),
            // A log that is shorter than it was has forgotten what it acknowledged: never to be accepted.
            allow_log_reversion: None,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
            max_in_snapshot_log_to_keep: LOG_KEPT,
            replication_lag_threshold: SNAPSHOT_EVERY + LOG_KEPT,
            install_snapshot_timeout: 10_000,
            // The defaults reserve room for far more requests than a cluster's control plane ever sees.
            api_channel_size: Some(1_024),
            notification_channel_size: Some(4_096),
            ..openraft::Config::default()
        }
        .validate()
    }
}

impl Default for RaftTiming {
    fn default() -> Self {
        RaftTiming::LAN
    }
}

/// How many nodes have election times of their own; a group has seldom more voters.
const SLOTS: u32 = 5;
/// A snapshot is taken after this many entries.
const SNAPSHOT_EVERY: u64 = 2_000;
/// This many entries of those in the snapshot stay in the log, so that a node that was away for a moment needs no
/// snapshot.
const LOG_KEPT: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_timings_are_accepted_by_raft_and_carry_the_settings_that_safety_needs() {
        for timing in [RaftTiming::LAN, RaftTiming::WAN] {
            let config = timing.raft_config("c").expect("sound");
            assert_eq!(config.enable_pre_vote, Some(true));
            assert_eq!(config.enable_leader_restore, Some(false));
            assert_eq!(config.allow_log_reversion, None);
            assert!(config.quorum_loss_probe_interval >= Some(2 * config.election_timeout_max));
        }
    }

    #[test]
    fn nodes_of_a_group_stand_at_different_times_and_none_before_a_leader_has_given_up() {
        for timing in [RaftTiming::LAN, RaftTiming::WAN] {
            let nodes = (1..=5).map(|id| timing.of_node(NodeId(id)));
            let mut stands: Vec<(Duration, Duration)> = nodes
                .map(|own| (own.election_max + own.election_min, 2 * own.election_max))
                .collect();
            stands.sort_unstable();
            let part = (timing.election_max - timing.election_min) / 5;
            for pair in stands.windows(2) {
                assert!(pair[0].1 + part <= pair[1].0, "{pair:?}");
            }
            // A leader counts on a majority's answers for at most this long.
            assert!(timing.election_max <= stands[0].0, "{stands:?}");
            for id in 1..=5 {
                assert!(timing.of_node(NodeId(id)).raft_config("c").is_ok());
            }
        }
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let timing = RaftTiming {
            heartbeat: RaftTiming::LAN.election_min,
            ..RaftTiming::LAN
        };
        assert!(timing.raft_config("c").is_err());
    }
}
