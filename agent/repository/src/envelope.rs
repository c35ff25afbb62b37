//! One object: a header in one line of text, then the content, compressed and perhaps encrypted.
//!
//! `pgctl-object 1 CRC32C JSON`, a line break, the payload. So `head -1` shows what it is, and what is not encrypted comes out
//! with `tail -n +2 | zstd -d`.

use crate::cipher::{self, Secret};
use crate::codec::Codec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MAGIC: &str = "pgctl-object 1 ";
/// The longest that a header can be: as much is read to learn about an object.
pub(crate) const HEADER_MAX: usize = 4096;
/// The longest content that one object may have: larger ones come in parts.
pub(crate) const CONTENT_MAX: usize = 1 << 30;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A WAL segment.
    Segment,
    /// The last, unfinished segment of a timeline.
    Partial,
    /// A timeline's history.
    History,
    /// A backup's label, as the server archives it.
    Label,
    /// A part of a base backup.
    Part,
    /// The server's own list of a base backup's files.
    Manifest,
    /// A base backup's entry in the catalogue.
    Backup,
    /// A data key, wrapped.
    Key,
    /// What keeps a backup.
    Pin,
    /// What is to go, or is gone.
    Mark,
    /// What a drill found.
    Evidence,
}

/// What is known of an object without reading its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub kind: Kind,
    /// The name of what it holds, such as `000000010000000000000003`.
    pub name: String,
    /// Bytes of the content.
    pub bytes: u64,
    /// BLAKE3 of the content, in hexadecimal.
    pub hash: String,
    /// Bytes that follow the header.
    pub stored: u64,
    pub codec: Codec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<CipherHeader>,
    /// Who wrote it and when, for people.
    #[serde(default)]
    pub about: BTreeMap<String, String>,
}

/// How an object is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CipherHeader {
    /// The name of the data key.
    pub key: String,
    /// In hexadecimal.
    pub salt: String,
}

/// How to write objects.
#[derive(Debug, Clone)]
pub(crate) struct Packing {
    pub codec: Codec,
    pub level: i32,
    /// The name of a data key, and the key.
    pub key: Option<(String, Secret)>,
}

impl Packing {
    /// As it is.
    pub(crate) fn plain() -> Packing {
        Packing {
            codec: Codec::None,
            level: 0,
            key: None,
        }
    }
}

