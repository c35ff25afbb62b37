//! The seeded simulator: whole clusters of the real decisions, over a network, clocks, disks and servers that misbehave.
//!
//! A run is decided by its seed. `PGCTL_SIM_SEEDS` says how many are run (20,000 unless told), `PGCTL_SIM_SEED=n`
//! replays one and tells everything that happens in it:
//!
//! ```text
//! PGCTL_SIM_SEED=4711 cargo test -p agent-core --test simulation one_seed -- --nocapture
//! ```

mod checks;
mod clock;
mod coordinator;
mod driver;
mod event;
mod exam;
mod faults;
mod guard;
mod jobs;
mod lease;
mod mutants;
mod network;
mod node;
mod observe;
mod plan;
mod postgres;
mod raft;
mod replication;
mod reports;
mod rng;
mod stonith;
mod wal;
mod world;

use mutants::Mutant;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use world::{Outcome, World};

const THREADS: usize = 2;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    World::new(seed, mutant, false).run()
}

/// Runs seeds until `enough` says so; gives the failures, in the order of their seeds, and how many were run.
fn sweep(first: u64, seeds: u64, mutant: Option<Mutant>, most: usize) -> (Vec<(u64, Outcome)>, u64) {
    let next = AtomicU64::new(first);
    let failures = std::sync::Mutex::new(Vec::new());
    let run_so_far = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = failures.lock().expect("no panic holds it").len() >= most;
                    if seed >= first + seeds || enough {
                        break;
                    }
                    let outcome = run(seed, mutant);
                    run_so_far.fetch_add(1, Ordering::Relaxed);
                    if outcome.violation.is_some() {
                        failures.lock().expect("no panic holds it").push((seed, outcome));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic holds it");
    failures.sort_by_key(|(seed, _)| *seed);
    (failures, run_so_far.load(Ordering::Relaxed))
}

#[test]
fn no_seed_violates_anything() {
    let seeds = number("PGCTL_SIM_SEEDS").unwrap_or(20_000);
    let first = number("PGCTL_SIM_FIRST").unwrap_or(0);
    let began = Instant::now();
    let (failures, run) = sweep(first, seeds, None, 20);
    eprintln!(
        "{run} seeds in {:.1} s, {} violations",
        began.elapsed().as_secs_f64(),
        failures.len()
    );
    for (seed, outcome) in &failures {
        eprintln!(
            "seed {seed}: {}",
            outcome.violation.as_deref().unwrap_or_default()
        );
    }
    if let Some((seed, _)) = failures.first() {
        panic!(
            "replay: PGCTL_SIM_SEED={seed} cargo test -p agent-core --test simulation one_seed -- --nocapture"
        );
    }
}

#[test]
fn one_seed_that_was_asked_for() {
    let Some(seed) = number("PGCTL_SIM_SEED") else {
        return;
    };
    let mutant = std::env::var("PGCTL_SIM_MUTANT").ok().map(|name| {
        *Mutant::ALL
            .iter()
            .chain(&Mutant::RARE)
            .find(|mutant| format!("{mutant:?}") == name)
            .expect("a mutant of that name")
    });
    let world = World::new(seed, mutant, true);
    let world = match std::env::var_os("PGCTL_SIM_STONITH") {
        Some(_) => world.with_stonith(),
        None => world,
    };
    let outcome = world.run();
    eprintln!("{outcome:?}");
    assert_eq!(outcome.violation, None);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..200 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}

#[test]
fn every_mutant_is_caught() {
    let most = number("PGCTL_SIM_MUTANT_SEEDS").unwrap_or(20_000);
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let began = Instant::now();
        let (failures, run) = sweep(0, most, Some(mutant), 1);
        let seconds = began.elapsed().as_secs_f64();
        match failures.first() {
            Some((seed, outcome)) => eprintln!(
                "{mutant:?}: seed {seed}, {run} runs, {seconds:.1} s: {}",
                outcome.violation.as_deref().unwrap_or_default()
            ),
            None => {
                eprintln!("{mutant:?}: SURVIVES {run} runs, {seconds:.1} s");
                survivors.push(mutant);
            }
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

/// Runs seeds of worlds that wait for fence devices; gives the violations.
fn sweep_with_stonith(seeds: u64, mutant: Option<Mutant>) -> Vec<(u64, String)> {
    let next = AtomicU64::new(0);
    let violations = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let outcome = World::new(seed, mutant, false).with_stonith().run();
                    if let Some(violation) = outcome.violation {
                        violations
                            .lock()
                            .expect("no panic holds it")
                            .push((seed, violation));
                    }
                }
            });
        }
    });
    let mut violations = violations.into_inner().expect("no panic holds it");
    violations.sort();
    violations
}

#[test]
fn no_seed_violates_anything_where_the_others_machine_must_be_off() {
    let seeds = number("PGCTL_SIM_STONITH_SEEDS").unwrap_or(2_000);
    let violations = sweep_with_stonith(seeds, None);
    assert!(violations.is_empty(), "{violations:?}");
}

/// The other half of the argument for `stonith = required`: where it is in force, not even a lease whose arithmetic is
/// wrong lets two servers write.
#[test]
fn a_lease_that_is_too_short_does_no_harm_where_the_others_machine_must_be_off() {
    let seeds = number("PGCTL_SIM_STONITH_SEEDS").unwrap_or(2_000);
    let mutant = Some(Mutant::PromiseAsShortAsLease);
    let caught = (0..seeds).any(|seed| run(seed, mutant).violation.is_some());
    assert!(
        caught,
        "these seeds show nothing: the lease alone would have done"
    );
    let violations = sweep_with_stonith(seeds, mutant);
    assert!(violations.is_empty(), "{violations:?}");
}
