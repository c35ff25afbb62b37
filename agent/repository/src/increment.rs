//! Incremental backups as PostgreSQL 17 and newer make them: of each file of a relation the pages that changed, in a file
//! `INCREMENTAL.name`; every other file whole; and nothing of what was dropped.

use crate::catalogue::Catalogue;
use agent_core::pg::Lsn;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "INCREMENTAL.";
const MAGIC: u32 = 0xd3ae_1f0d;
const PAGE: u64 = 8192;
/// Pages that a file of a relation may have.
const PAGES_MAX: u32 = 131_072;
const LABEL: &str = "backup_label";
const MANIFEST: &str = "backup_manifest";

/// The path of the file that an increment's file belongs to; `None` if it is none.
pub(crate) fn name_of(path: &str) -> Option<String> {
    let (folder, name) = path.rsplit_once('/')?;
    let name = name.strip_prefix(PREFIX)?;
    Some(format!("{folder}/{name}"))
}

/// One file that is brought from what the last backup had to what this one has.
#[derive(Debug)]
pub(crate) struct Increment {
    file: File,
    header: Vec<u8>,
    plan: Option<Plan>,
}

#[derive(Debug)]
struct Plan {
    pages: Vec<u32>,
    /// Pages of the file in the end.
    length: u32,
    /// Bytes of the content that were written.
    done: u64,
}

impl Increment {
    pub(crate) fn of(path: &Path, mode: u32) -> Result<Increment, String> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .open(path)
            .map_err(|error| format!("could not open {}: {error}", path.display()))?;
        Ok(Increment {
            file,
            header: Vec::new(),
            plan: None,
        })
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, mut piece: &[u8]) -> Result<(), String> {
        while !piece.is_empty() {
            if self.plan.is_some() {
                return self.write(piece);
            }
            let wanted = header_bytes(&self.header)?;
            let (now, rest) = piece.split_at(piece.len().min(wanted - self.header.len()));
            self.header.extend_from_slice(now);
            piece = rest;
            self.plan_if_whole()?;
        }
        Ok(())
    }

    fn plan_if_whole(&mut self) -> Result<(), String> {
        if self.header.len() < 12 || self.header.len() < header_bytes(&self.header)? {
            return Ok(());
        }
        let count = word(&self.header, 1) as usize;
        let pages: Vec<u32> = (0..count).map(|at| word(&self.header, 3 + at)).collect();
        if pages.iter().any(|page| *page >= PAGES_MAX) || !pages.is_sorted_by(|a, b| a < b) {
            return Err("it names pages that no file has".to_owned());
        }
        let highest = pages.last().map_or(0, |page| page + 1);
        self.plan = Some(Plan {
            length: word(&self.header, 2).max(highest),
            pages,
            done: 0,
        });
        Ok(())
    }

    fn write(&mut self, mut piece: &[u8]) -> Result<(), String> {
        let Some(plan) = &mut self.plan else { return Ok(()) };
        while !piece.is_empty() {
            let index = usize::try_from(plan.done / PAGE).unwrap_or(usize::MAX);
            let page = plan.pages.get(index).ok_or("it has more pages than it names")?;
            let within = plan.done % PAGE;
            let left = usize::try_from(PAGE - within).unwrap_or(0);
            let (now, rest) = piece.split_at(piece.len().min(left));
            let at = u64::from(*page) * PAGE + within;
            self.file
                .seek(SeekFrom::Start(at))
                .and_then(|_| self.file.write_all(now))
                .map_err(|error| error.to_string())?;
            plan.done += now.len() as u64;
            piece = rest;
        }
        Ok(())
    }

    /// All of it was taken.
    pub(crate) fn finish(self) -> Result<(), String> {
        let plan = self.plan.ok_or("it ends in its header")?;
        if plan.done != plan.pages.len() as u64 * PAGE {
            return Err("it has fewer pages than it names".to_owned());
        }
        // Truncated, or longer by pages that were never written.
        self.file
            .set_len(u64::from(plan.length) * PAGE)
            .map_err(|error| error.to_string())
    }
}

