//! WAL on its way from a primary to its standbys, and their word back.

use crate::clock::{MS, Time};
use crate::event::Event;
use crate::postgres::{Receiver, Run, Sender, Step};
use crate::wal::Place;
use crate::world::World;

const CONNECTION_LIVES: Time = 1_500 * MS;

impl World {
    /// The regular life of a running server: it connects, notices dead connections, sends again.
    pub fn beat(&mut self, node: usize) {
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

    pub fn ship(&mut self, node: usize) {
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
}
