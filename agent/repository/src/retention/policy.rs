//! What the operator wants kept.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const DAY: i64 = 86_400_000;

/// A length of time as people write it: `90min`, `24h`, `14d`, `8w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Age {
    /// Milliseconds, 0 to a hundred years.
    pub ms: i64,
}

const UNITS: [(&str, i64); 5] = [
    ("w", 7 * DAY),
    ("d", DAY),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
];

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Age, String> {
        let wrong = || format!("{text:?} is no length of time: write it as 24h, 14d or 8w");
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim());
        let (_, ms) = unit.ok_or_else(wrong)?;
        number
            .checked_mul(*ms)
            .filter(|ms| *ms <= 36_525 * DAY)
            .map(|ms| Age { ms })
            .ok_or_else(|| format!("{text:?} is more than a hundred years"))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS.iter().find(|(_, ms)| self.ms != 0 && self.ms % ms == 0);
        match fits {
            Some((unit, ms)) => write!(f, "{}{unit}", self.ms / ms),
            None => write!(f, "{}s", self.ms / 1000),
        }
    }
}

impl TryFrom<String> for Age {
    type Error = String;

    fn try_from(text: String) -> Result<Age, String> {
        text.parse()
    }
}

impl From<Age> for String {
    fn from(age: Age) -> String {
        age.to_string()
    }
}

/// What is kept of one repository. A backup that any of these keeps is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// So many full backups with their increments, and all WAL since the oldest of them: 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    /// Every moment of so long ago until now can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Age>,
    /// The newest backup of each of so many days that have one, in UTC, with just the WAL that it needs itself.
    #[serde(default)]
    pub daily: u32,
    /// Likewise of weeks that begin on Monday,
    #[serde(default)]
    pub weekly: u32,
    /// of months,
    #[serde(default)]
    pub monthly: u32,
    /// and of years.
    #[serde(default)]
    pub yearly: u32,
    /// How long what is to go is marked before it goes. Default 24h.
    #[serde(default = "grace")]
    pub grace: Age,
}

fn grace() -> Age {
    Age { ms: DAY }
}

impl Default for Policy {
    /// Keeps nothing by itself.
    fn default() -> Policy {
        Policy {
            last: None,
            within: None,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            grace: grace(),
        }
    }
}

impl Policy {
    /// What is wrong with it, if anything is.
    ///
    /// # Errors
    /// The first thing that is wrong, with what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let calendar = [self.daily, self.weekly, self.monthly, self.yearly];
        if self.last.is_none() && self.within.is_none() && calendar.iter().all(|count| *count == 0) {
            return Err(
                "retention keeps nothing: give at least one of last, within, daily, weekly, monthly, yearly"
                    .to_owned(),
            );
        }
        if self.last.is_some_and(|last| !(1..=10_000).contains(&last)) {
            return Err("retention.last must be 1 to 10000".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_written() {
        for (text, ms) in [
            ("0s", 0),
            ("90s", 90_000),
            ("90min", 5_400_000),
            ("25h", 90_000_000),
            ("14d", 14 * DAY),
            ("2w", 14 * DAY),
        ] {
            let age: Age = text.parse().expect(text);
            assert_eq!(age.ms, ms, "{text}");
            assert_eq!(age.to_string().parse(), Ok(age), "{text} is written as {age}");
        }
        for text in ["", "14", "d", "-1d", "1.5d", "14 days", "99999999999w", "1é"] {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_policy_that_keeps_nothing_is_refused() {
        assert!(Policy::default().check().is_err());
        let zero = Policy {
            last: Some(0),
            ..Policy::default()
        };
        assert!(zero.check().is_err());
        let weekly = Policy {
            weekly: 1,
            ..Policy::default()
        };
        assert_eq!(weekly.check(), Ok(()));
    }
}
