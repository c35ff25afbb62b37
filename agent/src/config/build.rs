//! From what was given to a [`NodeConfig`]: each value's own form first, then what must hold between them.

use super::model::{Cluster, ClusterMember, HostPort, Listener, Log, LogFormat, Node, NodeConfig, Postgres};
use super::reader::{Reader, scalar};
use super::{contradictions, nearest};
use ::config::{Value, ValueKind};
use agent_core::cluster::{SETTING_KEYS, Settings, SettingsError};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The longest path that a Unix socket can have, its name `.s.PGSQL.65535` included.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME_LEN: usize = "/.s.PGSQL.65535.lock".len();

/// The configuration with its warnings, unless something is wrong that leaves no configuration at all. Also where it
/// gives one, the reader may have noted problems.
pub(super) fn build(reader: &mut Reader) -> Option<(NodeConfig, Vec<String>)> {
    let node = node(reader);
    let cluster = cluster(reader);
    let postgres = if reader.has_section("postgres") {
        Some(postgres(reader))
    } else {
        None
    };
    let own = cluster.as_ref().zip(node.as_ref()).and_then(|(cluster, node)| {
        cluster
            .members
            .iter()
            .find(|member| member.name == node.name)
            .cloned()
    });
    // Without a name or a list of members it cannot be told whether this node is in the list.
    let stranger = own.is_none() && node.is_some() && cluster.is_some();
    let peer = peer(reader, own.as_ref(), stranger);
    let http = http(reader, peer.as_ref());
    let fencing = super::fencing::fencing(reader);
    let repositories = super::archive::repositories(reader);
    let rollout_role = rollout_role(reader);
    let bootstrap = bootstrap(reader);
    let log = log(reader);
    let config = NodeConfig {
        node: node?,
        cluster: cluster?,
        peer: peer?,
        http: http?,
        postgres: match postgres {
            None => None,
            Some(postgres) => Some(postgres?),
        },
        fencing,
        repositories,
        rollout_role,
        bootstrap,
        log: log?,
    };
    contradictions::check(reader, &config, own.as_ref());
    let warnings = contradictions::warnings(&config);
    Some((config, warnings))
}

fn node(reader: &mut Reader) -> Option<Node> {
    let mut name = reader.required("node.name");
    if name.take_if(|name| !is_node_name(name)).is_some() {
        reader.not_allowed("node.name");
    }
    let state_dir = path(reader, "node.state_dir", true);
    let tags = reader.table("node.tags");
    let nofailover = reader.truth("node.nofailover");
    Some(Node {
        name: name?,
        state_dir: state_dir?,
        tags,
        nofailover,
    })
}

fn is_node_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    (1..=40).contains(&name.len()) && name.chars().all(allowed)
}

fn cluster(reader: &mut Reader) -> Option<Cluster> {
    let name = reader.required("cluster.name");
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name
        .as_deref()
        .is_some_and(|name| name.is_empty() || name.len() > 60 || !name.chars().all(allowed))
    {
        reader.not_allowed("cluster.name");
    }
    if !reader.is_given("cluster.members") {
        reader.problem(
            "cluster.members",
            "it is missing: list the nodes, such as [{ name = \"n1\", peer = \"10.0.0.1:7432\" }, ...]",
        );
        return None;
    }
    let entries = reader.list("cluster.members");
    let mut members = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        members.extend(member(reader, index, entry));
    }
    if entries.is_empty() {
        reader.problem("cluster.members", "list at least one node");
    } else if members.len() == entries.len() {
        check_members(reader, &members);
    }
    Some(Cluster { name: name?, members })
}

fn member(reader: &mut Reader, index: usize, entry: &Value) -> Option<ClusterMember> {
    const KEY: &str = "cluster.members";
    const FIELDS: [&str; 3] = ["name", "peer", "witness"];
    let place = format!("entry {}", index + 1);
    let ValueKind::Table(table) = &entry.kind else {
        reader.problem(
            KEY,
            format!("{place} must be a table such as {{ name = \"n1\", peer = \"10.0.0.1:7432\" }}"),
        );
        return None;
    };
    for field in table.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
        let hint = nearest(field, FIELDS)
            .map(|near| format!("; did you mean {near}?"))
            .unwrap_or_default();
        reader.problem(KEY, format!("{place} has an unknown field {field}{hint}"));
    }
    let name = table.get("name").and_then(scalar).unwrap_or_default();
    if !is_node_name(&name) {
        reader.problem(
            KEY,
            format!("{place}: name = {name:?} must be 1 to 40 of a-z 0-9 _ -"),
        );
    }
    let given = table.get("peer").and_then(scalar).unwrap_or_default();
    let peer = HostPort::parse(&given);
    if peer.is_none() {
        reader.problem(
            KEY,
            format!("{place}: peer = {given:?} must be host:port, such as 10.0.0.1:7432"),
        );
    }
    let witness = match table.get("witness").map(|value| &value.kind) {
        None => Some(false),
        Some(ValueKind::Boolean(witness)) => Some(*witness),
        Some(_) => {
            reader.problem(KEY, format!("{place}: witness must be true or false"));
            None
        }
    };
    Some(ClusterMember {
        name,
        peer: peer?,
        witness: witness?,
    })
}

