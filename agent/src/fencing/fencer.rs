//! The thread that ends the server's processes.

use agent_core::ids::Epoch;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long one attempt may take. A process that survives it sits in the kernel; the next attempt follows at once.
const ATTEMPT: Duration = Duration::from_millis(500);
/// The pause between attempts, so that a survivor does not cost a core.
const PAUSE: Duration = Duration::from_millis(20);

/// Ends every process of the instance within the given time, or says which ones survived. Must not need a runtime, or
/// the disk.
pub type Kill = Box<dyn Fn(Duration) -> Result<usize, Vec<i32>> + Send>;

/// The proof of the last fence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fenced {
    /// No server of this node writes under this epoch, or an earlier one, any more.
    pub epoch: Epoch,
    /// How long it took from the order to the end of the last process.
    pub took: Duration,
    /// Processes that do not die, while there are any: no receipt is given for them.
    pub survivors: Vec<i32>,
}

/// Ends the server when it is told to, on a thread of its own: neither the lease's clock nor the driver waits for it.
#[derive(Clone)]
pub struct Fencer {
    shared: Arc<Shared>,
}

struct Shared {
    ordered: Mutex<Order>,
    wake: Condvar,
    fenced: watch::Sender<Fenced>,
}

#[derive(Default)]
struct Order {
    epoch: Epoch,
    at: Option<Instant>,
}

impl Fencer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(kill: Kill) -> std::io::Result<Fencer> {
        let shared = Arc::new(Shared {
            ordered: Mutex::new(Order::default()),
            wake: Condvar::new(),
            fenced: watch::channel(Fenced::default()).0,
        });
        let fencer = Fencer {
            shared: shared.clone(),
        };
        std::thread::Builder::new()
            .name("fencer".to_owned())
            .spawn(move || shared.run(&kill))?;
        Ok(fencer)
    }

    /// Orders the server to be ended because the lease of `epoch` is over. Returns at once; the same order again
    /// changes nothing.
    pub fn lease_over(&self, epoch: Epoch) {
        let mut order = self.shared.lock();
        if order.epoch < epoch {
            order.epoch = epoch;
            order.at.get_or_insert_with(Instant::now);
            self.shared.wake.notify_one();
        }
    }

    /// Orders the same and waits until it is done.
    pub async fn fence(&self, epoch: Epoch) -> Fenced {
        self.lease_over(epoch);
        let mut fenced = self.watch();
        // The sender lives as long as `self`.
        let done = fenced
            .wait_for(|fenced| fenced.epoch >= epoch)
            .await
            .map(|fenced| fenced.clone());
        done.unwrap_or_default()
    }

    /// Takes note that the server of `epoch` has ended in another way: it was shut down.
    pub fn ended_otherwise(&self, epoch: Epoch) {
        let mut order = self.shared.lock();
        if order.epoch < epoch {
            order.epoch = epoch;
        }
        drop(order);
        self.shared.fenced.send_if_modified(|fenced| {
            let newer = fenced.epoch < epoch;
            if newer {
                *fenced = Fenced {
                    epoch,
                    took: Duration::ZERO,
                    survivors: Vec::new(),
                };
            }
            newer
        });
    }

    /// Whether an order has not been carried out yet.
    #[must_use]
    pub fn at_work(&self) -> bool {
        let ordered = self.shared.lock().epoch;
        self.shared.fenced.borrow().epoch < ordered
    }

    /// Sees each fence.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Fenced> {
        self.shared.fenced.subscribe()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, kill: &Kill) {
        crate::hardening::run_this_thread_first();
        loop {
            let (epoch, since) = self.next_order();
            match kill(ATTEMPT) {
                Ok(ended) => {
                    let took = since.elapsed();
                    tracing::warn!(%epoch, processes = ended, ?took, "the server was fenced");
                    self.lock().at = None;
                    self.fenced.send_replace(Fenced {
                        epoch,
                        took,
                        survivors: Vec::new(),
                    });
                }
                Err(survivors) => {
                    tracing::error!(%epoch, ?survivors, "processes of the server do not die: no receipt is given");
                    self.fenced.send_modify(|fenced| fenced.survivors = survivors);
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn next_order(&self) -> (Epoch, Instant) {
        let mut order = self.lock();
        loop {
            if order.epoch > self.fenced.borrow().epoch {
                return (order.epoch, order.at.unwrap_or_else(Instant::now));
            }
            order = self.wake.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_receipt_waits_for_the_last_process() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let seen = attempts.clone();
        let kill: Kill = Box::new(move |_| match seen.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(vec![42]),
            _ => Ok(1),
        });
        let fencer = Fencer::start(kill).expect("a thread");
        let fenced = fencer.fence(Epoch(3)).await;
        assert_eq!(fenced.epoch, Epoch(3));
        assert_eq!(attempts.load(Ordering::SeqCst), 3);
        assert!(!fencer.at_work());
    }

    #[tokio::test]
    async fn the_same_order_again_kills_nothing() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let seen = attempts.clone();
        let kill: Kill = Box::new(move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
            Ok(0)
        });
        let fencer = Fencer::start(kill).expect("a thread");
        fencer.fence(Epoch(3)).await;
        fencer.fence(Epoch(3)).await;
        fencer.fence(Epoch(2)).await;
        assert_eq!(attempts.load(Ordering::SeqCst), 1);
    }
}
