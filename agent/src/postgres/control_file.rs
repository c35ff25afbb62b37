//! Reading `global/pg_control` without PostgreSQL's help, for a server that does not answer or does not run.
//!
//! The layout is the one that a 64-bit little- or big-endian machine gives to the struct of each major version; it is
//! checked against `pg_controldata` by the tests, and against its own checksum at every read.

use super::PgError;
use agent_core::pg::{ControlFile, ControlState, Lsn, SystemId, TimelineId};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A write of the server may be under way while we read: how often to look again, and how long to wait between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// The control file: what decisions need, and what only this room does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlData {
    pub file: ControlFile,
    /// The timeline that `file.min_recovery` lies on.
    pub min_recovery_timeline: TimelineId,
    /// The size of a WAL segment and of a WAL page, bytes.
    pub segment_size: u64,
    pub page_size: u64,
    /// The settings of the primary that wrote the WAL, which a hot standby must not fall below.
    pub limits: StandbyLimits,
}

/// A standby refuses to start, or pauses, with a lower value than the primary had in any of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandbyLimits {
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
}

/// Where the control file of a data directory is.
pub fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("global").join("pg_control")
}

/// Reads the control file of `data_dir`; `None` where there is none.
///
/// # Errors
/// When it cannot be read, has a wrong checksum at each of several looks, or is of a layout unknown here.
pub fn read(data_dir: &Path) -> Result<Option<ControlData>, PgError> {
    let path = path_in(data_dir);
    let mut why = String::new();
    for turn in 0..TRIES {
        if turn > 0 {
            std::thread::sleep(PAUSE);
        }
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(PgError::file("read", &path)(error)),
        };
        match parse(&bytes) {
            Ok(control) => return Ok(Some(control)),
            Err(Fault::Layout(text)) => return Err(PgError::ControlFile { path, why: text }),
            Err(Fault::Torn(text)) => why = text,
        }
    }
    Err(PgError::ControlFile { path, why })
}

