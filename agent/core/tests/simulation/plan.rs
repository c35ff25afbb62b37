//! What a seed decides before its run begins: the nodes, the settings, the faults that may come.

use crate::clock::{MS, Time};
use crate::mutants::Mutant;
use crate::rng::Rng;
use agent_core::cluster::{MemberKind, Settings, SyncMode};
use agent_core::timing::Timing;

/// A kind of trouble. Each run has a subset of them, so that rare mixtures come up too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    AgentCrash,
    AgentFreeze,
    NodeFreeze,
    ServerCrash,
    NodeCrash,
    CrashAll,
    Isolate,
    OneWay,
    CutLink,
    Split,
    Lossy,
    Slew,
    LeaderChange,
    SlowDisk,
    ApplyLag,
    ServerHang,
    Switchover,
    FailoverOrder,
    Pause,
    Maintenance,
    Settings,
    Voters,
    Datagrams,
    /// Every agent but the primary's is restarted, as an upgrade would.
    RestartOthers,
    /// A name or an address leads standbys to whatever primary there is.
    Misroute,
}

impl Fault {
    const ALL: [Fault; 25] = [
        Fault::AgentCrash,
        Fault::AgentFreeze,
        Fault::NodeFreeze,
        Fault::ServerCrash,
        Fault::NodeCrash,
        Fault::CrashAll,
        Fault::Isolate,
        Fault::OneWay,
        Fault::CutLink,
        Fault::Split,
        Fault::Lossy,
        Fault::Slew,
        Fault::LeaderChange,
        Fault::SlowDisk,
        Fault::ApplyLag,
        Fault::ServerHang,
        Fault::Switchover,
        Fault::FailoverOrder,
        Fault::Pause,
        Fault::Maintenance,
        Fault::Settings,
        Fault::Voters,
        Fault::Datagrams,
        Fault::RestartOthers,
        Fault::Misroute,
    ];

    /// Mixtures that aim at one part of the protocol.
    const THEMES: [&'static [Fault]; 10] = [
        &[Fault::Settings, Fault::Settings, Fault::Datagrams, Fault::OneWay],
        &[Fault::Datagrams, Fault::RestartOthers],
        &[
            Fault::Lossy,
            Fault::AgentCrash,
            Fault::Datagrams,
            Fault::ServerCrash,
        ],
        &[
            Fault::Misroute,
            Fault::AgentFreeze,
            Fault::AgentCrash,
            Fault::CutLink,
        ],
        &[
            Fault::Datagrams,
            Fault::Datagrams,
            Fault::LeaderChange,
            Fault::Slew,
        ],
        &[
            Fault::Datagrams,
            Fault::AgentCrash,
            Fault::AgentCrash,
            Fault::AgentCrash,
        ],
        &[
            Fault::Voters,
            Fault::Voters,
            Fault::ApplyLag,
            Fault::Datagrams,
            Fault::CutLink,
        ],
        &[
            Fault::AgentFreeze,
            Fault::AgentCrash,
            Fault::CutLink,
            Fault::FailoverOrder,
        ],
        &[
            Fault::AgentCrash,
            Fault::NodeCrash,
            Fault::CutLink,
            Fault::SlowDisk,
        ],
        &[
            Fault::ServerCrash,
            Fault::AgentCrash,
            Fault::Datagrams,
            Fault::LeaderChange,
        ],
    ];
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub kinds: Vec<MemberKind>,
    /// How many of the nodes vote at first; the others are spare.
    pub voters: usize,
    pub settings: Settings,
    pub faults: Vec<Fault>,
    /// When the first fault may come.
    pub quiet: Time,
    /// When the last one may.
    pub horizon: Time,
    /// The mean pause between two.
    pub pause: Time,
    /// Each node has a guard, which works although its agent does not.
    pub guards: bool,
    /// Machines on which nothing takes long.
    pub quick: bool,
    /// How often a change of epoch draws a fault upon itself, per thousand.
    pub at_grants: u64,
    pub raw_ppm: Vec<i64>,
    /// Time between two commits.
    pub commit_every: Time,
}

impl Plan {
    pub fn of(rng: &mut Rng, mutant: Option<Mutant>) -> Plan {
        let (data, witnesses, voters) = match rng.below(10) {
            0..=5 => (3, 0, 3),
            6 => (2, 1, 3),
            7 => (3, 1, 3),
            8 => (3, 2, 3),
            _ => (5, 0, 5),
        };
        let mut kinds = vec![MemberKind::Data; data];
        kinds.extend(vec![MemberKind::Witness; witnesses]);
        let mut settings = Settings {
            timing: timing(rng),
            sync_mode: *rng.pick(&[
                SyncMode::Quorum,
                SyncMode::Quorum,
                SyncMode::Strict,
                SyncMode::Async,
            ]),
            sync_standbys: if data > 3 && rng.chance(500) { 2 } else { 1 },
            max_lag_bytes: *rng.pick(&[0, 2_000, 1 << 20]),
            sync_remove_after_ms: rng.between(100, 1_000),
            sync_degrade_after_ms: rng.between(100, 2_000),
            failover_pause_ms: *rng.pick(&[0, 0, 1_000, 5_000]),
            switchover_deadline_ms: rng.between(1_000, 4_000),
            ..Settings::default()
        };
        // Without a draw of its own: what a seed stands for stays the same.
        settings.hang_after_ms = settings.switchover_deadline_ms.min(2_000);
        if mutant == Some(Mutant::PromiseAsShortAsLease) {
            settings.timing.promise_ms = settings.timing.lease_ms;
        }
        let enabled = rng.between(150, 700);
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| rng.chance(enabled)).collect();
        let theme = rng.chance(400).then(|| *rng.pick(&Fault::THEMES));
        if let Some(theme) = theme {
            faults = theme.to_vec();
        }
        if kinds.len() == voters {
            faults.retain(|fault| *fault != Fault::Voters || voters > 3);
        }
        if faults.is_empty() {
            faults.push(Fault::NodeCrash);
        }
        let nodes = kinds.len();
        Plan {
            kinds,
            voters,
            settings,
            faults,
            quiet: if rng.chance(100) { 0 } else { 3_000 * MS },
            horizon: rng.between(6_000, 14_000) * MS,
            pause: *rng.pick(&[150, 400, 1_000, 2_000]) * MS,
            at_grants: *rng.pick(&[0, 300, 900]),
            guards: rng.chance(600),
            quick: rng.chance(300),
            raw_ppm: (0..nodes).map(|_| *rng.pick(&[-1_000, 0, 1_000])).collect(),
            commit_every: *rng.pick(&[10, 25, 60]) * MS,
        }
    }
}

/// Terms with no millisecond to spare: whatever the inequality forgets shows.
pub fn timing(rng: &mut Rng) -> Timing {
    let lease_ms = *rng.pick(&[300, 400, 800, 2_000]);
    let fence_ms = *rng.pick(&[50, 100, 150]);
    let mut timing = Timing {
        renew_ms: lease_ms / 4,
        lease_ms,
        fence_ms,
        promise_ms: lease_ms + fence_ms,
        clock_error_ppm: 1_000,
    };
    while !timing.is_sound() {
        timing.promise_ms += 1;
    }
    timing
}
