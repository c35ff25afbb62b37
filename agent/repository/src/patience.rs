//! A directory on a file system that hangs (a network mount whose server is gone).
//!
//! A call into it keeps its thread until the file system comes back, whoever waited for it. So only a few are let in, and
//! once one is overdue the next are refused at once, with the reason, until it returns: threads are left for the other
//! repositories, and nobody waits a minute for what is known.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many calls into one directory may be under way at once: so many threads it can keep.
pub(crate) const CALLS: usize = 4;

/// Directories of which a first look has not come back in time.
static OVERDUE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Why a call was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Impatient {
    /// It took too long; it may still have its effect.
    Late,
    /// It was not begun: so many earlier ones have not come back.
    Hangs(usize),
}

/// The calls into one directory.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    places: Arc<Semaphore>,
    overdue: Arc<AtomicUsize>,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience {
            places: Arc::new(Semaphore::new(CALLS)),
            overdue: Arc::default(),
        }
    }

    /// Does `work` and waits for it at most `deadline`. What is late goes on by itself, and keeps its place.
    pub(crate) async fn wait<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Impatient> {
        self.look()?;
        let places = Arc::clone(&self.places);
        let Ok(place) = tokio::time::timeout(deadline, places.acquire_owned()).await else {
            self.look()?;
            return Err(Impatient::Late);
        };
        // One of those that were waited for may have turned out to hang.
        self.look()?;
        let mut working = tokio::spawn(async move {
            // Kept for as long as the call keeps its thread.
            let _place = place;
            work.await
        });
        match tokio::time::timeout(deadline, &mut working).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(Impatient::Late),
            Err(_) => {
                let overdue = Arc::clone(&self.overdue);
                overdue.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    // Whatever it comes to: nobody waits for it any more.
                    let _ = working.await;
                    overdue.fetch_sub(1, Ordering::Relaxed);
                });
                Err(Impatient::Late)
            }
        }
    }

    fn look(&self) -> Result<(), Impatient> {
        match self.overdue.load(Ordering::Relaxed) {
            0 => Ok(()),
            overdue => Err(Impatient::Hangs(overdue)),
        }
    }
}

/// Does `look` at a directory on a thread of its own, and waits at most `deadline`. While one is overdue no other is begun.
pub(crate) async fn look_at<T: Send + 'static>(
    path: &Path,
    deadline: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Impatient> {
    if overdue().contains(path) {
        return Err(Impatient::Hangs(1));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let (says, of) = (Arc::clone(&is_over), path.to_owned());
    let looking = tokio::task::spawn_blocking(move || {
        let found = look();
        let mut overdue = overdue();
        says.store(true, Ordering::Relaxed);
        overdue.remove(&of);
        found
    });
    match tokio::time::timeout(deadline, looking).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) => Err(Impatient::Late),
        Err(_) => {
            let mut overdue = overdue();
            if !is_over.load(Ordering::Relaxed) {
                overdue.insert(path.to_owned());
            }
            Err(Impatient::Late)
        }
    }
}

fn overdue() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    OVERDUE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn what_hangs_is_asked_a_few_times_then_not_at_all_until_it_comes_back() {
        let patience = Patience::new();
        let mut hung = Vec::new();
        let mut waits = Vec::new();
        for _ in 0..CALLS {
            let (back, comes_back) = oneshot::channel::<()>();
            hung.push(back);
            let patience = patience.clone();
            waits.push(tokio::spawn(async move {
                patience
                    .wait(SHORT, async move { comes_back.await.is_ok() })
                    .await
            }));
        }
        for wait in waits {
            assert_eq!(wait.await.expect("ends"), Err(Impatient::Late));
        }
        let refused = patience.wait(Duration::from_secs(3600), async {}).await;
        assert_eq!(refused, Err(Impatient::Hangs(CALLS)), "it was waited for");
        for back in hung {
            back.send(()).expect("it waits");
        }
        // Those that were late have to be noticed first.
        let mut again = patience.wait(SHORT, async { 7 }).await;
        while again.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            again = patience.wait(SHORT, async { 7 }).await;
        }
        assert_eq!(again, Ok(7));
    }

    #[tokio::test]
    async fn a_directory_that_hangs_is_not_looked_at_again() {
        let (back, comes_back) = std::sync::mpsc::channel::<()>();
        let path = Path::new("/hangs");
        let first = look_at(path, SHORT, move || comes_back.recv().is_ok()).await;
        assert_eq!(first, Err(Impatient::Late));
        assert_eq!(look_at(path, SHORT, || true).await, Err(Impatient::Hangs(1)));
        back.send(()).expect("it waits");
        let mut again = look_at(path, SHORT, || true).await;
        while again.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            again = look_at(path, SHORT, || true).await;
        }
        assert_eq!(again, Ok(true));
    }
}
