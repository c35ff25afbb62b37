//! Raft with this house's store and state machine in simulated time: lost and late messages, one-way cuts, crashes,
//! torn writes and slow disks, by seed. Safety is checked all the time; at the end the faults stop, and the group has
//! to come back.
//!
//! Time is tokio's paused clock, all nodes share one thread, and every random choice comes from the seed. tokio's own
//! watch channel wakes its waiters in an order of its own, which only an unstable build flag could fix; the simulated
//! runtime brings a watch channel that wakes them in the order in which they came. So the same seed gives the same
//! messages at the same times, with an ordinary build.
//!
//! `PGCTL_RAFT_SEEDS` says how many seeds to run, `PGCTL_RAFT_SEED` runs one and prints what it finds.
#![allow(
    clippy::print_stdout,
    reason = "what a run was like is worth seeing with --nocapture"
)]

#[path = "consensus_sim/disk.rs"]
mod disk;
#[path = "consensus_sim/network.rs"]
mod network;
#[path = "consensus_sim/random.rs"]
mod random;
#[path = "consensus_sim/runtime.rs"]
mod runtime;
#[path = "consensus_sim/watch.rs"]
mod watch;
#[path = "consensus_sim/world.rs"]
mod world;

use world::{Outcome, Plan, run};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Runs the seeds on two threads, each with runtimes of its own.
fn run_all(seeds: std::ops::Range<u64>, plan: Plan) -> Vec<Outcome> {
    let half = |rest: u64| {
        let seeds = seeds.clone();
        std::thread::spawn(move || {
            seeds
                .filter(|seed| seed % 2 == rest)
                .map(|seed| run(seed, plan))
                .collect::<Vec<_>>()
        })
    };
    let (even, odd) = (half(0), half(1));
    let mut outcomes = even.join().expect("no panic");
    outcomes.extend(odd.join().expect("no panic"));
    outcomes
}

#[test]
fn no_seed_breaks_safety_and_every_group_comes_back() {
    if let Some(seed) = number("PGCTL_RAFT_SEED") {
        for nodes in [3, 5] {
            println!(
                "{:#?}",
                run(
                    seed,
                    Plan {
                        nodes,
                        ..Plan::default()
                    }
                )
            );
        }
        return;
    }
    let seeds = number("PGCTL_RAFT_SEEDS").unwrap_or(12);
    for nodes in [3, 5] {
        let outcomes = run_all(
            0..seeds,
            Plan {
                nodes,
                ..Plan::default()
            },
        );
        let broken: Vec<&Outcome> = outcomes
            .iter()
            .filter(|outcome| !outcome.violations.is_empty())
            .collect();
        if let Some(first) = broken.first() {
            panic!(
                "{} of {seeds} seeds with {nodes} nodes; PGCTL_RAFT_SEED={}: {first:#?}",
                broken.len(),
                first.seed
            );
        }
        // A run in which hardly anything happens proves nothing.
        let total = |count: fn(&Outcome) -> usize| outcomes.iter().map(count).sum::<usize>();
        let (acknowledged, crashes) = (total(|o| o.acknowledged), total(|o| o.crashes));
        let (leaders, snapshots) = (total(|o| o.leaders), total(|o| o.snapshots));
        let enough = usize::try_from(seeds).expect("small");
        println!(
            "{nodes} nodes, {seeds} seeds: {acknowledged} acknowledged, {crashes} crashes, {leaders} leaders, \
             {snapshots} snapshots sent"
        );
        assert!(
            acknowledged > 20 * enough,
            "only {acknowledged} proposals were acknowledged"
        );
        assert!(crashes > enough, "only {crashes} crashes");
        assert!(leaders > enough, "only {leaders} leaders");
        assert!(snapshots > 0, "no node was ever sent a snapshot");
    }
}

#[test]
fn the_same_seed_gives_the_same_messages_at_the_same_times() {
    for seed in 0..4 {
        let (one, two) = (run(seed, Plan::default()), run(seed, Plan::default()));
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!(one.acknowledged, two.acknowledged, "seed {seed}");
        assert_ne!(
            one.trace,
            run(seed + 1_000, Plan::default()).trace,
            "the seed must matter"
        );
    }
}

#[test]
fn a_disk_that_forgets_what_it_acknowledged_is_caught() {
    let plan = Plan {
        forgetful_disks: true,
        ..Plan::default()
    };
    let caught = (0..200).any(|seed| !run(seed, plan).violations.is_empty());
    assert!(caught, "the checks of this simulation are blind");
}
