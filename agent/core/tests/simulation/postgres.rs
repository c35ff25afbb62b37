//! A PostgreSQL of positions: it starts, streams, promotes, commits, waits for standbys as the real one does, and dies.

use crate::clock::{MS, Time};
use crate::mutants::Mutant;
use crate::raft::{id, index};
use crate::wal::Place;
use crate::world::{Event, World};
use agent_core::decide::node::Conf;
use agent_core::ids::{Epoch, NodeId};
use agent_core::pg::{ControlFile, ControlState, Lsn, SystemId, TimelineId};
use agent_core::view::{
    PgObservation, PrimaryView, Receiver as ReceiverView, Server as ServerView, StandbyConnection,
    StandbyView, Upstream,
};
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

/// A walsender, as the primary has it.
#[derive(Debug)]
pub struct Sender {
    pub conn: u64,
    pub node: usize,
    pub name: String,
    pub flush: u64,
    pub sent: u64,
    last_arrival: Time,
    conf: Rc<SyncNames>,
    /// Told to read its configuration again, and has not yet.
    pending: Option<(Time, Rc<SyncNames>)>,
}

impl Sender {
    fn listed(&self) -> bool {
        self.conf.names.contains(&self.name)
    }
}

/// A walreceiver, as the standby has it.
#[derive(Debug)]
pub struct Receiver {
    pub conn: u64,
    pub upstream: usize,
    upstream_life: u64,
    pub name: String,
    broken_since: Option<Time>,
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
    file: Option<(Option<(usize, Upstream)>, Rc<SyncNames>)>,
    /// What the checkpointer has told the backends: commits have to wait.
    pub commits_wait: bool,
    pub receiver: Option<Receiver>,
    pub senders: Vec<Sender>,
    released: u64,
    pub waiting: VecDeque<Commit>,
    /// The epoch under which it was promoted.
    pub epoch: Epoch,
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
const CONNECTION_LIVES: Time = 1_500 * MS;

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
    /// What a look at the server shows.
    pub fn observe(&self, node: usize) -> PgObservation {
        let server = &self.nodes[node].server;
        let condition = match (server.run, &server.data) {
            _ if self.busy_with_data(node).is_some() => ServerView::Busy {
                job: self.busy_with_data(node).unwrap_or_default().to_owned(),
            },
            (_, None) => ServerView::NoData,
            (Run::Down, _) => ServerView::Down,
            (Run::Starting, _) => ServerView::Starting,
            (Run::Stopping, _) => ServerView::Unresponsive {
                why: "it is shutting down".to_owned(),
            },
            _ if server.hung_until > self.now => ServerView::Unresponsive {
                why: "no answer".to_owned(),
            },
            (Run::Standby, Some(data)) => ServerView::Standby(StandbyView {
                position: self.wal.position(data.place),
                replay: Lsn(data.place.lsn),
                replay_age_ms: None,
                upstream: server.upstream.as_ref().map(|(_, upstream)| upstream.clone()),
                receiver: server.receiver.as_ref().map(|_| ReceiverView {
                    streaming: true,
                    latest_end: Lsn(data.place.lsn),
                }),
                replay_paused: false,
            }),
            (Run::Primary, Some(data)) => ServerView::Primary(PrimaryView {
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

    /// The regular life of a running server: it connects, notices dead connections, sends again.
    fn beat(&mut self, node: usize) {
        self.server_after(node, 100 * MS, Step::Beat);
        if self.nodes[node].server.run == Run::Standby {
            self.beat_standby(node);
        }
        let server = &mut self.nodes[node].server;
        if server.senders.is_empty() {
            return;
        }
        let now = self.now;
        let nodes = &self.nodes;
        let dead: Vec<u64> = nodes[node]
            .server
            .senders
            .iter()
            .filter(|sender| {
                let alive = nodes[sender.node]
                    .server
                    .receiver
                    .as_ref()
                    .is_some_and(|r| r.conn == sender.conn);
                !alive && (self.net.both(node, sender.node) || now > sender.last_arrival + CONNECTION_LIVES)
            })
            .map(|sender| sender.conn)
            .collect();
        self.nodes[node]
            .server
            .senders
            .retain(|sender| !dead.contains(&sender.conn));
        self.ship(node);
    }

    fn beat_standby(&mut self, node: usize) {
        let now = self.now;
        if let Some(receiver) = &self.nodes[node].server.receiver {
            let upstream = receiver.upstream;
            let open = self.net.both(node, upstream);
            let up = &self.nodes[upstream].server;
            let gone = open && !up.senders.iter().any(|sender| sender.conn == receiver.conn);
            let (conn, life) = (receiver.conn, up.life == receiver.upstream_life);
            let receiver = self.nodes[node]
                .server
                .receiver
                .as_mut()
                .expect("looked at above");
            if open && life {
                receiver.broken_since = None;
            } else {
                receiver.broken_since.get_or_insert(now);
            }
            if gone
                || receiver
                    .broken_since
                    .is_some_and(|since| now - since > CONNECTION_LIVES)
            {
                self.nodes[node].server.receiver = None;
                self.look_soon(node);
            } else {
                self.reply(node, conn);
            }
            return;
        }
        self.connect(node);
    }

    fn connect(&mut self, node: usize) {
        let now = self.now;
        let server = &self.nodes[node].server;
        let Some((upstream, how)) = server.upstream.clone() else {
            return;
        };
        let Some(own) = server.place() else { return };
        let upstream = if self.misrouted_until > now {
            self.somewhere(node, upstream)
        } else {
            upstream
        };
        let up = &self.nodes[upstream].server;
        if up.run != Run::Primary
            || up.hung_until > now
            // Its slot is still in use by the connection before.
            || up.senders.iter().any(|sender| sender.node == node)
            || self.nodes[upstream].suspended
            || !self.net.both(node, upstream)
        {
            return;
        }
        let life = up.life;
        let Some(there) = up.place() else { return };
        if !self.wal.would_stream(there, own) {
            return;
        }
        if !self.wal.contains(there, own) {
            self.violation(&format!(
                "n{} at {own:?} streams from n{} at {there:?}: two histories under one timeline number",
                node + 1,
                upstream + 1
            ));
        }
        self.connections += 1;
        let conn = self.connections;
        self.nodes[node].server.receiver = Some(Receiver {
            conn,
            upstream,
            upstream_life: life,
            name: how.application_name.clone(),
            broken_since: None,
        });
        let conf = self.nodes[upstream].server.names.clone();
        self.nodes[upstream].server.senders.push(Sender {
            conn,
            node,
            name: how.application_name,
            flush: own.lsn,
            sent: 0,
            last_arrival: now,
            conf,
            pending: None,
        });
        self.ship(upstream);
        self.look_soon(node);
        self.look_soon(upstream);
    }

    /// Where a connection ends that should go to `upstream`, while names and addresses cannot be trusted.
    fn somewhere(&mut self, node: usize, upstream: usize) -> usize {
        let primaries: Vec<usize> = (0..self.nodes.len())
            .filter(|other| *other != node && self.nodes[*other].server.run == Run::Primary)
            .collect();
        if primaries.is_empty() {
            upstream
        } else {
            *self.rng.pick(&primaries)
        }
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

    fn ship(&mut self, node: usize) {
        let Some(place) = self.nodes[node].server.place() else {
            return;
        };
        for at in 0..self.nodes[node].server.senders.len() {
            let to = self.nodes[node].server.senders[at].node;
            if !self.net.open(node, to) || self.nodes[node].server.senders[at].sent >= place.lsn {
                continue;
            }
            let delay = self.net.delay(&mut self.rng);
            let sender = &mut self.nodes[node].server.senders[at];
            sender.sent = place.lsn;
            sender.last_arrival = (sender.last_arrival + 1).max(self.now + delay);
            let (conn, when) = (sender.conn, sender.last_arrival - self.now);
            self.after(when, Event::Wal { to, conn, place });
        }
    }

    pub fn on_wal(&mut self, to: usize, conn: u64, place: Place) {
        let server = &mut self.nodes[to].server;
        if server.run != Run::Standby
            || server
                .receiver
                .as_ref()
                .is_none_or(|receiver| receiver.conn != conn)
        {
            return;
        }
        if let Some(data) = &mut server.data
            && (data.place.branch != place.branch || data.place.lsn < place.lsn)
        {
            data.place = place;
            data.control_timeline = self.wal.timeline(place.branch);
            self.reply(to, conn);
        }
    }

    /// A standby tells how far it has flushed.
    fn reply(&mut self, node: usize, conn: u64) {
        let server = &self.nodes[node].server;
        let (Some(receiver), Some(place)) = (&server.receiver, server.place()) else {
            return;
        };
        let upstream = receiver.upstream;
        if !self.net.open(node, upstream) {
            return;
        }
        let disk = if self.nodes[node].slow_until > self.now {
            self.rng.between(5, 400) * MS
        } else {
            self.takes(50, 3 * MS)
        };
        let delay = disk + self.net.delay(&mut self.rng);
        let sent = self.now + disk;
        self.after(
            delay,
            Event::Flushed {
                to: upstream,
                conn,
                lsn: place.lsn,
                sent,
            },
        );
    }

    pub fn on_flushed(&mut self, to: usize, conn: u64, lsn: u64, sent: Time) {
        let server = &mut self.nodes[to].server;
        let Some(at) = server.senders.iter().position(|sender| sender.conn == conn) else {
            return;
        };
        let sender = &mut server.senders[at];
        sender.flush = sender.flush.max(lsn);
        // What was sent after the signal is read only after the configuration.
        if sender.pending.as_ref().is_some_and(|(told, _)| sent > *told) {
            sender.reread();
        }
        let sender = &server.senders[at];
        if !sender.listed() {
            return;
        }
        let k = sender.conf.k;
        let mut flushed: Vec<u64> = server
            .senders
            .iter()
            .filter(|sender| sender.listed())
            .map(|sender| sender.flush)
            .collect();
        if k == 0 || flushed.len() < k {
            return;
        }
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        server.released = server.released.max(flushed[k - 1]);
        while let Some(commit) = self.nodes[to].server.waiting.front().copied() {
            if commit.place.lsn > self.nodes[to].server.released {
                break;
            }
            self.nodes[to].server.waiting.pop_front();
            self.acknowledge(to, commit);
        }
    }

    /// The session's reply leaves the server.
    fn acknowledge(&mut self, node: usize, commit: Commit) {
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
    fn reread(&mut self) {
        if let Some((_, conf)) = self.pending.take() {
            self.conf = conf;
        }
    }
}

fn without_epoch(name: &str) -> String {
    name.rsplit_once("_e")
        .map_or_else(|| name.to_owned(), |(node, _)| node.to_owned())
}
