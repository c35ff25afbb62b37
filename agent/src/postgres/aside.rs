//! Putting data out of the way without losing it.

use super::{Instance, PgError, durable_file, rewind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

impl Instance {
    /// Renames the data directory to `<data_dir>.diverged-<UTC time>`, leaves a note in it that says `why`, and returns
    /// the new name. Nothing is deleted.
    ///
    /// # Errors
    /// When a server or a job uses it, there is none, or the rename fails.
    pub fn set_data_aside(&self, why: &str) -> Result<PathBuf, PgError> {
        let _claim = self.claim("set the data directory aside", "setting data aside")?;
        let data_dir = &self.config().data_dir;
        let place = free_name(
            &self
                .config()
                .beside(&format!(".diverged-{}", utc_stamp(crate::wall_time::now()))),
        );
        std::fs::rename(data_dir, &place).map_err(PgError::file("rename", data_dir))?;
        durable_file::sync_parent(data_dir)?;
        let note = place.join("pgctl-set-aside.txt");
        if let Err(error) = durable_file::replace(&note, &format!("{why}\n"), self.account(), 0o600) {
            tracing::warn!(%error, "could not leave a note in the data directory that was set aside");
        }
        rewind::forget_unfinished(&self.config().state_dir)?;
        self.data_dir_replaced();
        Ok(place)
    }
}

impl Instance {
    /// A name that is free for the data that a restore sets aside.
    #[must_use]
    pub fn place_before_restore(&self) -> PathBuf {
        let stamp = utc_stamp(crate::wall_time::now());
        free_name(&self.config().beside(&format!(".before-restore-{stamp}")))
    }

    /// Leaves no data directory, so that a backup can be restored: the old one is at `aside` afterwards. Called again, the
    /// one that was restored since is removed.
    ///
    /// # Errors
    /// When a server or a job uses the data directory, or it cannot be renamed or removed.
    pub fn make_way_for_restore(&self, aside: &Path) -> Result<(), PgError> {
        let _claim = self.claim("set the data directory aside", "setting data aside")?;
        let data_dir = &self.config().data_dir;
        if aside.exists() {
            remove_tree(data_dir)?;
        } else if data_dir.exists() {
            std::fs::rename(data_dir, aside).map_err(PgError::file("rename", data_dir))?;
        }
        durable_file::sync_parent(data_dir)?;
        self.data_dir_replaced();
        Ok(())
    }

    /// Whether there is a data directory with something in it.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.condition() != super::data_dir::Condition::Absent
    }

    /// Removes a data directory that a restore has made where there was none.
    ///
    /// # Errors
    /// When a server or a job uses it, or it cannot be removed.
    pub fn remove_restored(&self) -> Result<(), PgError> {
        let _claim = self.claim("remove the restored data", "removing data")?;
        remove_tree(&self.config().data_dir)?;
        self.data_dir_replaced();
        Ok(())
    }

    /// Makes `aside` the data directory again, in place of what was restored. Whether or not it has come so far before.
    ///
    /// # Errors
    /// When a server or a job uses the data directory, or it cannot be renamed or removed.
    pub fn put_back(&self, aside: &Path) -> Result<(), PgError> {
        let _claim = self.claim("put the old data back", "putting data back")?;
        let data_dir = &self.config().data_dir;
        // Once it is gone from there, what lies in its place is the old data.
        if aside.exists() {
            remove_tree(data_dir)?;
            std::fs::rename(aside, data_dir).map_err(PgError::file("rename", aside))?;
            durable_file::sync_parent(data_dir)?;
        }
        self.data_dir_replaced();
        Ok(())
    }
}

fn remove_tree(path: &Path) -> Result<(), PgError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PgError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// `path`, or the first of `path-2`, `path-3`... that is not taken.
pub(super) fn free_name(path: &Path) -> PathBuf {
    let numbered = (2u32..).map(|number| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!("-{number}"));
        path.with_file_name(name)
    });
    let mut names = std::iter::once(path.to_owned()).chain(numbered);
    names
        .find(|name| !name.exists())
        .unwrap_or_else(|| path.to_owned())
}

/// `20261121T134501Z`. For names only.
pub(super) fn utc_stamp(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Counted from 1 March of the year 0, so that the leap day is the last day of a year of this count.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_civil_dates() {
        let stamp = |seconds| utc_stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(stamp(0), "19700101T000000Z");
        assert_eq!(stamp(951_782_400), "20000229T000000Z");
        assert_eq!(stamp(1_795_221_901), "20261121T004501Z");
        assert_eq!(stamp(4_107_542_399), "21000228T235959Z");
    }

    #[test]
    fn a_taken_name_is_numbered() {
        let dir = tempfile::tempdir().expect("a folder");
        let wanted = dir.path().join("data.diverged-x");
        assert_eq!(free_name(&wanted), wanted);
        std::fs::create_dir(&wanted).expect("to take the name");
        assert_eq!(free_name(&wanted), dir.path().join("data.diverged-x-2"));
    }
}
