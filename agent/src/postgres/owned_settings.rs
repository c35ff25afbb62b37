//! The settings that safety rests on, with the reason for each: what an operator sets instead does not take effect.

use super::conf_text::write_conninfo;
use super::control_file::ControlData;
use super::{InstanceConfig, ServerConf};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One setting of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub name: &'static str,
    pub value: String,
    pub why: &'static str,
}

/// The fewest walsenders and slots that a cluster of nine nodes with backups and a spare needs.
const SENDERS_MIN: u32 = 16;
/// WAL to keep so that a rewind finds the last common checkpoint, MiB.
const WAL_KEEP_MIB: u64 = 256;
/// From this version on `restore_command` can be changed while the server runs.
pub const RELOADS_RESTORE_COMMAND: u32 = 14;
/// PostgreSQL's own defaults of the settings that a standby must not have lower than its primary.
const DEFAULT_LIMITS: [(&str, u32); 4] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

const IDENTITY: &str = "the agents find the server by it";
const ROOM: &str = "members, backups and rewinds need room for their connections";
const PRIMARY_HAD: &str = "a standby does not start with less than the primary had";
const ARCHIVE: &str = "the agent archives into the repositories that were configured";
const FAST_LOSS: &str = "a lost connection must be noticed within seconds";

/// Every owned setting with its value, in the order in which it is written.
pub fn owned(
    config: &InstanceConfig,
    conf: &ServerConf,
    control: Option<&ControlData>,
    replication_user: &str,
    major: u32,
) -> Vec<Owned> {
    let mut all = Vec::new();
    let mut own = |name, value: String, why| all.push(Owned { name, value, why });
    let user = |name: &str| {
        config
            .parameters
            .get(name)
            .map(|value| value.trim().to_ascii_lowercase())
    };
    let text = |value: &str| value.to_owned();
    let in_data = |name: &str| config.data_dir.join(name).display().to_string();

    own("listen_addresses", config.listen_addresses.clone(), IDENTITY);
    own("port", config.port.to_string(), IDENTITY);
    own(
        "unix_socket_directories",
        config.socket_dir.display().to_string(),
        IDENTITY,
    );
    own("cluster_name", config.cluster_name.clone(), IDENTITY);
    own(
        "hba_file",
        in_data("pg_hba.conf"),
        "the agents keep their access rules there",
    );
    own(
        "ident_file",
        in_data("pg_ident.conf"),
        "the agents keep their access rules there",
    );
    own(
        "password_encryption",
        text("scram-sha-256"),
        "weaker password hashes can be replayed",
    );

    let wal_level = if user("wal_level").as_deref() == Some("logical") {
        "logical"
    } else {
        "replica"
    };
    own("wal_level", text(wal_level), "standbys cannot follow with less");
    own(
        "hot_standby",
        text("on"),
        "the agent asks the standby where it is",
    );
    let commit = if user("synchronous_commit").as_deref() == Some("remote_apply") {
        "remote_apply"
    } else {
        "on"
    };
    own(
        "synchronous_commit",
        text(commit),
        "a commit acknowledged with less can be lost in a failover",
    );
    if control.is_some_and(|control| !control.file.checksums) {
        own(
            "wal_log_hints",
            text("on"),
            "a rewind needs it where there are no data checksums",
        );
    }
    let senders = control
        .map_or(0, |control| control.limits.max_wal_senders)
        .max(SENDERS_MIN);
    own(
        "max_wal_senders",
        at_least(user("max_wal_senders"), senders),
        ROOM,
    );
    own(
        "max_replication_slots",
        at_least(user("max_replication_slots"), SENDERS_MIN),
        ROOM,
    );
    own(
        "superuser_reserved_connections",
        at_least(user("superuser_reserved_connections"), 5),
        ROOM,
    );
    if major >= 16 {
        own(
            "reserved_connections",
            at_least(user("reserved_connections"), 3),
            ROOM,
        );
    }
    if let Some(control) = control {
        let primary = control.limits;
        let had = [
            primary.max_connections,
            primary.max_worker_processes,
            primary.max_prepared_transactions,
            primary.max_locks_per_transaction,
        ];
        for ((name, default), had) in DEFAULT_LIMITS.into_iter().zip(had) {
            let wanted = user(name).and_then(|value| value.parse().ok()).unwrap_or(default);
            if wanted < had {
                own(name, had.to_string(), PRIMARY_HAD);
            }
        }
    }

    let keep = user("wal_keep_size")
        .and_then(|size| size_in_mib(&size))
        .unwrap_or(0)
        .max(WAL_KEEP_MIB);
    own(
        "wal_keep_size",
        format!("{keep}MB"),
        "a rewind needs the WAL back to the last common checkpoint",
    );
    let budget = conf.slot_budget_bytes.div_ceil(1 << 20);
    own(
        "max_slot_wal_keep_size",
        format!("{budget}MB"),
        "a slot must not fill the disk",
    );
    own("wal_sender_timeout", text("3s"), FAST_LOSS);
    own("wal_receiver_timeout", text("3s"), FAST_LOSS);
    own("tcp_keepalives_idle", text("5"), FAST_LOSS);
    own("tcp_keepalives_interval", text("2"), FAST_LOSS);
    own("tcp_keepalives_count", text("3"), FAST_LOSS);
    own("tcp_user_timeout", text("10s"), FAST_LOSS);
    own(
        "wal_retrieve_retry_interval",
        text("100ms"),
        "the default of 5 s is added to one failover in four",
    );
    if major >= 14 {
        own(
            "recovery_init_sync_method",
            text("syncfs"),
            "a restart must not open every file of the database",
        );
    }
    own(
        "recovery_target_timeline",
        text("latest"),
        "standbys follow the new primary",
    );
    own(
        "restart_after_crash",
        on_off(conf.restart_after_crash),
        "the cluster decides who serves after a crash",
    );
    if major >= 17 {
        own(
            "allow_alter_system",
            text("off"),
            "ALTER SYSTEM would change what the agents rely on",
        );
    }

    if let Some(commands) = &config.wal_commands {
        own(
            "archive_mode",
            text("always"),
            "a standby archives what a lost primary had not archived yet",
        );
        own("archive_command", commands.push.clone(), ARCHIVE);
        if major >= 15 {
            own("archive_library", String::new(), ARCHIVE);
        }
        if major >= 17 && user("summarize_wal").is_none() {
            own(
                "summarize_wal",
                text("on"),
                "incremental backups are made from the summaries of any member",
            );
        }
        if user("archive_timeout").is_none() {
            own(
                "archive_timeout",
                text("60s"),
                "what was committed must be archived within a bounded time",
            );
        }
        if major >= RELOADS_RESTORE_COMMAND {
            // A server that follows nobody reads what is on its own disk, and nothing else: it is to be compared, or has
            // pledged, or is to be promoted, and the archive must neither move nor delay it.
            own(
                "restore_command",
                match (&conf.recovery, &conf.upstream) {
                    (Some(_), _) => commands.recover.clone(),
                    (None, Some(_)) => commands.follow.clone(),
                    (None, None) => String::new(),
                },
                "a standby whose WAL is gone on the primary fetches it, and one that follows nobody must not",
            );
        }
    }

    own(
        "primary_conninfo",
        primary_conninfo(config, conf, replication_user),
        "the cluster decides whom to follow",
    );
    own(
        "primary_slot_name",
        conf.slot.clone().unwrap_or_default(),
        "the cluster decides whom to follow",
    );
    own(
        "synchronous_standby_names",
        conf.synchronous_standby_names.clone(),
        "the cluster records this set before it is in force",
    );
    all
}

