//! `pgctl-agent`: reads its configuration, starts, and runs until it is told to stop.

use agent::config::{self, ConfigError};
use agent::guard_command::GuardArguments;
use agent::{app, telemetry};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs beside one PostgreSQL server and keeps it, together with its peers, highly available.
#[derive(Parser)]
#[command(
    name = "pgctl-agent",
    version,
    after_help = "\
Examples:
  pgctl-agent --config /etc/pgctl/node.toml --check-config
  PGCTL_LOG__LEVEL=debug pgctl-agent --config /etc/pgctl/node.toml"
)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The node's configuration, a TOML file
    #[arg(long, value_name = "FILE", default_value = "/etc/pgctl/node.toml")]
    config: PathBuf,
    /// Check the configuration, say what is wrong with it, and stop
    #[arg(long)]
    check_config: bool,
    /// Print the effective configuration, and where each value came from, and stop
    #[arg(long)]
    dump_config: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Ends the node's server when its lease is over; the agent starts it by itself
    Guard(GuardArguments),
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the program's face to the terminal"
)]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Guard(arguments)) = &arguments.command {
        return match arguments.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("pgctl-agent guard: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let loaded = match config::load(&arguments.config, config::process_environment()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(ConfigError::EXIT_CODE);
        }
    };
    if arguments.dump_config {
        print!("{}", loaded.dump());
        return ExitCode::SUCCESS;
    }
    if arguments.check_config {
        println!("{}", loaded.summary());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = telemetry::start(&loaded.config.log) {
        eprintln!("pgctl-agent: {error}");
        return ExitCode::from(ConfigError::EXIT_CODE);
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match app::run(&loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("pgctl-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
