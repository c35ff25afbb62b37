//! A control group of the server's own, so that one write ends all of its processes at once.

use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A cgroup v2 group that holds one server and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Creates `pgctl/<cluster>-<node>-<digest of the data directory's place>` in the unified hierarchy, or finds it
    /// there. `None` where there is no such hierarchy or it is not ours to write: the walk over the process table
    /// serves then. The digest keeps apart two servers of one name on one machine, since a group is killed as a whole.
    pub fn prepare(cluster: &str, node: &str, data_dir: &Path) -> Option<Cgroup> {
        let parent = data_dir.parent()?;
        let folder = std::fs::metadata(parent).ok()?;
        let digest = Sha256::new()
            .chain_update(data_dir.as_os_str().as_bytes())
            .chain_update(folder.dev().to_le_bytes())
            .chain_update(folder.ino().to_le_bytes())
            .finalize();
        let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let name = format!("{}-{}-{digest}", plain(cluster), plain(node));
        let dir = mount_point()?.join("pgctl").join(name);
        let group = Cgroup { dir };
        (group.entrance().is_some() && group.dir.join("cgroup.kill").exists()).then_some(group)
    }

    /// The file that a process writes `0` to in order to enter; the group is made if it is not there.
    pub fn entrance(&self) -> Option<File> {
        std::fs::create_dir_all(&self.dir).ok()?;
        OpenOptions::new()
            .write(true)
            .open(self.dir.join("cgroup.procs"))
            .ok()
    }

    /// Sends SIGKILL to every process in the group, forks under way included.
    pub fn kill(&self) -> std::io::Result<()> {
        std::fs::write(self.dir.join("cgroup.kill"), "1")
    }

    /// The processes in the group.
    pub fn members(&self) -> Vec<i32> {
        let content = std::fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        content.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Removes the group if it is empty; [`Cgroup::entrance`] makes it again.
    pub fn dissolve(&self) {
        // One that is still in use, or gone, is no trouble.
        if std::fs::remove_dir(&self.dir).is_ok() {
            // The folder that all servers of this machine share goes with the last of them.
            let _ = self.dir.parent().map(std::fs::remove_dir);
        }
    }
}

/// Where the unified hierarchy is mounted.
fn mount_point() -> Option<PathBuf> {
    parse_mounts(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
}

fn parse_mounts(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        source
            .starts_with("cgroup2 ")
            .then(|| place.split(' ').nth(4).map(unescaped).map(PathBuf::from))?
    })
}

/// The kernel writes blanks, tabs, line breaks and backslashes as three octal digits.
fn unescaped(place: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(place.to_owned(), |place, (written, meant)| {
            place.replace(written, meant)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_unified_hierarchy_among_the_mounts() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            parse_mounts(mounts),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(parse_mounts("30 23 0:26 / /proc rw - proc proc rw\n"), None);
    }

    const MOUNTS: &str = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                          31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_mount_point_with_a_blank_in_it_is_read_as_it_is_called() {
        let mounts = "31 30 0:27 / /mnt/my\\040groups rw - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_mounts(mounts), Some(PathBuf::from("/mnt/my groups")));
    }

    proptest! {
        #[test]
        fn a_mangled_table_of_mounts_gives_a_place_that_is_in_it_or_none(
            mounts in prop_oneof![mangled::any_text(0..200), mangled::text(MOUNTS)],
        ) {
            if let Some(place) = parse_mounts(&mounts) {
                prop_assert!(mounts.contains("cgroup2"));
                let plain = !mounts.contains('\\');
                prop_assert!(!plain || mounts.contains(place.to_str().expect("text")));
            }
        }
    }
}
