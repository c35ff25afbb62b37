use super::*;
use agent_core::cluster::SyncMode;
use agent_core::timing::TimingProfile;
use std::fmt::Write;

pub(super) const FULL: &str = r#"
[node]
name = "n1"
state_dir = "/var/lib/pgctl"
[cluster]
name = "demo"
members = [
  { name = "n1", peer = "10.0.0.1:7432" },
  { name = "n2", peer = "10.0.0.2:7432" },
  { name = "w1", peer = "10.0.0.3:7432", witness = true },
]
[postgres]
data_dir = "/var/lib/postgresql/demo"
advertise = "10.0.0.1:5432"
hba = ["host all all 10.0.0.0/8 scram-sha-256"]
[postgres.parameters]
max_connections = 200
shared_buffers = "1GB"
jit = false
"pg_stat_statements.max" = 1000
"#;

fn read(text: &str) -> Result<Loaded, ConfigError> {
    parse("node.toml", text, [])
}

fn read_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    parse(
        "node.toml",
        text,
        environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn valid(text: &str) -> NodeConfig {
    read(text).unwrap_or_else(|error| panic!("{error}")).config
}

/// The keys and texts of what is wrong.
fn problems(result: Result<Loaded, ConfigError>) -> Vec<Problem> {
    match result {
        Err(ConfigError::Invalid { problems }) => problems,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was taken"),
    }
}

/// `FULL` with one line put in place of another.
fn changed(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "{from}");
    FULL.replacen(from, to, 1)
}

#[track_caller]
fn refused(text: &str, key: &str, word: &str) {
    let problems = problems(read(text));
    assert!(
        problems
            .iter()
            .any(|problem| problem.key == key && problem.text.contains(word)),
        "no problem of {key} with {word:?} in {problems:#?}"
    );
}

#[test]
fn a_full_file_and_its_defaults() {
    let config = valid(FULL);
    assert_eq!(config.node.name, "n1");
    assert_eq!(config.peer.listen.to_string(), "0.0.0.0:7432");
    assert_eq!(config.peer.advertise.to_string(), "10.0.0.1:7432");
    assert_eq!(config.http.advertise.to_string(), "10.0.0.1:8008");
    let postgres = config.postgres.expect("a data node");
    assert_eq!(postgres.socket_dir, Path::new("/run/pgctl"));
    let parameter = |name: &str| postgres.parameters[name].as_str();
    assert_eq!(parameter("max_connections"), "200");
    assert_eq!(parameter("jit"), "off");
    assert_eq!(parameter("pg_stat_statements.max"), "1000");
    assert!(config.cluster.members[2].witness);
    assert_eq!(config.bootstrap, agent_core::cluster::Settings::default());
}

#[test]
fn a_witness_has_no_postgres() {
    let text = &FULL[..FULL.find("[postgres]").expect("a section")];
    let config = valid(&text.replacen("name = \"n1\"", "name = \"w1\"", 1));
    assert!(config.is_witness());
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let problems = problems(read(""));
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        ["node.name", "node.state_dir", "cluster.name", "cluster.members"]
    );
}

#[test]
fn several_wrong_values_are_told_at_once_with_file_key_value_and_what_is_allowed() {
    let text = changed("name = \"n1\"", "name = \"N 1\"").replacen("data_dir = \"/", "data_dir = \"", 1);
    let error = read(&text).expect_err("wrong").to_string();
    assert!(
        error.contains("node.toml: node.name = \"N 1\": it must be 1 to 40 of a-z 0-9 _ -"),
        "{error}"
    );
    assert!(
        error.contains("node.toml: postgres.data_dir = \"var/lib/postgresql/demo\": it must be an absolute"),
        "{error}"
    );
    assert!(error.starts_with("2 things are wrong"), "{error}");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    refused(
        &changed("state_dir", "statedir"),
        "node.statedir",
        "did you mean node.state_dir?",
    );
    refused(
        &changed("[postgres]", "[postgre]"),
        "postgre.data_dir",
        "did you mean postgres.data_dir?",
    );
    refused(&format!("{FULL}\n[zebra]\n"), "zebra", "docs/config.md");
    refused(
        &changed("witness = true", "wittness = true"),
        "cluster.members",
        "did you mean witness?",
    );
    refused(
        &format!("{FULL}\n[bootstrap]\nsync_standby = 1\n"),
        "bootstrap.sync_standby",
        "bootstrap.sync_standbys",
    );
}

