//! What is kept allocated on a volume so that it can be given up when the volume is full: a server that has no room
//! for its WAL cannot start, nor clean up.

use super::volume::Room;
use nix::fcntl::posix_fallocate;
use std::fs::File;
use std::io::Error;
use std::path::Path;

/// It is given up when less than this is free, bytes: one segment of WAL.
const FULL: u64 = 16 << 20;
/// The ballast is at most this part of its volume.
const PART: u64 = 100;

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Keep,
    Release,
    Make,
}

/// How large it is to be, bytes: what the setting says, or a hundredth of a small volume.
pub(super) fn wanted(setting: u64, room: Room) -> u64 {
    // In whole pages, so that what is found is what was asked for.
    setting.min(room.total / PART) / 4096 * 4096
}

/// What to do with `held` bytes where `want` are to be kept.
pub(super) fn plan(room: Room, held: u64, want: u64) -> Plan {
    // A file system may round what it allocates up by a little.
    let fits = held >= want && held <= want + want / 8;
    let is_full = room.free < FULL.min(want);
    // Made only where there is far more room than is taken, so that it is not given up again at once.
    let has_room = room.free >= want.saturating_mul(4);
    match held {
        0 if want > 0 && has_room => Plan::Make,
        0 => Plan::Keep,
        _ if is_full || want == 0 || (!fits && has_room) => Plan::Release,
        _ => Plan::Keep,
    }
}

/// Allocates `bytes` at `path`.
pub(super) fn make(path: &Path, bytes: u64) -> Result<(), Error> {
    let file = File::create(path)?;
    let length = i64::try_from(bytes).map_err(Error::other)?;
    if let Err(error) = posix_fallocate(&file, 0, length) {
        // A part of it would be taken for what another setting had asked for.
        drop(file);
        std::fs::remove_file(path)?;
        return Err(error.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn free(mib: u64) -> Room {
        Room {
            free: mib * MIB,
            total: 10_000 * MIB,
        }
    }

    #[test]
    fn it_is_given_up_when_full_and_made_again_only_with_plenty_of_room() {
        let want = wanted(64 * MIB, free(0));
        assert_eq!(want, 64 * MIB);
        assert_eq!(plan(free(5_000), 0, want), Plan::Make);
        assert_eq!(plan(free(5_000), want, want), Plan::Keep);
        assert_eq!(plan(free(16), want, want), Plan::Keep);
        assert_eq!(plan(free(15), want, want), Plan::Release);
        // What was given up counts as room now; that alone must not bring it back.
        assert_eq!(plan(free(15 + 64), 0, want), Plan::Keep);
        assert_eq!(plan(free(255), 0, want), Plan::Keep);
        assert_eq!(plan(free(256), 0, want), Plan::Make);
    }

    #[test]
    fn another_setting_makes_it_anew_and_none_takes_it_away() {
        assert_eq!(plan(free(5_000), 64 * MIB, 32 * MIB), Plan::Release);
        assert_eq!(plan(free(5_000), 64 * MIB, 0), Plan::Release);
        assert_eq!(plan(free(20), 64 * MIB, 80 * MIB), Plan::Keep);
        assert_eq!(plan(free(5_000), 0, 0), Plan::Keep);
    }

    #[test]
    fn a_small_volume_gives_a_hundredth() {
        let small = Room {
            free: 90 * MIB,
            total: 100 * MIB,
        };
        assert_eq!(wanted(64 * MIB, small), MIB);
        assert_eq!(wanted(0, small), 0);
    }
}
