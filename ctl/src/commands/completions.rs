//! `pgctl completions`: for the shell.

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;
use clap::CommandFactory;
use clap_complete::Shell;

/// Prints a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl completions bash > /etc/bash_completion.d/pgctl
  pgctl completions zsh > ~/.zfunc/_pgctl
  pgctl completions fish > ~/.config/fish/completions/pgctl.fish")]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pgctl", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end())
}