#[test]
fn wrong_forms_are_refused() {
    refused(
        &changed("peer = \"10.0.0.1:7432\"", "peer = \"10.0.0.1\""),
        "cluster.members",
        "host:port",
    );
    refused(
        &changed("advertise = \"10.0.0.1:5432\"", "advertise = \"0.0.0.0:5432\""),
        "postgres.advertise",
        "host:port",
    );
    refused(
        &changed("advertise = \"10.0.0.1:5432\"", "listen = \"localhost\""),
        "postgres.listen",
        "IP:port",
    );
    refused(
        &changed("hba = [\"host all", "hba = [\"allow all"),
        "postgres.hba",
        "pg_hba.conf",
    );
    refused(
        &changed("shared_buffers = \"1GB\"", "shared_buffers = [1]"),
        "postgres.parameters",
        "shared_buffers",
    );
    refused(
        &changed("shared_buffers", "\"shared buffers\""),
        "postgres.parameters",
        "no name",
    );
    refused(
        &changed("state_dir = \"/var/lib/pgctl\"", "state_dir = 5"),
        "node.state_dir",
        "absolute path",
    );
    refused(
        &format!("{FULL}\n[log]\nlevel = \"loud\"\n"),
        "log.level",
        "trace",
    );
    refused(
        &format!("{FULL}\n[log]\nformat = \"xml\"\n"),
        "log.format",
        "json",
    );
    refused(
        &format!("{FULL}\n[fencing]\nkernel_lease = \"yes\"\n"),
        "fencing.kernel_lease",
        "required",
    );
    refused(
        &format!("{FULL}\n[http]\nlisten = \"0.0.0.0:0\"\n"),
        "http.listen",
        "IP:port",
    );
    refused(
        &format!("{FULL}\n[http]\nlisten = \"0.0.0.0:99999\"\n"),
        "http.listen",
        "IP:port",
    );
}

#[test]
fn contradictions_are_refused() {
    refused(
        &changed("name = \"n2\"", "name = \"n1\""),
        "cluster.members",
        "twice",
    );
    refused(&changed("10.0.0.2", "10.0.0.1"), "cluster.members", "twice");
    refused(
        &changed(
            "7432\" },\n  { name = \"n2\"",
            "7432\", witness = true },\n  { name = \"n2\"",
        ),
        "cluster.members",
        "witness",
    );
    refused(
        &changed("advertise = \"10.0.0.1:5432\"", ""),
        "postgres.advertise",
        "missing",
    );
    refused(
        &changed("/var/lib/pgctl", "/var/lib/postgresql/demo/raft"),
        "node.state_dir",
        "beside",
    );
    refused(
        &changed("/var/lib/postgresql/demo", "/var/lib/pgctl/data"),
        "node.state_dir",
        "beside",
    );
    refused(
        &format!("{FULL}\n[http]\nlisten = \"127.0.0.1:7432\"\n"),
        "http.listen",
        "peer.listen",
    );
    let no_postgres = &FULL[..FULL.find("[postgres]").expect("a section")];
    refused(no_postgres, "cluster.members", "no [postgres] section");
    let all_witnesses = no_postgres.replace("7432\" }", "7432\", witness = true }");
    refused(&all_witnesses, "cluster.members", "all are witnesses");
}

#[test]
fn a_node_that_is_added_later_lists_the_others() {
    let text = changed("name = \"n1\"", "name = \"n9\"");
    refused(&text, "peer.advertise", "missing");
    let loaded = read(&format!("{text}\n[peer]\nadvertise = \"10.0.0.9:7432\"\n")).expect("valid");
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.contains("pgctl member add n9")),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn bootstrap_takes_a_profile_by_name_or_five_numbers() {
    let config = valid(&format!(
        "{FULL}\n[bootstrap]\ntiming = \"lan-fast\"\nsync_mode = \"strict\"\n"
    ));
    assert_eq!(config.bootstrap.timing, TimingProfile::LanFast.timing());
    assert_eq!(config.bootstrap.sync_mode, SyncMode::Strict);
    let config = valid(&format!(
        "{FULL}\n[bootstrap.timing]\nrenew_ms = 400\nlease_ms = 1600\nfence_ms = 200\npromise_ms = 1900\nclock_error_ppm = 500\n"
    ));
    assert_eq!(config.bootstrap.timing.promise_ms, 1900);
}