/// How long the header is, as far as can be told.
fn header_bytes(header: &[u8]) -> Result<usize, String> {
    if header.len() < 12 {
        return Ok(12);
    }
    if word(header, 0) != MAGIC {
        return Err("it is no increment of a file".to_owned());
    }
    let (count, length) = (word(header, 1), word(header, 2));
    if count > PAGES_MAX || length > PAGES_MAX {
        return Err("it names pages that no file has".to_owned());
    }
    let bytes = 12 + 4 * count as usize;
    // Before pages it is filled up to a whole one.
    Ok(if count > 0 {
        bytes.next_multiple_of(PAGE as usize)
    } else {
        bytes
    })
}

fn word(bytes: &[u8], index: usize) -> u32 {
    let at = index * 4;
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, u32::from_le_bytes)
}

/// Whether what was unpacked last is an increment of `before`.
pub(crate) fn is_of(into: &Path, before: &Catalogue) -> Result<(), String> {
    let label = fs::read_to_string(into.join(LABEL)).map_err(|error| format!("{LABEL}: {error}"))?;
    let from = label
        .lines()
        .find_map(|line| line.strip_prefix("INCREMENTAL FROM LSN: "))
        .and_then(|lsn| lsn.trim().parse::<Lsn>().ok());
    if from != Some(before.start) {
        let from = from.map_or("none".to_owned(), |from| from.to_string());
        return Err(format!(
            "it is an increment of a backup that began at {from}, and {} began at {}",
            before.id, before.start
        ));
    }
    Ok(())
}

/// Removes what the newer backup does not list: it was dropped.
pub(crate) fn remove_all_but(folder: &Path, listed: &BTreeSet<PathBuf>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            remove_all_but(&path, listed)?;
            if !listed.contains(&path) && fs::read_dir(&path).map_err(failed)?.next().is_none() {
                fs::remove_dir(&path).map_err(failed)?;
            }
        } else if !listed.contains(&path) {
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}

/// Makes a full backup of what was an increment: the server does not start from one, and the manifest lists its files.
pub(crate) fn make_whole(into: &Path, changed: &BTreeSet<String>) -> Result<(), String> {
    let label = into.join(LABEL);
    let text = fs::read_to_string(&label).map_err(|error| format!("{LABEL}: {error}"))?;
    let whole: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("INCREMENTAL FROM "))
        .collect();
    fs::write(&label, whole).map_err(|error| format!("{LABEL}: {error}"))?;
    let path = into.join(MANIFEST);
    let text = fs::read(&path).map_err(|error| format!("{MANIFEST}: {error}"))?;
    let mut manifest: Value =
        serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))?;
    let files = manifest.get_mut("Files").and_then(Value::as_array_mut);
    for file in files.ok_or_else(|| format!("{MANIFEST} lists no files"))? {
        let Some(listed) = file.get("Path").and_then(Value::as_str).map(str::to_owned) else {
            continue;
        };
        let name = name_of(&listed).filter(|name| changed.contains(name));
        let name = name.or_else(|| (listed == LABEL).then_some(listed));
        if let (Some(name), Some(file)) = (name, file.as_object_mut()) {
            let (bytes, sum) = measure(&into.join(&name)).map_err(|error| format!("{name}: {error}"))?;
            file.insert("Path".to_owned(), name.into());
            file.insert("Size".to_owned(), bytes.into());
            file.insert("Checksum-Algorithm".to_owned(), "CRC32C".into());
            file.insert("Checksum".to_owned(), sum.into());
        }
    }
    let written = written(&manifest).ok_or_else(|| format!("{MANIFEST} is none"))?;
    fs::write(&path, written).map_err(|error| format!("{MANIFEST}: {error}"))
}

/// Bytes and checksum of a file, as a manifest has them.
fn measure(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut bytes, mut sum) = (0, 0);
    let mut piece = vec![0; 256 << 10];
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            break;
        }
        bytes += length as u64;
        sum = crc32c::crc32c_append(sum, &piece[..length]);
    }
    let digits = sum
        .to_le_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok((bytes, digits))
}

