//! The settings by name: one table, from which the configuration file's `[bootstrap]`, `pgctl config` and the
//! reference page are made.

use super::{BackupSourceRule, Settings, SettingsError, StonithMode, SyncMode};
use crate::timing::TimingProfile;

/// One setting of the cluster.
pub struct SettingKey {
    /// Its name, with a dot before a part of `timing`.
    pub name: &'static str,
    /// What may be given, with the unit.
    pub allowed: &'static str,
    /// What it does.
    pub doc: &'static str,
    get: fn(&Settings) -> String,
    set: fn(&mut Settings, &str) -> bool,
}

/// A name and a value that do not make a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// There is no setting of that name.
    #[error("there is no setting {key}")]
    UnknownKey { key: String },
    /// The value is not of the right form.
    #[error("{key} = \"{value}\" is not understood: it must be {allowed}")]
    BadValue {
        key: String,
        value: String,
        allowed: &'static str,
    },
    /// The value is of the right form and out of its range.
    #[error(transparent)]
    Refused(#[from] SettingsError),
}

macro_rules! number {
    ($name:literal, $allowed:literal, $doc:literal, $($field:ident).+) => {
        SettingKey {
            name: $name,
            allowed: $allowed,
            doc: $doc,
            get: |settings| settings.$($field).+.to_string(),
            set: |settings, text| text.trim().parse().map(|number| settings.$($field).+ = number).is_ok(),
        }
    };
}

