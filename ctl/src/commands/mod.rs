//! One file per command.

pub mod backup;
pub mod completions;
pub mod config;
pub mod context;
pub mod ddl;
pub mod dsn;
pub mod dump;
pub mod events;
pub mod explain;
pub mod failover;
pub mod fence;
pub mod history;
pub mod list;
pub mod member;
pub mod pause;
pub mod pg_ctl;
pub mod repo;
pub mod restore;
pub mod resume;
pub mod status;
pub mod switchover;
mod through;
pub mod topology;
pub mod unfence;
pub mod version;
pub mod wal;

#[cfg(test)]
mod odd_answers_tests;

use crate::cli::{Cli, Command, Globals};
use crate::failure::Failure;
use crate::output::Format;
use crate::session::Session;
use std::process::ExitCode;

/// What every command that talks to the cluster is given.
pub struct Frame {
    pub session: Session,
    pub format: Format,
}

/// Carries out one command.
pub async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let frame = || {
        let endpoints = crate::context::endpoints(cli.endpoint.as_deref())?;
        Ok::<_, Failure>(Frame {
            session: Session::new(endpoints, cli.timeout),
            format: cli.output,
        })
    };
    // These also work without any agent.
    let globals = || Globals {
        endpoint: cli.endpoint.clone(),
        output: cli.output,
        timeout: cli.timeout,
    };
    let done = match cli.command {
        Command::List(args) => list::run(&frame()?, &args).await,
        Command::Topology(args) => topology::run(&frame()?, &args).await,
        Command::Status(args) => status::run(&frame()?, &args).await,
        Command::Switchover(args) => switchover::run(&frame()?, &args).await,
        Command::Failover(args) => failover::run(&frame()?, &args).await,
        Command::Fence(args) => fence::run(&frame()?, &args).await,
        Command::Unfence(args) => unfence::run(&frame()?, &args).await,
        Command::Explain(args) => explain::run(&frame()?, &args).await,
        Command::History(args) => history::run(&frame()?, &args).await,
        Command::Events(args) => events::run(&frame()?, &args).await,
        Command::Pause(args) => pause::run(&frame()?, &args).await,
        Command::Resume(args) => resume::run(&frame()?, &args).await,
        // Checks a profile without any agent.
        Command::Config(args) => config::run(frame, cli.output, &args).await,
        Command::Member(args) => member::run(&frame()?, &args).await,
        Command::Backup(args) => backup::run(&globals(), &args).await,
        Command::Wal(args) => wal::run(&globals(), &args).await,
        Command::Repo(args) => repo::run(&globals(), &args).await,
        Command::Dump(args) => dump::run(&globals(), &args).await,
        Command::Restore(args) => restore::run(&globals(), &args).await,
        // The linter has exit codes of its own, and asks no agent.
        Command::Ddl(args) => return ddl::run(&globals(), &args).await,
        Command::Dsn(args) => dsn::run(&frame()?, &args).await,
        Command::Context(args) => context::run(cli.output, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Version(args) => version::run(frame, cli.output, &args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
