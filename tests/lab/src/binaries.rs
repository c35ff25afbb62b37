//! Where the programs are that the lab runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A program of this project (`pgctl-agent`, `pgctl`): in `PGCTL_BIN_DIR` if that is set, else in the target folder
/// that the running program comes from.
///
/// # Errors
/// It is not there; the error says how to build it.
pub fn ours(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("PGCTL_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe().context("cannot tell where this program is")?;
            let dir = own.parent().unwrap_or(Path::new("/"));
            if dir.ends_with("deps") {
                dir.parent().unwrap_or(dir).to_owned()
            } else {
                dir.to_owned()
            }
        }
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} does not exist; build it (cargo build --workspace --bins) or set PGCTL_BIN_DIR",
            path.display()
        );
    }
    Ok(path)
}

/// Server programs to test with, one folder for each version: those in `PGCTL_TEST_PG_BINDIRS` (separated by colons)
/// if that is set, else `/usr/lib/postgresql/*/bin`. Oldest first.
///
/// # Errors
/// There are none.
pub fn postgres_bin_dirs() -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = match std::env::var("PGCTL_TEST_PG_BINDIRS") {
        Ok(list) if !list.is_empty() => list.split(':').map(PathBuf::from).collect(),
        _ => std::fs::read_dir("/usr/lib/postgresql")
            .map(|versions| {
                versions
                    .flatten()
                    .map(|version| version.path().join("bin"))
                    .collect()
            })
            .unwrap_or_default(),
    };
    found.retain(|dir| dir.join("postgres").is_file());
    found.sort_by_key(|dir| major_version(dir));
    if found.is_empty() {
        bail!("no PostgreSQL server programs found; run scripts/install-deps, or set PGCTL_TEST_PG_BINDIRS");
    }
    Ok(found)
}

/// The newest of [`postgres_bin_dirs`].
///
/// # Errors
/// There are none.
pub fn newest_postgres() -> Result<PathBuf> {
    postgres_bin_dirs()?.pop().context("there is at least one")
}

/// The version in `…/postgresql/15/bin`; 0 if the path does not tell.
pub fn major_version(bin_dir: &Path) -> u32 {
    bin_dir
        .parent()
        .and_then(Path::file_name)
        .and_then(|v| v.to_str()?.parse().ok())
        .unwrap_or(0)
}
