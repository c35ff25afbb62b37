//! What encodings a file of SQL may have.

use thiserror::Error;

/// The longest file that is read, bytes. A longer one is a dump of data, not a change of a schema.
pub const BYTES_MAX: usize = 256 << 20;

/// Why a file is no text.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unreadable {
    #[error(
        "line {line}: byte {offset} ({byte:#04x}) is not valid UTF-8; save the file as UTF-8 (iconv -f LATIN1 -t UTF-8)"
    )]
    NotUtf8 { line: usize, offset: usize, byte: u8 },
    #[error(
        "line {line}: a zero byte: this is no SQL text (a custom-format dump? pg_restore -f - turns one into SQL)"
    )]
    Binary { line: usize },
    #[error("its byte order mark says UTF-16, but its bytes are not; save the file as UTF-8")]
    NotUtf16,
    #[error(
        "it has {bytes} bytes, more than {BYTES_MAX}; lint the schema's part of it (pg_dump --schema-only)"
    )]
    TooLong { bytes: usize },
}

/// Decodes UTF-8 with or without a byte order mark, and UTF-16 with one.
///
/// # Errors
/// The bytes are neither, or too many.
pub fn decode(bytes: &[u8]) -> Result<String, Unreadable> {
    if bytes.len() > BYTES_MAX {
        return Err(Unreadable::TooLong { bytes: bytes.len() });
    }
    let text = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest)?,
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => utf8(bytes)?,
    };
    match text.find('\0') {
        Some(at) => Err(Unreadable::Binary {
            line: line_of(text.as_bytes(), at),
        }),
        None => Ok(text),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Unreadable> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let offset = error.valid_up_to();
            if bytes[..offset].contains(&0) {
                return Err(Unreadable::Binary {
                    line: line_of(bytes, offset),
                });
            }
            Err(Unreadable::NotUtf8 {
                line: line_of(bytes, offset),
                offset,
                byte: bytes.get(offset).copied().unwrap_or_default(),
            })
        }
    }
}

fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Result<String, Unreadable> {
    if !bytes.len().is_multiple_of(2) {
        return Err(Unreadable::NotUtf16);
    }
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| unit([pair[0], pair[1]]))
        .collect();
    String::from_utf16(&units).map_err(|_| Unreadable::NotUtf16)
}

fn line_of(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset].iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        let utf16 = |order: fn(u16) -> [u8; 2], mark: [u8; 2]| -> Vec<u8> {
            mark.into_iter()
                .chain("SELECT 'ü';".encode_utf16().flat_map(order))
                .collect()
        };
        assert_eq!(decode(b"\xef\xbb\xbfSELECT 1").as_deref(), Ok("SELECT 1"));
        assert_eq!(
            decode(&utf16(u16::to_le_bytes, [0xff, 0xfe])).as_deref(),
            Ok("SELECT 'ü';")
        );
        assert_eq!(
            decode(&utf16(u16::to_be_bytes, [0xfe, 0xff])).as_deref(),
            Ok("SELECT 'ü';")
        );
        assert_eq!(decode(b"\xff\xfea"), Err(Unreadable::NotUtf16));
        assert_eq!(decode(b"SELECT 1;\n\0"), Err(Unreadable::Binary { line: 2 }));
        assert_eq!(
            decode(b"-- x\n-- y\nSELECT '\xfc';"),
            Err(Unreadable::NotUtf8 {
                line: 3,
                offset: 18,
                byte: 0xfc
            })
        );
    }
}
