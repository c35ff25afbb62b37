//! What must hold between values that are each right by themselves.

use super::model::{ClusterMember, FencePolicy, NodeConfig};
use super::reader::Reader;
use std::path::Path;

/// Notes every contradiction; `own` is this node's entry in `cluster.members`.
pub(super) fn check(reader: &mut Reader, config: &NodeConfig, own: Option<&ClusterMember>) {
    check_witness(reader, config, own);
    check_paths(reader, config);
    check_ports(reader, config);
}

fn check_witness(reader: &mut Reader, config: &NodeConfig, own: Option<&ClusterMember>) {
    let Some(own) = own else { return };
    if own.witness && config.postgres.is_some() {
        reader.problem(
            "cluster.members",
            format!(
                "{} is a witness and has a [postgres] section: remove one of the two",
                own.name
            ),
        );
    }
    if !own.witness && config.postgres.is_none() {
        reader.problem(
            "cluster.members",
            format!(
                "{} has no [postgres] section: add one, or say witness = true",
                own.name
            ),
        );
    }
    if config.postgres.is_none() && config.node.nofailover {
        reader.problem("node.nofailover", "a witness is never promoted anyway: remove it");
    }
}

fn check_paths(reader: &mut Reader, config: &NodeConfig) {
    let Some(postgres) = &config.postgres else { return };
    let inside = |inner: &Path, outer: &Path| inner.starts_with(outer);
    if inside(&config.node.state_dir, &postgres.data_dir)
        || inside(&postgres.data_dir, &config.node.state_dir)
    {
        reader.problem(
            "node.state_dir",
            format!(
                "it and postgres.data_dir = {:?} must lie beside each other: a new copy of the data directory must \
                 not touch the agent's vote",
                postgres.data_dir.display().to_string()
            ),
        );
    }
    if inside(&postgres.socket_dir, &postgres.data_dir) {
        reader.problem("postgres.socket_dir", "it must lie outside of the data directory");
    }
}

fn check_ports(reader: &mut Reader, config: &NodeConfig) {
    let mut used = vec![
        ("peer.listen", config.peer.listen),
        ("http.listen", config.http.listen),
    ];
    used.extend(
        config
            .postgres
            .as_ref()
            .map(|postgres| ("postgres.listen", postgres.listen)),
    );
    for (index, (key, address)) in used.iter().enumerate() {
        for (other, taken) in &used[..index] {
            let meet =
                address.ip() == taken.ip() || address.ip().is_unspecified() || taken.ip().is_unspecified();
            if address.port() == taken.port() && meet {
                reader.problem(
                    key,
                    format!("{other} listens on {taken} already: choose another port"),
                );
            }
        }
    }
}

/// What is allowed and probably not meant.
pub(super) fn warnings(config: &NodeConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    let members = &config.cluster.members;
    let data = members.iter().filter(|member| !member.witness).count();
    if members.len().is_multiple_of(2) {
        warnings.push(format!(
            "{} members survive no more losses than {} would: add a witness, or leave one out",
            members.len(),
            members.len() - 1
        ));
    }
    if data < 2 && members.iter().any(|member| member.name == config.node.name) {
        warnings.push("only one member has a PostgreSQL: there is nothing to fail over to".to_owned());
    }
    if config
        .postgres
        .as_ref()
        .is_some_and(|postgres| postgres.hba.is_empty())
    {
        warnings.push("postgres.hba is empty: clients can connect from this host alone".to_owned());
    }
    if config.fencing.watchdog != FencePolicy::Off {
        let checks = config
            .bootstrap
            .timing
            .watchdog_check(config.fencing.watchdog_timeout_s);
        for check in checks.into_iter().filter(|check| !check.holds) {
            warnings.push(format!(
                "the terms of [bootstrap] leave the watchdog no room, and it is not armed under them: {}: {}",
                check.rule, check.arithmetic
            ));
        }
    }
    if !members.iter().any(|member| member.name == config.node.name) {
        warnings.push(format!(
            "{} is not in cluster.members: it will wait until `pgctl member add {}` has been run",
            config.node.name, config.node.name
        ));
    }
    warnings
}
