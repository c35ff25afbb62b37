//! `pgctl dsn`: a connection string with every host in it.

use super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format};
use clap::ValueEnum;
use proto::control::Cluster;
use serde::Serialize;

/// Prints a libpq connection string that names every server and finds the right one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  psql \"$(pgctl dsn)\"
  psql \"$(pgctl dsn --role replica --dbname app --user reader)\"
  pgctl dsn --uri")]
pub struct Args {
    /// Which server is wanted
    #[arg(long, value_enum, default_value = "primary")]
    role: Role,
    /// The database
    #[arg(long, value_name = "NAME")]
    dbname: Option<String>,
    /// The user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// As a URI
    #[arg(long)]
    uri: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// The one that takes writes
    Primary,
    /// Whichever answers first
    Any,
    /// A standby if there is one (libpq 14 or newer)
    Replica,
}

#[derive(Serialize)]
struct Dsn {
    dsn: String,
}

pub async fn run(frame: &Frame, args: &Args) -> Result<(), Failure> {
    let cluster = frame.session.cluster().await?;
    let hosts = hosts(&cluster);
    if hosts.is_empty() {
        return Err(Failure::Refused {
            id: "no-server".to_owned(),
            message: "no member has told its server's address yet".to_owned(),
            next: "pgctl list".to_owned(),
        });
    }
    let dsn = if args.uri {
        uri(&hosts, args)
    } else {
        keywords(&hosts, args)
    };
    match frame.format {
        Format::Json => output::json(&Dsn { dsn }),
        Format::Table => output::line(dsn),
    }
}

/// Host and port of every server, the primary first: who wants it should meet it first.
pub(super) fn hosts(cluster: &Cluster) -> Vec<(String, String)> {
    let mut members: Vec<_> = cluster
        .members
        .iter()
        .filter(|member| member.kind == "data")
        .collect();
    members.sort_by_key(|member| !member.holder);
    let address = |text: &str| {
        text.rsplit_once(':')
            .map(|(host, port)| (host.to_owned(), port.to_owned()))
    };
    members
        .into_iter()
        .filter_map(|member| address(&member.postgres))
        .collect()
}

fn attributes(role: Role) -> &'static str {
    match role {
        Role::Primary => "read-write",
        Role::Any => "any",
        Role::Replica => "prefer-standby",
    }
}

/// A server that hangs shall not keep a client from the next one for longer than this, seconds.
const CONNECT_TIMEOUT: u32 = 2;

fn keywords(hosts: &[(String, String)], args: &Args) -> String {
    let names: Vec<&str> = hosts
        .iter()
        .map(|(host, _)| host.trim_matches(['[', ']']))
        .collect();
    let ports: Vec<&str> = hosts.iter().map(|(_, port)| port.as_str()).collect();
    let mut words = vec![
        format!("host={}", quoted(&names.join(","))),
        format!("port={}", quoted(&ports.join(","))),
    ];
    words.extend(
        args.dbname
            .as_deref()
            .map(|name| format!("dbname={}", quoted(name))),
    );
    words.extend(args.user.as_deref().map(|name| format!("user={}", quoted(name))));
    words.push(format!("target_session_attrs={}", attributes(args.role)));
    words.push(format!("connect_timeout={CONNECT_TIMEOUT}"));
    words.join(" ")
}

fn quoted(value: &str) -> String {
    if !value.is_empty()
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ',' | ':'))
    {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn uri(hosts: &[(String, String)], args: &Args) -> String {
    let hosts: Vec<String> = hosts
        .iter()
        .map(|(host, port)| format!("{}:{}", escaped_host(host), escaped(port)))
        .collect();
    format!(
        "postgresql://{}{}/{}?target_session_attrs={}&connect_timeout={CONNECT_TIMEOUT}",
        args.user
            .as_deref()
            .map(|user| format!("{}@", escaped(user)))
            .unwrap_or_default(),
        hosts.join(","),
        args.dbname.as_deref().map(escaped).unwrap_or_default(),
        attributes(args.role),
    )
}

/// An IPv6 address keeps its brackets and colons.
fn escaped_host(host: &str) -> String {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => host.to_owned(),
        _ => escaped(host),
    }
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::control::Member;

    fn cluster() -> Cluster {
        let member = |name: &str, kind: &str| Member {
            name: name.to_owned(),
            kind: kind.to_owned(),
            postgres: if kind == "data" {
                format!("{name}:5432")
            } else {
                String::new()
            },
            holder: name == "n2",
            ..Member::default()
        };
        Cluster {
            members: vec![member("n1", "data"), member("n2", "data"), member("w", "witness")],
            ..Cluster::default()
        }
    }

    fn args(role: Role, dbname: Option<&str>, user: Option<&str>) -> Args {
        Args {
            role,
            dbname: dbname.map(str::to_owned),
            user: user.map(str::to_owned),
            uri: false,
        }
    }

    #[test]
    fn every_server_is_named_the_primary_first() {
        assert_eq!(
            keywords(&hosts(&cluster()), &args(Role::Primary, None, None)),
            "host=n2,n1 port=5432,5432 target_session_attrs=read-write connect_timeout=2"
        );
    }

    #[test]
    fn odd_names_are_quoted() {
        let args = args(Role::Replica, Some("my db"), Some("o'neil"));
        assert!(
            keywords(&hosts(&cluster()), &args)
                .contains(r"dbname='my db' user='o\'neil' target_session_attrs=prefer-standby")
        );
        assert!(uri(&hosts(&cluster()), &args).starts_with("postgresql://o%27neil@n2:5432,n1:5432/my%20db?"));
    }

    /// A connection string as libpq reads it.
    fn words(text: &str) -> Vec<(String, String)> {
        let (mut words, mut rest) = (Vec::new(), text);
        while let Some((key, after)) = rest.split_once('=') {
            let is_quoted = after.starts_with('\'');
            let mut value = String::new();
            let mut chars = after.chars();
            if is_quoted {
                chars.next();
            }
            loop {
                match chars.next() {
                    Some('\\') => value.extend(chars.next()),
                    Some('\'') if is_quoted => break,
                    Some(' ') if !is_quoted => break,
                    Some(c) => value.push(c),
                    None => break,
                }
            }
            words.push((key.trim().to_owned(), value));
            rest = chars.as_str();
        }
        words
    }

    proptest! {
        #[test]
        fn no_address_name_or_user_adds_a_word_to_a_connection_string(
            address in mangled::text("db1.example:5432"),
            dbname in mangled::any_text(0..20),
            user in mangled::any_text(0..20),
        ) {
            let member = Member {
                kind: "data".to_owned(),
                postgres: address,
                ..Member::default()
            };
            let hosts = hosts(&Cluster {
                members: vec![member],
                ..Cluster::default()
            });
            let args = args(Role::Any, Some(&dbname), Some(&user));
            if let [(host, port)] = hosts.as_slice() {
                let found = words(&keywords(&hosts, &args));
                let expected = [
                    ("host", host.trim_matches(['[', ']'])),
                    ("port", port.as_str()),
                    ("dbname", &dbname),
                    ("user", &user),
                    ("target_session_attrs", "any"),
                    ("connect_timeout", "2"),
                ];
                let expected: Vec<(String, String)> =
                    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
                prop_assert_eq!(found, expected);
                let uri = uri(&hosts, &args);
                prop_assert_eq!(uri.matches('?').count(), 1, "{}", uri);
                prop_assert!(uri.chars().all(|c| c.is_ascii_graphic()), "{}", uri);
            }
        }
    }
}
