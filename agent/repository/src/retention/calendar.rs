//! The day, week, month and year of a moment, in UTC, as numbers that tell one from the next.

use crate::timestamp::civil;

const DAY_MS: i64 = 86_400_000;

/// A stretch of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stretch {
    Day,
    Week,
    Month,
    Year,
}

impl Stretch {
    /// Which one `ms` lies in: larger is later, and two moments have the same number if they are in the same one.
    pub(super) fn of(self, ms: i64) -> i64 {
        let day = ms.div_euclid(DAY_MS);
        let (year, month, _) = civil(day);
        match self {
            Stretch::Day => day,
            // 1970-01-01 was a Thursday; ISO weeks begin on Monday.
            Stretch::Week => (day + 3).div_euclid(7),
            Stretch::Month => year * 12 + month,
            Stretch::Year => year,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::parse;

    #[test]
    fn moments_lie_in_the_same_stretch_or_in_the_next() {
        let at = |text: &str| parse(text).expect("a time");
        for (stretch, a, b, apart) in [
            (Stretch::Day, "2026-11-21 00:00Z", "2026-11-21 23:59:59Z", 0),
            (Stretch::Day, "2026-11-21 23:59:59Z", "2026-11-22 00:00Z", 1),
            // The 16th of November 2026 is a Monday.
            (Stretch::Week, "2026-11-16 00:00Z", "2026-11-22 23:59Z", 0),
            (Stretch::Week, "2026-11-15 23:59Z", "2026-11-16 00:00Z", 1),
            // The week goes on over the end of the year.
            (Stretch::Week, "2026-12-28 00:00Z", "2027-01-03 23:59Z", 0),
            (Stretch::Month, "2026-11-01 00:00Z", "2026-11-30 23:59Z", 0),
            (Stretch::Month, "2026-12-31 23:59Z", "2027-01-01 00:00Z", 1),
            (Stretch::Year, "2026-01-01 00:00Z", "2026-12-31 23:59Z", 0),
            (Stretch::Year, "1969-12-31 23:59Z", "1970-01-01 00:00Z", 1),
        ] {
            let found = stretch.of(at(b)) - stretch.of(at(a));
            assert_eq!(found, apart, "{stretch:?} {a} {b}");
        }
    }
}
