use super::model::{LogFormat, NodeConfig};
use super::{archive, fencing};
use agent_core::cluster::SETTING_KEYS;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// The effective configuration as TOML, with `# from ...` behind each value.
pub(super) fn dump(config: &NodeConfig, origins: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut section = "";
    let values = effective(config);
    for (key, value) in &values {
        let Some((head, rest)) = key.split_once('.') else {
            continue;
        };
        if head != section {
            section = head;
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{}[{section}]", if text.is_empty() { "" } else { "\n" });
        }
        let origin = match origins.get(key) {
            Some(origin) => origin.as_str(),
            // `timing = "wan"` gave each of the five.
            None if rest.starts_with("timing.") && origins.contains_key("bootstrap.timing") => {
                "bootstrap.timing"
            }
            None => "default",
        };
        let _ = writeln!(text, "{rest} = {value}  # from {origin}");
    }
    text
}

/// Each key that has a value, with that value, in the order of the table of keys.
fn effective(config: &NodeConfig) -> Vec<(String, toml::Value)> {
    let text = |text: &str| toml::Value::String(text.to_owned());
    let path = |path: &Path| toml::Value::String(path.display().to_string());
    let table = |table: &BTreeMap<String, String>| {
        toml::Value::Table(
            table
                .iter()
                .map(|(key, value)| (key.clone(), text(value)))
                .collect(),
        )
    };
    let members = config.cluster.members.iter().map(|member| {
        let mut entry = toml::Table::new();
        entry.insert("name".to_owned(), text(&member.name));
        entry.insert("peer".to_owned(), text(&member.peer.to_string()));
        entry.insert("witness".to_owned(), toml::Value::Boolean(member.witness));
        toml::Value::Table(entry)
    });
    let mut values = vec![
        ("node.name", text(&config.node.name)),
        ("node.state_dir", path(&config.node.state_dir)),
        ("node.tags", table(&config.node.tags)),
        ("node.nofailover", toml::Value::Boolean(config.node.nofailover)),
        ("cluster.name", text(&config.cluster.name)),
        ("cluster.members", toml::Value::Array(members.collect())),
        ("peer.listen", text(&config.peer.listen.to_string())),
        ("peer.advertise", text(&config.peer.advertise.to_string())),
        ("http.listen", text(&config.http.listen.to_string())),
        ("http.advertise", text(&config.http.advertise.to_string())),
    ];
    if let Some(postgres) = &config.postgres {
        values.push(("postgres.data_dir", path(&postgres.data_dir)));
        values.extend(
            postgres
                .bin_dir
                .as_deref()
                .map(|dir| ("postgres.bin_dir", path(dir))),
        );
        values.push(("postgres.listen", text(&postgres.listen.to_string())));
        values.push(("postgres.advertise", text(&postgres.advertise.to_string())));
        values.push(("postgres.socket_dir", path(&postgres.socket_dir)));
        values.extend(
            postgres
                .os_user
                .as_deref()
                .map(|user| ("postgres.os_user", text(user))),
        );
        values.push((
            "postgres.hba",
            toml::Value::Array(postgres.hba.iter().map(|line| text(line)).collect()),
        ));
        values.push(("postgres.parameters", table(&postgres.parameters)));
    }
    values.push(("fencing.kernel_lease", text(config.fencing.kernel_lease.name())));
    values.push(("fencing.watchdog", text(config.fencing.watchdog.name())));
    values.push(("fencing.watchdog_device", path(&config.fencing.watchdog_device)));
    let timeout = i64::try_from(config.fencing.watchdog_timeout_s).unwrap_or(i64::MAX);
    values.push(("fencing.watchdog_timeout_s", toml::Value::Integer(timeout)));
    values.push(("fencing.devices", fencing::shown(&config.fencing.devices)));
    values.push(("archive.repositories", archive::shown(&config.repositories)));
    values.extend(
        config
            .rollout_role
            .as_deref()
            .map(|role| ("rollout.role", text(role))),
    );
    values.push(("log.level", text(&config.log.level)));
    let format = match config.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    values.push(("log.format", text(format)));
    let settings = SETTING_KEYS
        .iter()
        .filter(|setting| setting.name != "timing")
        .map(|setting| {
            let value = setting.value(&config.bootstrap);
            (
                format!("bootstrap.{}", setting.name),
                value.parse().map_or_else(|_| text(&value), toml::Value::Integer),
            )
        });
    values
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .chain(settings)
        .collect()
}

#[cfg(test)]
pub(super) fn keys_shown(config: &NodeConfig) -> Vec<String> {
    effective(config).into_iter().map(|(key, _)| key).collect()
}