/// The hash under which content is known.
pub(crate) fn hash(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

/// The object that holds `content`, whose hash is `known` where somebody has counted it already.
pub(crate) fn seal(
    kind: Kind,
    name: &str,
    about: BTreeMap<String, String>,
    content: &[u8],
    known: Option<String>,
    packing: &Packing,
) -> Result<Vec<u8>, String> {
    let payload = packing
        .codec
        .compress(content, packing.level)
        .map_err(|error| format!("it cannot be compressed: {error}"))?;
    let no_random = || "the system gives no random numbers".to_owned();
    let (cipher, stored) = match &packing.key {
        None => (None, payload.len()),
        Some((key, _)) => {
            let salt = cipher::salt().ok_or_else(no_random)?;
            let key = key.clone();
            (
                Some(CipherHeader { key, salt }),
                cipher::sealed_length(payload.len()),
            )
        }
    };
    let header = Header {
        kind,
        name: name.to_owned(),
        bytes: content.len() as u64,
        hash: known.unwrap_or_else(|| hash(content)),
        stored: stored as u64,
        codec: packing.codec,
        cipher,
        about,
    };
    let json = serde_json::to_string(&header).map_err(|error| error.to_string())?;
    let line = format!("{MAGIC}{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
    if line.len() > HEADER_MAX {
        return Err(format!("its header would be {} bytes long", line.len()));
    }
    let payload = match (&packing.key, &header.cipher) {
        (Some((_, key)), Some(cipher)) => {
            cipher::seal(key, &cipher.salt, line.as_bytes(), &payload).ok_or("it cannot be encrypted")?
        }
        _ => payload,
    };
    Ok([line.as_bytes(), &payload].concat())
}

/// The header at the beginning of `object`, and where the payload begins.
pub(crate) fn header(object: &[u8]) -> Result<(Header, usize), String> {
    let end = object
        .iter()
        .take(HEADER_MAX)
        .position(|byte| *byte == b'\n')
        .ok_or("it has no header")?;
    let line = std::str::from_utf8(&object[..end]).map_err(|_| "its header is no text")?;
    let rest = line
        .strip_prefix(MAGIC)
        .ok_or("it is no object of this format, or one of a newer version")?;
    let (sum, json) = rest.split_once(' ').ok_or("its header is cut off")?;
    if u32::from_str_radix(sum, 16) != Ok(crc32c::crc32c(json.as_bytes())) {
        return Err("its header does not match its checksum".to_owned());
    }
    let header: Header = serde_json::from_str(json).map_err(|error| format!("its header: {error}"))?;
    Ok((header, end + 1))
}

/// The content of `object`, verified. `key` is needed where the header names one.
pub(crate) fn open(object: &[u8], key: Option<&Secret>) -> Result<(Header, Vec<u8>), String> {
    let (header, start) = header(object)?;
    let payload = &object[start..];
    if payload.len() as u64 != header.stored {
        return Err(format!(
            "{} bytes follow its header, {} were written",
            payload.len(),
            header.stored
        ));
    }
    let bytes = usize::try_from(header.bytes)
        .ok()
        .filter(|bytes| *bytes <= CONTENT_MAX)
        .ok_or("it claims to be too large")?;
    let opened = match &header.cipher {
        None => None,
        Some(cipher) => {
            let key = key.ok_or("its key is missing")?;
            let opened = cipher::open(key, &cipher.salt, &object[..start], payload);
            Some(opened.ok_or("it does not decrypt")?)
        }
    };
    let payload = opened.as_deref().unwrap_or(payload);
    let content = header
        .codec
        .decompress(payload, bytes)
        .map_err(|error| format!("it does not decompress: {error}"))?;
    if hash(&content) != header.hash {
        return Err("its content does not match its hash".to_owned());
    }
    Ok((header, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packings() -> [Packing; 4] {
        let plain = |codec| Packing {
            codec,
            level: 1,
            key: None,
        };
        let key = Some(("k".to_owned(), Secret([9; 32])));
        [
            plain(Codec::None),
            plain(Codec::Zstd),
            plain(Codec::Lz4),
            Packing {
                key,
                ..plain(Codec::Zstd)
            },
        ]
    }

    #[test]
    fn every_bad_byte_and_every_truncation_is_noticed() {
        let content: Vec<u8> = (0..400_u32).flat_map(u32::to_le_bytes).collect();
        for packing in packings() {
            let key = packing.key.as_ref().map(|(_, key)| key);
            let about = BTreeMap::from([("node".to_owned(), "n1".to_owned())]);
            let object = seal(Kind::Segment, "name", about, &content, None, &packing).expect("seals");
            let (header, back) = open(&object, key).expect("opens");
            assert!(back == content && header.name == "name");
            for at in 0..object.len() {
                let mut bad = object.clone();
                bad[at] ^= 0x10;
                // A frame of Zstandard or LZ4 has bits that mean nothing; what must not happen is another content.
                if let Ok((header, back)) = open(&bad, key) {
                    assert!(back == content && header.name == "name", "byte {at} {packing:?}");
                }
                assert!(open(&object[..at], key).is_err(), "truncated to {at} {packing:?}");
            }
            let longer = [&object[..], b"x"].concat();
            assert!(open(&longer, key).is_err(), "a byte more {packing:?}");
        }
    }

    #[test]
    fn an_encrypted_object_needs_its_key() {
        let [.., packing] = packings();
        let object = seal(
            Kind::Segment,
            "n",
            BTreeMap::new(),
            b"secret rows",
            None,
            &packing,
        )
        .expect("seals");
        assert!(!object.windows(6).any(|window| window == b"secret"));
        assert!(open(&object, None).is_err());
        assert!(open(&object, Some(&Secret([8; 32]))).is_err());
    }
}
