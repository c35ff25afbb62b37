//! The program itself against agents that answer from a script: what it prints, and with which code it ends.

use proto::control::control_server::{Control, ControlServer};
use proto::control::{
    self as wire, Change, Cluster, Event, Explanation, FailoverRisk, MemberAdded, Outcome, Progress,
};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::{Code, Request, Response, Status};

type Told = Result<Progress, Status>;

/// An agent that answers as it was told to.
#[derive(Default, Clone)]
struct Agent {
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    cluster: Cluster,
    /// What each write is answered with; the last one again and again.
    refusal: Option<Status>,
    risk: FailoverRisk,
    /// The messages of each stream that is opened, one after the other. A stream without an outcome breaks off.
    streams: VecDeque<Vec<Told>>,
    events: Vec<Event>,
    /// The request ids that were seen.
    requests: Vec<String>,
}

impl Agent {
    fn write(&self, request: &str) -> Result<Response<Change>, Status> {
        let mut script = self.script.lock().expect("no panic");
        script.requests.push(request.to_owned());
        match &script.refusal {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(Change { changed: true })),
        }
    }

    fn stream(&self, request: String) -> Result<Response<ReceiverStream<Told>>, Status> {
        let mut script = self.script.lock().expect("no panic");
        script.requests.push(request);
        if let Some(status) = &script.refusal {
            return Err(status.clone());
        }
        let messages = script.streams.pop_front().unwrap_or_default();
        let (tell, told) = tokio::sync::mpsc::channel(messages.len().max(1));
        for message in messages {
            tell.try_send(message).expect("room");
        }
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

#[tonic::async_trait]
impl Control for Agent {
    type EventsStream = ReceiverStream<Result<Event, Status>>;
    type SwitchoverStream = ReceiverStream<Told>;
    type FailoverStream = ReceiverStream<Told>;

    async fn get_cluster(&self, _: Request<wire::GetClusterRequest>) -> Result<Response<Cluster>, Status> {
        Ok(Response::new(
            self.script.lock().expect("no panic").cluster.clone(),
        ))
    }
    async fn explain(&self, _: Request<wire::ExplainRequest>) -> Result<Response<Explanation>, Status> {
        let gate = wire::Gate {
            id: "old-holder-is-fenced".to_owned(),
            open: false,
            found: "only n1 has released it".to_owned(),
            next: "start n2 or n3".to_owned(),
        };
        Ok(Response::new(Explanation {
            cluster: vec![gate],
            ..Explanation::default()
        }))
    }
    async fn events(
        &self,
        request: Request<wire::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let from = request.into_inner().from;
        let events = self.script.lock().expect("no panic").events.clone();
        let (tell, told) = tokio::sync::mpsc::channel(events.len().max(1));
        for event in events.into_iter().filter(|event| event.number >= from) {
            tell.try_send(Ok(event)).expect("room");
        }
        Ok(Response::new(ReceiverStream::new(told)))
    }
    async fn switchover(
        &self,
        request: Request<wire::SwitchoverRequest>,
    ) -> Result<Response<ReceiverStream<Told>>, Status> {
        self.stream(request.into_inner().request)
    }
    async fn preview_failover(
        &self,
        _: Request<wire::PreviewFailoverRequest>,
    ) -> Result<Response<FailoverRisk>, Status> {
        Ok(Response::new(self.script.lock().expect("no panic").risk.clone()))
    }
    async fn failover(
        &self,
        request: Request<wire::FailoverRequest>,
    ) -> Result<Response<ReceiverStream<Told>>, Status> {
        self.stream(request.into_inner().request)
    }
    async fn pause(&self, request: Request<wire::PauseRequest>) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn resume(&self, request: Request<wire::ResumeRequest>) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn get_settings(
        &self,
        _: Request<wire::GetSettingsRequest>,
    ) -> Result<Response<wire::Settings>, Status> {
        let setting = wire::Setting {
            key: "sync_standbys".to_owned(),
            value: "1".to_owned(),
            default: "1".to_owned(),
            ..wire::Setting::default()
        };
        Ok(Response::new(wire::Settings {
            version: 7,
            settings: vec![setting],
        }))
    }
    async fn change_settings(
        &self,
        request: Request<wire::ChangeSettingsRequest>,
    ) -> Result<Response<wire::Settings>, Status> {
        let request = request.into_inner();
        self.write(&request.request)?;
        let setting = |given: wire::Assignment| wire::Setting {
            key: given.key,
            value: given.value,
            ..wire::Setting::default()
        };
        let settings = request.assignments.into_iter().map(setting).collect();
        Ok(Response::new(wire::Settings {
            version: request.version + 1,
            settings,
        }))
    }
    async fn check_settings(
        &self,
        _: Request<wire::CheckSettingsRequest>,
    ) -> Result<Response<wire::SettingsCheck>, Status> {
        Ok(Response::new(wire::SettingsCheck::default()))
    }
    async fn add_member(
        &self,
        request: Request<wire::AddMemberRequest>,
    ) -> Result<Response<MemberAdded>, Status> {
        self.write(&request.into_inner().request)?;
        Ok(Response::new(MemberAdded { id: 4 }))
    }
    async fn remove_member(
        &self,
        request: Request<wire::RemoveMemberRequest>,
    ) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
    async fn maintenance(
        &self,
        request: Request<wire::MaintenanceRequest>,
    ) -> Result<Response<Change>, Status> {
        self.write(&request.into_inner().request)
    }
}

/// A running agent; it ends with the test.
struct Running {
    agent: Agent,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

fn start(agent: Agent) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound");
    let service = ControlServer::new(agent.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let incoming =
                TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).expect("a socket"));
            let ended = async {
                let _ = stopped.await;
            };
            let server = tonic::transport::Server::builder().add_service(service);
            server
                .serve_with_incoming_shutdown(incoming, ended)
                .await
                .expect("a server");
        });
    });
    Running {
        agent,
        address,
        _stop: stop,
    }
}

