//! When something is due that recurs: `every 6h`, or five fields as cron has them. All times are UTC.
//!
//! The only place where the wall clock counts. What depends on it is when a backup is taken, and nothing else.

use std::fmt;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;
/// How far ahead a due time is looked for: a leap day comes round within eight years.
const DAYS_AHEAD: u64 = 366 * 8;

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At each multiple of so many milliseconds since 1970.
    Every(u64),
    /// At the minutes that match.
    Cron(Cron),
}

/// Which minutes match; a bit for each value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Where both days are restricted, one of them is enough, as cron has it.
    either_day: bool,
}

/// What is wrong with a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("give `every` and a length such as 30m, 6h or 1d, or five fields as cron has them")]
    Form,
    #[error("every {0}: it must be 1m to 366d")]
    Length(String),
    #[error("{field} {text:?} must be {range}, `*`, a list, a range or a step such as */6")]
    Field {
        field: &'static str,
        text: String,
        range: &'static str,
    },
    #[error("no day matches it")]
    Never,
}

impl Schedule {
    /// Reads one; empty text means that nothing is due ever.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn parse(text: &str) -> Result<Option<Schedule>, ScheduleError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let schedule = match words.as_slice() {
            [] => return Ok(None),
            ["every", length] => Schedule::Every(length_ms(length)?),
            [minute, hour, day, month, weekday] => Schedule::Cron(Cron {
                minutes: field("the minute", minute, 0, 59, "0 to 59")?,
                hours: field("the hour", hour, 0, 23, "0 to 23")?,
                days: field("the day", day, 1, 31, "1 to 31")?,
                months: field("the month", month, 1, 12, "1 to 12")?,
                weekdays: weekdays(weekday)?,
                either_day: *day != "*" && *weekday != "*",
            }),
            _ => return Err(ScheduleError::Form),
        };
        // The 30th of February is no day.
        if schedule.next_after(0).is_none() {
            return Err(ScheduleError::Never);
        }
        Ok(Some(schedule))
    }

    /// The last due time at or before `now`, and after `since`; milliseconds since 1970.
    #[must_use]
    pub fn last_due(&self, now: u64, since: u64) -> Option<u64> {
        let found = match self {
            Schedule::Every(length) => Some(now - now % length),
            Schedule::Cron(cron) => {
                let mut day = now / DAY_MS;
                let mut latest = now % DAY_MS / MINUTE_MS;
                loop {
                    if let Some(minute) = cron.last_minute(day, latest) {
                        break Some(day * DAY_MS + minute * MINUTE_MS);
                    }
                    if day * DAY_MS <= since {
                        break None;
                    }
                    day -= 1;
                    latest = 1439;
                }
            }
        };
        found.filter(|due| *due > since)
    }

    /// The first due time after `now`, milliseconds since 1970.
    #[must_use]
    pub fn next_after(&self, now: u64) -> Option<u64> {
        match self {
            Schedule::Every(length) => (now - now % length).checked_add(*length),
            Schedule::Cron(cron) => {
                let today = now / DAY_MS;
                let mut earliest = now % DAY_MS / MINUTE_MS + 1;
                for day in today..=today.checked_add(DAYS_AHEAD)? {
                    if let Some(minute) = cron.first_minute(day, earliest) {
                        return (day * DAY_MS).checked_add(minute * MINUTE_MS);
                    }
                    earliest = 0;
                }
                None
            }
        }
    }
}

impl Cron {
    fn matches_day(&self, day: u64) -> bool {
        let (month, day_of_month) = month_and_day(day);
        // 1970-01-01 was a Thursday.
        let weekday = (day + 4) % 7;
        let (of_month, of_week) = (has(self.days, day_of_month), has(self.weekdays, weekday));
        let fits = if self.either_day {
            of_month || of_week
        } else {
            of_month && of_week
        };
        fits && has(self.months, month)
    }

