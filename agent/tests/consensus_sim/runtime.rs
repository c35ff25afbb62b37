//! The runtime of simulated nodes: tokio on one thread with paused time, seeded randomness, and tasks that belong to a
//! node, so that a crash of the node ends them all.

use super::watch::SimWatch;
use agent::consensus::types::{Answer, Entry, LeaderId, Payload, Proposal, RaftNode, RaftTypes, Vote};
use openraft::RaftTypeConfig;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::rt::{AsyncRuntime, OptionalSend};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;

type Seeded = DeterministicRng<<RaftTypes as RaftTypeConfig>::AsyncRuntime>;

/// What [`RaftTypes`] is, in simulated time.
pub type SimRaft = openraft::Raft<SimTypes, agent::consensus::StateMachine>;

openraft::declare_raft_types!(
    pub SimTypes:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = RaftNode,
        Term = u64,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = Entry,
        AsyncRuntime = SimRuntime,
);

/// The tasks of one life of a node.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

tokio::task_local! {
    static OWNER: Tasks;
}

impl Tasks {
    /// Runs `future` so that every task that it spawns belongs to these.
    pub async fn own<F: Future>(&self, future: F) -> F::Output {
        OWNER.scope(self.clone(), future).await
    }

    /// Ends all of them where they stand.
    pub fn crash(&self) {
        for task in self.0.lock().expect("no panic").drain(..) {
            task.abort();
        }
    }
}

/// Runs `future` with all randomness from `seed`.
pub async fn seeded<F: Future>(seed: u64, future: F) -> F::Output {
    Seeded::scope(seed, future).await
}

#[derive(Debug)]
pub struct SimRuntime;

impl AsyncRuntime for SimRuntime {
    type JoinError = <Seeded as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = <Seeded as AsyncRuntime>::Sleep;
    type Instant = <Seeded as AsyncRuntime>::Instant;
    type TimeoutError = <Seeded as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Seeded as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Seeded as AsyncRuntime>::Mpsc;
    type Watch = SimWatch;
    type Oneshot = <Seeded as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Seeded as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match OWNER.try_with(Tasks::clone) {
            Err(_) => Seeded::spawn(future),
            Ok(owner) => {
                let task = Seeded::spawn(OWNER.scope(owner.clone(), future));
                let mut tasks = owner.0.lock().expect("no panic");
                tasks.retain(|task| !task.is_finished());
                tasks.push(task.abort_handle());
                task
            }
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Seeded::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Seeded::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Seeded::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Seeded::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Seeded::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Seeded::thread_rng()
    }

    fn new(_threads: usize) -> Self {
        SimRuntime
    }

    fn block_on<F, T>(&mut self, _future: F) -> T
    where
        F: Future<Output = T>,
    {
        unreachable!("the simulation makes its runtime itself")
    }
}
