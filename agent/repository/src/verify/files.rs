//! Whether the files in a base backup's archive are those that the server's manifest lists.

use crate::tar::Entry;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Files as they go by.
#[derive(Debug, Default)]
pub(super) struct Files {
    manifest: Vec<u8>,
    length: u64,
    sum: u32,
    found: BTreeMap<String, (u64, u32)>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "Files")]
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Path")]
    path: Option<String>,
    /// Hexadecimal, where the name is no text.
    #[serde(rename = "Encoded-Path")]
    encoded: Option<String>,
    #[serde(rename = "Size")]
    bytes: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    sum: Option<String>,
}

impl Files {
    pub(super) fn begin(&mut self) {
        (self.length, self.sum) = (0, 0);
    }

    pub(super) fn content(&mut self, entry: &Entry, piece: &[u8]) {
        self.length += piece.len() as u64;
        if entry.path == "backup_manifest" {
            self.manifest.extend_from_slice(piece);
        } else {
            self.sum = crc32c::crc32c_append(self.sum, piece);
        }
    }

    pub(super) fn end(&mut self, entry: &Entry) {
        self.found.insert(entry.path.clone(), (self.length, self.sum));
    }

    /// BLAKE3 of the manifest.
    pub(super) fn manifest_hash(&self) -> String {
        crate::envelope::hash(&self.manifest)
    }

    /// What differs from the manifest; empty if nothing does.
    pub(super) fn differences(&self) -> Vec<String> {
        let manifest: Manifest = match serde_json::from_slice(&self.manifest) {
            Ok(manifest) => manifest,
            Err(error) => return vec![format!("its backup_manifest cannot be read: {error}")],
        };
        let mut differences = Vec::new();
        for listed in &manifest.files {
            // A name that is no text is no name of a relation's file; its content is under the archive's hash.
            let Some(path) = &listed.path else {
                debug_assert!(listed.encoded.is_some());
                continue;
            };
            let Some((length, sum)) = self.found.get(path) else {
                differences.push(format!("{path} is listed in the manifest and not there"));
                continue;
            };
            if *length != listed.bytes {
                differences.push(format!(
                    "{path} has {length} bytes, the manifest says {}",
                    listed.bytes
                ));
            } else if listed.algorithm.as_deref() == Some("CRC32C") {
                // The server prints its bytes as they lie in memory.
                let ours: String = sum
                    .to_le_bytes()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                if listed.sum.as_deref() != Some(ours.as_str()) {
                    differences.push(format!("{path} does not match its checksum in the manifest"));
                }
            }
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::EntryKind;

    fn with(manifest: &str) -> Vec<String> {
        let mut files = Files::default();
        for (path, content) in [
            ("PG_VERSION", b"15\n".as_slice()),
            ("pg_wal/000000010000000000000001", b"not listed"),
            ("backup_manifest", manifest.as_bytes()),
        ] {
            let entry = Entry {
                path: path.to_owned(),
                kind: EntryKind::File,
                mode: 0o600,
                bytes: content.len() as u64,
            };
            files.begin();
            content.chunks(2).for_each(|piece| files.content(&entry, piece));
            files.end(&entry);
        }
        files.differences()
    }

    fn listing(path: &str, bytes: u64, sum: &str) -> String {
        format!(
            r#"{{"Files": [{{"Path": "{path}", "Size": {bytes}, "Last-Modified": "x",
                "Checksum-Algorithm": "CRC32C", "Checksum": "{sum}"}}]}}"#
        )
    }

    #[test]
    fn what_the_manifest_lists_must_be_there_as_it_was() {
        let ours = crc32c::crc32c(b"15\n").to_le_bytes();
        let ours: String = ours.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(with(&listing("PG_VERSION", 3, &ours)), Vec::<String>::new());
        for (what, manifest) in [
            ("bytes", listing("PG_VERSION", 4, &ours)),
            ("checksum", listing("PG_VERSION", 3, "00000000")),
            ("not there", listing("global/1", 3, &ours)),
            ("cannot be read", "{".to_owned()),
        ] {
            let found = with(&manifest);
            assert!(found.len() == 1 && found[0].contains(what), "{what}: {found:?}");
        }
    }
}
