//! Wall-clock times for people: `2026-11-20 18:04:05 UTC`.

/// The wall clock, for names and tables.
#[expect(clippy::disallowed_methods, reason = "for people and names only")]
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970 as a date and time in UTC.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The year, month and day of a number of days since 1970, in the Gregorian calendar. Counted in years that begin in
/// March, so that the leap day is the last one.
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = days_since_1970 + 719_468;
    let era = days / DAYS_IN_400_YEARS;
    let day_of_era = days % DAYS_IN_400_YEARS;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A span in the unit that fits it: `35 ms`, `2.1 s`, `7 min`, `3 h`, `12 d`.
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_instants() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199_999, "2024-02-29 23:59:59 UTC"),
            (1_709_251_200_000, "2024-03-01 00:00:00 UTC"),
            (4_102_444_800_000, "2100-01-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

    #[test]
    fn spans_have_the_unit_that_fits() {
        for (ms, text) in [
            (35, "35 ms"),
            (2_150, "2.1 s"),
            (420_000, "7 min"),
            (u64::MAX, "213503982334 d"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    proptest! {
        #[test]
        fn any_instant_and_any_span_can_be_told(ms in any::<u64>()) {
            prop_assert!(utc(ms).ends_with(" UTC"));
            prop_assert!(span(ms).contains(' '));
        }
    }
}
