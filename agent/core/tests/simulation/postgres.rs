//! A PostgreSQL of positions: it starts, streams, promotes, commits, waits for standbys as the real one does, and dies.

use crate::clock::{MS, Time};
use crate::mutants::Mutant;
use crate::raft::{id, index};
use crate::wal::Place;
use crate::world::World;
use agent_core::decide::node::Conf;
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::{ControlState, SystemId, TimelineId};
use agent_core::view::Upstream;
use std::collections::VecDeque;
use std::rc::Rc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    Down,
    Starting,
    Standby,
    Primary,
    /// A clean shutdown is under way.
    Stopping,
}

/// `synchronous_standby_names`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncNames {
    pub text: String,
    pub k: usize,
    pub names: Vec<String>,
}

impl SyncNames {
    pub fn read(text: &str) -> SyncNames {
        let names = text.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        let k = text.strip_prefix("ANY ").and_then(|rest| rest.split(' ').next());
        SyncNames {
            text: text.to_owned(),
            k: k.map_or(0, |k| k.parse().expect("a number")),
            names,
        }
    }
}

/// The include file: where to stream from, and `synchronous_standby_names`.
type File = (Option<(usize, Upstream)>, Rc<SyncNames>);

/// A walsender, as the primary has it.
#[derive(Debug)]
pub struct Sender {
    pub conn: u64,
    pub node: usize,
    pub name: String,
    pub flush: u64,
    pub sent: u64,
    pub last_arrival: Time,
    pub conf: Rc<SyncNames>,
    /// Told to read its configuration again, and has not yet.
    pub pending: Option<(Time, Rc<SyncNames>)>,
}

impl Sender {
    pub fn listed(&self) -> bool {
        self.conf.names.contains(&self.name)
    }
}

/// A walreceiver, as the standby has it.
#[derive(Debug)]
pub struct Receiver {
    pub conn: u64,
    pub upstream: usize,
    pub upstream_life: u64,
    pub name: String,
    pub broken_since: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Client,
    /// The first row of an epoch.
    Row(Epoch),
}

#[derive(Debug, Clone, Copy)]
pub struct Commit {
    pub place: Place,
    pub who: Who,
}

#[derive(Debug, Clone, Copy)]
pub struct Data {
    pub place: Place,
    pub control_timeline: u32,
    pub state: ControlState,
}

#[derive(Debug)]
pub struct Server {
    /// Changes with each start and each end of the server's processes.
    pub life: u64,
    pub run: Run,
    pub data: Option<Data>,
    pub upstream: Option<(usize, Upstream)>,
    pub names: Rc<SyncNames>,
    /// What its include file says.
    file: Option<File>,
    /// What the checkpointer has told the backends: commits have to wait.
    pub commits_wait: bool,
    pub receiver: Option<Receiver>,
    pub senders: Vec<Sender>,
    pub released: u64,
    pub waiting: VecDeque<Commit>,
    /// The epoch under which it was promoted.
    pub epoch: Epoch,
    pub hung_since: Time,
    pub hung_until: Time,
    /// Only its postmaster is gone: the sessions go on until then.
    pub headless_until: Option<Time>,
}

/// Something that happens inside a server.
#[derive(Debug, Clone)]
pub enum Step {
    Started,
    Promoted {
        epoch: Epoch,
        timeline: TimelineId,
    },
    Checkpointed,
    Beat,
    /// The postmaster has read its configuration again.
    Reloaded,
    SenderReads {
        conn: u64,
    },
    CheckpointerReads,
    HeadlessEnds,
    /// A clean shutdown ends, whether or not the agent that asked for it still lives.
    Stopped {
        epoch: Epoch,
    },
}

/// The one database of a run.
pub const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);
const RECORD: u64 = 100;

impl Server {
    pub fn new() -> Server {
        Server {
            life: 0,
            run: Run::Down,
            data: None,
            upstream: None,
            names: Rc::new(SyncNames::read("")),
            file: None,
            commits_wait: false,
            receiver: None,
            senders: Vec::new(),
            released: 0,
            waiting: VecDeque::new(),
            epoch: Epoch(0),
            hung_since: 0,
            hung_until: 0,
            headless_until: None,
        }
    }

