//! The command line.

use crate::commands::{
    backup, completions, config, context, ddl, dsn, dump, events, explain, failover, fence, history, list,
    member, pause, repo, restore, resume, status, switchover, topology, unfence, version, wal,
};
use crate::failure::{EXIT_CODES, Failure};
use crate::output::Format;
use crate::session::Session;
use clap::{Parser, Subcommand};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  pgctl --endpoint 10.0.0.1:7432,10.0.0.2:7432 list
  pgctl context set 10.0.0.1:7432 10.0.0.2:7432 10.0.0.3:7432
  pgctl list --watch
  pgctl switchover --to n2
  pgctl explain";

/// Shows and operates a pgctl cluster of PostgreSQL servers.
///
/// Any agent of the cluster can be asked: name one or several with --endpoint or PGCTL_ENDPOINT, or once and for all with
/// `pgctl context set`. (To start or stop one server by hand, `pg_ctl` is the command you want: with an underscore.)
#[derive(Debug, Parser)]
#[command(name = "pgctl", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// Agents to ask, as host[:port] with commas between them; tried in this order
    #[arg(
        long,
        short = 'e',
        global = true,
        env = "PGCTL_ENDPOINT",
        value_name = "HOST:PORT,..."
    )]
    pub endpoint: Option<String>,

    /// The form of the output
    #[arg(
        long,
        short = 'o',
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub output: Format,

    /// How long one agent may take for an answer, seconds
    #[arg(long, global = true, default_value = "15", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    List(list::Args),
    Topology(topology::Args),
    Status(status::Args),
    Switchover(switchover::Args),
    Failover(failover::Args),
    Fence(fence::Args),
    Unfence(unfence::Args),
    Explain(explain::Args),
    History(history::Args),
    Events(events::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    Config(config::Args),
    Member(member::Args),
    Backup(backup::Args),
    Wal(wal::Args),
    Restore(restore::Args),
    Repo(repo::Args),
    Dump(dump::Args),
    Dsn(dsn::Args),
    Context(context::Args),
    Ddl(ddl::Args),
    Completions(completions::Args),
    Version(version::Args),
}

/// What is given beside any command.
#[derive(Debug)]
pub struct Globals {
    pub endpoint: Option<String>,
    pub output: Format,
    pub timeout: Duration,
}

impl Globals {
    /// A session with the agents that were named.
    ///
    /// # Errors
    /// What was given is no list of agents.
    pub fn session(&self) -> Result<Session, Failure> {
        let endpoints = crate::context::endpoints(self.endpoint.as_deref())?;
        Ok(Session::new(endpoints, self.timeout))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("it must be a number of seconds from 0.1 to 3600".to_owned()),
    }
}
