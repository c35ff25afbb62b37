//! What a look at a server shows.

use crate::clock::MS;
use crate::mutants::Mutant;
use crate::postgres::{Run, SYSTEM, Sender};
use crate::raft::id;
use crate::world::World;
use agent_core::pg::{ControlFile, Lsn, TimelineId};
use agent_core::view::{PgObservation, PrimaryView, Receiver, Server, StandbyConnection, StandbyView};
use agent_core::vitals::{Pulse, Vitals};

impl World {
    /// What a look at the server shows.
    pub fn observe(&self, node: usize) -> PgObservation {
        let server = &self.nodes[node].server;
        let condition = match (server.run, &server.data) {
            _ if self.busy_with_data(node).is_some() => Server::Busy {
                job: self.busy_with_data(node).unwrap_or_default().to_owned(),
            },
            (_, None) => Server::NoData,
            (Run::Down, _) => Server::Down,
            (Run::Starting, _) => Server::Starting,
            (Run::Stopping, _) => Server::Unresponsive {
                why: "it is shutting down".to_owned(),
            },
            _ if server.hung_until > self.now => Server::Unresponsive {
                why: "no answer".to_owned(),
            },
            (Run::Standby, Some(data)) => Server::Standby(StandbyView {
                position: self.wal.position(data.place),
                replay: Lsn(data.place.lsn),
                replay_age_ms: None,
                upstream: server.upstream.as_ref().map(|(_, upstream)| upstream.clone()),
                receiver: server.receiver.as_ref().map(|_| Receiver {
                    streaming: true,
                    latest_end: Lsn(data.place.lsn),
                }),
                replay_paused: false,
            }),
            (Run::Primary, Some(data)) => Server::Primary(PrimaryView {
                position: self.wal.position(data.place),
                history: self.wal.history(data.place.branch),
                synchronous_standby_names: server.names.text.clone(),
                standbys: server
                    .senders
                    .iter()
                    .map(|sender| self.seen(node, sender))
                    .collect(),
                read_only: false,
            }),
        };
        PgObservation {
            server: condition,
            control: server.data.map(|data| ControlFile {
                system_id: SYSTEM,
                state: data.state,
                checkpoint: Lsn(data.place.lsn),
                redo: Lsn(data.place.lsn),
                timeline: TimelineId(data.control_timeline),
                min_recovery: Lsn(0),
                checksums: true,
            }),
            version_num: 150_018,
            postmaster_pid: None,
            trouble: None,
            pending_restart: Vec::new(),
            vitals: self.vitals(node),
        }
    }

    /// A hung server answers no probe; disks and connections do not fail here.
    fn vitals(&self, node: usize) -> Vitals {
        let server = &self.nodes[node].server;
        let hangs = server.hung_until > self.now && !matches!(server.run, Run::Down | Run::Starting);
        if !hangs {
            return Vitals::default();
        }
        let pulse = Pulse {
            silent_ms: (self.now - server.hung_since) / MS,
            why: "no answer".to_owned(),
        };
        Vitals {
            kept: pulse.clone(),
            fresh: pulse,
            ..Vitals::default()
        }
    }

    /// A row of `pg_stat_replication`. The mutant without epochs in its names sees the ones that it expects.
    fn seen(&self, node: usize, sender: &Sender) -> StandbyConnection {
        let mut application_name = sender.name.clone();
        if self.mutant == Some(Mutant::NameWithoutEpoch) {
            application_name = self
                .state(node)
                .application_name(id(sender.node), self.state(node).epoch);
        }
        StandbyConnection {
            application_name,
            streaming: true,
            sync_state: if sender.listed() { "quorum" } else { "async" }.to_owned(),
            flush: Lsn(sender.flush),
            replay: Lsn(sender.flush),
        }
    }
}