/// Every setting but the version, in the order in which they are shown.
pub const SETTING_KEYS: &[SettingKey] = &[
    SettingKey {
        name: "timing",
        allowed: "lan-fast, default or wan",
        doc: "The terms of the lease, by the name of a profile. The five `timing.` settings give them one by one.",
        get: |settings| {
            let profile = TimingProfile::ALL
                .into_iter()
                .find(|profile| profile.timing() == settings.timing);
            profile.map_or("custom", TimingProfile::name).to_owned()
        },
        set: |settings, text| {
            let profile = TimingProfile::ALL
                .into_iter()
                .find(|profile| profile.name() == text.trim());
            profile
                .map(|profile| settings.timing = profile.timing())
                .is_some()
        },
    },
    number!(
        "timing.renew_ms",
        "milliseconds, at most a quarter of lease_ms",
        "How often the holder renews the lease.",
        timing.renew_ms
    ),
    number!(
        "timing.lease_ms",
        "milliseconds",
        "How long the holder may write after it sent a renewal that a majority acknowledged.",
        timing.lease_ms
    ),
    number!(
        "timing.fence_ms",
        "milliseconds",
        "The longest time from the end of the lease to the last reply that can leave the node.",
        timing.fence_ms
    ),
    number!(
        "timing.promise_ms",
        "milliseconds, 100 to 600000, above lease_ms + fence_ms",
        "How long a voter is bound after it acknowledged a renewal.",
        timing.promise_ms
    ),
    number!(
        "timing.clock_error_ppm",
        "parts per million, below 1000000",
        "The largest rate error of a host's clock.",
        timing.clock_error_ppm
    ),
    SettingKey {
        name: "sync_mode",
        allowed: "quorum, strict or async",
        doc: "What a commit waits for. `quorum`: for `sync_standbys` standbys; with too few left that is recorded, writes \
              go on, and nothing fails over by itself until a standby is back in sync. `strict`: with too few left, writes \
              wait. `async`: for nobody; a failover may lose up to `max_lag_bytes`.",
        get: |settings| sync_mode_name(settings.sync_mode).to_owned(),
        set: |settings, text| {
            let mode = [SyncMode::Quorum, SyncMode::Strict, SyncMode::Async]
                .into_iter()
                .find(|mode| sync_mode_name(*mode) == text.trim());
            mode.map(|mode| settings.sync_mode = mode).is_some()
        },
    },
    number!(
        "sync_standbys",
        "a number, 1 to 16",
        "How many standbys must have a commit on disk before it is acknowledged.",
        sync_standbys
    ),
    number!(
        "max_lag_bytes",
        "bytes",
        "In `async` mode, the most WAL that an automatic failover may lose.",
        max_lag_bytes
    ),
    number!(
        "sync_remove_after_ms",
        "milliseconds, 100 to 600000",
        "How long a standby of the synchronous set may be gone before it is taken out of it.",
        sync_remove_after_ms
    ),
    number!(
        "sync_degrade_after_ms",
        "milliseconds, 100 to 600000",
        "In `quorum` mode, how long commits may wait for want of a standby before that is recorded and writes go on.",
        sync_degrade_after_ms
    ),
    number!(
        "slot_budget_bytes",
        "bytes, 64 MiB to 1 PiB",
        "The most WAL that a replication slot may keep.",
        slot_budget_bytes
    ),
    number!(
        "failover_pause_ms",
        "milliseconds, 0 to 3600000",
        "The longest pause between automatic failovers that follow each other: two seconds after a short epoch, twice as \
         long after each further one. A fence receipt needs no pause.",
        failover_pause_ms
    ),
    number!(
        "switchover_deadline_ms",
        "milliseconds, 1000 to 3600000",
        "How long a switchover may prepare, and how long it may take to stop the old primary.",
        switchover_deadline_ms
    ),
    number!(
        "hang_after_ms",
        "milliseconds, 1000 to 600000",
        "How long a server may leave an open session, a new one, or a commit without an answer before it counts as hung: \
         a primary is then ended, and another node takes over, or it starts again where none can.",
        hang_after_ms
    ),
    number!(
        "io_stall_after_ms",
        "milliseconds, 1000 to 600000",
        "How long a write of 4 KiB to the volume of the data or of the WAL may take before it counts as stalled: a primary \
         then gives its lease up, if another node could take over.",
        io_stall_after_ms
    ),
    number!(
        "disk_reserve_bytes",
        "bytes, 0 to 1 TiB; 0: off",
        "Below how many free bytes a volume counts as full, or a tenth of it where that is less. A primary whose WAL volume \
         is full is switched over to a node that has twice as much.",
        disk_reserve_bytes
    ),
    number!(
        "disk_ballast_bytes",
        "bytes, 0 to 64 GiB; 0: none",
        "What the agent keeps allocated on each volume, or a hundredth of it where that is less. It is given up when the \
         volume is full, so that the server can start and clean up, and made again when there is room.",
        disk_ballast_bytes
    ),
    SettingKey {
        name: "stonith",
        allowed: "none, best_effort or required",
        doc: "Whether the machine of a primary that was lost is turned off by the others, through the fence devices of their \
              node files. `best_effort`: beside the failover, which does not wait. `required`: no failover before the device \
              says that the machine is off, or the primary itself has said that its server ended.",
        get: |settings| settings.stonith.name().to_owned(),
        set: |settings, text| {
            let mode = StonithMode::ALL
                .into_iter()
                .find(|mode| mode.name() == text.trim());
            mode.map(|mode| settings.stonith = mode).is_some()
        },
    },
    number!(
        "stonith_deadline_ms",
        "milliseconds, 1000 to 600000",
        "How long one attempt to turn a machine off may take, until its device says that it is off.",
        stonith_deadline_ms
    ),
    number!(
        "stonith_pause_ms",
        "milliseconds, 100 to 600000",
        "The pause after an attempt that failed.",
        stonith_pause_ms
    ),
    number!(
        "stonith_tries",
        "a number, 1 to 100",
        "After how many attempts `best_effort` gives up; `required` goes on.",
        stonith_tries
    ),
    SettingKey {
        name: "backup_schedule",
        allowed: "`every 6h` (m, h, d), or five fields as cron has them, in UTC; empty: none",
        doc: "When a base backup is due. One node takes it, a standby where there is one; if that dies, another one does.",
        get: |settings| settings.backup_schedule.clone(),
        set: |settings, text| set_schedule(&mut settings.backup_schedule, text),
    },
    SettingKey {
        name: "drill_schedule",
        allowed: "as backup_schedule",
        doc: "When the newest backup is restored into scratch space on a standby's node, to see that it can be.",
        get: |settings| settings.drill_schedule.clone(),
        set: |settings, text| set_schedule(&mut settings.drill_schedule, text),
    },
    SettingKey {
        name: "drill_sql",
        allowed: "SQL; empty: nothing",
        doc: "What the restored server is asked in a drill, besides. An error fails the drill; the rows are kept with what it found.",
        get: |settings| settings.drill_sql.clone(),
        set: |settings, text| {
            text.clone_into(&mut settings.drill_sql);
            true
        },
    },
    SettingKey {
        name: "drill_database",
        allowed: "the name of a database",
        doc: "The database that `drill_sql` is for.",
        get: |settings| settings.drill_database.clone(),
        set: |settings, text| {
            text.trim().clone_into(&mut settings.drill_database);
            !settings.drill_database.is_empty()
        },
    },
    SettingKey {
        name: "dump_schedule",
        allowed: "as backup_schedule",
        doc: "When databases are dumped with `pg_dump`, from a standby where there is one.",
        get: |settings| settings.dump_schedule.clone(),
        set: |settings, text| set_schedule(&mut settings.dump_schedule, text),
    },
    SettingKey {
        name: "dump_databases",
        allowed: "names of databases, separated by commas; empty: all, and the globals",
        doc: "What `dump_schedule` dumps.",
        get: |settings| settings.dump_databases.clone(),
        set: |settings, text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            settings.dump_databases = names.collect::<Vec<_>>().join(",");
            true
        },
    },
    number!(
        "dump_keep",
        "a number; 0: all",
        "The dumps of how many runs of `dump_schedule` are kept; older ones go when the next run is over.",
        dump_keep
    ),
    SettingKey {
        name: "expire_schedule",
        allowed: "as backup_schedule",
        doc: "When what the repositories' `retention` does not keep is marked, and what was marked a grace ago is deleted.",
        get: |settings| settings.expire_schedule.clone(),
        set: |settings, text| set_schedule(&mut settings.expire_schedule, text),
    },
    SettingKey {
        name: "verify_schedule",
        allowed: "as backup_schedule",
        doc: "When `verify_share_percent` of every repository is read, another part each day. What is damaged or missing is taken \
              from another repository that has it whole; what is left raises `verify-alarm`.",
        get: |settings| settings.verify_schedule.clone(),
        set: |settings, text| set_schedule(&mut settings.verify_schedule, text),
    },
    number!(
        "verify_share_percent",
        "percent, 1 to 100",
        "How much of every repository `verify_schedule` reads: with 5, everything within 20 days.",
        verify_share_percent
    ),
    number!(
        "wal_queue_max_bytes",
        "bytes, 256 MiB to 1 PiB; 0: never",
        "How much WAL may wait on a node to be archived before the oldest that cannot be archived is given up. That leaves a \
         hole in the archive, which is marked, and orders a full backup. Without it the disk of the server fills up.",
        wal_queue_max_bytes
    ),
    number!(
        "backup_window_minutes",
        "minutes, 1 to 1440",
        "How long after it was due scheduled work may begin; then it is skipped, until it is due again.",
        backup_window_minutes
    ),
    number!(
        "backup_jitter_minutes",
        "minutes, less than backup_window_minutes",
        "By how much at most the beginning is put off, differently for each cluster and due time.",
        backup_jitter_minutes
    ),
    SettingKey {
        name: "backup_from",
        allowed: "prefer-standby, standby-only or any",
        doc: "Which server a scheduled backup is taken from. `prefer-standby`: from the primary only if there is no other data \
              node, or if no standby can for ten minutes. `any`: from the primary at once if no standby can.",
        get: |settings| settings.backup_from.name().to_owned(),
        set: |settings, text| {
            let rule = BackupSourceRule::ALL
                .into_iter()
                .find(|rule| rule.name() == text.trim());
            rule.map(|rule| settings.backup_from = rule).is_some()
        },
    },
    number!(
        "backup_lag_bytes",
        "bytes, 0 to 1 PiB",
        "How far behind the primary a standby may be to be backed up.",
        backup_lag_bytes
    ),
    number!(
        "backup_rate_mb",
        "MB a second, 0 to 1000; 0: as fast as it goes",
        "How fast a scheduled backup reads from the server at most.",
        backup_rate_mb
    ),
];

