//! What the cluster is told of this node's archive, for the choice of who takes a backup, and for metrics.

use super::{Archive, ready};
use crate::wall_time::now;
use repository::{Line, inventory};
use std::sync::Weak;
use std::time::{Duration, Instant};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// How often a repository is searched for holes: that lists all of it.
const HOLES_EVERY: Duration = Duration::from_secs(900);

/// Tells, for as long as the archive is there.
pub(super) async fn run(archive: Weak<Archive>) {
    let mut searched: Option<Instant> = None;
    loop {
        let Some(archive) = archive.upgrade() else { return };
        let data_dir = archive.config.data_dir.clone();
        let listed = tokio::task::spawn_blocking(move || ready::ready(&data_dir)).await;
        let holds = (archive.sight)().holds;
        let mut missing = None;
        if holds && searched.is_none_or(|at| at.elapsed() >= HOLES_EVERY) {
            searched = Some(Instant::now());
            missing = missing_segments(&archive).await;
        }
        if let Ok(waiting) = listed {
            let oldest = ready::oldest(&waiting, now());
            let tally = archive.pusher.tally();
            archive.reports.send_modify(|report| {
                report.ready = waiting.len() as u64;
                report.oldest_ready_ms =
                    oldest.map(|(_, age)| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
                report.archived = tally.archived;
                report.failed = tally.failed;
                report.quarantined = tally.quarantined;
                report.given_up = tally.given_up;
                if !holds {
                    report.missing_segments = None;
                } else if missing.is_some() {
                    report.missing_segments = missing;
                }
            });
        }
        if !holds {
            searched = None;
        }
        drop(archive);
        tokio::time::sleep(EVERY).await;
    }
}

/// Of all repositories that can be asked.
async fn missing_segments(archive: &Archive) -> Option<u64> {
    let (system_id, _) = archive.source.identity()?;
    let line = Line::new(&archive.config.cluster, system_id);
    let mut missing = None;
    for opened in archive.doors.usable(&line).await.0 {
        match inventory(&opened.plain, &line).await {
            Ok(there) => {
                let here: u64 = there.holes().iter().map(|hole| hole.segments).sum();
                missing = Some(missing.unwrap_or(0) + here);
            }
            Err(error) => tracing::warn!(%error, "could not look for holes in the archive"),
        }
    }
    missing
}
