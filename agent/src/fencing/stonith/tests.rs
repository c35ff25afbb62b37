//! Devices that behave and devices that do not: fence agents are shell scripts, the HTTP device is a listener.

use super::{DeviceError, Power, Stonith};
use crate::config::{FenceDevice, FenceMethod, HttpCall};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Far longer than anything here takes.
const AMPLE: Duration = Duration::from_secs(60);
/// For what must not come to an end by itself.
const SHORT: Duration = Duration::from_millis(1_500);

fn script(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("device");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

/// What a well-behaved agent does: remembers what it read, and the machine is off once it was told so.
fn well_behaved(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "cat > {dir}/read.$$; cat {dir}/read.$$ >> {dir}/read
         if grep -q '^action=off$' {dir}/read.$$; then touch {dir}/off; echo Success: Powered OFF; exit 0; fi
         if grep -q '^action=status$' {dir}/read.$$; then
           if [ -e {dir}/off ]; then echo 'Status: OFF'; exit 2; fi
           echo 'Status: ON'; exit 0
         fi
         exit 1"
    )
}

fn agent(program: PathBuf) -> Stonith {
    let options = [("ip", "10.0.0.9"), ("password", "hunter2")];
    Stonith::new(vec![device(FenceMethod::Agent {
        program,
        options: options
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    })])
}

fn device(method: FenceMethod) -> FenceDevice {
    FenceDevice {
        node: "n1".to_owned(),
        delay: Duration::ZERO,
        method,
    }
}

#[tokio::test]
async fn an_agent_turns_off_and_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let stonith = agent(script(dir.path(), &well_behaved(dir.path())));
    let (power, _) = stonith.status("n1", AMPLE).await.expect("it answers");
    assert_eq!(power, Power::On);
    assert!(!dir.path().join("off").exists(), "to ask changes nothing");
    let off = stonith.turn_off("n1", AMPLE).await.expect("it does");
    assert_eq!((off.exit_code, off.output.as_str()), (Some(2), "Status: OFF"));
    let again = stonith.turn_off("n1", AMPLE).await.expect("twice does no harm");
    assert_eq!(again, off);
    let read = std::fs::read_to_string(dir.path().join("read")).expect("what it read");
    for line in [
        "ip=10.0.0.9",
        "password=hunter2",
        "nodename=n1",
        "action=off",
        "action=status",
    ] {
        assert!(read.lines().any(|found| found == line), "{line} is not in {read}");
    }
}

#[tokio::test]
async fn a_node_without_a_device_is_an_error_that_says_what_to_do() {
    let error = Stonith::default()
        .turn_off("n1", AMPLE)
        .await
        .expect_err("no device");
    assert!(error.to_string().contains("fencing.devices"), "{error}");
}

