//! WAL that lies in this node's own `pg_wal`.

use agent_core::pg::{SystemId, TimelineHistory, TimelineId};
use repository::{WalFileContent, WalName};
use std::path::{Path, PathBuf};

/// Whether the server itself counts this segment as whole: it has marked it for archiving, or as archived. A file of that
/// name alone says nothing, because the server renames old files ahead of their use.
pub(super) fn is_whole(data_dir: &Path, name: WalName) -> bool {
    let marked = |ending: &str| data_dir.join(format!("pg_wal/archive_status/{name}.{ending}"));
    place(data_dir, name).is_file() && (marked("ready").is_file() || marked("done").is_file())
}

/// The history of a timeline, as it lies here, and as its text.
pub(super) fn history(data_dir: &Path, timeline: TimelineId) -> Option<(TimelineHistory, Vec<u8>)> {
    let content = std::fs::read(place(data_dir, WalName::History(timeline))).ok()?;
    let history = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content))?;
    Some((history, content))
}

/// A whole segment or a history for another node, with the hash of its content; `None` where this one cannot vouch for it.
pub(super) fn to_give(data_dir: &Path, name: WalName, system_id: SystemId) -> Option<(Vec<u8>, String)> {
    let content = match name {
        WalName::History(timeline) => history(data_dir, timeline)?.1,
        WalName::Segment(_) if is_whole(data_dir, name) => std::fs::read(place(data_dir, name)).ok()?,
        WalName::Segment(_) | WalName::Partial(_) | WalName::Label(..) => return None,
    };
    let checked = WalFileContent::check(name, system_id, content.clone()).ok()?;
    // A segment may have been renamed to a later name while it was read.
    let still = !matches!(name, WalName::Segment(_)) || is_whole(data_dir, name);
    still.then(|| (content, checked.hash().to_owned()))
}

fn place(data_dir: &Path, name: WalName) -> PathBuf {
    data_dir.join("pg_wal").join(name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_segment_counts_only_with_the_servers_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let status = folder.path().join("pg_wal/archive_status");
        fs::create_dir_all(&status).expect("folders");
        let name = WalName::parse("000000010000000000000004").expect("a name");
        assert!(!is_whole(folder.path(), name), "it is not there");
        fs::write(place(folder.path(), name), "recycled").expect("a file");
        assert!(!is_whole(folder.path(), name), "nothing says that it was written");
        fs::write(status.join(format!("{name}.done")), "").expect("a mark");
        assert!(is_whole(folder.path(), name));
        assert_eq!(
            to_give(folder.path(), name, SystemId(1)),
            None,
            "its content is not what its name says"
        );
    }

    #[test]
    fn a_history_is_given_as_it_lies_there() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("pg_wal")).expect("folders");
        let name = WalName::History(TimelineId(2));
        assert_eq!(to_give(folder.path(), name, SystemId(1)), None);
        let text = "1\t0/3000028\tno recovery target specified\n";
        fs::write(place(folder.path(), name), text).expect("a file");
        let given = to_give(folder.path(), name, SystemId(1)).map(|(content, _)| content);
        assert_eq!(given.as_deref(), Some(text.as_bytes()));
        fs::write(place(folder.path(), name), "rubbish").expect("a file");
        assert_eq!(to_give(folder.path(), name, SystemId(1)), None);
    }
}
