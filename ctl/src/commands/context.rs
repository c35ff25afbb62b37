//! `pgctl context`: where the cluster is found from now on.

use crate::context::{Context, load, parse, path, store};
use crate::failure::Failure;
use crate::output::{self, Format};
use clap::Subcommand;

/// Keeps the agents' addresses in a file, so that --endpoint need not be given
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl context set 10.0.0.1:7432 10.0.0.2:7432 10.0.0.3:7432
  pgctl context show
  PGCTL_CONTEXT=~/clusters/test.toml pgctl list")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Writes the context file
    #[command(after_help = "Examples:\n  pgctl context set 10.0.0.1 10.0.0.2 10.0.0.3")]
    Set {
        /// Agents, as host[:port]; tried in this order
        #[arg(required = true, value_name = "HOST:PORT")]
        endpoints: Vec<String>,
    },
    /// Prints the context, and where its file is
    #[command(after_help = "Examples:\n  pgctl context show -o json")]
    Show,
}

pub fn run(format: Format, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Set { endpoints } => {
            let context = Context {
                endpoints: parse(endpoints.iter().flat_map(|given| given.split(',')))?,
            };
            let path = store(&context)?;
            match format {
                Format::Json => output::json(&context),
                Format::Table => output::line(format!("{} is written", path.display())),
            }
        }
        Verb::Show => {
            let Some(context) = load()? else {
                let message = format!("there is no context ({} is missing)", path()?.display());
                let next = "pgctl context set HOST:PORT ...".to_owned();
                return Err(Failure::Refused {
                    id: "no-context".to_owned(),
                    message,
                    next,
                });
            };
            match format {
                Format::Json => output::json(&context),
                Format::Table => {
                    output::line(format!("{}\n{}", path()?.display(), context.endpoints.join("\n")))
                }
            }
        }
    }
}
