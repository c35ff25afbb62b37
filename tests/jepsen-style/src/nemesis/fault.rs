//! The faults, by name.

use super::machine::Machine;
use std::time::Duration;

/// What a fault is made of: two at a time are always of different families.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// Processes and machines end.
    Kill,
    /// They stop for a while.
    Pause,
    /// The network breaks.
    Partition,
    /// A disk is full, slow, or stands still.
    Disk,
    /// The wall clock jumps.
    Clock,
    /// An operator does what operators do.
    Operator,
    /// Settings change while in use.
    Settings,
}

macro_rules! faults {
    ($($fault:ident $name:literal $family:ident $what:literal)*) => {
        /// One kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Fault {
            $(#[doc = $what] $fault,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$fault),*];

            /// As the command line and the report call it.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$fault => $name),* }
            }

            /// The family it belongs to.
            pub fn family(self) -> Family {
                match self { $(Fault::$fault => Family::$family),* }
            }

            /// What happens, for people.
            pub fn what(self) -> &'static str {
                match self { $(Fault::$fault => $what),* }
            }
        }
    };
}

faults! {
    KillAgent "kill-agent" Kill "the agent is killed and started again later; its server is left to itself"
    KillServer "kill-server" Kill "the server's main process is killed"
    KillBackend "kill-backend" Kill "one process of the server is killed"
    StopServer "stop-server" Kill "somebody stops the server by hand (fast shutdown)"
    KillGuard "kill-guard" Kill "the guard beside the agent is killed"
    PowerCut "power-cut" Kill "a node loses its power"
    PowerCutAll "power-cut-all" Kill "all nodes lose their power at once"
    KillAgents "kill-agents" Kill "all agents are killed at once"
    PauseAgent "pause-agent" Pause "the agent is frozen; its server is not"
    PauseServer "pause-server" Pause "the server's main process is frozen"
    PauseBackend "pause-backend" Pause "one process of the server is frozen"
    PauseGuard "pause-guard" Pause "the guard beside the agent is frozen"
    FreezeNode "freeze-node" Pause "every process of a node is frozen"
    Isolate "isolate" Partition "a node is cut off from everybody"
    IsolatePeers "isolate-peers" Partition "a node is cut off from the other nodes; clients still reach it"
    Halves "halves" Partition "the nodes fall into a minority and a majority"
    Ring "ring" Partition "each node sees only its two neighbours (5 nodes)"
    Mute "mute" Partition "a node hears and is not heard"
    Deafen "deafen" Partition "a node is heard and does not hear"
    OneWay "one-way" Partition "one node does not hear one other"
    Pair "pair" Partition "two nodes do not hear each other"
    Flapping "flapping" Partition "a node is cut off and connected again, several times"
    Loss "loss" Partition "a part of all packets to and from a node is lost"
    SlowLink "slow-link" Partition "a node gets 1,000 kbit/s, with queues"
    Delay "delay" Partition "packets to a node arrive late"
    LateAnswers "late-answers" Partition "what is answered to a node's renewals arrives seconds late, then it is cut off"
    Amnesia "amnesia" Partition "a node is cut off from the others, whose agents, but for the Raft leader's, are killed and started"
    DiskFull "disk-full" Disk "the disk of a node, data and state, is full"
    HungDisk "hung-disk" Disk "nothing can be written to the disk of a node, data and state"
    SlowDisk "slow-disk" Disk "each write to the disk of a node waits for a fifth of a second"
    ClockStep "clock-step" Clock "the agent's wall clock jumps"
    Switchover "switchover" Operator "pgctl switchover to a standby"
    RestartAgents "restart-agents" Operator "every agent is restarted, one after the other"
    WipeNode "wipe-node" Operator "a standby loses its disk, and comes back as a new member"
    AddRemove "add-remove" Operator "a node is added, and removed again"
    PauseCluster "pause-cluster" Operator "pgctl pause, and resume"
    Timing "timing" Settings "the lease's terms change to another profile, and back"
    SyncStandbys "sync-standbys" Settings "commits wait for one more standby, and back"
    SyncMode "sync-mode" Settings "quorum mode becomes strict, and back"
}

impl Family {
    const ALL: [Family; 7] = [
        Family::Kill,
        Family::Pause,
        Family::Partition,
        Family::Disk,
        Family::Clock,
        Family::Operator,
        Family::Settings,
    ];