    pub fn place(&self) -> Option<Place> {
        self.data.map(|data| data.place)
    }

    pub fn writable(&self) -> bool {
        self.run == Run::Primary || self.headless_until.is_some()
    }
}

impl World {
    fn upstream_of(&self, conf: &Conf) -> Option<(usize, Upstream)> {
        let mut upstream = conf.upstream.clone()?;
        if self.mutant == Some(Mutant::NameWithoutEpoch) {
            upstream.application_name = without_epoch(&upstream.application_name);
        }
        let number: u64 = upstream.host.strip_prefix('n')?.parse().ok()?;
        Some((index(NodeId(number)), upstream))
    }

    fn names_of(&self, conf: &Conf) -> SyncNames {
        let mut names = SyncNames::read(&conf.synchronous_standby_names);
        match self.mutant {
            Some(Mutant::NameWithoutEpoch) => {
                for name in &mut names.names {
                    *name = without_epoch(name);
                }
            }
            Some(Mutant::StandbyWithoutRule) if names.text.contains("no_such_standby") => {
                names = SyncNames::read("");
            }
            _ => {}
        }
        names
    }

    pub fn start_server(&mut self, node: usize, conf: &Conf) {
        if self.nodes[node].disk.broken {
            self.violation(&format!(
                "n{} starts a server on data that is not whole",
                node + 1
            ));
        }
        let upstream = self.upstream_of(conf);
        let names = Rc::new(self.names_of(conf));
        let delay = self.takes(30 * MS, 400 * MS);
        let server = &mut self.nodes[node].server;
        if server.data.is_none() || server.run != Run::Down || server.headless_until.is_some() {
            return;
        }
        server.life += 1;
        server.run = Run::Starting;
        server.file = Some((upstream.clone(), names.clone()));
        server.upstream = upstream;
        server.commits_wait = !names.names.is_empty();
        server.names = names;
        server.released = 0;
        server.epoch = Epoch(0);
        if let Some(data) = &mut server.data {
            data.state = ControlState::InArchiveRecovery;
        }
        self.server_after(node, delay, Step::Started);
    }

    /// Tells the server to read its configuration again. Gives the time when its postmaster will have.
    pub fn reload_server(&mut self, node: usize, conf: &Conf) -> Time {
        self.nodes[node].server.file = Some((self.upstream_of(conf), Rc::new(self.names_of(conf))));
        let delay = self.takes(MS, 20 * MS);
        self.server_after(node, delay, Step::Reloaded);
        delay
    }

    /// Ends every process of the server at once.
    pub fn kill_server(&mut self, node: usize) {
        let server = &mut self.nodes[node].server;
        if server.run == Run::Down && server.headless_until.is_none() {
            return;
        }
        server.life += 1;
        server.run = Run::Down;
        server.senders.clear();
        server.receiver = None;
        server.waiting.clear();
        server.headless_until = None;
        server.hung_until = 0;
        self.nodes[node].unguarded = false;
        self.note(|| format!("n{} server dead", node + 1));
    }

    /// Ends the postmaster only: what a fence must not be.
    pub fn kill_postmaster(&mut self, node: usize) {
        if self.nodes[node].server.run != Run::Primary {
            self.kill_server(node);
            return;
        }
        let until = self.now + 8_000 * MS;
        let server = &mut self.nodes[node].server;
        server.run = Run::Down;
        server.headless_until = Some(until);
        self.server_after(node, 8_000 * MS, Step::HeadlessEnds);
    }

