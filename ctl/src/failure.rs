//! How a command ends if not well, and with which exit code. The codes are stable: scripts depend on them.

use crate::output::plain;
use std::process::ExitCode;
use tonic::Status;

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The cluster refused, or the request failed and nothing is in doubt. Exit code 1.
    Refused {
        id: String,
        message: String,
        next: String,
    },
    /// The command line makes no sense. Exit code 2, as clap's own.
    Usage { message: String },
    /// The request was sent, and whether it was carried out is not known. Exit code 3.
    Unknown { message: String, next: String },
    /// No agent could be reached. Exit code 4.
    Unreachable { tried: Vec<String> },
    /// The operator answered no. Exit code 5.
    Declined,
    /// There is no such WAL, and that is known. Exit code 1; said to nobody, for a recovery asks for much that is not there.
    Absent,
    /// A recovery must stop here and not end. Exit code 200, which PostgreSQL takes for just that.
    StopRecovery { message: String },
    /// Whoever read our output has gone. Exit code 0: `pgctl events | head` is no failure.
    OutputClosed,
}

/// What every `--help` says of them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or failed with nothing in doubt
  2  the command line makes no sense
  3  the outcome is unknown: look before anything else
  4  no agent could be reached
  5  the question was answered with no
  200  wal get: the recovery must stop here, not end";

impl Failure {
    /// The cluster refused, without a next step.
    pub fn refused(id: &str, message: impl Into<String>) -> Failure {
        Failure::Refused {
            id: id.to_owned(),
            message: message.into(),
            next: String::new(),
        }
    }

    /// Something on this machine went wrong.
    pub fn local(message: impl Into<String>) -> Failure {
        Failure::refused("local", message)
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage {
            message: message.into(),
        }
    }

    /// What an agent answered. `None` if it is no word of an agent's: the connection broke, or it took too long.
    pub fn of_agent(status: &Status) -> Option<Failure> {
        let id = status.metadata().get("pgctl-id")?.to_str().ok()?.to_owned();
        let next = status
            .metadata()
            .get_bin("pgctl-next-bin")
            .and_then(|value| value.to_bytes().ok());
        let next = next
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let message = status.message().to_owned();
        Some(if id == "outcome-unknown" {
            Failure::Unknown { message, next }
        } else {
            Failure::Refused { id, message, next }
        })
    }

    /// What went wrong, on one line.
    pub fn message(&self) -> String {
        match self {
            Failure::Refused { message, .. }
            | Failure::Usage { message }
            | Failure::Unknown { message, .. }
            | Failure::StopRecovery { message } => message.clone(),
            Failure::Unreachable { tried } => tried.join("; "),
            Failure::Declined | Failure::OutputClosed | Failure::Absent => String::new(),
        }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::OutputClosed => 0,
            Failure::Refused { .. } | Failure::Absent => 1,
            Failure::Usage { .. } => 2,
            Failure::Unknown { .. } => 3,
            Failure::Unreachable { .. } => 4,
            Failure::Declined => 5,
            Failure::StopRecovery { .. } => 200,
        }
    }

    /// Prints it for a person, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        let next = match self {
            Failure::Refused { message, next, .. } => {
                eprintln!("pgctl: {}", plain(message));
                next.as_str()
            }
            Failure::Usage { message } => {
                eprintln!("pgctl: {}", plain(message));
                ""
            }
            Failure::Unknown { message, next } => {
                eprintln!("pgctl: the outcome is unknown: {}", plain(message));
                next
            }
            Failure::Unreachable { tried } => {
                eprintln!("pgctl: no agent could be reached:");
                for line in tried {
                    eprintln!("  {}", plain(line));
                }
                "name one with --endpoint HOST:PORT or PGCTL_ENDPOINT, or see `systemctl status pgctl-agent` on a node"
            }
            Failure::Declined => {
                eprintln!("pgctl: nothing was done");
                ""
            }
            Failure::StopRecovery { message } => {
                eprintln!("pgctl: {message}");
                "the recovery stops here; mend what is wrong, and start the server again"
            }
            Failure::OutputClosed | Failure::Absent => "",
        };
        if !next.is_empty() {
            eprintln!("  next: {}", plain(next));
        }
        ExitCode::from(self.code())
    }
}
