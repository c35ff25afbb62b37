//! Reading the archive that a server makes of its data directory: plain ustar, taken piece by piece.

/// Bytes of a header, and what content is padded to.
const BLOCK: usize = 512;

/// A file, a folder or a link in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative, without `.` and `..`.
    pub path: String,
    pub kind: EntryKind,
    pub mode: u32,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Folder,
    /// Where it points.
    Link(String),
}

/// What comes out, in this order for each entry: its beginning, its content in pieces, its end.
pub(crate) trait Visitor {
    fn begin(&mut self, entry: &Entry) -> Result<(), String>;
    fn content(&mut self, entry: &Entry, piece: &[u8]) -> Result<(), String>;
    fn end(&mut self, entry: &Entry) -> Result<(), String>;
}

/// Takes an archive apart.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    header: Vec<u8>,
    current: Option<Entry>,
    left: u64,
    padding: u64,
    ended: bool,
}

impl Walker {
    /// Takes the next bytes of the archive.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), String> {
        while !bytes.is_empty() {
            if let Some(entry) = &self.current
                && self.left > 0
            {
                let (piece, rest) = bytes.split_at(take(self.left, bytes.len()));
                visitor.content(entry, piece)?;
                self.left -= piece.len() as u64;
                bytes = rest;
                self.end_if_done(visitor)?;
            } else if self.padding > 0 {
                let skipped = take(self.padding, bytes.len());
                self.padding -= skipped as u64;
                bytes = &bytes[skipped..];
            } else {
                let wanted = (BLOCK - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..wanted]);
                bytes = &bytes[wanted..];
                if self.header.len() == BLOCK {
                    let header = std::mem::take(&mut self.header);
                    self.take_header(&header, visitor)?;
                }
            }
        }
        Ok(())
    }

    /// The archive is over.
    pub(crate) fn finish(&self) -> Result<(), String> {
        if self.current.is_some() || self.left > 0 || !self.header.is_empty() {
            return Err("the archive ends in the middle of a file".to_owned());
        }
        if !self.ended {
            return Err("the archive has no end: it was cut off".to_owned());
        }
        Ok(())
    }

    fn take_header(&mut self, header: &[u8], visitor: &mut impl Visitor) -> Result<(), String> {
        if header.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(());
        }
        if self.ended {
            return Err("the archive goes on after its end".to_owned());
        }
        let entry = parse(header)?;
        self.left = entry.bytes;
        self.padding = entry.bytes.next_multiple_of(BLOCK as u64) - entry.bytes;
        visitor.begin(&entry)?;
        self.current = Some(entry);
        self.end_if_done(visitor)
    }

    fn end_if_done(&mut self, visitor: &mut impl Visitor) -> Result<(), String> {
        if self.left == 0
            && let Some(entry) = self.current.take()
        {
            visitor.end(&entry)?;
        }
        Ok(())
    }
}

fn take(left: u64, there: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(there)
}

fn parse(header: &[u8]) -> Result<Entry, String> {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte })
        .map(u64::from)
        .sum();
    if number(&header[148..156]) != Some(sum) {
        return Err("a header of the archive does not match its checksum".to_owned());
    }
    let name = text(&header[..100])?;
    let prefix = text(&header[345..500])?;
    let path = if prefix.is_empty() {
        name
    } else {
        format!("{prefix}/{name}")
    };
    let path = safe(&path)?;
    let wrong = |what: &str| format!("{path}: the archive has no {what} for it");
    let mode = number(&header[100..108]).ok_or_else(|| wrong("mode"))?;
    let bytes = number(&header[124..136]).ok_or_else(|| wrong("size"))?;
    let kind = match header[156] {
        b'0' | 0 => EntryKind::File,
        b'5' => EntryKind::Folder,
        b'2' => EntryKind::Link(text(&header[157..257])?),
        other => {
            return Err(format!(
                "{path}: files of type {:?} are not known",
                char::from(other)
            ));
        }
    };
    Ok(Entry {
        bytes: if kind == EntryKind::File { bytes } else { 0 },
        path,
        kind,
        mode: u32::try_from(mode & 0o777).unwrap_or(0o600),
    })
}

/// The path, which may not lead out of the folder that it is unpacked into.
fn safe(path: &str) -> Result<String, String> {
    let words: Vec<&str> = path
        .split('/')
        .filter(|word| !word.is_empty() && *word != ".")
        .collect();
    if path.starts_with('/') || words.contains(&"..") {
        return Err(format!("{path:?} leads out of the data directory"));
    }
    Ok(words.join("/"))
}

fn text(field: &[u8]) -> Result<String, String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end])
        .map(str::to_owned)
        .map_err(|_| "a name in the archive is no text".to_owned())
}

/// Octal digits, or, where the highest bit is set, a binary number.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        return rest.iter().try_fold(u64::from(first & 0x7f), |number, byte| {
            Some(number.checked_mul(256)? + u64::from(*byte))
        });
    }
    let digits = std::str::from_utf8(field).ok()?;
    let digits = digits.trim_matches(['\0', ' ']);
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry as PostgreSQL writes it.
    pub(crate) fn entry(path: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000600\0");
        let size = format!("{:011o}\0", content.len());
        header[124..136].copy_from_slice(size.as_bytes());
        header[156] = kind;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut whole = [&header, content].concat();
        whole.resize(whole.len().next_multiple_of(BLOCK), 0);
        whole
    }

    #[derive(Default)]
    struct Told(Vec<(String, Vec<u8>)>);

    impl Visitor for Told {
        fn begin(&mut self, entry: &Entry) -> Result<(), String> {
            self.0.push((entry.path.clone(), Vec::new()));
            Ok(())
        }
        fn content(&mut self, _: &Entry, piece: &[u8]) -> Result<(), String> {
            self.0.last_mut().expect("an entry").1.extend_from_slice(piece);
            Ok(())
        }
        fn end(&mut self, _: &Entry) -> Result<(), String> {
            Ok(())
        }
    }

    fn walk(archive: &[u8], step: usize) -> Result<Vec<(String, Vec<u8>)>, String> {
        let (mut walker, mut told) = (Walker::default(), Told::default());
        for piece in archive.chunks(step) {
            walker.feed(piece, &mut told)?;
        }
        walker.finish()?;
        Ok(told.0)
    }

    #[test]
    fn an_archive_comes_apart_however_it_is_cut() {
        let content = vec![7; 1000];
        let archive = [
            entry("./base/", b'5', b""),
            entry("base/1", b'0', &content),
            entry("empty", b'0', b""),
            entry("global/pg_control", b'0', &content[..512]),
            vec![0; 1024],
        ]
        .concat();
        for step in [1, 7, 512, 513, archive.len()] {
            let found = walk(&archive, step).expect("comes apart");
            let names: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
            assert_eq!(
                names,
                ["base", "base/1", "empty", "global/pg_control"],
                "in steps of {step}"
            );
            assert_eq!(found[1].1, content);
            assert_eq!(found[3].1, content[..512]);
        }
        assert!(walk(&archive[..archive.len() - 1024], 512).is_err(), "no end");
        assert!(walk(&archive[..1500], 512).is_err(), "cut off in a file");
        let mut bad = archive.clone();
        bad[520] ^= 1;
        assert!(walk(&bad, 512).is_err(), "a bad byte in a header");
    }

    #[test]
    fn nothing_leads_out_of_the_data_directory() {
        for path in ["../x", "/etc/passwd", "base/../../x"] {
            let archive = [entry(path, b'0', b"x"), vec![0; 1024]].concat();
            assert!(walk(&archive, 512).is_err(), "{path}");
        }
    }
}