fn scripted(script: Script) -> Running {
    start(Agent {
        script: Arc::new(Mutex::new(script)),
    })
}

fn refusal(code: Code, id: &'static str, message: &str, next: &str) -> Status {
    let mut status = Status::new(code, message);
    status
        .metadata_mut()
        .insert("pgctl-id", MetadataValue::from_static(id));
    status
        .metadata_mut()
        .insert_bin("pgctl-next-bin", BinaryMetadataValue::from_bytes(next.as_bytes()));
    status
}

/// An address on which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

fn pgctl(endpoints: &[SocketAddr], words: &[&str]) -> Output {
    let endpoints: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
    Command::new(env!("CARGO_BIN_EXE_pgctl"))
        .args(words)
        .env_clear()
        .env("PGCTL_ENDPOINT", endpoints.join(","))
        .output()
        .expect("the program runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", out(output)))
}

fn cluster() -> Cluster {
    let member = |id: u64, name: &str| wire::Member {
        id,
        name: name.to_owned(),
        kind: "data".to_owned(),
        role: if id == 1 {
            "primary".to_owned()
        } else {
            "standby".to_owned()
        },
        state: if id == 1 {
            "running".to_owned()
        } else {
            "streaming".to_owned()
        },
        peer: format!("{name}:7432"),
        postgres: format!("{name}:5432"),
        holder: id == 1,
        voter: true,
        in_sync_set: id != 1,
        upstream: if id == 1 {
            String::new()
        } else {
            "n1:5432".to_owned()
        },
        lag_bytes: (id != 1).then_some(2048),
        report_age_ms: Some(100),
        ..wire::Member::default()
    };
    Cluster {
        name: "demo".to_owned(),
        epoch: 5,
        holder: "n1".to_owned(),
        writable: true,
        members: vec![member(1, "n1"), member(2, "n2")],
        sync: Some(wire::SyncSet {
            mode: "quorum".to_owned(),
            required: 1,
            members: vec!["n2".to_owned()],
            ..wire::SyncSet::default()
        }),
        history: vec![wire::EpochRecord {
            epoch: 5,
            holder: "n1".to_owned(),
            cause: "failover".to_owned(),
            why: "n3 was silent".to_owned(),
            granted_at_unix_ms: 1_709_251_200_000,
            opened_at_unix_ms: Some(1_709_251_200_350),
            ..wire::EpochRecord::default()
        }],
        ..Cluster::default()
    }
}

fn stage(phase: &str, succeeded: Option<bool>) -> Told {
    let outcome = succeeded.map(|succeeded| Outcome {
        succeeded,
        from: "n1".to_owned(),
        to: "n2".to_owned(),
        epoch: 6,
        timeline: 4,
    });
    Ok(Progress {
        phase: phase.to_owned(),
        message: format!("it is {phase}"),
        elapsed_ms: 120,
        outcome,
    })
}

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
