//! Where the cluster is found: the command line, then `PGCTL_ENDPOINT`, then the context file, then this host.

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The agents' gRPC port where none is named.
const DEFAULT_PORT: u16 = 7432;

/// The content of the context file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `host:port` of agents, in the order in which they are tried.
    pub endpoints: Vec<String>,
}

/// Where the context file is: `$PGCTL_CONTEXT`, or `pgctl/context.toml` where the user's configuration is.
///
/// # Errors
/// There is no home directory.
pub fn path() -> Result<PathBuf, Failure> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let configuration =
        || variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    variable("PGCTL_CONTEXT")
        .or_else(|| configuration().map(|dir| dir.join("pgctl/context.toml")))
        .ok_or_else(|| {
            Failure::usage(
                "there is no HOME to look for a context in: name an agent with --endpoint or PGCTL_ENDPOINT",
            )
        })
}

/// The context file's content; `None` if there is no such file.
///
/// # Errors
/// It cannot be read, or is of another form.
pub fn load() -> Result<Option<Context>, Failure> {
    let path = path()?;
    let shown = path.display();
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map(Some).map_err(|error| {
            Failure::usage(format!(
                "{shown} is no context ({}): write it with `pgctl context set`",
                error.message()
            ))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::usage(format!("{shown} cannot be read: {error}"))),
    }
}

/// Writes the context file, and the directories above it; tells where.
///
/// # Errors
/// It cannot be written.
pub fn store(context: &Context) -> Result<PathBuf, Failure> {
    let path = path()?;
    let failed = |error: &dyn std::fmt::Display| {
        Failure::local(format!("{} cannot be written: {error}", path.display()))
    };
    let text = toml::to_string(context).map_err(|error| failed(&error))?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed(&error))?;
    }
    std::fs::write(&path, text).map_err(|error| failed(&error))?;
    Ok(path)
}

/// The agents to try, in their order.
///
/// # Errors
/// What was given is no list of `host[:port]`, or the context file is of another form.
pub fn endpoints(given: Option<&str>) -> Result<Vec<String>, Failure> {
    if let Some(given) = given {
        return parse(given.split(','));
    }
    match load() {
        Ok(Some(context)) => parse(context.endpoints.iter().map(String::as_str)),
        Ok(None) => Ok(vec![format!("127.0.0.1:{DEFAULT_PORT}")]),
        Err(failure) => Err(failure),
    }
}

/// Reads a list of `host[:port]`.
///
/// # Errors
/// One is of another form, or there is none.
pub fn parse<'a>(given: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, Failure> {
    let given = given
        .into_iter()
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty());
    let endpoints = given.map(endpoint).collect::<Result<Vec<String>, Failure>>()?;
    if endpoints.is_empty() {
        return Err(Failure::usage(
            "an endpoint is needed: host:port of an agent, or several with commas between them",
        ));
    }
    Ok(endpoints)
}

fn endpoint(given: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "{given:?} is no endpoint: give host:port, such as 10.0.0.1:{DEFAULT_PORT}"
        ))
    };
    let (host, port) = match given.rsplit_once(':') {
        // An IPv6 address without a port has colons of its own.
        Some((host, _)) if given.starts_with('[') && !host.ends_with(']') => (given, None),
        Some((host, port)) => (host, Some(port)),
        None => (given, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse::<u16>().map_err(|_| wrong()))?;
    if name && port > 0 {
        Ok(format!("{host}:{port}"))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endpoints_with_and_without_a_port() {
        let parsed = parse("n1, 10.0.0.2:17432,[::1]:7, [fe80::1]".split(',')).expect("endpoints");
        assert_eq!(parsed, ["n1:7432", "10.0.0.2:17432", "[::1]:7", "[fe80::1]:7432"]);
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for given in [
            "",
            ",",
            ":7432",
            "n1:",
            "n1:port",
            "n1:0",
            "n1:99999",
            "http://n1",
            "[zz]:1",
            "a b",
        ] {
            assert!(
                matches!(parse(given.split(',')), Err(Failure::Usage { .. })),
                "{given}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_for_an_endpoint_is_one(
            given in prop_oneof![mangled::any_text(0..40), mangled::text("n1, 10.0.0.2:17432,[::1]:7")],
        ) {
            if let Ok(endpoints) = parse(given.split(',')) {
                for endpoint in &endpoints {
                    let (host, port) = endpoint.rsplit_once(':').expect("a port");
                    prop_assert!(!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
                    let address = format!("http://{endpoint}");
                    prop_assert!(tonic::transport::Endpoint::from_shared(address).is_ok());
                }
                prop_assert_eq!(parse(endpoints.iter().map(String::as_str)), Ok(endpoints.clone()));
            }
        }

        #[test]
        fn any_context_file_is_read_or_refused(
            text in prop_oneof![mangled::any_text(0..60), mangled::text("endpoints = [\"n1:7432\"]\n")],
        ) {
            if let Ok(context) = toml::from_str::<Context>(&text) {
                let again = toml::to_string(&context).expect("plain data");
                prop_assert_eq!(toml::from_str::<Context>(&again).expect("read back"), context);
            }
        }
    }
}
