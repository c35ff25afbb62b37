//! The file of the one snapshot that a node keeps.

use super::frame::{self, At, BadHeader, HEADER_LEN};
use super::{OpenError, SNAPSHOT_FILE};
use crate::consensus::types::Snapshot;
use crate::consensus::wire;
use prost::Message;
use proto::peer;
use std::io;

const MAGIC: [u8; 8] = *b"pgctlsnp";

/// The file's contents for `snapshot`.
pub(super) fn write(snapshot: &Snapshot) -> io::Result<Vec<u8>> {
    let message = wire::snapshot_out(snapshot).encode_to_vec();
    let frame = frame::frame(&message).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("a snapshot of {} bytes cannot be kept", message.len()),
        )
    })?;
    let mut bytes = frame::header(MAGIC).to_vec();
    bytes.extend(frame);
    Ok(bytes)
}

/// The snapshot in the file. The file was written as a whole, so whatever is wrong with it is damage.
pub(super) fn read(bytes: &[u8], path: &str) -> Result<Snapshot, OpenError> {
    let damaged = |offset: usize, why: String| OpenError::Damaged {
        path: path.to_owned(),
        offset: offset as u64,
        why,
    };
    frame::check_header(bytes, MAGIC).map_err(|bad| match bad {
        BadHeader::Damaged(why) => damaged(0, why.to_owned()),
        BadHeader::Newer { found } => OpenError::Newer {
            path: path.to_owned(),
            found,
            known: frame::FORMAT,
        },
    })?;
    match frame::look(bytes, HEADER_LEN) {
        At::Frame { contents, next } if next == bytes.len() => peer::Snapshot::decode(contents)
            .map_err(|error| error.to_string())
            .and_then(|message| wire::snapshot_in(message).map_err(|error| error.to_string()))
            .map_err(|why| damaged(HEADER_LEN, why)),
        At::Frame { next, .. } => Err(damaged(
            next,
            format!("there is more in {SNAPSHOT_FILE} than a snapshot"),
        )),
        At::Damaged(why) => Err(damaged(HEADER_LEN, why.to_owned())),
        At::End | At::Torn => Err(damaged(HEADER_LEN, "the file ends too early".to_owned())),
    }
}