fn set_schedule(schedule: &mut String, text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    *schedule = words.join(" ");
    crate::schedule::Schedule::parse(schedule).is_ok()
}

/// The name of a mode in settings and on the command line.
#[must_use]
pub fn sync_mode_name(mode: SyncMode) -> &'static str {
    match mode {
        SyncMode::Quorum => "quorum",
        SyncMode::Strict => "strict",
        SyncMode::Async => "async",
    }
}

impl SettingKey {
    /// The value in `settings`, as [`Settings::assign`] would take it.
    #[must_use]
    pub fn value(&self, settings: &Settings) -> String {
        (self.get)(settings)
    }
}

impl Settings {
    /// Gives the setting `key` the value `text`. The whole is not validated: several may have to change together.
    ///
    /// # Errors
    /// No such setting, or a value that is not of its form.
    pub fn assign(&mut self, key: &str, text: &str) -> Result<(), AssignError> {
        let Some(setting) = SETTING_KEYS.iter().find(|setting| setting.name == key) else {
            return Err(AssignError::UnknownKey { key: key.to_owned() });
        };
        if (setting.set)(self, text) {
            Ok(())
        } else {
            Err(AssignError::BadValue {
                key: key.to_owned(),
                value: text.to_owned(),
                allowed: setting.allowed,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_takes_back_the_value_that_it_shows() {
        for setting in SETTING_KEYS {
            let mut settings = Settings::default();
            let value = setting.value(&settings);
            assert_eq!(settings.assign(setting.name, &value), Ok(()), "{}", setting.name);
            assert_eq!(
                settings,
                Settings::default(),
                "{} = {value} changed something",
                setting.name
            );
        }
    }

    #[test]
    fn every_field_has_a_key() {
        let json = serde_json::to_value(Settings::default()).expect("plain data");
        let fields = json.as_object().expect("a struct");
        for field in fields.keys().filter(|field| *field != "version") {
            assert!(
                SETTING_KEYS.iter().any(|key| key.name == field),
                "{field} is not in the table"
            );
        }
        for field in fields["timing"].as_object().expect("a struct").keys() {
            let name = format!("timing.{field}");
            assert!(
                SETTING_KEYS.iter().any(|key| key.name == name),
                "{name} is not in the table"
            );
        }
    }

    #[test]
    fn a_profile_sets_all_five_terms_and_is_shown_by_name() {
        let mut settings = Settings::default();
        settings.assign("timing", "lan-fast").expect("a profile");
        assert_eq!(settings.timing, TimingProfile::LanFast.timing());
        settings.assign("timing.promise_ms", "1100").expect("a number");
        assert_eq!(SETTING_KEYS[0].value(&settings), "custom");
    }

    #[test]
    fn wrong_values_and_unknown_keys_leave_the_settings_alone() {
        let mut settings = Settings::default();
        for (key, value) in [
            ("sync_mode", "sometimes"),
            ("sync_standbys", "-1"),
            ("timing", "fast"),
            ("max_lag_bytes", "1MB"),
            ("x", "1"),
        ] {
            assert!(settings.assign(key, value).is_err(), "{key} = {value} was taken");
        }
        assert_eq!(settings, Settings::default());
    }
}
