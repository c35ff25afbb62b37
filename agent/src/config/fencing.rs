//! `[fencing]`: what fences this node if its agent does not, and the devices with which this node can turn others off.

use super::model::{FenceDevice, FenceMethod, FencePolicy, Fencing, HttpCall};
use super::nearest;
use super::reader::{Reader, scalar};
use ::config::{Value, ValueKind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const DEVICES: &str = "fencing.devices";
const FIELDS: [&str; 6] = ["node", "delay_s", "agent", "options", "command", "http"];
const HTTP_FIELDS: [&str; 7] = [
    "method",
    "url",
    "expect",
    "status_url",
    "status_expect",
    "status_contains",
    "headers",
];
/// The longest static delay, seconds.
const DELAY_MAX: i64 = 60;

type Table = BTreeMap<String, Value>;

pub(super) fn fencing(reader: &mut Reader) -> Fencing {
    let kernel_lease = policy(reader, "fencing.kernel_lease").unwrap_or(FencePolicy::Automatic);
    let watchdog = policy(reader, "fencing.watchdog").unwrap_or(FencePolicy::Off);
    let watchdog_device = super::build::path(reader, "fencing.watchdog_device", false)
        .unwrap_or_else(|| PathBuf::from("/dev/watchdog"));
    let watchdog_timeout_s = match reader
        .scalar("fencing.watchdog_timeout_s")
        .map(|text| text.parse())
    {
        None => 1,
        Some(Ok(seconds)) if (1..=60).contains(&seconds) => seconds,
        Some(_) => {
            reader.not_allowed("fencing.watchdog_timeout_s");
            1
        }
    };
    let entries = reader.list(DEVICES);
    let mut devices = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        match device(entry) {
            Ok(device) => devices.push(device),
            Err(what) => reader.problem(DEVICES, format!("entry {}: {what}", index + 1)),
        }
    }
    Fencing {
        kernel_lease,
        watchdog,
        watchdog_device,
        watchdog_timeout_s,
        devices,
    }
}

fn policy(reader: &mut Reader, key: &'static str) -> Option<FencePolicy> {
    let given = reader.text(key)?;
    let policy = FencePolicy::ALL.into_iter().find(|policy| policy.name() == given);
    if policy.is_none() {
        reader.not_allowed(key);
    }
    policy
}

fn device(entry: &Value) -> Result<FenceDevice, String> {
    let ValueKind::Table(fields) = &entry.kind else {
        return Err(
            "it must be a table such as { node = \"n1\", agent = \"/usr/sbin/fence_ipmilan\" }".to_owned(),
        );
    };
    let fields: Table = fields
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    known(&fields, &FIELDS)?;
    let node = text(&fields, "node")?.ok_or("node is missing: the name of the node that it turns off")?;
    let delay = match fields.get("delay_s").map(|value| &value.kind) {
        None => 0,
        Some(ValueKind::I64(seconds)) if (0..=DELAY_MAX).contains(seconds) => *seconds,
        Some(_) => return Err(format!("delay_s must be a number of seconds, 0 to {DELAY_MAX}")),
    };
    let options = texts(&fields, "options")?;
    let method = match (text(&fields, "agent")?, fields.get("command"), fields.get("http")) {
        (Some(program), None, None) => FenceMethod::Agent {
            program: absolute("agent", &program)?,
            options,
        },
        (None, Some(command), None) => {
            if !options.is_empty() {
                return Err("options are for an agent; a command takes arguments".to_owned());
            }
            let ValueKind::Array(words) = &command.kind else {
                return Err("command must be a list: a program and its arguments".to_owned());
            };
            let mut words = words.iter().map(scalar);
            let program = words
                .next()
                .flatten()
                .ok_or("command must begin with a program")?;
            FenceMethod::Command {
                program: absolute("command", &program)?,
                arguments: words
                    .collect::<Option<_>>()
                    .ok_or("command must be a list of texts")?,
            }
        }
        (None, None, Some(http)) => {
            if !options.is_empty() {
                return Err("options are for an agent; an HTTP call takes headers".to_owned());
            }
            FenceMethod::Http(Box::new(http_call(http)?))
        }
        _ => return Err("give exactly one of agent, command and http".to_owned()),
    };
    Ok(FenceDevice {
        node,
        delay: Duration::from_secs(u64::try_from(delay).unwrap_or_default()),
        method,
    })
}

