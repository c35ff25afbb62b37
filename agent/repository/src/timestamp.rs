//! Times as people write them. A zone must be given: the operator's, the server's and UTC are rarely the same.

const DAY: i64 = 86_400;

/// Reads `2026-11-21 14:03:00+01`, also with `T`, fractions of a second, `Z`, ` UTC` and `+01:30`: ms since 1970.
/// `None` for anything else, a time without a zone included.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    let (date, rest) = text.split_once([' ', 'T'])?;
    let (year, rest_of_date) = date.split_once('-')?;
    let (month, day) = rest_of_date.split_once('-')?;
    let zone_at = rest.find(['+', '-', 'Z', ' ', 'U'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let mut clock = clock.split(':');
    let (hour, minute) = (digits(clock.next()?, 23)?, digits(clock.next()?, 59)?);
    let (second, fraction) = match clock.next() {
        None => (0, 0),
        Some(seconds) => {
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
            if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let padded = format!("{fraction:0<3}");
            (digits(whole, 60)?, padded.get(..3)?.parse().ok()?)
        }
    };
    if clock.next().is_some() || year.len() != 4 {
        return None;
    }
    let days = days(year.parse().ok()?, digits(month, 12)?, digits(day, 31)?)?;
    let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset(zone.trim())?;
    Some(seconds * 1000 + fraction)
}

/// `2026-11-21 13:03:00.250+00`
#[must_use]
pub fn show(ms: i64) -> String {
    let (seconds, fraction) = (ms.div_euclid(1000), ms.rem_euclid(1000));
    let (day, clock) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, date) = civil(day);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02}.{fraction:03}+00")
}

fn digits(text: &str, most: i64) -> Option<i64> {
    let plain = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain
        .then(|| text.parse().ok())
        .flatten()
        .filter(|number| *number <= most)
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "UTC") {
        return Some(0);
    }
    let (sign, rest) = match zone.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, zone.strip_prefix('+')?),
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if rest.len() == 4 => rest.split_at_checked(2)?,
        None => (rest, "0"),
    };
    Some(sign * (digits(hours, 15)? * 3600 + digits(minutes, 59)? * 60))
}

/// Days since 1970 (Howard Hinnant's days_from_civil).
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if month < 1 || day < 1 {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    // The 31st of April and the like come back as another day.
    (civil(days) == (year, month, day)).then_some(days)
}

/// Year, month and day of the month of a number of days since 1970.
pub(crate) fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_a_zone_are_read() {
        for (text, ms) in [
            ("1970-01-01 00:00:00+00", 0),
            ("2026-11-21T07:23:19Z", 1_795_245_799_000),
            ("2026-11-21 08:23:19.25+01", 1_795_245_799_250),
            ("2026-11-21 07:23:19 UTC", 1_795_245_799_000),
            ("2026-11-21 01:53:19-05:30", 1_795_245_799_000),
            ("2026-11-21 12:53:19.123456+0530", 1_795_245_799_123),
            ("2024-02-29 00:00+00", 1_709_164_800_000),
        ] {
            assert_eq!(parse(text), Some(ms), "{text}");
            assert_eq!(parse(&show(ms)), Some(ms), "{}", show(ms));
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for text in [
            "",
            "2026-11-21",
            "2026-11-21 07:23:19",
            "yesterday",
            "2026-02-30 00:00:00Z",
            "2026-13-01 00:00:00Z",
            "2026-11-21 25:00:00Z",
            "26-11-21 07:00:00Z",
            "2026-11-21 07:23:19+éé",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
