//! `pgctl wal get`: the restore_command of a restored server.

use crate::failure::Failure;
use crate::repositories::Which;
use repository::{Error, Fetched, RecoveryOrder, Repository, WalName};
use std::path::Path;
use std::time::{Duration, Instant};

/// For how long a repository that cannot be reached is asked again, before the server is stopped.
const BUDGET: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub async fn run(which: &Which, order: &Path, name: &str, path: &Path) -> Result<(), Failure> {
    let stop = |message: String| Failure::StopRecovery { message };
    let name = match WalName::parse(name) {
        Some(name) => name,
        None => return Err(Failure::Absent),
    };
    let text = std::fs::read(order).map_err(|error| stop(format!("{}: {error}", order.display())))?;
    let plan: RecoveryOrder =
        serde_json::from_slice(&text).map_err(|error| stop(format!("{}: {error}", order.display())))?;
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match fetch(which, &plan, name).await {
            Ok(Some(fetched)) => return put(path, &fetched).map_err(stop),
            Ok(None) => return Err(Failure::Absent),
            Err(Trouble::Lasting(error)) => return Err(stop(error)),
            Err(Trouble::Passing(error)) if begun.elapsed() >= BUDGET => return Err(stop(error)),
            Err(Trouble::Passing(error)) => eprintln!("pgctl: {error}; again in {pause:?}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Trouble {
    /// To try again may help.
    Passing(String),
    Lasting(String),
}

async fn fetch(which: &Which, plan: &RecoveryOrder, name: WalName) -> Result<Option<Fetched>, Trouble> {
    let (config, _) = which
        .read()
        .map_err(|failure| Trouble::Lasting(failure.message()))?;
    let asked = async {
        let repository = Repository::open(&config).await?;
        plan.fetch(&repository, name).await
    };
    asked.await.map_err(|error: Error| match error {
        Error::Missing { .. } | Error::Damaged { .. } | Error::Key { .. } => {
            Trouble::Lasting(format!("{error}; by the restore's plan it must be there"))
        }
        error => Trouble::Passing(error.to_string()),
    })
}

/// Puts it in place at once: the server must never see half of it.
fn put(path: &Path, fetched: &Fetched) -> Result<(), String> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".pgctl");
    std::fs::write(&unfinished, &fetched.content)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .map_err(|error| format!("{}: {error}", path.display()))
}