    fn matches_minute(&self, minute: u64) -> bool {
        has(self.hours, minute / 60) && has(self.minutes, minute % 60)
    }

    fn last_minute(&self, day: u64, latest: u64) -> Option<u64> {
        let fits = self.matches_day(day);
        fits.then(|| (0..=latest).rev().find(|minute| self.matches_minute(*minute)))
            .flatten()
    }

    fn first_minute(&self, day: u64, earliest: u64) -> Option<u64> {
        let fits = self.matches_day(day);
        fits.then(|| (earliest..1440).find(|minute| self.matches_minute(*minute)))
            .flatten()
    }
}

fn has(bits: u64, value: u64) -> bool {
    bits >> value & 1 == 1
}

fn length_ms(text: &str) -> Result<u64, ScheduleError> {
    let wrong = || ScheduleError::Length(text.to_owned());
    let unit = match text.bytes().last() {
        Some(b'm') => MINUTE_MS,
        Some(b'h') => 60 * MINUTE_MS,
        Some(b'd') => DAY_MS,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let length = number.checked_mul(unit).ok_or_else(wrong)?;
    if (MINUTE_MS..=366 * DAY_MS).contains(&length) {
        Ok(length)
    } else {
        Err(wrong())
    }
}

/// Reads `*`, `5`, `1-5`, `*/6`, `1-30/2`, and lists of these.
fn field(
    name: &'static str,
    text: &str,
    low: u64,
    high: u64,
    range: &'static str,
) -> Result<u64, ScheduleError> {
    let wrong = || ScheduleError::Field {
        field: name,
        text: text.to_owned(),
        range,
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (span, step) = match part.split_once('/') {
            Some((span, step)) => (span, step.parse::<u64>().map_err(|_| wrong())?),
            None => (part, 1),
        };
        let (first, last) = match span.split_once('-') {
            _ if span == "*" => (low, high),
            Some((first, last)) => (
                first.parse().map_err(|_| wrong())?,
                last.parse().map_err(|_| wrong())?,
            ),
            None => {
                let only: u64 = span.parse().map_err(|_| wrong())?;
                (only, if part.contains('/') { high } else { only })
            }
        };
        if step == 0 || first < low || last > high || first > last {
            return Err(wrong());
        }
        let mut value = first;
        while value <= last {
            bits |= 1 << value;
            value += step;
        }
    }
    Ok(bits)
}

/// 0 to 7 (both ends are Sunday), or names.
fn weekdays(text: &str) -> Result<u64, ScheduleError> {
    let names = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let mut numbers = text.to_ascii_lowercase();
    for (number, name) in names.iter().enumerate() {
        numbers = numbers.replace(name, &number.to_string());
    }
    let bits = field("the weekday", &numbers, 0, 7, "0 to 7 or sun to sat").map_err(|error| match error {
        ScheduleError::Field { field, range, .. } => ScheduleError::Field {
            field,
            text: text.to_owned(),
            range,
        },
        other => other,
    })?;
    Ok(bits | bits >> 7 & 1)
}

/// The month and the day of the month, `days` after 1970-01-01.
fn month_and_day(days: u64) -> (u64, u64) {
    // Counted from 1 March of the year 0, so that the leap day is the last day of a year of this count.
    let days = days.saturating_add(719_468);
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (month, day)
}

impl fmt::Display for Schedule {
    /// For messages; the settings keep the operator's own words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Every(length) => write!(f, "every {} min", length / MINUTE_MS),
            Schedule::Cron(_) => f.write_str("by the calendar"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;
    /// Saturday, 2026-11-21 00:00 UTC.
    const DAY: u64 = 20_778 * DAY_MS;

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(text).expect(text).expect(text)
    }

    #[test]
    fn due_times_by_the_calendar() {
        let cases = [
            ("0 2 * * *", DAY + 3 * HOUR, DAY + 2 * HOUR, DAY + 26 * HOUR),
            ("0 2 * * *", DAY + 2 * HOUR, DAY + 2 * HOUR, DAY + 26 * HOUR),
            ("0 2 * * *", DAY + HOUR, DAY - 22 * HOUR, DAY + 2 * HOUR),
            (
                "30 */6 * * *",
                DAY + HOUR,
                DAY + HOUR / 2,
                DAY + 6 * HOUR + HOUR / 2,
            ),
            // The Sunday before, and the next one.
            ("0 0 * * 0", DAY, DAY - 6 * DAY_MS, DAY + DAY_MS),
            ("0 0 * * sun", DAY, DAY - 6 * DAY_MS, DAY + DAY_MS),
            ("0 0 * * 7", DAY, DAY - 6 * DAY_MS, DAY + DAY_MS),
            ("0 0 * * mon-fri", DAY, DAY - DAY_MS, DAY + 2 * DAY_MS),
            ("0 0 1 * *", DAY, DAY - 20 * DAY_MS, DAY + 10 * DAY_MS),
            // The first of the month, or a Monday.
            ("0 0 1 * mon", DAY, DAY - 5 * DAY_MS, DAY + 2 * DAY_MS),
            (
                "15,45 1 * * *",
                DAY + HOUR + HOUR / 2,
                DAY + HOUR + HOUR / 4,
                DAY + HOUR + 3 * HOUR / 4,
            ),
            ("every 6h", DAY + 7 * HOUR, DAY + 6 * HOUR, DAY + 12 * HOUR),
            ("every 1d", DAY, DAY, DAY + DAY_MS),
        ];
        for (text, now, last, next) in cases {
            assert_eq!(schedule(text).last_due(now, 0), Some(last), "{text} before {now}");
            assert_eq!(schedule(text).next_after(now), Some(next), "{text} after {now}");
        }
    }

    #[test]
    fn what_was_due_before_the_schedule_was_set_is_not_due() {
        let daily = schedule("0 2 * * *");
        assert_eq!(daily.last_due(DAY + HOUR, DAY - 22 * HOUR), None);
        assert_eq!(daily.last_due(DAY + HOUR, DAY - 23 * HOUR), Some(DAY - 22 * HOUR));
        assert_eq!(schedule("every 6h").last_due(DAY + HOUR, DAY), None);
    }

    #[test]
    fn a_leap_day_is_found_and_no_day_is_refused() {
        let leap = schedule("0 0 29 2 *");
        // 2028-02-29.
        assert_eq!(leap.next_after(DAY), Some(21_243 * DAY_MS));
        assert_eq!(Schedule::parse("0 0 30 2 *"), Err(ScheduleError::Never));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "daily",
            "every",
            "every 6",
            "every 0h",
            "every 400d",
            "every 1x",
            "0 2 * *",
            "60 2 * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "x * * * *",
            "0 0 * * xyz",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text} was taken");
        }
        assert_eq!(Schedule::parse("  "), Ok(None));
    }

    proptest! {
        #[test]
        fn the_next_due_time_is_the_last_one_once_it_has_come(
            minute in 0..60_u64, hour in 0..24_u64, now in 0..4_102_444_800_000_u64,
        ) {
            let schedule = schedule(&format!("{minute} {hour} * * *"));
            let next = schedule.next_after(now).expect("each day has one");
            prop_assert!(next > now && next - now <= DAY_MS);
            prop_assert_eq!(schedule.last_due(next, 0), Some(next));
            prop_assert_eq!(schedule.last_due(next - 1, 0).is_none_or(|last| last <= now), true);
        }

        #[test]
        fn rubbish_is_refused_or_has_due_times(text in mangled::text("*/15 2-4 1,15 * mon")) {
            if let Ok(Some(schedule)) = Schedule::parse(&text) {
                prop_assert!(schedule.next_after(DAY).is_some());
            }
        }
    }
}