    pub fn on_server(&mut self, node: usize, step: Step) {
        match step {
            Step::Started => {
                self.nodes[node].server.run = Run::Standby;
                self.server_after(node, 0, Step::Beat);
                self.look_soon(node);
            }
            Step::Promoted { epoch, timeline } => self.promoted(node, epoch, timeline),
            Step::Checkpointed => {
                let server = &mut self.nodes[node].server;
                if let Some(data) = &mut server.data {
                    data.control_timeline = self.wal.timeline(data.place.branch);
                    data.state = ControlState::InProduction;
                }
            }
            Step::Beat => self.beat(node),
            Step::Reloaded => self.reloaded(node),
            Step::SenderReads { conn } => {
                if let Some(sender) = self.nodes[node]
                    .server
                    .senders
                    .iter_mut()
                    .find(|s| s.conn == conn)
                {
                    sender.reread();
                }
            }
            Step::CheckpointerReads => {
                let server = &mut self.nodes[node].server;
                server.commits_wait = !server.names.names.is_empty();
                if !server.commits_wait {
                    // It lets everybody go who still waits.
                    let all: Vec<Commit> = server.waiting.drain(..).collect();
                    for commit in all {
                        self.acknowledge(node, commit);
                    }
                }
            }
            Step::HeadlessEnds => self.kill_server(node),
            Step::Stopped { epoch } => self.shut_down(node, epoch),
        }
    }

    fn promoted(&mut self, node: usize, epoch: Epoch, timeline: TimelineId) {
        let server = &self.nodes[node].server;
        let (Run::Standby, Some(data)) = (server.run, server.data) else {
            return;
        };
        let branch = self.wal.begin(timeline.0, Some(data.place));
        let place = Place {
            branch,
            lsn: data.place.lsn + RECORD,
        };
        let server = &mut self.nodes[node].server;
        server.run = Run::Primary;
        server.epoch = epoch;
        server.receiver = None;
        server.data = Some(Data { place, ..data });
        self.note(|| format!("n{} writable under epoch {epoch} at {place:?}", node + 1));
        let delay = self.takes(5 * MS, 300 * MS);
        self.server_after(node, delay, Step::Checkpointed);
        self.check_promotion(node, epoch, place);
        self.look_soon(node);
    }

    fn reloaded(&mut self, node: usize) {
        let now = self.now;
        let Some((upstream, names)) = self.nodes[node].server.file.clone() else {
            return;
        };
        let server = &mut self.nodes[node].server;
        if server.upstream != upstream {
            server.receiver = None;
            server.upstream = upstream;
        }
        if server.names == names {
            return;
        }
        server.names = names.clone();
        let mut conns = Vec::new();
        for sender in &mut server.senders {
            sender.pending = Some((now, names.clone()));
            conns.push(sender.conn);
        }
        for conn in conns {
            let delay = self.takes(0, 300 * MS);
            self.server_after(node, delay, Step::SenderReads { conn });
        }
        let delay = self.takes(0, 500 * MS);
        self.server_after(node, delay, Step::CheckpointerReads);
    }

    /// Writes one commit; its session waits as long as it has to.
    pub fn commit(&mut self, node: usize, size: u64, who: Who) -> Option<Place> {
        let now = self.now;
        if self.nodes[node].suspended {
            return None;
        }
        let server = &mut self.nodes[node].server;
        if !server.writable() || server.hung_until > now {
            return None;
        }
        let data = server.data.as_mut()?;
        data.place.lsn += size.max(1);
        let commit = Commit {
            place: data.place,
            who,
        };
        if !server.commits_wait || commit.place.lsn <= server.released {
            self.acknowledge(node, commit);
        } else {
            server.waiting.push_back(commit);
        }
        self.ship(node);
        Some(commit.place)
    }

    /// The session's reply leaves the server.
    pub fn acknowledge(&mut self, node: usize, commit: Commit) {
        self.check_acknowledged(node, commit);
        if let Who::Row(epoch) = commit.who {
            self.first_row_acknowledged(node, epoch, commit.place);
        }
    }

    /// The standbys' names that a server at `node` hears of, for the checks.
    pub fn holders_of(&self, commit: Place) -> Vec<NodeId> {
        (0..self.nodes.len())
            .filter(|node| {
                self.nodes[*node]
                    .server
                    .place()
                    .is_some_and(|place| self.wal.contains(place, commit))
            })
            .map(id)
            .collect()
    }
}

impl Sender {
    pub fn reread(&mut self) {
        if let Some((_, conf)) = self.pending.take() {
            self.conf = conf;
        }
    }
}

fn without_epoch(name: &str) -> String {
    name.rsplit_once("_e")
        .map_or_else(|| name.to_owned(), |(node, _)| node.to_owned())
}
