//! PostgreSQL's `pg_ctl` is one underscore away: who typed our name by mistake is pointed to it.

const VERBS: [&str; 11] = [
    "start",
    "stop",
    "restart",
    "reload",
    "promote",
    "initdb",
    "init",
    "logrotate",
    "kill",
    "register",
    "unregister",
];

/// What to say if `arguments` (the program's own name first) are meant for `pg_ctl`.
pub fn pointer(arguments: &[String]) -> Option<String> {
    let words = arguments.get(1..).unwrap_or_default();
    let data_dir = words
        .iter()
        .any(|word| word.starts_with("-D") || word.starts_with("--pgdata"));
    let verb = words
        .iter()
        .find(|word| !word.starts_with('-'))
        .filter(|word| VERBS.contains(&word.as_str()));
    if !data_dir && verb.is_none() {
        return None;
    }
    let instead = match verb.map(String::as_str) {
        Some("promote") => "to make another node the primary: pgctl switchover --to NODE",
        Some("reload") => "the agents reload their servers themselves",
        Some("initdb" | "init") => "the first start of the agents creates the database",
        _ => "to leave one node out while you work on it: pgctl member maintenance NODE on",
    };
    Some(format!(
        "this is pgctl, which operates a cluster; the server's own command is pg_ctl, with an underscore: pg_ctl {}\n  \
         Beware: an agent starts a server again that was stopped behind its back.\n  In a cluster, {instead}",
        words.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointed(line: &str) -> bool {
        pointer(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).is_some()
    }

    #[test]
    fn what_is_meant_for_pg_ctl_is_pointed_there() {
        for line in [
            "pgctl start",
            "pgctl -D /data start",
            "pgctl stop -m fast",
            "pgctl -D/data status",
            "pgctl initdb",
        ] {
            assert!(pointed(line), "{line}");
        }
    }

    #[test]
    fn our_own_commands_are_not() {
        for line in [
            "pgctl",
            "pgctl list",
            "pgctl status",
            "pgctl --help",
            "pgctl switchover --to n2",
            "pgctl dsn",
        ] {
            assert!(!pointed(line), "{line}");
        }
    }
}
