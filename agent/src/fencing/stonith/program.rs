//! Devices that are programs: fence agents of the ClusterLabs protocol, and commands of the operator's own.
//!
//! A fence agent reads `name=value` lines from its standard input, `action=off` or `action=status` among them. Both kinds
//! end with 0 if what was asked for was done; asked for the state, with 0 if the machine is on and with 2 if it is off.

use super::{Answer, DeviceError, Power, excerpt};
use crate::config::{FenceDevice, FenceMethod, is_secret};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// How much of a program's output is read; the rest is thrown away.
const READ_AT_MOST: usize = 64 << 10;

pub(super) async fn order(device: &FenceDevice, deadline: Duration) -> Result<Answer, DeviceError> {
    let (status, output) = run(device, "off", deadline).await?;
    match status.code() {
        Some(0) => Ok(Answer {
            power: None,
            exit_code: status.code(),
            output,
        }),
        _ => Err(failed(device, "off", status, output)),
    }
}

pub(super) async fn ask(device: &FenceDevice, deadline: Duration) -> Result<(Power, Answer), DeviceError> {
    let (status, output) = run(device, "status", deadline).await?;
    let power = match status.code() {
        Some(0) => Power::On,
        Some(2) => Power::Off,
        _ => return Err(failed(device, "status", status, output)),
    };
    let answer = Answer {
        power: Some(power),
        exit_code: status.code(),
        output,
    };
    Ok((power, answer))
}

fn failed(device: &FenceDevice, doing: &'static str, status: ExitStatus, output: String) -> DeviceError {
    DeviceError::Failed {
        device: device.shown(),
        doing,
        how: status.to_string(),
        output,
    }
}

async fn run(
    device: &FenceDevice,
    action: &'static str,
    deadline: Duration,
) -> Result<(ExitStatus, String), DeviceError> {
    let none = BTreeMap::new();
    let (program, arguments, options): (&Path, &[String], _) = match &device.method {
        FenceMethod::Agent { program, options } => (program, &[], options),
        FenceMethod::Command { program, arguments } => (program, arguments, &none),
        FenceMethod::Http(_) => (Path::new(""), &[], &none),
    };
    let not_started = |error: std::io::Error| DeviceError::NotStarted {
        program: device.shown(),
        detail: error.to_string(),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("PGCTL_FENCE_NODE", &device.node)
        .env("PGCTL_FENCE_ACTION", action)
        .current_dir("/")
        // Of its own group, so that what it has started ends with it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(not_started)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    let mut lines = String::new();
    if matches!(device.method, FenceMethod::Agent { .. }) {
        for (name, value) in options {
            lines.push_str(&format!("{name}={value}\n"));
        }
        lines.push_str(&format!("nodename={}\naction={action}\n", device.node));
    }
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input may still do its work.
            let _ = stdin.write_all(lines.as_bytes()).await;
        }
        let (out, complaint) = tokio::join!(read(stdout), read(stderr));
        let status = child.wait().await.map_err(not_started)?;
        let output = [out, b" ".to_vec(), complaint].concat();
        Ok((status, output))
    };
    let ended = tokio::time::timeout(deadline, work).await;
    let Ok(ended) = ended else {
        end_group(group);
        return Err(DeviceError::TooLate {
            device: device.shown(),
            doing: action,
            deadline,
        });
    };
    let (status, output) = ended?;
    let secrets = options
        .iter()
        .filter(|(name, _)| is_secret(name))
        .map(|(_, value)| value.as_str());
    Ok((status, excerpt::excerpt(&output, secrets)))
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return kept };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if kept.len() < READ_AT_MOST {
            kept.extend_from_slice(&buffer[..count]);
        }
    }
    kept
}

/// Ends a program that has not come to an end, with all that it has started.
fn end_group(group: Option<i32>) {
    let Some(group) = group else { return };
    let group = nix::unistd::Pid::from_raw(group);
    if let Err(error) = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL) {
        tracing::debug!(%error, "a fence program had ended already");
    }
}
