//! Every key of the configuration file, declared once: what is refused as unknown, and what the reference page tells.

use agent_core::cluster::{SETTING_KEYS, Settings};

/// One key.
pub(super) struct Key {
    pub(super) name: String,
    /// What may be given.
    pub(super) allowed: String,
    /// What stands where it is absent: a value, or in words.
    pub(super) default: String,
    pub(super) doc: String,
}

const KEYS: &[(&str, &str, &str, &str)] = &[
    (
        "node.name",
        "1 to 40 of a-z 0-9 _ -",
        "required",
        "This node's name, unique in the cluster. It is kept for the life of the node.",
    ),
    (
        "node.state_dir",
        "an absolute path, outside of the data directory",
        "required",
        "Where the agent keeps its Raft log, vote and pledge. Losing it means that the node must be removed and added again.",
    ),
    (
        "node.tags",
        "a table of texts",
        "{}",
        "Tags of your own, for `pgctl list` and for `/replica?tag_NAME=VALUE`.",
    ),
    (
        "node.nofailover",
        "true or false",
        "false",
        "Never promote this node by itself; an operator still can.",
    ),
    (
        "cluster.name",
        "1 to 60 of a-z A-Z 0-9 _ . -",
        "required",
        "The cluster's name, the same on every node.",
    ),
    (
        "cluster.members",
        "a list of { name, peer, witness }",
        "required",
        "The nodes that form the cluster at its very first start, with the `host:port` of their agents' gRPC ports; \
         `witness = true` for a node without PostgreSQL. On a node that is added later: the nodes to ask.",
    ),
    (
        "peer.listen",
        "IP:port",
        "0.0.0.0:7432",
        "Where the agent listens for other agents and for `pgctl`: TCP, and UDP for the lease.",
    ),
    (
        "peer.advertise",
        "host:port",
        "this node's `peer` in cluster.members",
        "How other agents reach this one. Required on a node that is not in cluster.members and listens on all addresses.",
    ),
    (
        "http.listen",
        "IP:port",
        "0.0.0.0:8008",
        "Where the agent answers health checks and metrics.",
    ),
    (
        "http.advertise",
        "host:port",
        "the host of peer.advertise, the port of http.listen",
        "How others reach that port.",
    ),
    (
        "postgres.data_dir",
        "an absolute path",
        "required",
        "The data directory. No [postgres] at all makes the node a witness.",
    ),
    (
        "postgres.bin_dir",
        "an absolute path",
        "the newest version found",
        "Where `postgres`, `initdb`, `pg_basebackup` and `pg_rewind` are.",
    ),
    (
        "postgres.listen",
        "IP:port",
        "0.0.0.0:5432",
        "Where the server listens.",
    ),
    (
        "postgres.advertise",
        "host:port",
        "postgres.listen, where that is one address; else required",
        "How clients and standbys reach the server.",
    ),
    (
        "postgres.socket_dir",
        "an absolute path",
        "/run/pgctl",
        "Where the server's Unix socket is.",
    ),
    (
        "postgres.os_user",
        "a user name",
        "the agent's own user",
        "The user that the server runs as; needed only where the agent runs as root.",
    ),
    (
        "postgres.hba",
        "a list of lines",
        "[]",
        "Lines for pg_hba.conf, after those that replication needs.",
    ),
    (
        "postgres.parameters",
        "a table",
        "{}",
        "Server settings, as in postgresql.conf. The ones that safety depends on are the agent's: it says so where it overrides one.",
    ),
    (
        "fencing.kernel_lease",
        "off, automatic or required",
        "automatic",
        "Let clients of the server through only while a timer in the kernel runs, which ends before the lease does: a \
         server whose agent is frozen stops answering by itself. Needs nf_tables and CAP_NET_ADMIN. automatic: where \
         the machine permits it; required: the agent does not start without it.",
    ),
    (
        "fencing.watchdog",
        "off, automatic or required",
        "off",
        "Whether the machine's watchdog is armed while this node holds the lease, so that the machine is reset if the agent \
         stops. `automatic`: where the device is there and the terms of the lease leave room for its timeout. `required`: \
         the agent does not start without the device, and the node is never promoted before it is armed.",
    ),
    (
        "fencing.watchdog_device",
        "an absolute path",
        "/dev/watchdog",
        "The watchdog's device. Nothing else may use it: not systemd's RuntimeWatchdogSec, not watchdogd.",
    ),
    (
        "fencing.watchdog_timeout_s",
        "seconds, 1 to 60",
        "1",
        "After how long without a sign of the agent the device resets the machine. `--check-config` prints whether the \
         terms of the lease leave room for it.",
    ),
    (
        "fencing.devices",
        "a list of { node, delay_s, and one of: agent with options, command, http }",
        "[]",
        "How this node can turn other nodes' machines off (docs/operations.md, \"Fencing devices\"). Give the same list to \
         every node: any of them may have to do it. The secrets in it stay in this file, so make it readable by the agent \
         alone.",
    ),
    (
        "archive.repositories",
        "a list of { name, one of path, s3, gcs and azure, compression, compression_level, at most one of key_file, key_variable, \
         key_command, and retention = { last, within, daily, weekly, monthly, yearly, grace } }",
        "[]",
        "Where WAL and base backups go (docs/backup.md): every file into each of them. Give the same list to every node. \
         Without one, archiving is left to the operator. Takes effect with the next start of the server.",
    ),
    (
        "rollout.role",
        "a role of the server's",
        "none: schema changes are refused",
        "The role in whose name `pgctl ddl apply` changes schemas: the agent logs in as it over the Unix socket. Whoever reaches \
         the agent's gRPC port can do with it what it may do, so give it no more than it needs (the owner of the \
         application's tables, no superuser), and keep that port to yourself. The same on every node.",
    ),
    (
        "log.level",
        "error, warn, info, debug, trace, or tracing directives",
        "info",
        "How much the agent writes.",
    ),
    (
        "log.format",
        "text or json",
        "text",
        "The form of the log's lines.",
    ),
];

/// Every key, in the order in which they are shown.
pub(super) fn all() -> Vec<Key> {
    let defaults = Settings::default();
    let own = KEYS.iter().map(|(name, allowed, default, doc)| Key {
        name: (*name).to_owned(),
        allowed: (*allowed).to_owned(),
        default: (*default).to_owned(),
        doc: (*doc).to_owned(),
    });
    let cluster = SETTING_KEYS.iter().map(|setting| Key {
        name: format!("bootstrap.{}", setting.name),
        allowed: setting.allowed.to_owned(),
        default: setting.value(&defaults),
        doc: setting.doc.to_owned(),
    });
    own.chain(cluster).collect()
}

/// The environment variable that overrides `key`.
pub(super) fn variable(key: &str) -> String {
    format!("PGCTL_{}", key.replace('.', "__").to_ascii_uppercase())
}