fn check_members(reader: &mut Reader, members: &[ClusterMember]) {
    let (mut names, mut peers) = (BTreeSet::new(), BTreeSet::new());
    for member in members {
        if !names.insert(&member.name) {
            reader.problem(
                "cluster.members",
                format!("the name {} is there twice: names must be unique", member.name),
            );
        }
        if !peers.insert(&member.peer) {
            reader.problem(
                "cluster.members",
                format!(
                    "the peer {} is there twice: addresses must be unique",
                    member.peer
                ),
            );
        }
    }
    if members.iter().all(|member| member.witness) {
        reader.problem(
            "cluster.members",
            "all are witnesses: at least one node must have a PostgreSQL",
        );
    }
}

fn peer(reader: &mut Reader, own: Option<&ClusterMember>, stranger: bool) -> Option<Listener> {
    let listen = listen(reader, "peer.listen", "0.0.0.0:7432")?;
    let advertise = match (advertise(reader, "peer.advertise"), own) {
        (Given::Yes(given), _) => given,
        (Given::Wrong, _) => return None,
        (Given::No, Some(own)) => own.peer.clone(),
        (Given::No, None) => match one_address(listen) {
            Some(address) => address,
            None if !stranger => return None,
            None => {
                reader.problem(
                    "peer.advertise",
                    "it is missing: this node is not in cluster.members and listens on all addresses, so say under \
                     which host:port the others reach it",
                );
                return None;
            }
        },
    };
    Some(Listener { listen, advertise })
}

fn http(reader: &mut Reader, peer: Option<&Listener>) -> Option<Listener> {
    let listen = listen(reader, "http.listen", "0.0.0.0:8008")?;
    let advertise = match advertise(reader, "http.advertise") {
        Given::Yes(given) => given,
        Given::Wrong => return None,
        Given::No => one_address(listen).or_else(|| {
            peer.map(|peer| HostPort {
                host: peer.advertise.host.clone(),
                port: listen.port(),
            })
        })?,
    };
    Some(Listener { listen, advertise })
}

fn postgres(reader: &mut Reader) -> Option<Postgres> {
    let data_dir = path(reader, "postgres.data_dir", true);
    let bin_dir = path(reader, "postgres.bin_dir", false);
    let listen = listen(reader, "postgres.listen", "0.0.0.0:5432");
    let advertise = match (advertise(reader, "postgres.advertise"), listen) {
        (Given::Yes(given), _) => Some(given),
        (Given::No, Some(listen)) => {
            let address = one_address(listen);
            if address.is_none() {
                reader.problem(
                    "postgres.advertise",
                    "it is missing: the server listens on all addresses, so say under which host:port clients and \
                     standbys reach it",
                );
            }
            address
        }
        (Given::Wrong, _) | (Given::No, None) => None,
    };
    let socket_dir =
        path(reader, "postgres.socket_dir", false).unwrap_or_else(|| PathBuf::from("/run/pgctl"));
    if socket_dir.as_os_str().len() + SOCKET_NAME_LEN > SOCKET_PATH_MAX {
        let most = SOCKET_PATH_MAX - SOCKET_NAME_LEN;
        reader.problem(
            "postgres.socket_dir",
            format!("it is too long for a Unix socket: at most {most} bytes"),
        );
    }
    let os_user = reader.text("postgres.os_user");
    if os_user.as_deref().is_some_and(str::is_empty) {
        reader.not_allowed("postgres.os_user");
    }
    let hba = hba(reader);
    let parameters = reader.table("postgres.parameters");
    for (name, value) in &parameters {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if name.is_empty() || !name.chars().all(plain) {
            reader.problem(
                "postgres.parameters",
                format!("{name:?} is no name of a server setting"),
            );
        }
        if value.contains(['\n', '\r', '\0']) {
            reader.problem(
                "postgres.parameters",
                format!("the value of {name} must be on one line"),
            );
        }
    }
    Some(Postgres {
        data_dir: data_dir?,
        bin_dir,
        listen: listen?,
        advertise: advertise?,
        socket_dir,
        os_user,
        hba,
        parameters,
    })
}