fn http_call(value: &Value) -> Result<HttpCall, String> {
    let ValueKind::Table(fields) = &value.kind else {
        return Err(
            "http must be a table such as { url = \"http://pdu/3/off\", status_url = \"http://pdu/3\" }"
                .to_owned(),
        );
    };
    let fields: Table = fields
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    known(&fields, &HTTP_FIELDS)?;
    let method = text(&fields, "method")?.unwrap_or_else(|| "POST".to_owned());
    if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method.as_str()) {
        return Err("http.method must be GET, POST, PUT, PATCH or DELETE".to_owned());
    }
    let code = |key: &str| match fields.get(key).map(|value| &value.kind) {
        None => Ok(200),
        Some(ValueKind::I64(code)) if (100..=599).contains(code) => Ok(u16::try_from(*code).unwrap_or(200)),
        Some(_) => Err(format!("http.{key} must be a status from 100 to 599")),
    };
    Ok(HttpCall {
        method,
        url: url(&fields, "url")?,
        expect: code("expect")?,
        status_url: url(&fields, "status_url")?,
        status_expect: code("status_expect")?,
        status_contains: text(&fields, "status_contains")?,
        headers: texts(&fields, "headers")?,
    })
}

fn url(fields: &Table, key: &str) -> Result<String, String> {
    let url = text(fields, key)?.ok_or(format!("http.{key} is missing"))?;
    if url.starts_with("https://") {
        return Err(format!(
            "http.{key}: https is not spoken here; use a command, such as command = [\"/usr/bin/curl\", ...] in a script"
        ));
    }
    let host = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next());
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic());
    match host {
        Some(host) if plain && !host.is_empty() && !host.contains('@') => Ok(url),
        _ => Err(format!(
            "http.{key} = {url:?} must be http://host[:port]/path; a password goes into headers"
        )),
    }
}

fn known(fields: &Table, allowed: &[&'static str]) -> Result<(), String> {
    match fields.keys().find(|field| !allowed.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) => {
            let hint = nearest(field, allowed.iter().copied())
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            Err(format!("there is no field {field}{hint}"))
        }
    }
}

fn text(fields: &Table, key: &str) -> Result<Option<String>, String> {
    match fields.get(key).map(|value| &value.kind) {
        None => Ok(None),
        Some(ValueKind::String(text)) if !text.is_empty() && !text.contains(['\n', '\0']) => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(format!("{key} must be a text on one line")),
    }
}

fn texts(fields: &Table, key: &str) -> Result<BTreeMap<String, String>, String> {
    let table = match fields.get(key).map(|value| &value.kind) {
        None => return Ok(BTreeMap::new()),
        Some(ValueKind::Table(table)) => table,
        Some(_) => return Err(format!("{key} must be a table of texts")),
    };
    let mut found = BTreeMap::new();
    for (name, value) in table {
        // One line each: they are written as lines of name=value, or as headers.
        match scalar(value).filter(|text| !text.contains(['\n', '\r', '\0'])) {
            Some(text) if !name.contains(['=', '\n', ' ']) && name != "action" => {
                found.insert(name.clone(), text);
            }
            _ => return Err(format!("{key}.{name} must be a text on one line, and no action")),
        }
    }
    Ok(found)
}

fn absolute(key: &str, program: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(program);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{key}: {program:?} must be an absolute path"))
    }
}

