//! The program itself against agents that answer from a script: what it prints, and with which code it ends.

mod agent;
mod lint;

use agent::*;
use proto::control::{Cluster, Event, FailoverRisk};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::process::Command;
use tonic::Code;

#[test]
fn list_is_a_table_for_people_and_json_for_programs() {
    let running = scripted(Script {
        cluster: cluster(),
        ..Script::default()
    });
    let table = pgctl(&[running.address], &["list"]);
    let text = out(&table);
    assert_eq!(code(&table), 0, "{}", err(&table));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "demo: epoch 5 of n1, writable, commits wait for any 1 of n2"
    );
    assert!(lines[1].starts_with("NODE"), "{text}");
    assert!(
        lines[3].starts_with("n2") && lines[3].contains("streaming") && lines[3].contains("2.0 kB"),
        "{text}"
    );
    let document = json(&pgctl(&[running.address], &["list", "-o", "json"]));
    assert_eq!(document["members"][1]["lag_bytes"], 2048);
    assert_eq!(document["members"][0]["lsn"], serde_json::Value::Null);
}

#[test]
fn every_reading_command_works_in_both_forms() {
    let event = |number| Event {
        number,
        at_unix_ms: 1,
        kind: "note".to_owned(),
        text: format!("event {number}"),
    };
    let script = Script {
        cluster: cluster(),
        events: vec![event(1), event(2), event(3)],
        ..Script::default()
    };
    let running = scripted(script);
    for (words, expected) in [
        (vec!["topology"], "└─ n2"),
        (vec!["status"], "2 of 2 are heard of"),
        (vec!["status"], "guard on, kernel lease on, watchdog off"),
        (vec!["status"], "no kernel lease (give the agent CAP_NET_ADMIN)"),
        (vec!["status", "--check"], "demo"),
        (vec!["explain"], "start n2 or n3"),
        (vec!["explain", "--shut"], "SHUT"),
        (vec!["history"], "350 ms"),
        (
            vec!["history", "--last", "1", "--proof"],
            "2024-03-01 00:00:00 UTC",
        ),
        (vec!["events", "--last", "2"], "event 2"),
        (vec!["config", "show"], "version 7"),
        (vec!["config", "check"], ""),
        (vec!["member", "list"], "n2:7432"),
        (
            vec!["dsn"],
            "host=n1,n2 port=5432,5432 target_session_attrs=read-write",
        ),
        (vec!["version"], "n1"),
    ] {
        let table = pgctl(&[running.address], &words);
        assert_eq!(code(&table), 0, "{words:?}: {}", err(&table));
        assert!(out(&table).contains(expected), "{words:?}: {}", out(&table));
        let document = pgctl(&[running.address], &[words.as_slice(), &["-o", "json"]].concat());
        assert_eq!(code(&document), 0, "{words:?}: {}", err(&document));
        for line in if words[0] == "events" {
            out(&document)
        } else {
            json(&document).to_string()
        }
        .lines()
        {
            serde_json::from_str::<serde_json::Value>(line)
                .unwrap_or_else(|error| panic!("{words:?}: {error}: {line}"));
        }
    }
    assert!(!out(&pgctl(&[running.address], &["events", "--last", "2"])).contains("event 1"));
}

#[test]
fn a_cluster_that_takes_no_writes_fails_the_check() {
    let running = scripted(Script {
        cluster: Cluster {
            writable: false,
            ..cluster()
        },
        ..Script::default()
    });
    assert_eq!(code(&pgctl(&[running.address], &["status"])), 0);
    assert_eq!(code(&pgctl(&[running.address], &["status", "--check"])), 1);
}

