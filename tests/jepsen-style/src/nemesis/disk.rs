//! The nodes' disks: file systems of their own, mounted in this program's own mount namespace, that can be filled and be made
//! to stand still.

use anyhow::{Context, Result, bail};
use lab::{Cluster, Node};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Far more than a run writes: copies that rejoins set aside are removed between the steps.
const SIZE: &str = "3G";

/// What takes the room away.
const FILLER: &str = ".filler";

/// What stops a disk, as a program of its own that ends whatever becomes of us: what waits for a disk that stands still
/// cannot even be killed. Its words: the disk, seconds in all, seconds of each stop, seconds between two.
const STALL: &str = r#"
trap '' HUP INT TERM
end=$(($(date +%s%N) + $2 * 1000000))
while [ "$(date +%s%N)" -lt "$end" ]; do
  fsfreeze -f "$1" || exit 1
  sleep "$3"
  fsfreeze -u "$1"
  sleep "$4"
done
"#;

/// How a disk stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stall {
    /// The whole time.
    Hung,
    /// Every write waits for a fifth of a second.
    Slow,
}

/// The nodes' disks.
#[derive(Debug, Default)]
pub struct Disks {
    mounted: Vec<PathBuf>,
    stallable: bool,
    stalls: Vec<Child>,
}

impl Disks {
    /// Gives every node of a cluster that was not started yet a disk, with its data and its agent's state on it: an ext4 in
    /// an image in memory, which can be stopped, or where there are no loop devices a file system in memory.
    ///
    /// # Errors
    /// Not root.
    pub fn mount(cluster: &mut Cluster) -> Result<Disks> {
        let images = cluster.lab().dir().join("disks");
        fs::create_dir_all(&images).with_context(|| format!("cannot make {}", images.display()))?;
        run("mount", &["-t", "tmpfs", "-o", "size=90%", "tmpfs"], &images)?;
        let user = cluster.lab().servers_run_as().clone();
        let names: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|node| node.name().to_owned())
            .collect();
        let mut disks = Disks {
            stallable: true,
            ..Disks::default()
        };
        for name in names {
            let node = cluster.node_mut(&name);
            let disk = disk_of(node);
            fs::create_dir_all(&disk).with_context(|| format!("cannot make {}", disk.display()))?;
            if let Err(why) = mount_image(&images.join(format!("{name}.img")), &disk) {
                eprintln!("jepsen: {name} has a disk that cannot stand still: {why:#}");
                disks.stallable = false;
                run(
                    "mount",
                    &["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"],
                    &disk,
                )?;
            }
            nix::unistd::chown(&disk, Some(user.uid), Some(user.gid))
                .with_context(|| format!("cannot give {} away", disk.display()))?;
            disks.mounted.push(disk.clone());
            node.config.node.state_dir = disk.join("state");
            if let Some(postgres) = &mut node.config.postgres {
                postgres.data_dir = disk.join("data");
            }
        }
        Ok(disks)
    }

    /// Whether there are any.
    pub fn are_there(&self) -> bool {
        !self.mounted.is_empty()
    }

    /// Whether they can be made to stand still.
    pub fn can_stall(&self) -> bool {
        self.are_there() && self.stallable
    }

    /// Takes all the room that is left on the disk of a node.
    ///
    /// # Errors
    /// It has none of its own.
    pub fn fill(&self, node: &Node) -> Result<()> {
        let disk = self.of(node)?;
        let filler = fs::File::create(disk.join(FILLER)).context("cannot make a filler")?;
        for slack in [0, 1 << 20, 8 << 20] {
            let stat = nix::sys::statvfs::statvfs(&disk).context("cannot ask for free space")?;
            let room = (stat.blocks_free() * stat.fragment_size()).saturating_sub(slack);
            // Refused if more was written in between.
            if fallocate(&filler, FallocateFlags::empty(), 0, room as i64).is_ok() {
                return Ok(());
            }
        }
        bail!("cannot fill the disk of {}", node.name())
    }

    /// Makes the disk of a node stand still for so long; it goes on by itself.
    ///
    /// # Errors
    /// It has none of its own, or one that cannot.
    pub fn stall(&mut self, node: &Node, stall: Stall, time: Duration) -> Result<()> {
        let disk = self.of(node)?;
        if !self.stallable {
            bail!("the disk of {} cannot be stopped", node.name());
        }
        let all = format!("{}", time.as_millis());
        let whole = format!("{:.3}", time.as_secs_f64());
        let (stop, between) = match stall {
            Stall::Hung => (whole.as_str(), "1"),
            Stall::Slow => ("0.2", "0.02"),
        };
        let child = Command::new("setsid")
            .args(["--wait", "sh", "-c", STALL, "stall"])
            .arg(&disk)
            .args([&all, stop, between])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot run setsid")?;
        self.stalls.push(child);
        Ok(())
    }

    /// Gives every disk its room back, and waits until all of them work.
    ///
    /// # Errors
    /// The mount is gone.
    pub fn relieve(&mut self) -> Result<()> {
        for mut stall in self.stalls.drain(..) {
            let ended = stall.wait().context("cannot wait for a disk to go on")?;
            if !ended.success() {
                bail!("a disk could not be stopped: {ended}");
            }
        }
        for disk in &self.mounted {
            match fs::remove_file(disk.join(FILLER)) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                    return Err(why).context(format!("cannot make room on {}", disk.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn of(&self, node: &Node) -> Result<PathBuf> {
        let disk = disk_of(node);
        if !self.mounted.contains(&disk) {
            bail!("{} has no disk of its own", node.name());
        }
        Ok(disk)
    }
}

/// Removes what rejoins have set aside beside a node's data: an operator would, in the end.
pub fn remove_set_aside(node: &Node) -> Result<()> {
    let Ok(data) = node.data_dir() else { return Ok(()) };
    let name = data
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let beside = data.parent().unwrap_or(Path::new("/"));
    for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{name}.diverged"))
        {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn disk_of(node: &Node) -> PathBuf {
    node.host().dir().join("disk")
}

fn mount_image(image: &Path, at: &Path) -> Result<()> {
    run("truncate", &["--size", SIZE], image)?;
    // No room that is root's alone: a full disk is to be full for us, too.
    run("mkfs.ext4", &["-q", "-F", "-m", "0"], image)?;
    let image = image.display().to_string();
    run("mount", &["-o", "loop,discard", &image], at)?;
    run("fsfreeze", &["-f"], at)?;
    run("fsfreeze", &["-u"], at)
}

fn run(program: &str, args: &[&str], at: &Path) -> Result<()> {
    let done = Command::new(program).args(args).arg(at).output();
    let done = done.with_context(|| format!("cannot run {program}"))?;
    if !done.status.success() {
        bail!(
            "{program} {} {}: {}",
            args.join(" "),
            at.display(),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}
