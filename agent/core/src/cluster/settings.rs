use super::StonithMode;
use crate::timing::{Timing, TimingProfile};
use serde::{Deserialize, Serialize};

/// What a commit waits for, and when a failover may happen by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncMode {
    /// `ANY k`. With too few standbys left, that is recorded first, writes go on, and nothing fails over by itself
    /// until a standby is back in sync.
    Quorum,
    /// `ANY k`. With too few standbys left, writes wait.
    Strict,
    /// Commits wait for nobody; a failover may lose up to `max_lag_bytes`.
    Async,
}

/// Which server a scheduled backup is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupSourceRule {
    /// A standby; the primary if there is no other node, or if no standby can for a while.
    PreferStandby,
    /// Never the primary.
    StandbyOnly,
    /// A standby, or the primary at once if none can.
    Any,
}

impl BackupSourceRule {
    pub const ALL: [BackupSourceRule; 3] = [
        BackupSourceRule::PreferStandby,
        BackupSourceRule::StandbyOnly,
        BackupSourceRule::Any,
    ];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BackupSourceRule::PreferStandby => "prefer-standby",
            BackupSourceRule::StandbyOnly => "standby-only",
            BackupSourceRule::Any => "any",
        }
    }
}

/// The settings of a cluster, the same on every node, changed by `pgctl config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Counts the changes; a change names the version that it was made from.
    pub version: u64,
    /// The terms of the lease.
    pub timing: Timing,
    /// What a commit waits for.
    pub sync_mode: SyncMode,
    /// How many standbys must have a commit (`k`), 1 to 16.
    pub sync_standbys: u32,
    /// In `async` mode, the most WAL that an automatic failover may lose, bytes.
    pub max_lag_bytes: u64,
    /// How long a member of the synchronous set may be gone before it is taken out of it, milliseconds.
    pub sync_remove_after_ms: u64,
    /// How long commits may wait for want of a standby before `quorum` mode records the degrade, milliseconds.
    pub sync_degrade_after_ms: u64,
    /// The most WAL that a replication slot may keep, bytes (`max_slot_wal_keep_size`).
    pub slot_budget_bytes: u64,
    /// The longest pause between automatic failovers that follow each other, milliseconds. It is two seconds after the
    /// first short epoch and doubles with each further one; a fence receipt needs no pause.
    pub failover_pause_ms: u64,
    /// How long a switchover may prepare, and how long it may take to stop the old primary, milliseconds.
    pub switchover_deadline_ms: u64,
    /// How long a server may leave a session, a new one or a commit without an answer before it counts as hung,
    /// milliseconds.
    pub hang_after_ms: u64,
    /// How long a write to the disk may take before the disk counts as stalled, milliseconds.
    pub io_stall_after_ms: u64,
    /// Below how many free bytes a volume counts as full, or a tenth of it where that is less; 0: never.
    pub disk_reserve_bytes: u64,
    /// What is kept allocated on each volume to be given up when it is full, bytes, or a hundredth of it where that is
    /// less; 0: nothing.
    pub disk_ballast_bytes: u64,
    /// Whether the others turn off the machine of a holder whose lease ran out.
    pub stonith: StonithMode,
    /// How long one attempt to turn a machine off may take, until the device says that it is off, milliseconds.
    pub stonith_deadline_ms: u64,
    /// How long after an attempt that failed the next one follows, milliseconds.
    pub stonith_pause_ms: u64,
    /// After how many attempts `best_effort` gives up, 1 to 100. `required` goes on.
    pub stonith_tries: u32,
    /// When a backup is due, as [`crate::schedule::Schedule`] reads it; empty: never by itself.
    pub backup_schedule: String,
    /// When a restore is tried, likewise.
    pub drill_schedule: String,
    /// What a restored server is asked in a drill, besides; empty: nothing. An error fails the drill.
    pub drill_sql: String,
    /// The database that `drill_sql` is for.
    pub drill_database: String,
    /// When databases are dumped, likewise.
    pub dump_schedule: String,
    /// Which, separated by commas; empty: all, and the globals.
    pub dump_databases: String,
    /// The dumps of how many runs of `dump_schedule` are kept; 0: all.
    pub dump_keep: u32,
    /// When the repositories' retention is carried out, likewise.
    pub expire_schedule: String,
    /// When a share of the repositories is read, likewise.
    pub verify_schedule: String,
    /// How large that share is, percent, 1 to 100.
    pub verify_share_percent: u32,
    /// How many bytes of WAL may wait on a node to be archived before the oldest is given up; 0: never.
    pub wal_queue_max_bytes: u64,
    /// How long after it was due scheduled work may begin, minutes.
    pub backup_window_minutes: u64,
    /// By how much of it the beginning is put off, differently for each cluster and time, minutes.
    pub backup_jitter_minutes: u64,
    /// Which server a scheduled backup is taken from.
    pub backup_from: BackupSourceRule,
    /// How far a standby may be behind to be taken, bytes.
    pub backup_lag_bytes: u64,
    /// How fast a scheduled backup reads from the server, MB a second; 0: as fast as it goes.
    pub backup_rate_mb: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            version: 0,
            timing: TimingProfile::Default.timing(),
            sync_mode: SyncMode::Quorum,
            sync_standbys: 1,
            max_lag_bytes: 1 << 20,
            sync_remove_after_ms: 1_000,
            sync_degrade_after_ms: 3_000,
            slot_budget_bytes: 16 << 30,
            failover_pause_ms: 30_000,
            switchover_deadline_ms: 30_000,
            hang_after_ms: 5_000,
            io_stall_after_ms: 3_000,
            disk_reserve_bytes: 64 << 20,
            disk_ballast_bytes: 64 << 20,
            stonith: StonithMode::None,
            stonith_deadline_ms: 20_000,
            stonith_pause_ms: 2_000,
            stonith_tries: 3,
            backup_schedule: String::new(),
            drill_schedule: String::new(),
            drill_sql: String::new(),
            drill_database: "postgres".to_owned(),
            dump_schedule: String::new(),
            dump_databases: String::new(),
            dump_keep: 0,
            expire_schedule: String::new(),
            verify_schedule: String::new(),
            verify_share_percent: 5,
            wal_queue_max_bytes: 0,
            backup_window_minutes: 360,
            backup_jitter_minutes: 0,
            backup_from: BackupSourceRule::PreferStandby,
            backup_lag_bytes: 256 << 20,
            backup_rate_mb: 0,
        }
    }
}

