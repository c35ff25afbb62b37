//! What a run is to be.

use crate::nemesis::{Fault, choose};
use crate::workload::Kind;
use anyhow::{Result, bail};
use clap::Parser;
use std::path::PathBuf;

/// Runs a cluster under faults and checks what its clients saw
///
/// Needs root for everything; without it there is one network for all nodes, and no faults of networks and disks. The report
/// says what was skipped. Exit code 0: no violation, and enough traffic to say so.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "jepsen",
    after_help = "\
Examples:
  jepsen --time 600                                  # ten minutes of everything
  jepsen --time 120 --nodes 5 --nemeses partition    # only networks break
  jepsen --nemeses kill-agent,pause-agent --workloads set
  jepsen --seed 4711                                 # the same schedule again
  jepsen --list                                      # what there is to choose from"
)]
pub struct Options {
    /// How long faults are made, in seconds; setting up, healing and checking come on top
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time: u64,
    /// 3 or 5 servers, or 2w: two servers and a witness
    #[arg(long, default_value = "3")]
    pub nodes: String,
    /// What the schedule is made from; any number by default
    #[arg(long)]
    pub seed: Option<u64>,
    /// Faults and families of faults, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub nemeses: Vec<String>,
    /// set, register, append, bank, read-after-write, procedure, or all
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub workloads: Vec<String>,
    /// The lease's terms: lan-fast, default or wan
    #[arg(long, default_value = "default", value_parser = ["lan-fast", "default", "wan"])]
    pub profile: String,
    /// What commits wait for: quorum, strict or async
    #[arg(long, default_value = "quorum", value_parser = ["quorum", "strict", "async"])]
    pub mode: String,
    /// Within how many seconds writes must be acknowledged again once faults are undone
    #[arg(long, default_value_t = 60)]
    pub budget: u64,
    /// Where the summary goes, and what is needed to understand a violation
    #[arg(long, default_value = "target/jepsen")]
    pub out: PathBuf,
    /// Keep the histories and logs also of a run without a violation
    #[arg(long)]
    pub keep: bool,
    /// Let clients' commits wait for no standby: a run that must be a violation, to see that the checkers see
    #[arg(long)]
    pub local_commits: bool,
    /// Turn safety rules off, separated by commas, and the kernel lease with them: a run that must be a violation. Takes agents
    /// that were built with `--features sabotage`; agent/core/src/sabotage.rs lists the rules
    #[arg(long)]
    pub sabotage: Option<String>,
    /// Print the faults and workloads, and do nothing
    #[arg(long)]
    pub list: bool,
}

impl Options {
    /// How many servers and witnesses.
    ///
    /// # Errors
    /// `--nodes` means nothing.
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self.nodes.as_str() {
            "3" => Ok((3, 0)),
            "5" => Ok((5, 0)),
            "2w" => Ok((2, 1)),
            other => bail!("--nodes {other}: there are 3, 5 and 2w (two servers and a witness)"),
        }
    }

    /// The chosen faults.
    ///
    /// # Errors
    /// `--nemeses` names one that does not exist.
    pub fn faults(&self) -> Result<Vec<Fault>> {
        choose(&self.nemeses).or_else(|why| bail!("--nemeses: {why}"))
    }

    /// The chosen workloads.
    ///
    /// # Errors
    /// `--workloads` names one that does not exist.
    pub fn kinds(&self) -> Result<Vec<Kind>> {
        let mut kinds = Vec::new();
        for name in &self.workloads {
            let found = Kind::ALL
                .into_iter()
                .filter(|kind| name == "all" || name == kind.name());
            let before = kinds.len();
            kinds.extend(found);
            if kinds.len() == before {
                bail!(
                    "--workloads: there is no {name}; there are all, {}",
                    Kind::ALL.map(Kind::name).join(", ")
                );
            }
        }
        kinds.sort_unstable();
        kinds.dedup();
        Ok(kinds)
    }

    /// The command line that makes the same schedule again.
    pub fn again(&self, seed: u64) -> String {
        let more = match (&self.sabotage, self.local_commits) {
            (Some(rules), _) => format!(" JEPSEN_ARGS=\"--sabotage {rules}\""),
            (None, true) => " JEPSEN_ARGS=--local-commits".to_owned(),
            (None, false) => String::new(),
        };
        format!(
            "make jepsen TIME={} NODES={} SEED={seed} NEMESES={} WORKLOAD={} PROFILE={} MODE={}{more}",
            self.time,
            self.nodes,
            self.nemeses.join(","),
            self.workloads.join(","),
            self.profile,
            self.mode
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Options {
        Options::parse_from(["jepsen"].iter().chain(args))
    }

    #[test]
    fn the_defaults_are_everything_for_ten_minutes() {
        let options = parsed(&[]);
        assert_eq!(options.shape().ok(), Some((3, 0)));
        assert_eq!(options.faults().expect("all").len(), Fault::ALL.len());
        assert_eq!(options.kinds().expect("all"), Kind::ALL);
        assert_eq!(options.time, 600);
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        assert!(parsed(&["--nodes", "4"]).shape().is_err());
        assert!(parsed(&["--nemeses", "meteor"]).faults().is_err());
        assert!(parsed(&["--workloads", "set,game"]).kinds().is_err());
    }

    #[test]
    fn the_command_that_repeats_a_run_names_all_that_matters() {
        let again = parsed(&["--nodes", "5", "--nemeses", "kill,timing"]).again(7);
        assert_eq!(
            again,
            "make jepsen TIME=600 NODES=5 SEED=7 NEMESES=kill,timing WORKLOAD=all PROFILE=default MODE=quorum"
        );
    }
}