    /// As the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Kill => "kill",
            Family::Pause => "pause",
            Family::Partition => "partition",
            Family::Disk => "disk",
            Family::Clock => "clock",
            Family::Operator => "operator",
            Family::Settings => "settings",
        }
    }
}

impl Fault {
    /// Whether it takes long and leaves little for another one to break: never one of two.
    pub fn stands_alone(self) -> bool {
        matches!(
            self,
            Fault::WipeNode | Fault::AddRemove | Fault::PowerCutAll | Fault::RestartAgents
        )
    }

    /// For how long at least it must be held to show anything.
    pub fn least_hold(self) -> Duration {
        match self {
            // Answers must have become late, and a lease and a promise must run out.
            Fault::LateAnswers => Duration::from_secs(8),
            Fault::Amnesia => Duration::from_secs(6),
            _ => Duration::ZERO,
        }
    }

    /// What this machine or this cluster lacks for it; `None` if it can be made.
    pub fn lacks(self, machine: &Machine) -> Option<&'static str> {
        let needs = |there: bool, what: &'static str| (!there).then_some(what);
        match self {
            Fault::Ring => needs(machine.network && machine.nodes >= 5, "a network and 5 nodes"),
            Fault::Delay => needs(machine.network && machine.netem, "a kernel with netem"),
            _ if self.family() == Family::Partition => needs(machine.network, "root, for network namespaces"),
            Fault::DiskFull => needs(machine.disks, "root, for mounts in a namespace of its own"),
            Fault::HungDisk | Fault::SlowDisk => needs(
                machine.stallable_disks,
                "root, loop devices, mkfs.ext4 and fsfreeze",
            ),
            Fault::ClockStep => needs(machine.clocks, "a C compiler, for shifted clocks"),
            Fault::KillGuard | Fault::PauseGuard => needs(machine.guards, "an agent with a guard process"),
            Fault::SyncMode => needs(machine.mode == "quorum", "a cluster in quorum mode"),
            Fault::SyncStandbys => needs(
                machine.mode != "async" && machine.data_nodes >= 3,
                "a synchronous cluster with 3 servers",
            ),
            Fault::WipeNode | Fault::AddRemove => needs(machine.mode != "async", "a synchronous cluster"),
            // docs/safety.md, section 6: without a guard such an agent's server goes on acknowledging.
            Fault::KillAgent | Fault::KillAgents | Fault::PauseAgent => needs(
                machine.mode != "async" || machine.guards,
                "in async mode: a guard process",
            ),
            // The same, section 6: nothing covers a machine that is frozen from outside, in async mode.
            Fault::FreezeNode => needs(machine.mode != "async", "a synchronous cluster"),
            _ => None,
        }
    }
}

/// The faults that a list of names of faults and families means; `all` means all.
///
/// # Errors
/// The name that means nothing, with those that would.
pub fn choose(names: &[String]) -> Result<Vec<Fault>, String> {
    let mut chosen = Vec::new();
    for name in names {
        let before = chosen.len();
        chosen.extend(
            Fault::ALL
                .iter()
                .copied()
                .filter(|fault| name == "all" || name == fault.name() || name == fault.family().name()),
        );
        if chosen.len() == before {
            let families = Family::ALL.map(Family::name).join(", ");
            let faults: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
            return Err(format!(
                "there is no nemesis {name}; there are all, {families}, and by itself {}",
                faults.join(", ")
            ));
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_of_families_and_of_faults_may_be_mixed() {
        let chosen = choose(&names(&["disk", "kill-agent", "disk-full"])).expect("all exist");
        assert_eq!(
            chosen,
            [
                Fault::KillAgent,
                Fault::DiskFull,
                Fault::HungDisk,
                Fault::SlowDisk
            ]
        );
        assert_eq!(choose(&names(&["all"])).expect("exists").len(), Fault::ALL.len());
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_exist() {
        let said = choose(&names(&["meteor"])).expect_err("no such thing");
        assert!(said.contains("meteor") && said.contains("power-cut"), "{said}");
    }

    #[test]
    fn a_name_means_one_fault_or_one_family() {
        for fault in Fault::ALL {
            assert!(Family::ALL.iter().all(|family| family.name() != fault.name()));
        }
    }
}