#[test]
fn a_broken_inequality_is_printed_with_its_arithmetic() {
    let text = format!("{FULL}\n[bootstrap.timing]\npromise_ms = 2000\n");
    refused(
        &text,
        "bootstrap.timing",
        "1998.001 ms >= 2002.003 ms + 250.000 ms",
    );
    refused(
        &format!("{FULL}\n[bootstrap]\ntiming = \"fast\"\n"),
        "bootstrap.timing",
        "lan-fast",
    );
}

#[test]
fn every_setting_out_of_its_range_is_told() {
    let problems = problems(read(&format!(
        "{FULL}\n[bootstrap]\nsync_standbys = 0\nslot_budget_bytes = 5\nfailover_pause_ms = -1\n"
    )));
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "bootstrap.sync_standbys",
            "bootstrap.slot_budget_bytes",
            "bootstrap.failover_pause_ms"
        ]
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let loaded = read_with(
        FULL,
        &[
            ("PGCTL_NODE__NAME", "n2"),
            ("PGCTL_POSTGRES__HBA", "[\"host all all ::/0 scram-sha-256\"]"),
            ("PGCTL_POSTGRES__PARAMETERS__MAX_CONNECTIONS", "300"),
            ("PGCTL_BOOTSTRAP__SYNC_STANDBYS", "2"),
            ("PGCTL_NODE__NOFAILOVER", "true"),
            ("PGCTL_ENDPOINT", "10.0.0.1:7432"),
            ("HOME", "/home/op"),
        ],
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let config = &loaded.config;
    assert_eq!((config.node.name.as_str(), config.node.nofailover), ("n2", true));
    let postgres = config.postgres.as_ref().expect("a data node");
    assert_eq!(postgres.hba, ["host all all ::/0 scram-sha-256"]);
    assert_eq!(postgres.parameters["max_connections"], "300");
    assert_eq!(postgres.parameters["shared_buffers"], "1GB");
    assert_eq!(config.bootstrap.sync_standbys, 2);
    let dump = loaded.dump();
    assert!(dump.contains("name = \"n2\"  # from PGCTL_NODE__NAME"), "{dump}");
    assert!(
        dump.contains("state_dir = \"/var/lib/pgctl\"  # from node.toml"),
        "{dump}"
    );
    assert!(dump.contains("lease_ms = 2000  # from default"), "{dump}");
}

#[test]
fn wrong_variables_are_refused_by_their_name() {
    let problems = problems(read_with(
        FULL,
        &[
            ("PGCTL_NODE__NAEM", "n2"),
            ("PGCTL_HTTP__LISTEN", "here"),
            ("PGCTL_LOG_LEVEL", "info"),
        ],
    ));
    let told = problems.iter().fold(String::new(), |mut told, problem| {
        writeln!(told, "{problem}").expect("a String");
        told
    });
    assert!(
        told.contains("PGCTL_NODE__NAEM: node.naem: there is no such key; did you mean node.name?"),
        "{told}"
    );
    assert!(
        told.contains("PGCTL_HTTP__LISTEN: http.listen = \"here\": it must be IP:port"),
        "{told}"
    );
    assert!(told.contains("PGCTL_LOG__LEVEL"), "{told}");
}

#[test]
fn what_is_no_toml_is_refused_with_its_place() {
    let error = read("[node\nname = 1").expect_err("no TOML");
    assert!(matches!(error, ConfigError::Syntax { .. }));
    assert!(
        error.to_string().contains("node.toml is not valid TOML"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Path::new("/nonexistent/node.toml"), []).expect_err("no file");
    assert!(
        error
            .to_string()
            .contains("/nonexistent/node.toml cannot be read"),
        "{error}"
    );
}

#[test]
fn a_dump_is_a_valid_file_that_means_the_same() {
    let loaded = read(&format!("{FULL}\n[bootstrap]\ntiming = \"wan\"\n")).expect("valid");
    let again = valid(&loaded.dump());
    assert_eq!(again, loaded.config);
}

#[test]
fn a_dump_shows_every_key_that_is_declared() {
    let full = changed("hba", "os_user = \"pg\"\nbin_dir = \"/usr/bin\"\nhba");
    let loaded = read(&format!("{full}\n[rollout]\nrole = \"app\"\n")).expect("valid");
    let declared: Vec<String> = keys::all()
        .into_iter()
        .map(|key| key.name)
        .filter(|key| key != "bootstrap.timing")
        .collect();
    let shown = dump::keys_shown(&loaded.config);
    assert_eq!(shown, declared);
}

#[test]
fn reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    let page = super::reference();
    if std::env::var_os("PGCTL_BLESS").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/config.md is not what the table of keys says: renew it as its second line tells"
    );
}
