//! `pgctl`: the operator's command.
//!
//! Standard output is data and nothing else (a table, or JSON with `-o json`); questions, progress and errors go to
//! standard error. The exit codes are those of [`failure`].

mod cli;
mod commands;
mod context;
mod failure;
mod output;
mod repositories;
mod session;
mod wall_time;

use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let Some(pointer) = commands::pg_ctl::pointer(&arguments) {
        return Failure::Usage { message: pointer }.report();
    }
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::local(format!("no runtime could be started: {error}")).report(),
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