/// The devices as `--dump-config` shows them: what may be a secret is left out.
pub(super) fn shown(devices: &[FenceDevice]) -> toml::Value {
    let words = |text: &str| toml::Value::String(text.to_owned());
    let secretless = |table: &BTreeMap<String, String>| {
        let shown = table.iter().map(|(name, value)| {
            let value = if is_secret(name) { "(not shown)" } else { value };
            (name.clone(), words(value))
        });
        toml::Value::Table(shown.collect())
    };
    let entries = devices.iter().map(|device| {
        let mut entry = toml::Table::new();
        entry.insert("node".to_owned(), words(&device.node));
        let delay = i64::try_from(device.delay.as_secs()).unwrap_or_default();
        entry.insert("delay_s".to_owned(), toml::Value::Integer(delay));
        match &device.method {
            FenceMethod::Agent { program, options } => {
                entry.insert("agent".to_owned(), words(&program.display().to_string()));
                entry.insert("options".to_owned(), secretless(options));
            }
            FenceMethod::Command { program, arguments } => {
                let mut list = vec![words(&program.display().to_string())];
                list.extend(arguments.iter().map(|word| words(word)));
                entry.insert("command".to_owned(), toml::Value::Array(list));
            }
            FenceMethod::Http(call) => {
                let mut http = toml::Table::new();
                http.insert("method".to_owned(), words(&call.method));
                http.insert("url".to_owned(), words(&call.url));
                http.insert("expect".to_owned(), toml::Value::Integer(call.expect.into()));
                http.insert("status_url".to_owned(), words(&call.status_url));
                http.insert(
                    "status_expect".to_owned(),
                    toml::Value::Integer(call.status_expect.into()),
                );
                if let Some(text) = &call.status_contains {
                    http.insert("status_contains".to_owned(), words(text));
                }
                http.insert("headers".to_owned(), secretless(&call.headers));
                entry.insert("http".to_owned(), toml::Value::Table(http));
            }
        }
        toml::Value::Table(entry)
    });
    toml::Value::Array(entries.collect())
}

/// Whether an option or header of that name is likely to be a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "secret", "token", "key", "auth", "cookie", "community"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, Loaded, parse};

    const REST: &str = r#"
[node]
name = "n1"
state_dir = "/var/lib/pgctl"
[cluster]
name = "demo"
members = [{ name = "n1", peer = "10.0.0.1:7432" }]
[postgres]
data_dir = "/var/lib/postgresql/demo"
listen = "10.0.0.1:5432"
"#;

    fn read(fencing: &str) -> Result<Loaded, ConfigError> {
        parse("node.toml", &format!("{REST}{fencing}"), [])
    }

    #[track_caller]
    fn refused(fencing: &str, word: &str) {
        let error = read(fencing).expect_err(fencing).to_string();
        assert!(error.contains(word), "{error}");
        assert!(!error.contains("hunter2"), "a secret is told: {error}");
    }

    const THREE: &str = r#"
