use std::fmt;

/// The modes of PostgreSQL's table locks, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockMode {
    AccessShare,
    RowShare,
    RowExclusive,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    Exclusive,
    AccessExclusive,
}

impl LockMode {
    /// From LOCK TABLE's words, in lower case.
    #[must_use]
    pub fn of_words(words: &str) -> Option<LockMode> {
        Some(match words {
            "access share" => LockMode::AccessShare,
            "row share" => LockMode::RowShare,
            "row exclusive" => LockMode::RowExclusive,
            "share update exclusive" => LockMode::ShareUpdateExclusive,
            "share" => LockMode::Share,
            "share row exclusive" => LockMode::ShareRowExclusive,
            "exclusive" => LockMode::Exclusive,
            "access exclusive" => LockMode::AccessExclusive,
            _ => return None,
        })
    }

    /// What others cannot do meanwhile.
    #[must_use]
    pub fn blocks(self) -> &'static str {
        match self {
            LockMode::AccessExclusive => "reads and writes",
            LockMode::Share | LockMode::ShareRowExclusive | LockMode::Exclusive => "writes",
            _ => "no reads or writes",
        }
    }
}

/// As in `pg_locks.mode`.
impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LockMode::AccessShare => "AccessShareLock",
            LockMode::RowShare => "RowShareLock",
            LockMode::RowExclusive => "RowExclusiveLock",
            LockMode::ShareUpdateExclusive => "ShareUpdateExclusiveLock",
            LockMode::Share => "ShareLock",
            LockMode::ShareRowExclusive => "ShareRowExclusiveLock",
            LockMode::Exclusive => "ExclusiveLock",
            LockMode::AccessExclusive => "AccessExclusiveLock",
        })
    }
}
