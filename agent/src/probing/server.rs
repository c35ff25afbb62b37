//! The three probes of the server.

use super::stopwatch::Stopwatch;
use super::{Shared, lock};
use crate::postgres::{Beat, CommitPulse, Instance, KeptPulse};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often each question is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long one question may take before it is given up and asked anew.
const DEADLINE: Duration = Duration::from_secs(1);
/// The same for a commit, which waits for a disk that may be slow and alive.
const COMMIT_DEADLINE: Duration = Duration::from_secs(3);

/// Starts the three threads.
pub(super) fn start(shared: &Arc<Shared>, instance: &Instance) -> std::io::Result<()> {
    let server = instance.clone();
    thread("probe-kept", shared, async move |shared: &Shared| {
        let mut pulse = KeptPulse::default();
        while !shared.stopped() {
            timed(&shared.kept, pulse.beat(&server, DEADLINE)).await;
            *lock(&shared.connections) = pulse.connections;
            tokio::time::sleep(EVERY).await;
        }
    })?;
    let server = instance.clone();
    thread("probe-fresh", shared, async move |shared: &Shared| {
        while !shared.stopped() {
            timed(&shared.fresh, server.fresh_beat(DEADLINE)).await;
            tokio::time::sleep(EVERY).await;
        }
    })?;
    let server = instance.clone();
    thread("probe-commit", shared, async move |shared: &Shared| {
        let mut pulse = CommitPulse::default();
        while !shared.stopped() {
            timed(&shared.commit, pulse.beat(&server, COMMIT_DEADLINE)).await;
            tokio::time::sleep(EVERY).await;
        }
    })
}

/// A thread with a runtime of its own: what the others wait for does not reach it.
fn thread<W>(name: &str, shared: &Arc<Shared>, work: W) -> std::io::Result<()>
where
    W: AsyncFnOnce(&Shared) + Send + 'static,
{
    let shared = shared.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(work(&shared)))?;
    Ok(())
}

async fn timed(stopwatch: &Mutex<Stopwatch>, question: impl Future<Output = Beat>) {
    lock(stopwatch).asks();
    let beat = question.await;
    let mut stopwatch = lock(stopwatch);
    match beat {
        Beat::Answered | Beat::Nothing => stopwatch.answered(),
        Beat::Silent(why) => stopwatch.silent(why),
    }
}