[[fencing.devices]]
node = "n1"
delay_s = 5
agent = "/usr/sbin/fence_ipmilan"
options = { ip = "10.0.9.1", password = "hunter2", lanplus = 1 }
[[fencing.devices]]
node = "n2"
command = ["/usr/local/sbin/power", "rack4"]
[[fencing.devices]]
node = "n3"
[fencing.devices.http]
url = "http://10.0.9.3:8080/7/off"
status_url = "http://10.0.9.3:8080/7"
status_contains = "off"
headers = { Authorization = "Bearer hunter2" }
"#;

    #[test]
    fn the_three_kinds_of_devices_are_read() {
        let fencing = read(THREE).expect("valid").config.fencing;
        assert_eq!(fencing.watchdog, FencePolicy::Off);
        let [agent, command, http] = &fencing.devices[..] else {
            panic!("three devices: {fencing:?}");
        };
        assert_eq!((agent.node.as_str(), agent.delay), ("n1", Duration::from_secs(5)));
        let FenceMethod::Agent { options, .. } = &agent.method else {
            panic!("an agent");
        };
        assert_eq!(options["lanplus"], "1");
        assert_eq!(options["password"], "hunter2");
        let FenceMethod::Command { arguments, .. } = &command.method else {
            panic!("a command");
        };
        assert_eq!(arguments, &["rack4"]);
        let FenceMethod::Http(call) = &http.method else {
            panic!("HTTP");
        };
        assert_eq!(
            (call.method.as_str(), call.expect, call.status_expect),
            ("POST", 200, 200)
        );
        assert_eq!(
            call.headers["Authorization"], "Bearer hunter2",
            "its name keeps its capitals"
        );
    }

    #[test]
    fn secrets_are_in_no_dump_and_in_no_log() {
        let loaded = read(THREE).expect("valid");
        let dump = loaded.dump();
        assert!(
            !dump.contains("hunter2") && dump.contains("fence_ipmilan"),
            "{dump}"
        );
        assert!(!format!("{:?}", loaded.config).contains("hunter2"));
        read(&dump[dump.find("[fencing]").expect("shown")..dump.find("[log]").expect("shown")])
            .expect("what is shown is a valid file");
    }

    #[test]
    fn a_file_with_devices_that_everybody_can_read_is_warned_of() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), format!("{REST}{THREE}")).expect("written");
        let warned = |mode| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode))
                .expect("our own file");
            let warnings = crate::config::load(file.path(), []).expect("valid").warnings;
            warnings.iter().any(|warning| warning.contains("chmod 600"))
        };
        assert!(warned(0o644));
        assert!(!warned(0o600));
    }

    #[test]
    fn devices_that_make_no_sense_are_refused() {
        let device = |rest: &str| format!("[[fencing.devices]]\n{rest}\n");
        refused(&device("agent = \"/x\""), "node is missing");
        refused(&device("node = \"n2\""), "exactly one of agent, command and http");
        refused(
            &device("node = \"n2\"\nagent = \"/x\"\ncommand = [\"/y\"]"),
            "exactly one of",
        );
        refused(&device("node = \"n2\"\nagent = \"fence_x\""), "absolute path");
        refused(&device("node = \"n2\"\nagent = \"/x\"\ndelay_s = 61"), "0 to 60");
        refused(
            &device("node = \"n2\"\nagent = \"/x\"\noption = {}"),
            "did you mean options?",
        );
        refused(
            &device(
                "node = \"n2\"\nagent = \"/x\"\noptions = { action = \"reboot\", password = \"hunter2\" }",
            ),
            "no action",
        );
        refused(&device("node = \"n2\"\ncommand = []"), "begin with a program");
        let http = |url: &str| {
            device(&format!(
                "node = \"n2\"\nhttp = {{ url = \"{url}\", status_url = \"http://x/\" }}"
            ))
        };
        refused(&http("https://x/off"), "https is not spoken here");
        refused(&http("http://user:hunter@x/off"), "a password goes into headers");
        refused(&http("x/off"), "must be http://");
    }

    #[test]
    fn the_watchdog_is_checked_and_its_arithmetic_shown() {
        let on = read("[fencing]\nwatchdog = \"required\"\n").expect("valid");
        assert!(
            on.summary().contains("watchdog: P + W >= L_h"),
            "{}",
            on.summary()
        );
        let off = read("").expect("valid");
        assert!(!off.summary().contains("watchdog:"), "{}", off.summary());
        refused("[fencing]\nwatchdog = \"maybe\"\n", "off, automatic or required");
        refused("[fencing]\nwatchdog_timeout_s = 0\n", "1 to 60");
        refused("[fencing]\nwatchdog_device = \"watchdog\"\n", "absolute path");
        let short = "[fencing]\nwatchdog = \"automatic\"\n[bootstrap]\ntiming = \"lan-fast\"\n";
        let warned = read(short).expect("valid").warnings;
        assert!(
            warned
                .iter()
                .any(|warning| warning.contains("leave the watchdog no room")),
            "{warned:?}"
        );
    }
}