/// A setting that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The lease would not be safe, or would not live.
    #[error(
        "the timing breaks \"{rule}\": {arithmetic}; choose a profile (lan-fast, default, wan) or raise promise_ms"
    )]
    Timing { rule: String, arithmetic: String },
    /// A schedule is none.
    #[error("{key} = \"{value}\" is no schedule: {error}")]
    Schedule {
        key: &'static str,
        value: String,
        error: crate::schedule::ScheduleError,
    },
    /// A number is out of its range.
    #[error("{key} = {value} is out of range: it must be {range}")]
    OutOfRange {
        key: &'static str,
        value: u64,
        range: &'static str,
    },
}

impl Settings {
    /// Refuses what would be unsafe or senseless.
    ///
    /// # Errors
    /// The first setting that is wrong, and what it may be.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if let Some(broken) = self.timing.check().into_iter().find(|check| !check.holds) {
            return Err(SettingsError::Timing {
                rule: broken.rule,
                arithmetic: broken.arithmetic,
            });
        }
        let within = |key, value: u64, low: u64, high: u64, range| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(SettingsError::OutOfRange { key, value, range })
            }
        };
        within(
            "timing.promise_ms",
            self.timing.promise_ms,
            100,
            600_000,
            "100 to 600000",
        )?;
        within("sync_standbys", u64::from(self.sync_standbys), 1, 16, "1 to 16")?;
        within(
            "sync_remove_after_ms",
            self.sync_remove_after_ms,
            100,
            600_000,
            "100 to 600000",
        )?;
        within(
            "sync_degrade_after_ms",
            self.sync_degrade_after_ms,
            100,
            600_000,
            "100 to 600000",
        )?;
        within(
            "slot_budget_bytes",
            self.slot_budget_bytes,
            64 << 20,
            1 << 50,
            "64 MiB to 1 PiB",
        )?;
        within(
            "failover_pause_ms",
            self.failover_pause_ms,
            0,
            3_600_000,
            "0 to 3600000",
        )?;
        within(
            "switchover_deadline_ms",
            self.switchover_deadline_ms,
            1_000,
            3_600_000,
            "1000 to 3600000",
        )?;
        within(
            "hang_after_ms",
            self.hang_after_ms,
            1_000,
            600_000,
            "1000 to 600000",
        )?;
        within(
            "io_stall_after_ms",
            self.io_stall_after_ms,
            1_000,
            600_000,
            "1000 to 600000",
        )?;
        within(
            "disk_reserve_bytes",
            self.disk_reserve_bytes,
            0,
            1 << 40,
            "0 to 1 TiB",
        )?;
        within(
            "disk_ballast_bytes",
            self.disk_ballast_bytes,
            0,
            64 << 30,
            "0 to 64 GiB",
        )?;
        within(
            "stonith_deadline_ms",
            self.stonith_deadline_ms,
            1_000,
            600_000,
            "1000 to 600000",
        )?;
        within(
            "stonith_pause_ms",
            self.stonith_pause_ms,
            100,
            600_000,
            "100 to 600000",
        )?;
        within("stonith_tries", u64::from(self.stonith_tries), 1, 100, "1 to 100")?;
        for (key, value) in [
            ("backup_schedule", &self.backup_schedule),
            ("drill_schedule", &self.drill_schedule),
            ("dump_schedule", &self.dump_schedule),
            ("expire_schedule", &self.expire_schedule),
            ("verify_schedule", &self.verify_schedule),
        ] {
            crate::schedule::Schedule::parse(value).map_err(|error| SettingsError::Schedule {
                key,
                value: value.clone(),
                error,
            })?;
        }
        let share = u64::from(self.verify_share_percent);
        within("verify_share_percent", share, 1, 100, "1 to 100")?;
        if self.wal_queue_max_bytes != 0 {
            let (low, high) = (256 << 20, 1 << 50);
            let range = "0, or 256 MiB to 1 PiB";
            within("wal_queue_max_bytes", self.wal_queue_max_bytes, low, high, range)?;
        }
        within(
            "backup_window_minutes",
            self.backup_window_minutes,
            1,
            1_440,
            "1 to 1440",
        )?;
        let window = self.backup_window_minutes - 1;
        within(
            "backup_jitter_minutes",
            self.backup_jitter_minutes,
            0,
            window,
            "less than backup_window_minutes",
        )?;
        within(
            "backup_lag_bytes",
            self.backup_lag_bytes,
            0,
            1 << 50,
            "0 to 1 PiB",
        )?;
        within(
            "backup_rate_mb",
            u64::from(self.backup_rate_mb),
            0,
            1_000,
            "0 to 1000",
        )
    }
}
