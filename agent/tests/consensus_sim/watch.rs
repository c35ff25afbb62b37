//! A watch channel that wakes its waiters in the order in which they came.

use openraft::rt::{
    OptionalSend, OptionalSync, RecvError, Watch, WatchReceiver, WatchSender, watch::SendError,
};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

pub struct SimWatch;

struct Shared<T> {
    value: RwLock<T>,
    state: Mutex<State>,
    senders: AtomicUsize,
}

#[derive(Default)]
struct State {
    version: u64,
    closed: bool,
    waiting: Vec<Waker>,
}

impl<T> Shared<T> {
    fn changed(&self, change: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = self.state.lock().expect("no panic");
            change(&mut state);
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }
}

pub struct SimSender<T>(Arc<Shared<T>>);

impl<T> Clone for SimSender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::SeqCst);
        SimSender(Arc::clone(&self.0))
    }
}

impl<T> Drop for SimSender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.changed(|state| state.closed = true);
        }
    }
}

pub struct SimReceiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for SimReceiver<T> {
    fn clone(&self) -> Self {
        SimReceiver {
            shared: Arc::clone(&self.shared),
            seen: self.seen,
        }
    }
}

impl Watch for SimWatch {
    type Sender<T: OptionalSend + OptionalSync> = SimSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = SimReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (SimSender<T>, SimReceiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            state: Mutex::default(),
            senders: AtomicUsize::new(1),
        });
        (SimSender(Arc::clone(&shared)), SimReceiver { shared, seen: 0 })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<SimWatch, T> for SimSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        // Nobody may be listening; the simulation does not need to know.
        *self.0.value.write().expect("no panic") = value;
        self.0.changed(|state| state.version += 1);
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = modify(&mut self.0.value.write().expect("no panic"));
        if modified {
            self.0.changed(|state| state.version += 1);
        }
        modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read().expect("no panic")
    }

    fn subscribe(&self) -> SimReceiver<T> {
        let seen = self.0.state.lock().expect("no panic").version;
        SimReceiver {
            shared: Arc::clone(&self.0),
            seen,
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<SimWatch, T> for SimReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| {
            let mut state = self.shared.state.lock().expect("no panic");
            if state.version != self.seen {
                self.seen = state.version;
                return Poll::Ready(Ok(()));
            }
            if state.closed {
                return Poll::Ready(Err(RecvError(())));
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value.read().expect("no panic")
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        self.seen = self.shared.state.lock().expect("no panic").version;
        self.shared.value.read().expect("no panic")
    }
}
