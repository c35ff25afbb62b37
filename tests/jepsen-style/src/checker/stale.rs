//! Read after write: a standby that has replayed what lies beyond an acknowledged commit shows it.

use super::{Finding, Nanos};
use std::collections::BTreeMap;

/// How far a standby was when it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standby {
    /// The end of what it had replayed, as a byte of the WAL.
    pub replayed_to: u64,
    /// The timeline that it streams; `None` while it streams none. Only then do its bytes count as those of that timeline: a
    /// server that has just lost its primacy replays bytes of its own.
    pub streams: Option<u32>,
}

impl Standby {
    /// Whether it must have what was written up to there on that timeline.
    pub fn is_past(&self, timeline: u32, written_to: u64) -> bool {
        self.streams.is_some_and(|streams| streams >= timeline) && self.replayed_to >= written_to
    }
}

/// A look for a row whose insert was acknowledged.
#[derive(Clone, Debug)]
pub struct Look {
    /// Which client, and its how manieth.
    pub who: String,
    /// Where it looked.
    pub server: String,
    /// When.
    pub at: Nanos,
    /// The timeline that the row was written on.
    pub timeline: u32,
    /// The end of its commit, as a byte of the WAL.
    pub written_to: u64,
    /// How far the standby was, before the look.
    pub standby: Standby,
    /// Whether the row was there.
    pub seen: bool,
}

/// Checks every look. Valid where no acknowledged commit is lost, that is, not in async mode.
pub fn check(looks: &[Look]) -> Finding {
    let must_show = |look: &&Look| look.standby.is_past(look.timeline, look.written_to);
    let mut finding = Finding::new("read after write", looks.iter().filter(must_show).count() as u64);
    let stale: Vec<&Look> = looks
        .iter()
        .filter(|look| must_show(look) && !look.seen)
        .collect();
    finding.figures = BTreeMap::from([
        ("looks", looks.len() as u64),
        ("too_early", looks.len() as u64 - finding.looked_at),
        ("stale", stale.len() as u64),
    ]);
    for look in stale {
        finding.violated(format!(
            "{} had replayed up to {:X} of timeline {:?} and did not show {}, committed by {:X} on timeline {}",
            look.server,
            look.standby.replayed_to,
            look.standby.streams.unwrap_or(0),
            look.who,
            look.written_to,
            look.timeline
        ));
    }
    finding
}

/// Reads `1/3000148`.
pub fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Outcome;

    fn look(replayed_to: u64, streams: Option<u32>, seen: bool) -> Look {
        Look {
            who: "1/1".to_owned(),
            server: "n2".to_owned(),
            at: 0,
            timeline: 3,
            written_to: 100,
            standby: Standby { replayed_to, streams },
            seen,
        }
    }

    #[test]
    fn a_standby_that_has_the_row_holds() {
        let finding = check(&[look(100, Some(3), true), look(200, Some(4), true)]);
        assert_eq!((finding.outcome, finding.looked_at), (Outcome::Holds, 2));
    }

    #[test]
    fn a_standby_that_has_come_so_far_and_does_not_show_the_row_is_found() {
        assert_eq!(check(&[look(100, Some(3), false)]).outcome, Outcome::Violated);
        assert_eq!(check(&[look(100, Some(5), false)]).outcome, Outcome::Violated);
    }

    #[test]
    fn one_that_lags_or_replays_its_own_bytes_owes_nothing() {
        let finding = check(&[
            look(99, Some(3), false),
            look(500, None, false),
            look(500, Some(2), false),
        ]);
        assert_eq!((finding.outcome, finding.looked_at), (Outcome::Holds, 0));
        assert_eq!(finding.figures["too_early"], 3);
    }

    #[test]
    fn reads_positions_as_servers_write_them() {
        assert_eq!(lsn("0/16B3748"), Some(0x016B_3748));
        assert_eq!(lsn("1/0"), Some(1 << 32));
        assert_eq!(lsn("nonsense"), None);
    }
}
