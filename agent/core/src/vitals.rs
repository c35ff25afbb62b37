//! How a server and its disks do, by the probes: whether they answer, how much room is left, how often a start did not
//! last.
//!
//! A server may run and not work. What a look at it shows ([`crate::view::Server`]) says whether it answered just now;
//! this says for how long it has not, which is what decisions go by.

use serde::{Deserialize, Serialize};

/// A probe that has waited for longer than this is late: named, but nothing is done about it yet. Milliseconds.
pub const LATE_MS: u64 = 1_000;
/// How far back starts that did not last are counted, milliseconds.
pub const CRASH_WINDOW_MS: u64 = 120_000;
/// So many of them make a crash loop.
pub const CRASH_LOOP: u32 = 3;

/// What the probes of one node say.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// A question on a session that is kept open.
    pub kept: Pulse,
    /// A session opened for the question: a stopped postmaster leaves old sessions working.
    pub fresh: Pulse,
    /// A commit that waits for no standby; on a primary only.
    pub commit: Pulse,
    /// Sessions of clients; `None` while nobody could be asked.
    pub connections: Option<Connections>,
    /// The volumes of the data directory and of the WAL; one entry where they are the same.
    pub disks: Vec<Disk>,
    /// How many starts of the server within [`CRASH_WINDOW_MS`] did not last: it ended soon, and nobody had told it to.
    pub crashes: u32,
    /// How long ago the last of them was, milliseconds.
    pub crashed_ms_ago: Option<u64>,
    /// How often this agent has lately ended its server because it hung.
    pub hangs: u32,
}

/// One probe: how long it has been without an answer.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// Milliseconds since the first question that was not answered; zero once one is. Time in which the agent itself did
    /// not run is left out.
    pub silent_ms: u64,
    /// What came instead of the last answer.
    pub why: String,
}

/// How many sessions clients have, and may have.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    pub used: u32,
    /// `max_connections` without those that are reserved.
    pub limit: u32,
}

/// One volume.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// WAL is written here.
    pub wal: bool,
    /// The data directory is here.
    pub data: bool,
    /// The folder that was probed.
    pub path: String,
    /// A write that goes through to the disk.
    pub pulse: Pulse,
    /// Bytes that the server may still use; `None` while it is not known.
    pub free_bytes: Option<u64>,
    /// The size of the volume, bytes.
    pub total_bytes: u64,
    /// What the agent keeps on it to give up when it is full, bytes.
    pub ballast_bytes: u64,
}

impl Pulse {
    /// Whether the answer is overdue.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.silent_ms >= LATE_MS
    }
}

impl Connections {
    /// Whether an ordinary client would be sent away.
    #[must_use]
    pub fn are_exhausted(&self) -> bool {
        self.used >= self.limit
    }
}

impl Disk {
    /// What it is for, in a few words.
    #[must_use]
    pub fn purpose(&self) -> &'static str {
        match (self.data, self.wal) {
            (true, true) => "data and WAL",
            (false, true) => "WAL",
            (true | false, false) => "data",
        }
    }

    /// Below how many free bytes it counts as full: `reserve`, or a tenth of a small volume.
    #[must_use]
    pub fn full_below(&self, reserve: u64) -> u64 {
        reserve.min(self.total_bytes / 10)
    }

    /// Whether it counts as full.
    #[must_use]
    pub fn is_full(&self, reserve: u64) -> bool {
        self.free_bytes
            .is_some_and(|free| free < self.full_below(reserve))
    }

    /// Whether a primary may be moved here: twice what counts as full, so that it does not come straight back.
    #[must_use]
    pub fn has_room(&self, reserve: u64) -> bool {
        self.free_bytes
            .is_none_or(|free| free >= self.full_below(reserve).saturating_mul(2))
    }
}

impl Vitals {
    /// The volume that WAL is written to.
    #[must_use]
    pub fn wal_disk(&self) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.wal)
    }

    /// The probe of the server that has waited longest, and what it asks.
    #[must_use]
    pub fn slowest(&self) -> (&'static str, &Pulse) {
        let all = [
            ("a commit", &self.commit),
            ("a new session", &self.fresh),
            ("an open session", &self.kept),
        ];
        let [mut slowest, rest @ ..] = all;
        for probe in rest {
            if probe.1.silent_ms > slowest.1.silent_ms {
                slowest = probe;
            }
        }
        slowest
    }

    /// Whether every probe has its answer, or has not waited for long.
    #[must_use]
    pub fn are_in_time(&self) -> bool {
        !self.slowest().1.is_late() && !self.slowest_disk().is_some_and(|disk| disk.pulse.is_late())
    }

    /// The volume whose write has waited longest.
    #[must_use]
    pub fn slowest_disk(&self) -> Option<&Disk> {
        self.disks.iter().max_by_key(|disk| disk.pulse.silent_ms)
    }

    /// Whether the server dies again and again.
    #[must_use]
    pub fn crash_loops(&self) -> bool {
        self.crashes >= CRASH_LOOP
    }

    /// Whether a primary could do its work here: the disk takes writes and has room, and the server stays up.
    #[must_use]
    pub fn fit_to_serve(&self, reserve: u64) -> bool {
        let disks_well = self
            .disks
            .iter()
            .all(|disk| !disk.pulse.is_late() && disk.has_room(reserve));
        let answers = !self.kept.is_late() && !self.fresh.is_late();
        disks_well && answers && !self.crash_loops()
    }
}