/// A manifest as the server writes it: the last line has the hash of all before it.
fn written(manifest: &Value) -> Option<String> {
    let of = manifest.as_object()?;
    let mut text = String::from("{");
    for name in ["PostgreSQL-Backup-Manifest-Version", "System-Identifier"] {
        if let Some(value) = of.get(name) {
            text.push_str(&format!(" \"{name}\": {value},\n"));
        }
    }
    for (name, end) in [("Files", "],\n"), ("WAL-Ranges", "],\n")] {
        let list: Vec<String> = of.get(name)?.as_array()?.iter().map(Value::to_string).collect();
        text.push_str(&format!("\"{name}\": [\n{}\n{end}", list.join(",\n")));
    }
    let hash: String = digest(&SHA256, text.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    text.push_str(&format!("\"Manifest-Checksum\": \"{hash}\"}}\n"));
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn increment(pages: &[(u32, u8)], length: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let words = [MAGIC, pages.len() as u32, length];
        for word in words.into_iter().chain(pages.iter().map(|(page, _)| *page)) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        if !pages.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
        }
        for (_, fill) in pages {
            bytes.extend(vec![*fill; PAGE as usize]);
        }
        bytes
    }

    fn applied(before: &[u8], increment: &[u8], step: usize) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("1259");
        let pages: Vec<u8> = before
            .iter()
            .flat_map(|fill| vec![*fill; PAGE as usize])
            .collect();
        fs::write(&path, pages).expect("is written");
        let mut of = Increment::of(&path, 0o600)?;
        for piece in increment.chunks(step) {
            of.take(piece)?;
        }
        of.finish()?;
        let after = fs::read(&path).expect("is there");
        assert!(
            after
                .chunks(PAGE as usize)
                .all(|page| page.iter().all(|byte| *byte == page[0]))
        );
        Ok(after.chunks(PAGE as usize).map(|page| page[0]).collect())
    }

    #[test]
    fn changed_pages_are_put_over_the_old_ones() {
        for step in [1, 8191, 8192, 100_000] {
            for (what, pages, length, after) in [
                ("nothing", vec![], 3, vec![1, 2, 3]),
                ("one in the middle", vec![(1, 9)], 3, vec![1, 9, 3]),
                ("truncated", vec![(0, 9)], 1, vec![9]),
                ("emptied", vec![], 0, vec![]),
                ("longer", vec![(3, 8), (4, 9)], 5, vec![1, 2, 3, 8, 9]),
                (
                    "with pages never written",
                    vec![(5, 9)],
                    3,
                    vec![1, 2, 3, 0, 0, 9],
                ),
                ("longer by nothing", vec![], 4, vec![1, 2, 3, 0]),
            ] {
                let found = applied(&[1, 2, 3], &increment(&pages, length), step);
                assert_eq!(found, Ok(after), "{what}, in steps of {step}");
            }
        }
        assert_eq!(
            applied(&[], &increment(&[(0, 7)], 1), 512),
            Ok(vec![7]),
            "a new file"
        );
    }

    #[test]
    fn what_is_no_increment_is_refused() {
        let good = increment(&[(1, 9), (2, 8)], 3);
        for (what, bytes) in [
            ("cut off in the header", good[..10].to_vec()),
            ("cut off in the pages", good[..good.len() - 1].to_vec()),
            ("longer than it says", [&good[..], b"x"].concat()),
            ("another magic", [b"x", &good[1..]].concat()),
            (
                "a page beyond the end of all files",
                increment(&[(PAGES_MAX, 1)], 1),
            ),
            ("pages not in their order", increment(&[(2, 1), (1, 1)], 3)),
            ("a page twice", increment(&[(1, 1), (1, 1)], 3)),
            ("too long", increment(&[], PAGES_MAX + 1)),
            ("empty", Vec::new()),
        ] {
            assert!(applied(&[1, 2, 3], &bytes, 4096).is_err(), "{what}");
        }
        assert_eq!(name_of("base/5/INCREMENTAL.1259"), Some("base/5/1259".to_owned()));
        assert_eq!(name_of("base/5/1259"), None);
        assert_eq!(name_of("INCREMENTAL.x"), None);
    }

    #[test]
    fn what_was_dropped_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["base/5", "base/6", "empty"] {
            fs::create_dir_all(at(name)).expect("a folder");
        }
        for name in ["base/5/1", "base/5/2", "base/6/1", "PG_VERSION"] {
            fs::write(at(name), "x").expect("is written");
        }
        let listed = ["base", "base/5", "base/5/1", "PG_VERSION", "empty"].map(at);
        remove_all_but(folder.path(), &BTreeSet::from(listed)).expect("removes");
        assert!(at("base/5/1").exists() && at("PG_VERSION").exists() && at("empty").exists());
        assert!(!at("base/5/2").exists() && !at("base/6").exists());
    }
}
