//! How long to wait for a lock, and when to try again: short waits, for whoever comes behind waits as long.

/// What an error of the server means for the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The locks were not to be had in time: try again.
    Locked,
    /// The session is gone, or the server goes: what became of the statement is not known.
    Lost,
    /// The server refuses it; trying again helps nobody.
    Refused,
}

/// By its SQLSTATE; `None`: the connection broke.
#[must_use]
pub fn trouble(sqlstate: Option<&str>) -> Trouble {
    match sqlstate {
        // lock_not_available, deadlock_detected, serialization_failure
        Some("55P03" | "40P01" | "40001") => Trouble::Locked,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle session timeouts, too many connections
        None | Some("57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" | "53300") => Trouble::Lost,
        // A standby: the server is being demoted, or not promoted yet.
        Some("25006") => Trouble::Lost,
        Some(code) if code.starts_with("08") => Trouble::Lost,
        Some(_) => Trouble::Refused,
    }
}

/// The `lock_timeout` of the try with that number (from 0), milliseconds: always below `deadlock_timeout`'s default.
#[must_use]
pub fn lock_timeout_ms(try_number: u32) -> u64 {
    match try_number {
        0 => 100,
        1 => 200,
        2 => 400,
        _ => 800,
    }
}

/// How long to wait after the try with that number, milliseconds. `roll` is a random number from 0 to 999: the whole span is
/// used, so that two who wait for the same lock do not meet again.
#[must_use]
pub fn pause_ms(try_number: u32, roll: u32) -> u64 {
    let most = 100_u64
        .saturating_mul(1 << try_number.min(10))
        .min(PAUSE_LONGEST_MS);
    (most * u64::from(roll.min(999)) / 1000).max(10)
}

/// The longest wait between two tries.
const PAUSE_LONGEST_MS: u64 = 10_000;

const MODES: [&str; 8] = [
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
];

/// A number for each mode, higher for what excludes more; 0 for one that is not known.
#[must_use]
pub fn strength(mode: &str) -> usize {
    MODES
        .iter()
        .position(|known| *known == mode)
        .map_or(0, |at| at + 1)
}

/// The lock modes that cannot be held beside `mode`, by PostgreSQL's table of conflicts; all where the mode is not known.
#[must_use]
pub fn conflicting(mode: &str) -> &'static [&'static str] {
    match mode {
        "AccessShareLock" => &MODES[7..],
        "RowShareLock" => &MODES[6..],
        "RowExclusiveLock" => &MODES[4..],
        "ShareUpdateExclusiveLock" => &MODES[3..],
        "ShareLock" => &[
            "RowExclusiveLock",
            "ShareUpdateExclusiveLock",
            "ShareRowExclusiveLock",
            "ExclusiveLock",
            "AccessExclusiveLock",
        ],
        "ShareRowExclusiveLock" => &MODES[2..],
        "ExclusiveLock" => &MODES[1..],
        _ => &MODES,
    }
}
