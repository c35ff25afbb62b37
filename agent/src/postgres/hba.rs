//! Who may connect: our block at the head of `pg_hba.conf` and `pg_ident.conf`, and nothing else of them.

use super::Credentials;
use super::conf_text::quote_name;
use std::fmt::Write;

const BEGIN: &str =
    "# >>> pgctl-agent: this block is rewritten by the agent; lines after it are the operator's";
const END: &str = "# <<< pgctl-agent";
/// The role that the agent itself connects as, over the unix socket.
pub const AGENT_ROLE: &str = "postgres";

/// The lines for `pg_hba.conf`. The first match decides, so ours come first: nothing the operator writes can lock the
/// agents out, nor let the replication role in without its password. `rollout`: the role that carries schema changes out.
pub fn rules(credentials: &Credentials, rollout: Option<&str>, operator: &[String]) -> String {
    let replication = quote_name(&credentials.replication_user);
    let rewind = quote_name(&credentials.rewind_user);
    let mut block = format!(
        "local all {AGENT_ROLE} peer map=pgctl\n\
         local replication {AGENT_ROLE} peer map=pgctl\n\
         host replication {replication} all scram-sha-256\n\
         host all {rewind} all scram-sha-256\n"
    );
    if let Some(role) = rollout.filter(|role| *role != AGENT_ROLE) {
        block.push_str(&format!("local all {} peer map=pgctl\n", quote_name(role)));
    }
    if operator.is_empty() {
        block.push_str("host all all all scram-sha-256\n");
    }
    for line in operator {
        block.push_str(line);
        block.push('\n');
    }
    block
}

/// The lines for `pg_ident.conf`: the server's user, the agent's and root are the agent, and whoever carries schema changes out.
pub fn identities(server_user: &str, rollout: Option<&str>) -> String {
    let own = nix::unistd::User::from_uid(nix::unistd::Uid::effective())
        .ok()
        .flatten();
    let mut users = vec!["root".to_owned(), server_user.to_owned()];
    users.extend(own.map(|user| user.name));
    users.sort();
    users.dedup();
    users.iter().fold(String::new(), |mut lines, user| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "pgctl {} {AGENT_ROLE}", quote_name(user));
        if let Some(role) = rollout.filter(|role| *role != AGENT_ROLE) {
            let _ = writeln!(lines, "pgctl {} {}", quote_name(user), quote_name(role));
        }
        lines
    })
}

/// `content` with `block` between our marks at its head, and the rest as it was.
pub fn with_block(content: &str, block: &str) -> String {
    let mut rest = String::new();
    let mut inside = false;
    for line in content.lines() {
        match line {
            BEGIN => inside = true,
            END => inside = false,
            _ if inside => {}
            _ => {
                rest.push_str(line);
                rest.push('\n');
            }
        }
    }
    format!("{BEGIN}\n{block}{END}\n{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_lines_stay_and_the_block_is_replaced() {
        let first = with_block("# mine\nhost all app 10.0.0.0/8 md5\n", "one\n");
        let second = with_block(&first, "two\n");
        assert_eq!(
            second,
            format!("{BEGIN}\ntwo\n{END}\n# mine\nhost all app 10.0.0.0/8 md5\n")
        );
        assert_eq!(
            with_block(&second, "two\n"),
            second,
            "writing it again changes nothing"
        );
    }

    #[test]
    fn the_agents_way_in_comes_before_the_operators_rules() {
        let credentials = Credentials {
            replication_user: "all".to_owned(),
            replication_password: "x".to_owned(),
            rewind_user: "rewind".to_owned(),
            rewind_password: "y".to_owned(),
        };
        let rules = rules(
            &credentials,
            Some("own\"er"),
            &["local all all reject".to_owned()],
        );
        let own = rules.find("local all \"own\"\"er\" peer map=pgctl\n");
        assert!(own < rules.find("local all all reject"), "{rules}");
        assert!(own.is_some(), "{rules}");
        let lines = identities("postgres", Some("owner"));
        assert!(lines.contains("pgctl \"postgres\" \"owner\"\n"), "{lines}");
        assert!(rules.starts_with("local all postgres peer map=pgctl\n"));
        assert!(rules.ends_with("local all all reject\n"));
        assert!(
            rules.contains("host replication \"all\" all"),
            "a role named like a keyword is quoted"
        );
    }
}
