//! Waiting for conditions, never for durations.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is looked at again. Short enough not to blur what is measured, long enough not to load a
/// machine of two cores with the looking.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until `look` succeeds and returns what it found.
///
/// `look` fails as long as the condition does not hold, with an error that says what was seen instead. If it still
/// fails after `deadline`, the last of these errors is returned, with `what` (a clause: "n2 is primary") before it.
/// A single look that hangs is cut off at the deadline.
pub async fn wait_until<T, F, Fut>(what: &str, deadline: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let end = Instant::now() + deadline;
    let mut seen = anyhow!("never looked");
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(not_yet)) => seen = not_yet,
            Err(_) => {
                return Err(seen.context(format!("waited {deadline:?} until {what}; the last look hung")));
            }
        }
        if Instant::now() + LOOK_AGAIN >= end {
            return Err(seen.context(format!("waited {deadline:?} until {what}")));
        }
        sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn returns_what_was_found_as_soon_as_it_holds() {
        let looks = Cell::new(0);
        let found = wait_until("three looks", Duration::from_secs(60), || {
            looks.set(looks.get() + 1);
            let n = looks.get();
            async move { if n == 3 { Ok(n) } else { Err(anyhow!("only {n}")) } }
        })
        .await;
        assert_eq!(found.ok(), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn says_what_was_seen_last_when_the_deadline_passes() {
        let failed = wait_until("pigs fly", Duration::from_secs(1), || async {
            Err::<(), _>(anyhow!("pig on the ground"))
        })
        .await
        .expect_err("pigs do not fly");
        let text = format!("{failed:#}");
        assert!(
            text.contains("pigs fly") && text.contains("pig on the ground"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_cut_off() {
        let failed = wait_until("the look returns", Duration::from_secs(1), || async {
            std::future::pending::<Result<()>>().await
        })
        .await
        .expect_err("it never returns");
        assert!(format!("{failed:#}").contains("hung"));
    }
}