/// The settings that a new database cluster records as its primary's, at the operator's values. Later ones can only
/// raise them, because each start is that of a standby.
pub fn initial_limits(config: &InstanceConfig) -> Vec<(&'static str, u32)> {
    let user = |name: &str| {
        config
            .parameters
            .get(name)
            .and_then(|value| value.trim().parse::<u32>().ok())
    };
    let limits = DEFAULT_LIMITS
        .into_iter()
        .map(|(name, default)| (name, user(name).unwrap_or(default)));
    let senders = user("max_wal_senders").unwrap_or(0).max(SENDERS_MIN);
    limits.chain([("max_wal_senders", senders)]).collect()
}

/// Where the password of the replication role lies for the walreceiver.
pub fn passfile(config: &InstanceConfig) -> PathBuf {
    config.data_dir.join("pgctl.pass")
}

/// `primary_conninfo`; empty without an upstream.
fn primary_conninfo(config: &InstanceConfig, conf: &ServerConf, replication_user: &str) -> String {
    let Some(upstream) = &conf.upstream else {
        return String::new();
    };
    let (port, passfile) = (upstream.port.to_string(), passfile(config).display().to_string());
    write_conninfo(&[
        ("host", &upstream.host),
        ("port", &port),
        ("user", replication_user),
        ("passfile", &passfile),
        ("application_name", &upstream.application_name),
        ("connect_timeout", "2"),
        ("keepalives_idle", "2"),
        ("keepalives_interval", "1"),
        ("keepalives_count", "3"),
        ("tcp_user_timeout", "3000"),
    ])
}

/// Settings for the server's log, for those of which the operator says nothing anywhere.
pub fn log_defaults(config: &InstanceConfig) -> BTreeMap<&'static str, String> {
    let log_dir = config.beside(".log").display().to_string();
    let pairs = [
        ("logging_collector", "on"),
        ("log_directory", &log_dir),
        ("log_filename", "postgresql-%a.log"),
        ("log_rotation_age", "1d"),
        ("log_rotation_size", "0"),
        ("log_truncate_on_rotation", "on"),
        ("log_line_prefix", "%m [%p] %q%u@%d %a "),
        ("log_checkpoints", "on"),
        ("log_lock_waits", "on"),
    ];
    pairs
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
}

/// Whether two values of a setting mean the same to the server.
pub fn same_value(ours: &str, theirs: &str) -> bool {
    let plain = |value: &str| match value.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => "on".to_owned(),
        "off" | "false" | "no" | "0" => "off".to_owned(),
        other => size_in_mib(other).map_or_else(|| other.to_owned(), |mib| format!("{mib}MB")),
    };
    plain(ours) == plain(theirs)
}

fn at_least(user: Option<String>, least: u32) -> String {
    user.and_then(|value| value.parse().ok())
        .unwrap_or(0)
        .max(least)
        .to_string()
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// A size with a unit, in MiB rounded down; a bare number is taken for MiB, as the settings asked about do.
fn size_in_mib(value: &str) -> Option<u64> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value[..digits].parse().ok()?;
    match value[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "mb" => Some(number),
        "kb" => Some(number >> 10),
        "gb" => number.checked_mul(1 << 10),
        "tb" => number.checked_mul(1 << 20),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_switches_compare_by_meaning() {
        assert!(same_value("256MB", "256 mb"));
        assert!(same_value("1024MB", "1GB"));
        assert!(same_value("on", "TRUE"));
        assert!(!same_value("on", "off"));
        assert!(!same_value("replica", "minimal"));
        assert!(!same_value("3s", "3min"));
    }
}