#[tokio::test]
async fn an_agent_that_only_says_that_it_turned_off_is_not_believed() {
    let dir = tempfile::tempdir().expect("a folder");
    let stonith = agent(script(dir.path(), "exit 0"));
    let error = stonith
        .turn_off("n1", SHORT)
        .await
        .expect_err("the machine is on");
    assert!(
        matches!(error, DeviceError::StaysOn { .. } | DeviceError::TooLate { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn wrong_exit_codes_are_failures_and_secrets_are_not_told() {
    let dir = tempfile::tempdir().expect("a folder");
    for code in [1, 2, 3, 127] {
        let stonith = agent(script(
            dir.path(),
            &format!("echo login with hunter2 refused >&2; exit {code}"),
        ));
        let error = stonith
            .turn_off("n1", AMPLE)
            .await
            .expect_err("it failed")
            .to_string();
        assert!(error.contains("login with *** refused"), "{error}");
        assert!(error.contains(&code.to_string()), "{error}");
    }
    for code in [1, 3, 127] {
        let stonith = agent(script(dir.path(), &format!("exit {code}")));
        let error = stonith.status("n1", AMPLE).await;
        assert!(error.is_err(), "exit code {code} says nothing of the machine");
    }
}

#[tokio::test]
async fn an_agent_killed_by_a_signal_is_a_failure() {
    let dir = tempfile::tempdir().expect("a folder");
    let stonith = agent(script(dir.path(), "kill -9 $$"));
    let error = stonith.turn_off("n1", AMPLE).await.expect_err("it died");
    assert!(matches!(error, DeviceError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn garbage_is_cut_short_and_does_not_hurt() {
    let dir = tempfile::tempdir().expect("a folder");
    let stonith = agent(script(dir.path(), "head -c 3000000 /dev/urandom; exit 2"));
    let (power, off) = stonith.status("n1", AMPLE).await.expect("its exit code is right");
    assert_eq!(power, Power::Off);
    assert!(off.output.chars().count() <= 500, "{}", off.output.len());
}

#[tokio::test]
async fn an_agent_that_hangs_is_ended_with_all_that_it_started() {
    let dir = tempfile::tempdir().expect("a folder");
    let mark = dir.path().join("pid");
    let body = format!("sh -c 'echo $$ > {}; exec sleep 600' & wait", mark.display());
    let stonith = agent(script(dir.path(), &body));
    let error = stonith.turn_off("n1", SHORT).await.expect_err("it hangs");
    assert!(matches!(error, DeviceError::TooLate { .. }), "{error}");
    let pid: i32 = std::fs::read_to_string(mark)
        .expect("it had begun")
        .trim()
        .parse()
        .expect("a number");
    let begun = std::time::Instant::now();
    // Its parent is gone, so whoever reaps orphans here has to come round first.
    let gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    while !gone() {
        assert!(begun.elapsed() < AMPLE, "what the agent started lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failure() {
    let stonith = agent(PathBuf::from("/nowhere/fence_nothing"));
    let error = stonith.status("n1", AMPLE).await.expect_err("not there");
    assert!(matches!(error, DeviceError::NotStarted { .. }), "{error}");
}

#[tokio::test]
async fn the_second_device_is_tried_where_the_first_fails() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = script(dir.path(), &well_behaved(dir.path()));
    let method = |program: PathBuf| FenceMethod::Agent {
        program,
        options: BTreeMap::new(),
    };
    let broken = device(method(PathBuf::from("/nowhere/fence_nothing")));
    let stonith = Stonith::new(vec![broken, device(method(good.clone()))]);
    let off = stonith.turn_off("n1", AMPLE).await.expect("the second works");
    assert_eq!(off.device, good.display().to_string());
}

#[tokio::test]
async fn a_command_is_told_the_node_and_the_action_in_its_environment() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().display().to_string();
    let body = format!(
        "case $PGCTL_FENCE_ACTION-$1 in
           off-now) echo $PGCTL_FENCE_NODE > {state}/off; exit 0;;
           status-now) test -e {state}/off && exit 2; exit 0;;
         esac; exit 1"
    );
    let program = script(dir.path(), &body);
    let arguments = vec!["now".to_owned()];
    let stonith = Stonith::new(vec![device(FenceMethod::Command { program, arguments })]);
    let off = stonith.turn_off("n1", AMPLE).await.expect("it does");
    assert_eq!(off.exit_code, Some(2));
    assert_eq!(
        std::fs::read_to_string(dir.path().join("off")).expect("written"),
        "n1\n"
    );
}

/// Answers each request with the next of `answers`, the last one again and again; gives its address.
async fn http_device(answers: Vec<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut answers = answers.into_iter().peekable();
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                return;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let Some(answer) = answers.peek().copied() else {
                return;
            };
            if answers.len() > 1 {
                answers.next();
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

const TAKEN: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
const IS_ON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npower=on";
const IS_OFF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npower=off";
const BROKEN: &str = "HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\npower=off";

fn call(base: &str) -> Stonith {
    Stonith::new(vec![device(FenceMethod::Http(Box::new(HttpCall {
        method: "POST".to_owned(),
        url: format!("{base}/n1/off"),
        expect: 202,
        status_url: format!("{base}/n1"),
        status_expect: 200,
        status_contains: Some("power=off".to_owned()),
        headers: [("Authorization".to_owned(), "Bearer abc".to_owned())].into(),
    })))])
}

#[tokio::test]
async fn an_http_device_is_asked_until_it_says_off() {
    let base = http_device(vec![TAKEN, IS_ON, IS_OFF]).await;
    let off = call(&base).turn_off("n1", AMPLE).await.expect("it does");
    assert_eq!((off.exit_code, off.output.as_str()), (None, "HTTP 200 power=off"));
}

#[tokio::test]
async fn an_http_device_that_fails_is_not_believed() {
    let refused = http_device(vec![BROKEN]).await;
    assert!(
        call(&refused).turn_off("n1", AMPLE).await.is_err(),
        "the order was refused"
    );
    let blind = http_device(vec![TAKEN, BROKEN]).await;
    assert!(
        call(&blind).turn_off("n1", AMPLE).await.is_err(),
        "it knows nothing"
    );
    let garbage = http_device(vec!["power=off"]).await;
    assert!(
        call(&garbage).status("n1", AMPLE).await.is_err(),
        "that is no HTTP"
    );
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = format!("http://{}", silent.local_addr().expect("an address"));
    assert!(call(&silent).status("n1", SHORT).await.is_err(), "nobody answers");
}