fn is_absence(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

#[derive(Debug)]
enum Fault {
    /// A later look may succeed.
    Torn(String),
    Layout(String),
}

/// Byte offsets within the struct. Versions 13 to 17 share one layout; 18 has one more flag before the nonce, which
/// moves only the checksum at the end.
mod offset {
    pub const SYSTEM_ID: usize = 0;
    pub const CONTROL_VERSION: usize = 8;
    pub const STATE: usize = 16;
    pub const CHECKPOINT: usize = 32;
    pub const REDO: usize = 40;
    pub const TIMELINE: usize = 48;
    pub const MIN_RECOVERY: usize = 136;
    pub const MIN_RECOVERY_TIMELINE: usize = 144;
    pub const MAX_CONNECTIONS: usize = 180;
    pub const MAX_WORKER_PROCESSES: usize = 184;
    pub const MAX_WAL_SENDERS: usize = 188;
    pub const MAX_PREPARED: usize = 192;
    pub const MAX_LOCKS: usize = 196;
    pub const PAGE_SIZE: usize = 224;
    pub const SEGMENT_SIZE: usize = 228;
    pub const CHECKSUM_VERSION: usize = 252;
    pub const CRC_UNTIL_17: usize = 288;
    pub const CRC_18: usize = 292;
}

fn parse(bytes: &[u8]) -> Result<ControlData, Fault> {
    let short = || Fault::Torn(format!("it is only {} bytes long", bytes.len()));
    let crc_at = match number(bytes, offset::CONTROL_VERSION).ok_or_else(short)? {
        1300 | 1700 => offset::CRC_UNTIL_17,
        1800 => offset::CRC_18,
        0 => return Err(Fault::Torn("it is empty".to_owned())),
        other => {
            return Err(Fault::Layout(format!(
                "its layout version {other} is none of PostgreSQL 13 to 18's"
            )));
        }
    };
    let crc = number(bytes, crc_at).ok_or_else(short)?;
    if crc32c::crc32c(&bytes[..crc_at]) != crc {
        return Err(Fault::Torn("its checksum does not match its content".to_owned()));
    }
    let word = |at: usize| number(bytes, at).ok_or_else(short);
    let lsn = |at: usize| long(bytes, at).map(Lsn).ok_or_else(short);
    let state = word(offset::STATE)?;
    Ok(ControlData {
        file: ControlFile {
            system_id: SystemId(long(bytes, offset::SYSTEM_ID).ok_or_else(short)?),
            state: state_of(state).ok_or_else(|| Fault::Layout(format!("its state {state} is unknown")))?,
            checkpoint: lsn(offset::CHECKPOINT)?,
            redo: lsn(offset::REDO)?,
            timeline: TimelineId(word(offset::TIMELINE)?),
            min_recovery: lsn(offset::MIN_RECOVERY)?,
            checksums: word(offset::CHECKSUM_VERSION)? != 0,
        },
        min_recovery_timeline: TimelineId(word(offset::MIN_RECOVERY_TIMELINE)?),
        segment_size: size(word(offset::SEGMENT_SIZE)?, SEGMENT_SIZES, "WAL segment")?,
        page_size: size(word(offset::PAGE_SIZE)?, PAGE_SIZES, "WAL page")?,
        limits: StandbyLimits {
            max_connections: word(offset::MAX_CONNECTIONS)?,
            max_worker_processes: word(offset::MAX_WORKER_PROCESSES)?,
            max_wal_senders: word(offset::MAX_WAL_SENDERS)?,
            max_prepared_transactions: word(offset::MAX_PREPARED)?,
            max_locks_per_transaction: word(offset::MAX_LOCKS)?,
        },
    })
}

/// What PostgreSQL can be built and made with, bytes.
const SEGMENT_SIZES: RangeInclusive<u32> = 1 << 20..=1 << 30;
const PAGE_SIZES: RangeInclusive<u32> = 1 << 10..=1 << 16;

fn size(size: u32, possible: RangeInclusive<u32>, of: &str) -> Result<u64, Fault> {
    if size.is_power_of_two() && possible.contains(&size) {
        Ok(u64::from(size))
    } else {
        Err(Fault::Layout(format!(
            "its {of} size of {size} bytes is none that PostgreSQL knows"
        )))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn state_of(number: u32) -> Option<ControlState> {
    Some(match number {
        0 => ControlState::StartingUp,
        1 => ControlState::ShutDown,
        2 => ControlState::ShutDownInRecovery,
        3 => ControlState::ShuttingDown,
        4 => ControlState::InCrashRecovery,
        5 => ControlState::InArchiveRecovery,
        6 => ControlState::InProduction,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes of a control file of `version` with a correct checksum.
    fn sample(version: u32, crc_at: usize) -> Vec<u8> {
        let mut bytes = vec![0u8; 8192];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(offset::CONTROL_VERSION, version);
        put(offset::STATE, 1);
        put(offset::TIMELINE, 7);
        put(offset::PAGE_SIZE, 8192);
        put(offset::SEGMENT_SIZE, 16 << 20);
        put(offset::CHECKSUM_VERSION, 1);
        put(offset::CHECKPOINT, 0x0100_0028);
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_ne_bytes());
        bytes
    }

    #[test]
    fn reads_both_layouts() {
        for (version, crc_at) in [
            (1300, offset::CRC_UNTIL_17),
            (1700, offset::CRC_UNTIL_17),
            (1800, offset::CRC_18),
        ] {
            let control = parse(&sample(version, crc_at)).expect("a sound control file");
            assert_eq!(control.file.state, ControlState::ShutDown);
            assert_eq!(control.file.timeline, TimelineId(7));
            assert!(control.file.checksums);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let sound = sample(1300, offset::CRC_UNTIL_17);
        for at in (0..offset::CRC_UNTIL_17 + 4).filter(|at| !(8..12).contains(at)) {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x10;
            assert!(
                matches!(parse(&damaged), Err(Fault::Torn(_))),
                "a flip at byte {at} went unnoticed"
            );
        }
    }

    #[test]
    fn truncated_empty_and_foreign_files_are_refused() {
        let sound = sample(1800, offset::CRC_18);
        assert!(matches!(parse(&sound[..100]), Err(Fault::Torn(_))));
        assert!(matches!(parse(&[]), Err(Fault::Torn(_))));
        assert!(matches!(parse(&[0; 8192]), Err(Fault::Torn(_))));
        assert!(matches!(
            parse(&sample(1900, offset::CRC_18)),
            Err(Fault::Layout(_))
        ));
    }

    proptest! {
        #[test]
        fn a_mangled_control_file_is_refused_unless_what_counts_is_as_it_was(
            (version, bytes) in (0..3_usize).prop_flat_map(|which| {
                let (version, crc_at) =
                    [(1300, offset::CRC_UNTIL_17), (1700, offset::CRC_UNTIL_17), (1800, offset::CRC_18)][which];
                let counts = sample(version, crc_at)[..crc_at + 4].to_vec();
                (Just((version, crc_at)), mangled::bytes(&counts))
            }),
        ) {
            let sound = sample(version.0, version.1);
            if let Ok(found) = parse(&bytes) {
                prop_assert_eq!(&bytes[..version.1 + 4], &sound[..version.1 + 4]);
                prop_assert_eq!(found, parse(&sound).expect("sound"));
            }
        }

        #[test]
        fn any_content_under_a_right_checksum_gives_sizes_that_can_be_counted_with(
            mut bytes in proptest::collection::vec(any::<u8>(), 300..400),
            layout in 0..3_usize,
            sizes in (0..32_u32, 0..32_u32),
        ) {
            let (version, crc_at) =
                [(1300_u32, offset::CRC_UNTIL_17), (1700, offset::CRC_UNTIL_17), (1800, offset::CRC_18)][layout];
            bytes[offset::CONTROL_VERSION..offset::CONTROL_VERSION + 4].copy_from_slice(&version.to_ne_bytes());
            bytes[offset::STATE..offset::STATE + 4].copy_from_slice(&1_u32.to_ne_bytes());
            let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            put(offset::PAGE_SIZE, 1 << sizes.0);
            put(offset::SEGMENT_SIZE, 1 << sizes.1);
            let crc = crc32c::crc32c(&bytes[..crc_at]);
            bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_ne_bytes());
            if let Ok(control) = parse(&bytes) {
                prop_assert!((1 << 20..=1 << 30).contains(&control.segment_size));
                prop_assert!((1 << 10..=1 << 16).contains(&control.page_size));
            }
        }
    }
}
