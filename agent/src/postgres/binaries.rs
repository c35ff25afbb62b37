//! Finding the server's programs.

use super::PgError;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The major versions whose control file and behaviour are known here.
pub(super) const SUPPORTED: std::ops::RangeInclusive<u32> = 13..=18;

/// Where distributions put the server's programs: a folder per major version between the two parts.
const PLACES: [(&str, &str); 3] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr/lib64/pgsql", "bin"),
    ("/opt/pgsql", "bin"),
];

/// One installation of the server's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version_num: u32,
}

impl Binaries {
    /// Takes `dir` if it is given, else the installation for the data directory's version, else the newest.
    pub fn find(dir: Option<&Path>, data_dir: &Path) -> Result<Binaries, PgError> {
        let wanted = data_version(data_dir);
        let candidates = dir.map_or_else(candidates, |dir| vec![dir.to_owned()]);
        let mut found: Vec<Binaries> = candidates
            .iter()
            .filter_map(|dir| Binaries::inspect(dir))
            .collect();
        found.retain(|binaries| SUPPORTED.contains(&binaries.major()));
        found.sort_by_key(|binaries| binaries.version_num);
        let matching = found
            .iter()
            .rfind(|binaries| wanted.is_none_or(|major| major == binaries.major()));
        match (matching, found.last(), wanted) {
            (Some(binaries), _, _) => Ok(binaries.clone()),
            (None, Some(other), Some(data)) => Err(PgError::WrongVersion {
                data_dir: data_dir.to_owned(),
                data,
                bin_dir: other.dir.clone(),
                programs: other.major(),
            }),
            (None, _, _) => {
                let looked: Vec<String> = candidates.iter().map(|dir| dir.display().to_string()).collect();
                Err(PgError::NoBinaries {
                    looked: looked.join(", "),
                })
            }
        }
    }

    /// Asks the `postgres` in `dir` for its version; `None` where there is none that answers.
    fn inspect(dir: &Path) -> Option<Binaries> {
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let version_num = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Binaries {
            dir: dir.to_owned(),
            version_num,
        })
    }

    /// The path of one of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `server_version_num`, such as 150018.
    pub fn version_num(&self) -> u32 {
        self.version_num
    }

    /// The major version, such as 15.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The major version that made a data directory, if it says so.
pub(super) fn data_version(data_dir: &Path) -> Option<u32> {
    std::fs::read_to_string(data_dir.join("PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for (root, leaf) in PLACES {
        let versions = std::fs::read_dir(root).into_iter().flatten().flatten();
        dirs.extend(versions.map(|version| version.path().join(leaf)));
    }
    let usr = std::fs::read_dir("/usr").into_iter().flatten().flatten();
    let packaged = usr.filter(|entry| entry.file_name().to_string_lossy().starts_with("pgsql-"));
    dirs.extend(packaged.map(|entry| entry.path().join("bin")));
    dirs.push(PathBuf::from("/usr/local/pgsql/bin"));
    if let Some(path) = std::env::var_os("PATH") {
        dirs.extend(std::env::split_paths(&path));
    }
    dirs.retain(|dir| dir.join("postgres").is_file());
    dirs.sort();
    dirs.dedup();
    dirs
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-1)`; pre-releases such as `19rc1` count as minor 0.
fn parse_version(said: &str) -> Option<u32> {
    let number = said
        .strip_prefix("postgres (PostgreSQL) ")?
        .split_whitespace()
        .next()?;
    let digits = |text: &str| -> Option<u32> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    Some(digits(major)? * 10_000 + digits(minor)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_server_says_of_its_version() {
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(150_018)
        );
        assert_eq!(parse_version("postgres (PostgreSQL) 18.6\n"), Some(180_006));
        assert_eq!(parse_version("postgres (PostgreSQL) 19rc1\n"), Some(190_000));
        assert_eq!(parse_version("bash: postgres: not found"), None);
    }

    #[test]
    fn names_the_folders_it_looked_into() {
        let empty = tempfile::tempdir().expect("a folder");
        let error = Binaries::find(Some(empty.path()), Path::new("/nowhere")).expect_err("no programs");
        assert!(
            error.to_string().contains(&empty.path().display().to_string()),
            "{error}"
        );
    }
}