#[test]
fn a_switchover_tells_of_its_stages_on_stderr_and_of_its_end_on_stdout() {
    let streams = VecDeque::from([vec![
        stage("preparing", None),
        stage("stopping", None),
        stage("done", Some(true)),
    ]]);
    let running = scripted(Script {
        cluster: cluster(),
        streams,
        ..Script::default()
    });
    let output = pgctl(&[running.address], &["switchover", "--to", "n2", "--yes"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(
        err(&output).contains("preparing") && err(&output).contains("stopping"),
        "{}",
        err(&output)
    );
    assert_eq!(out(&output), "it is done (120 ms)\n");
}

#[test]
fn a_switchover_that_was_aborted_ends_with_one() {
    let streams = VecDeque::from([vec![stage("preparing", None), stage("failed", Some(false))]]);
    let running = scripted(Script {
        cluster: cluster(),
        streams,
        ..Script::default()
    });
    let output = pgctl(&[running.address], &["switchover", "--yes", "-o", "json"]);
    assert_eq!(code(&output), 1);
    assert_eq!(json(&output)["outcome"]["succeeded"], false);
}

#[test]
fn a_switchover_whose_agent_goes_away_is_told_to_its_end_by_another_under_the_same_id() {
    let breaks = scripted(Script {
        cluster: cluster(),
        streams: VecDeque::from([vec![stage("preparing", None)]]),
        ..Script::default()
    });
    let ends = scripted(Script {
        cluster: cluster(),
        streams: VecDeque::from([vec![stage("done", Some(true))]]),
        ..Script::default()
    });
    let output = pgctl(&[breaks.address, ends.address], &["switchover", "--yes"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let requests = |running: &Running| running.agent.script.lock().expect("no panic").requests.clone();
    assert_eq!(requests(&breaks), requests(&ends));
}

#[test]
fn nothing_is_switched_over_without_a_yes() {
    let running = scripted(Script {
        cluster: cluster(),
        ..Script::default()
    });
    let output = pgctl(&[running.address], &["switchover"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("--yes"), "{}", err(&output));
    assert!(running.agent.script.lock().expect("no panic").requests.is_empty());
}

#[test]
fn a_failover_says_what_is_at_risk_and_wants_that_accepted() {
    let risk = FailoverRisk {
        to: "n2".to_owned(),
        bytes_at_risk: Some(4096),
        span_at_risk_ms: Some(2_500),
        target_ready: true,
        ..FailoverRisk::default()
    };
    let streams = VecDeque::from([vec![stage("ordered", None), stage("done", Some(true))]]);
    let running = scripted(Script {
        cluster: cluster(),
        risk,
        streams,
        ..Script::default()
    });
    let refused = pgctl(&[running.address], &["failover", "--to", "n2", "--yes"]);
    assert_eq!(code(&refused), 1);
    assert!(
        err(&refused).contains("4096 bytes") && err(&refused).contains("2.5 s"),
        "{}",
        err(&refused)
    );
    assert!(running.agent.script.lock().expect("no panic").requests.is_empty());
    let preview = json(&pgctl(
        &[running.address],
        &["failover", "--to", "n2", "--preview", "-o", "json"],
    ));
    assert_eq!(preview["bytes_at_risk"], 4096);
    let done = pgctl(
        &[running.address],
        &["failover", "--to", "n2", "--accept-data-loss", "--yes"],
    );
    assert_eq!(code(&done), 0, "{}", err(&done));
}

#[test]
fn writing_commands_say_what_they_did() {
    let running = scripted(Script {
        cluster: cluster(),
        ..Script::default()
    });
    for (words, expected) in [
        (vec!["pause", "--reason", "work"], "paused"),
        (vec!["resume"], "resumed"),
        (vec!["config", "set", "sync_standbys=2"], "version 8"),
        (
            vec!["member", "add", "n4", "--peer", "n4:7432", "--tag", "zone=a"],
            "n4 is node 4",
        ),
        (vec!["member", "maintenance", "n2", "on"], "left out"),
        (vec!["member", "remove", "n2", "--yes"], "no member any more"),
        (vec!["fence", "n2", "--yes"], "n2 is fenced"),
        (
            vec!["fence", "n1", "--yes", "--yes-fence-primary"],
            "n1 is fenced",
        ),
        (vec!["fence", "confirm", "n1", "--yes"], "n1 is off"),
        (vec!["unfence", "n2"], "n2 may run again"),
    ] {
        let output = pgctl(&[running.address], &words);
        assert_eq!(code(&output), 0, "{words:?}: {}", err(&output));
        assert!(out(&output).contains(expected), "{words:?}: {}", out(&output));
        let document = pgctl(&[running.address], &[words.as_slice(), &["-o", "json"]].concat());
        assert!(json(&document).is_object());
    }
}

#[test]
fn a_refusal_ends_with_one_and_says_what_to_do() {
    let status = refusal(
        Code::FailedPrecondition,
        "holder-stays",
        "n1 is the primary",
        "pgctl switchover first – please",
    );
    let running = scripted(Script {
        refusal: Some(status),
        ..Script::default()
    });
    let output = pgctl(&[running.address], &["member", "remove", "n1", "--yes"]);
    assert_eq!(code(&output), 1);
    assert_eq!(
        err(&output),
        "pgctl: n1 is the primary\n  next: pgctl switchover first – please\n"
    );
}

#[test]
fn an_unknown_outcome_ends_with_three() {
    let status = refusal(
        Code::Unknown,
        "outcome-unknown",
        "the answer did not come",
        "look",
    );
    let running = scripted(Script {
        refusal: Some(status),
        ..Script::default()
    });
    assert_eq!(code(&pgctl(&[running.address], &["pause"])), 3);
}

#[test]
fn agents_are_tried_in_turn_past_the_dead_and_the_cut_off() {
    let status = refusal(
        Code::Unavailable,
        "no-raft-leader",
        "no Raft leader within 10000 ms",
        "start the others",
    );
    let cut_off = scripted(Script {
        refusal: Some(status),
        ..Script::default()
    });
    let well = scripted(Script {
        cluster: cluster(),
        ..Script::default()
    });
    let output = pgctl(&[nobody(), cut_off.address, well.address], &["pause"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let output = pgctl(&[nobody(), cut_off.address], &["pause"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("no Raft leader"), "{}", err(&output));
}

#[test]
fn nobody_to_ask_ends_with_four_and_names_whom_was_tried() {
    let (first, second) = (nobody(), nobody());
    let output = pgctl(&[first, second], &["list"]);
    assert_eq!(code(&output), 4);
    assert!(
        err(&output).contains(&first.to_string()) && err(&output).contains(&second.to_string()),
        "{}",
        err(&output)
    );
    assert_eq!(code(&pgctl(&[first], &["switchover", "--yes"])), 4);
}

#[test]
fn an_agent_that_takes_the_request_and_hangs_leaves_the_outcome_unknown() {
    // Accepted by the kernel, answered by nobody.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let read = pgctl(&[address], &["list", "--timeout", "0.3"]);
    assert_eq!(code(&read), 4, "{}", err(&read));
    let written = pgctl(&[address], &["pause", "--timeout", "0.3"]);
    assert_eq!(code(&written), 3, "{}", err(&written));
}

#[test]
fn a_wrong_command_line_ends_with_two() {
    for words in [
        vec!["lst"],
        vec!["failover"],
        vec!["list", "-o", "xml"],
        vec!["config", "set", "sync_standbys"],
        vec!["config", "check", "--profile", "fast"],
        vec!["list", "--endpoint", "http://n1"],
        vec!["start"],
        vec!["-D", "/data", "stop"],
    ] {
        let output = pgctl(&[nobody()], &words);
        assert_eq!(code(&output), 2, "{words:?}: {}", err(&output));
    }
    assert!(err(&pgctl(&[nobody()], &["restart", "-m", "fast"])).contains("pg_ctl restart -m fast"));
}

#[test]
fn what_needs_no_agent_asks_none() {
    let check = pgctl(&[nobody()], &["config", "check", "--profile", "lan-fast"]);
    assert_eq!(code(&check), 0, "{}", err(&check));
    assert!(
        out(&check).contains("L_w / (1 + rho) >= L_h / (1 - rho) + F"),
        "{}",
        out(&check)
    );
    let broken = pgctl(
        &[nobody()],
        &[
            "config",
            "check",
            "--profile",
            "lan-fast",
            "timing.promise_ms=900",
        ],
    );
    assert_eq!(code(&broken), 1);
    assert!(out(&broken).contains("BROKEN"), "{}", out(&broken));
    assert!(out(&pgctl(&[nobody()], &["completions", "bash"])).contains("_pgctl"));
    assert_eq!(code(&pgctl(&[nobody()], &["version", "--client"])), 0);
}

#[test]
fn every_command_has_help_with_examples() {
    let commands = [
        "list",
        "topology",
        "status",
        "switchover",
        "failover",
        "explain",
        "history",
        "events",
        "pause",
        "resume",
        "config",
        "member",
        "backup",
        "wal",
        "restore",
        "dsn",
        "context",
        "completions",
        "version",
    ];
    for command in commands {
        let output = pgctl(&[nobody()], &[command, "--help"]);
        assert!(out(&output).contains("Examples:"), "{command}: {}", out(&output));
    }
    for (command, verb) in [
        ("config", "set"),
        ("config", "check"),
        ("member", "add"),
        ("member", "remove"),
        ("context", "set"),
        ("backup", "create"),
        ("backup", "list"),
        ("backup", "show"),
        ("wal", "status"),
        ("wal", "holes"),
        ("wal", "get"),
    ] {
        let output = pgctl(&[nobody()], &[command, verb, "--help"]);
        assert!(
            out(&output).contains("Examples:"),
            "{command} {verb}: {}",
            out(&output)
        );
    }
}

#[test]
fn a_context_is_written_shown_and_used() {
    let running = scripted(Script {
        cluster: cluster(),
        ..Script::default()
    });
    let dir = std::env::temp_dir().join(format!(
        "pgctl-test-{}-{}",
        std::process::id(),
        running.address.port()
    ));
    let pgctl = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgctl"));
        command
            .args(words)
            .env_clear()
            .env("XDG_CONFIG_HOME", &dir)
            .output()
            .expect("the program runs")
    };
    assert_eq!(code(&pgctl(&["context", "show"])), 1);
    let dead = nobody().to_string();
    let set = pgctl(&["context", "set", &dead, &running.address.to_string()]);
    assert_eq!(code(&set), 0, "{}", err(&set));
    assert!(out(&pgctl(&["context", "show"])).contains(&dead));
    let list = pgctl(&["list"]);
    assert_eq!(code(&list), 0, "{}", err(&list));
    std::fs::write(dir.join("pgctl/context.toml"), "endpoint = 5").expect("written");
    assert_eq!(code(&pgctl(&["list"])), 2);
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn a_fence_device_is_tried_from_every_agent() {
    let said = |by: &str, power: &str, error: &str| proto::control::FenceTestResult {
        by: by.to_owned(),
        power: power.to_owned(),
        device: "fence_ipmilan".to_owned(),
        error: error.to_owned(),
        ..Default::default()
    };
    let running = scripted(Script {
        cluster: cluster(),
        fence_test: proto::control::FenceTest {
            node: "n2".to_owned(),
            results: vec![said("n1", "on", ""), said("n3", "", "no route to 10.0.9.2")],
            turned_off: None,
        },
        ..Script::default()
    });
    let table = pgctl(&[running.address], &["fence", "test", "n2"]);
    assert_eq!(code(&table), 1, "n3 does not reach it");
    assert!(out(&table).contains("no route to 10.0.9.2"), "{}", out(&table));
    assert!(err(&table).contains("n3 could not ask"), "{}", err(&table));
    let document = json(&pgctl(&[running.address], &["fence", "test", "n2", "-o", "json"]));
    assert_eq!(document["results"][0]["power"], "on");
    let unasked = pgctl(&[running.address], &["fence", "test", "n2", "--off"]);
    assert_eq!(code(&unasked), 2, "nothing is turned off without a yes");
    let nobody = pgctl(&[running.address], &["fence"]);
    assert_eq!(code(&nobody), 2);
}
