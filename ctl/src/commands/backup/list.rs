//! `pgctl backup list` and `show`

use crate::failure::Failure;
use crate::output::{self, Format, bytes, text_or_dash};
use crate::repositories::{Opened, Which, refused};
use crate::wall_time::{span, utc};
use repository::{Catalogue, Hole, Inventory, Pin, Proof, backups, chain, inventory, marked, pins, proofs};
use serde::Serialize;
use std::collections::BTreeMap;

/// A backup as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    /// complete, waiting-for-wal, or broken: what it is an increment of is not there any more
    state: &'a str,
    node: &'a str,
    from_standby: bool,
    timeline: u32,
    start_lsn: String,
    stop_lsn: String,
    begun_unix_ms: i64,
    ended_unix_ms: i64,
    bytes: u64,
    stored_bytes: u64,
    parts: usize,
    server_version: u32,
    missing_wal: Vec<Hole>,
    /// The backup that it is an increment of.
    parent: Option<&'a str>,
    /// When retention may delete it.
    expires_unix_ms: Option<i64>,
    /// When a restore of it was last proven.
    proven_unix_ms: Option<i64>,
    pins: Vec<Pin>,
}

/// What lies beside the backups.
struct Notes {
    going: BTreeMap<String, i64>,
    pins: Vec<Pin>,
    proofs: Vec<Proof>,
}

impl Notes {
    async fn read(opened: &Opened) -> Result<Notes, Failure> {
        let (repository, line) = (&opened.repository, &opened.line);
        Ok(Notes {
            going: marked(repository, line).await.map_err(refused)?,
            pins: pins(repository, line).await.map_err(refused)?,
            proofs: proofs(repository, line).await.map_err(refused)?,
        })
    }
}

impl Shown<'_> {
    /// In a few words, for the table.
    fn note(&self) -> String {
        let mut notes = Vec::new();
        if let Some(parent) = self.parent {
            notes.push(format!("increment of {parent}"));
        }
        if let Some(at) = self.expires_unix_ms {
            notes.push(format!("goes {}", utc(milliseconds(at))));
        }
        if self.pins.iter().any(|pin| pin.hold) {
            notes.push("held".to_owned());
        } else if !self.pins.is_empty() {
            notes.push("pinned".to_owned());
        }
        if self.proven_unix_ms.is_some() {
            notes.push("proven".to_owned());
        }
        notes.join(", ")
    }
}

fn shown<'a>(entry: &'a Catalogue, all: &[Catalogue], there: &Inventory, notes: &Notes) -> Shown<'a> {
    let missing_wal = entry.lacks(there);
    Shown {
        id: &entry.id,
        state: match (chain(all, &entry.id), missing_wal.is_empty()) {
            (None, _) => "broken",
            (Some(_), true) => "complete",
            (Some(_), false) => "waiting-for-wal",
        },
        node: &entry.node,
        from_standby: entry.from_standby,
        timeline: entry.timeline.0,
        start_lsn: entry.start.to_string(),
        stop_lsn: entry.stop.to_string(),
        begun_unix_ms: entry.begun_ms,
        ended_unix_ms: entry.ended_ms,
        bytes: entry.bytes,
        stored_bytes: entry.stored_bytes,
        parts: entry.parts.len(),
        server_version: entry.server_version,
        missing_wal,
        parent: entry.parent.as_deref(),
        expires_unix_ms: notes.going.get(&entry.id).copied(),
        proven_unix_ms: notes
            .proofs
            .iter()
            .filter(|proof| proof.backup == entry.id)
            .map(|proof| proof.at_ms)
            .max(),
        pins: notes
            .pins
            .iter()
            .filter(|pin| pin.backup == entry.id)
            .cloned()
            .collect(),
    }
}

pub async fn list(format: Format, which: &Which) -> Result<(), Failure> {
    let opened = which.open().await?;
    let there = inventory(&opened.repository, &opened.line)
        .await
        .map_err(refused)?;
    let entries = backups(&opened.repository, &opened.line).await.map_err(refused)?;
    let notes = Notes::read(&opened).await?;
    let all: Vec<Shown> = entries
        .iter()
        .map(|entry| shown(entry, &entries, &there, &notes))
        .collect();
    if format == Format::Json {
        return output::json(&all);
    }
    let headings = [
        "BACKUP", "STATE", "ENDED", "TOOK", "NODE", "TIMELINE", "STOP", "SIZE", "STORED", "NOTE",
    ];
    let rows = all.iter().map(|backup| {
        vec![
            backup.id.to_owned(),
            backup.state.to_owned(),
            utc(milliseconds(backup.ended_unix_ms)),
            span(milliseconds(backup.ended_unix_ms - backup.begun_unix_ms)),
            backup.node.to_owned(),
            backup.timeline.to_string(),
            backup.stop_lsn.clone(),
            bytes(backup.bytes),
            bytes(backup.stored_bytes),
            backup.note(),
        ]
    });
    output::table(&headings, rows)
}

pub async fn show(format: Format, which: &Which, id: &str) -> Result<(), Failure> {
    let opened = which.open().await?;
    let there = inventory(&opened.repository, &opened.line)
        .await
        .map_err(refused)?;
    let entries = backups(&opened.repository, &opened.line).await.map_err(refused)?;
    let entry = entries.iter().find(|entry| entry.id == id).ok_or_else(|| {
        Failure::refused(
            "no-such-backup",
            format!("there is no finished backup {id}: see `pgctl backup list`"),
        )
    })?;
    let notes = Notes::read(&opened).await?;
    let backup = shown(entry, &entries, &there, &notes);
    if format == Format::Json {
        return output::json(&backup);
    }
    let missing: Vec<String> = backup
        .missing_wal
        .iter()
        .map(|hole| format!("{} to {}", hole.first, hole.last))
        .collect();
    let lines = [
        ("backup", backup.id.to_owned()),
        ("state", backup.state.to_owned()),
        (
            "of",
            format!(
                "{} ({})",
                backup.node,
                if backup.from_standby { "standby" } else { "primary" }
            ),
        ),
        ("begun", utc(milliseconds(backup.begun_unix_ms))),
        ("ended", utc(milliseconds(backup.ended_unix_ms))),
        ("server version", backup.server_version.to_string()),
        ("timeline", backup.timeline.to_string()),
        (
            "WAL needed",
            format!("{} to {}", backup.start_lsn, backup.stop_lsn),
        ),
        (
            "WAL missing",
            if missing.is_empty() {
                "none".to_owned()
            } else {
                missing.join(", ")
            },
        ),
        (
            "size",
            format!(
                "{} in {} parts, {} stored",
                bytes(backup.bytes),
                backup.parts,
                bytes(backup.stored_bytes)
            ),
        ),
        ("hash", entry.hash.clone()),
        ("note", text_or_dash(&backup.note())),
    ];
    for (name, value) in lines {
        output::line(format!("{name:<15} {value}"))?;
    }
    Ok(())
}

fn milliseconds(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}