fn hba(reader: &mut Reader) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, value) in reader.list("postgres.hba").iter().enumerate() {
        let text = match &value.kind {
            ValueKind::String(text) => text.trim(),
            _ => "",
        };
        let kind = text.split_whitespace().next().unwrap_or_default();
        let known = [
            "local",
            "host",
            "hostssl",
            "hostnossl",
            "hostgssenc",
            "hostnogssenc",
        ]
        .contains(&kind);
        let fields = text.split_whitespace().count();
        if text.contains(['\n', '\r']) || !(known || text.starts_with('#')) || (known && fields < 4) {
            let place = index + 1;
            reader.problem(
                "postgres.hba",
                format!("line {place} = {text:?} is no line of pg_hba.conf, such as \"host all all 10.0.0.0/8 scram-sha-256\""),
            );
        } else {
            lines.push(text.to_owned());
        }
    }
    lines
}

fn rollout_role(reader: &mut Reader) -> Option<String> {
    let role = reader.text("rollout.role");
    let wrong = |role: &str| role.is_empty() || role.len() > 63 || role.chars().any(char::is_control);
    if role.as_deref().is_some_and(wrong) {
        reader.not_allowed("rollout.role");
    }
    role
}

fn bootstrap(reader: &mut Reader) -> Settings {
    let mut settings = Settings::default();
    for setting in SETTING_KEYS {
        let key = format!("bootstrap.{}", setting.name);
        let Some(text) = reader.scalar(&key) else { continue };
        // By itself on otherwise good settings, so that each wrong value is found, not only the first.
        let mut alone = Settings::default();
        match alone.assign(setting.name, &text).map(|()| alone.validate()) {
            Err(_) => reader.not_allowed(&key),
            Ok(Err(SettingsError::OutOfRange {
                key: range_of, range, ..
            })) if range_of == setting.name => {
                reader.problem(&key, format!("it must be {range}"));
            }
            Ok(Ok(()) | Err(_)) => {
                // It was taken a moment ago, and the form does not depend on the other values.
                let _ = settings.assign(setting.name, &text);
            }
        }
    }
    for broken in settings.timing.check().into_iter().filter(|check| !check.holds) {
        reader.problem(
            "bootstrap.timing",
            format!(
                "it breaks \"{}\": {}; choose a profile (lan-fast, default, wan) or raise promise_ms",
                broken.rule, broken.arithmetic
            ),
        );
    }
    settings
}

fn log(reader: &mut Reader) -> Option<Log> {
    let level = reader.text("log.level").unwrap_or_else(|| "info".to_owned());
    let directives = level.contains('=') && tracing_subscriber::EnvFilter::try_new(&level).is_ok();
    if !directives && !["error", "warn", "info", "debug", "trace"].contains(&level.as_str()) {
        reader.not_allowed("log.level");
    }
    let format = match reader.text("log.format").as_deref() {
        None | Some("text") => Some(LogFormat::Text),
        Some("json") => Some(LogFormat::Json),
        Some(_) => {
            reader.not_allowed("log.format");
            None
        }
    };
    Some(Log {
        level,
        format: format?,
    })
}

pub(super) fn path(reader: &mut Reader, key: &str, required: bool) -> Option<PathBuf> {
    let text = if required {
        reader.required(key)
    } else {
        reader.text(key)
    }?;
    let path = PathBuf::from(&text);
    let climbs = path
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    if !path.is_absolute() || climbs || text.contains(['\n', '\0', '\'']) {
        reader.problem(
            key,
            "it must be an absolute path, without \"..\", quotes or line breaks",
        );
        return None;
    }
    Some(path)
}

fn listen(reader: &mut Reader, key: &str, default: &str) -> Option<SocketAddr> {
    let text = if reader.is_given(key) {
        reader.text(key)?
    } else {
        default.to_owned()
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Some(address),
        _ => {
            reader.problem(
                key,
                format!("it must be IP:port, such as {default} (0.0.0.0 for all addresses)"),
            );
            None
        }
    }
}

enum Given {
    Yes(HostPort),
    No,
    Wrong,
}

fn advertise(reader: &mut Reader, key: &str) -> Given {
    if !reader.is_given(key) {
        return Given::No;
    }
    let Some(text) = reader.text(key) else {
        return Given::Wrong;
    };
    match HostPort::parse(&text) {
        Some(given) if !matches!(given.host.as_str(), "0.0.0.0" | "::" | "*") => Given::Yes(given),
        _ => {
            reader.problem(
                key,
                "it must be host:port under which others reach this node, such as 10.0.0.1:5432",
            );
            Given::Wrong
        }
    }
}

fn one_address(listen: SocketAddr) -> Option<HostPort> {
    (!listen.ip().is_unspecified()).then(|| HostPort {
        host: listen.ip().to_string(),
        port: listen.port(),
    })
}
