//! Which files the server waits to have archived.

use repository::WalName;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ready {
    pub name: WalName,
    /// When the server marked it, by the wall clock.
    pub since: Option<SystemTime>,
}

/// All that wait, in the order in which the server will ask: histories first, then by name.
pub(super) fn ready(data_dir: &Path) -> Vec<Ready> {
    let folder = data_dir.join("pg_wal/archive_status");
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<Ready> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = WalName::parse(name.to_str()?.strip_suffix(".ready")?)?;
            let since = entry.metadata().ok().and_then(|it| it.modified().ok());
            Some(Ready { name, since })
        })
        .collect();
    found.sort_by_key(|ready| order(ready.name));
    found
}

fn order(name: WalName) -> (bool, String) {
    (!matches!(name, WalName::History(_)), name.to_string())
}

/// For how long the oldest has waited; the wall clock may have jumped.
pub(super) fn oldest(waiting: &[Ready], now: SystemTime) -> Option<(WalName, Duration)> {
    let oldest = waiting
        .iter()
        .filter_map(|ready| Some((ready.since?, ready.name)))
        .min_by_key(|(since, _)| *since)?;
    Some((oldest.1, now.duration_since(oldest.0).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_listed_as_the_server_will_ask_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let status = folder.path().join("pg_wal/archive_status");
        std::fs::create_dir_all(&status).expect("a folder");
        for name in [
            "000000010000000000000004.ready",
            "000000010000000000000003.ready",
            "000000010000000000000002.done",
            "00000002.history.ready",
            "000000010000000000000005.partial.ready",
            "xyz.ready",
        ] {
            std::fs::write(status.join(name), "").expect("a file");
        }
        let names: Vec<String> = ready(folder.path())
            .iter()
            .map(|ready| ready.name.to_string())
            .collect();
        assert_eq!(
            names,
            [
                "00000002.history",
                "000000010000000000000003",
                "000000010000000000000004",
                "000000010000000000000005.partial"
            ]
        );
        assert!(oldest(&ready(folder.path()), crate::wall_time::now()).is_some());
        assert!(ready(Path::new("/nowhere")).is_empty());
    }
}
