//! Whatever an operator writes is a configuration or a list of what is wrong with it.

use super::tests::FULL;
use super::{ConfigError, Loaded, parse};
use proptest::collection::vec;
use proptest::prelude::*;

const DEVICES: &str = r#"
[node]
name = "n1"
state_dir = "/var/lib/pgctl"
[cluster]
name = "demo"
members = [{ name = "n1", peer = "10.0.0.1:7432" }, { name = "n2", peer = "[::1]:7432" }]
[postgres]
data_dir = "/srv/data"
advertise = "10.0.0.1:5432"
[fencing]
watchdog = "required"
devices = [
  { node = "n2", delay_s = 3, agent = "/usr/sbin/fence_ipmilan", options = { ip = "10.0.0.9", password = "x" } },
  { node = "n1", http = { method = "POST", url = "http://bmc/off", status_url = "http://bmc/", status_contains = "off" } },
]
[bootstrap]
timing = { renew_ms = 500, lease_ms = 2000, fence_ms = 250, promise_ms = 2300, clock_error_ppm = 1000 }
"#;

/// Names that are ours, nearly ours, or full of what a path of keys is made of.
fn variable() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        Just("PGCTL_NODE__NAME".to_owned()),
        mangled::text("PGCTL_POSTGRES__PARAMETERS__WORK_MEM"),
        mangled::text("PGCTL_FENCING__DEVICES[0].NODE"),
        mangled::any_text(0..12).prop_map(|name| format!("PGCTL_NODE__{name}")),
        mangled::any_text(0..12).prop_map(|name| format!("PGCTL_{name}")),
    ];
    (
        name,
        prop_oneof![
            mangled::any_text(0..20),
            mangled::text("[\"local all all trust\"]")
        ],
    )
}

fn check(text: &str, environment: &[(String, String)]) -> Result<(), TestCaseError> {
    match parse("node.toml", text, environment.iter().cloned()) {
        Ok(loaded) => is_dumped_as_it_is(&loaded),
        Err(ConfigError::Invalid { problems }) => {
            prop_assert!(!problems.is_empty());
            for problem in &problems {
                prop_assert!(
                    !problem.key.is_empty() && !problem.origin.is_empty(),
                    "{:?}",
                    problem
                );
                prop_assert!(!problem.text.is_empty(), "{:?}", problem);
            }
            Ok(())
        }
        Err(error) => {
            prop_assert!(error.to_string().contains("node.toml"), "{}", error);
            Ok(())
        }
    }
}

fn is_dumped_as_it_is(loaded: &Loaded) -> Result<(), TestCaseError> {
    let dump = loaded.dump();
    let again = parse("dump.toml", &dump, []);
    let again = again.map_err(|error| TestCaseError::fail(format!("{error}\n{dump}")))?;
    let (mut meant, mut read) = (loaded.config.clone(), again.config);
    if dump.contains("(not shown)") {
        // Secrets of devices are left out of it.
        prop_assert_eq!(meant.fencing.devices.len(), read.fencing.devices.len());
        meant.fencing.devices.clear();
        read.fencing.devices.clear();
    }
    prop_assert_eq!(read, meant, "{}", dump);
    prop_assert!(!loaded.summary().is_empty());
    Ok(())
}

#[test]
fn what_is_mangled_below_is_a_configuration() {
    for text in [FULL, DEVICES] {
        is_dumped_as_it_is(&parse("node.toml", text, []).expect("valid")).expect("dumped");
    }
}

proptest! {
    #![proptest_config(mangled::cases(512))]

    #[test]
    fn any_text_is_a_configuration_or_problems_with_keys(
        text in prop_oneof![
            1 => mangled::any_text(0..200),
            3 => mangled::text(FULL),
            3 => mangled::text(DEVICES),
        ],
    ) {
        check(&text, &[])?;
    }

    #[test]
    fn any_environment_is_taken_or_its_problems_have_keys(environment in vec(variable(), 1..4)) {
        check(FULL, &environment)?;
    }

    /// One value at a time in the place of a sound one: what gets past the grammar.
    #[test]
    fn any_value_of_any_key_is_taken_or_its_problem_has_a_key(
        line in any::<proptest::sample::Index>(),
        value in prop_oneof![
            Just("9223372036854775807".to_owned()),
            Just("-9223372036854775808".to_owned()),
            Just("nan".to_owned()),
            Just("-inf".to_owned()),
            Just("1e308".to_owned()),
            Just("1979-05-27T07:32:00Z".to_owned()),
            Just("[]".to_owned()),
            Just("{}".to_owned()),
            Just("[[[{}]]]".to_owned()),
            Just("{ a.b.c = 1 }".to_owned()),
            mangled::any_text(0..20).prop_map(|text| format!("{text:?}")),
        ],
    ) {
        for full in [FULL, DEVICES] {
            let mut lines: Vec<String> = full.lines().map(str::to_owned).collect();
            let at = line.index(lines.len());
            if let Some((key, _)) = lines[at].clone().split_once(" = ") {
                lines[at] = format!("{key} = {value}");
            }
            check(&lines.join("\n"), &[])?;
        }
    }
}
