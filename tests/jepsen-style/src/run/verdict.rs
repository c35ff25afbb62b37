//! Which checkers are asked about what.

use super::{Options, Story};
use crate::checker::recovery::Calm;
use crate::checker::{Finding, Nanos, append, bank, bound, one_writer, recovery, register, set, stale};
use crate::nemesis::Made;
use crate::workload::{ACCOUNTS, Kind, Last, TOTAL};

/// How many steps the search for an order of one register's calls may take.
const SEARCH_STEPS: u64 = 2_000_000;

/// A committed row of two numbers takes more WAL than this, in bytes.
const ROW_BYTES: u64 = 64;

/// Every checker's finding.
pub fn judge(options: &Options, kinds: &[Kind], story: &Story) -> Vec<Finding> {
    let history = &story.history;
    let mut findings = vec![one_writer::check(&history.acks)];
    let acks: Vec<(Nanos, Nanos)> = history.acks.iter().map(|ack| (ack.sent, ack.acked)).collect();
    findings.push(recovery::check(
        &acks,
        &calms(&story.made, story.healed, story.run.1),
        options.budget * 1_000_000_000,
    ));
    findings.push(the_run_itself(options, kinds, story));
    let Some(last) = &story.last else {
        return findings;
    };
    // What was acknowledged may be lost, within the bound: nothing more can be said of what was read.
    let synchronous = options.mode != "async";
    // A procedure's rows are in the same table as the set's: either of them is reason enough to look.
    let rows = kinds
        .iter()
        .find(|kind| matches!(kind, Kind::Set | Kind::Procedure));
    for kind in kinds {
        match kind {
            Kind::Set | Kind::Procedure if rows != Some(kind) => {}
            Kind::Set | Kind::Procedure if synchronous => findings.push(set::check(&history.set, &last.set)),
            Kind::Set | Kind::Procedure => {
                let lost = set::lost(&history.set, &last.set).count() as u64;
                let acked = history.set.acked.len() as u64;
                findings.push(bound::check(
                    acked,
                    lost,
                    ROW_BYTES,
                    failovers(story),
                    story.max_lag_bytes,
                ));
            }
            Kind::Register if synchronous => {
                findings.push(register::check(&registers(story, last), SEARCH_STEPS));
            }
            Kind::Append if synchronous => findings.push(append::check(&history.txns, &last.lists)),
            Kind::ReadAfterWrite if synchronous => {
                findings.push(read_after_write(options, story));
            }
            Kind::Register | Kind::Append | Kind::ReadAfterWrite => {
                let mut finding = Finding::new(kind.name(), 0);
                finding.undecided("not checked: async mode may lose acknowledged writes");
                findings.push(finding);
            }
            Kind::Bank => {
                let mut reads = history.reads.clone();
                reads.push(bank::Read {
                    who: "the last look".to_owned(),
                    balances: last.balances.clone(),
                });
                findings.push(bank::check(&reads, ACCOUNTS as usize, TOTAL));
            }
        }
    }
    findings
}

/// The looks at standbys, of which there must be enough that had to show something.
fn read_after_write(options: &Options, story: &Story) -> Finding {
    let mut finding = stale::check(&story.history.looks);
    let needed = options.time / 2;
    if finding.looked_at < needed {
        finding.violated(format!(
            "too few looks at standbys that had come so far to show anything: {}, {needed} are needed",
            finding.looked_at
        ));
    }
    finding
}

/// That there was enough traffic to show anything, and what no client can see.
fn the_run_itself(options: &Options, kinds: &[Kind], story: &Story) -> Finding {
    let mut finding = Finding::new("the run itself", story.made.len() as u64);
    for kind in kinds {
        let acked = story.history.acked_of.get(kind.name()).copied().unwrap_or(0);
        let needed = 2 * options.time;
        if acked < needed {
            finding.violated(format!(
                "too little traffic to show anything: {acked} calls of {} were acknowledged, {needed} are needed",
                kind.name()
            ));
        }
    }
    if !story.made.iter().any(|made| made.note.is_none()) {
        finding.violated("no fault could be made");
    }
    if let Some(why) = &story.not_back {
        finding.violated(format!("the cluster did not come back: {why}"));
    }
    for complaint in &story.complaints {
        finding.violated(complaint.clone());
    }
    for ended in &story.ended_by_themselves {
        finding.note(format!("an agent ended by itself: {ended}"));
    }
    finding
}

/// The registers' calls, with a look at each in the end.
fn registers(story: &Story, last: &Last) -> Vec<register::Op> {
    let mut ops = story.history.ops.clone();
    let mut keys: Vec<u32> = ops.iter().map(|op| op.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let at = story.run.1;
    ops.extend(keys.into_iter().map(|key| register::Op {
        key,
        call: register::Call::Read,
        answer: register::Answer::Value(last.registers.get(&key).copied().unwrap_or(0)),
        invoked: at,
        returned: at + 1,
    }));
    ops
}

fn failovers(story: &Story) -> u64 {
    let epochs = story.epochs.as_array().map(Vec::as_slice).unwrap_or_default();
    let failovers = epochs.iter().filter(|epoch| {
        epoch["cause"]
            .as_str()
            .is_some_and(|cause| cause.ends_with("failover"))
    });
    failovers.count() as u64
}

/// From the end of each step's faults to the beginning of the next one's.
fn calms(made: &[Made], healed: Nanos, end: Nanos) -> Vec<Calm> {
    let mut calms: Vec<Calm> = Vec::new();
    for (i, one) in made.iter().enumerate() {
        let names = made[..=i].iter().filter(|other| other.step == one.step);
        let next = made[i + 1..].iter().find(|other| other.step != one.step);
        if made.get(i + 1).is_some_and(|other| other.step == one.step) {
            continue;
        }
        let names: Vec<String> = names
            .map(|one| format!("{} of {}", one.fault, one.target))
            .collect();
        calms.push(Calm {
            after: format!("step {} ({})", one.step, names.join(" and ")),
            from: one.undone,
            to: next.map_or(healed.max(one.undone), |next| next.at),
        });
    }
    calms.push(Calm {
        after: "everything".to_owned(),
        from: healed,
        to: end,
    });
    calms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(step: u64, at: Nanos, undone: Nanos) -> Made {
        Made {
            step,
            fault: "kill-agent",
            target: "n1".to_owned(),
            at,
            undone,
            note: None,
        }
    }

    #[test]
    fn it_is_calm_between_steps_and_not_between_the_faults_of_one() {
        let calms = calms(&[made(1, 10, 30), made(1, 12, 30), made(2, 50, 60)], 70, 100);
        let spans: Vec<(Nanos, Nanos)> = calms.iter().map(|calm| (calm.from, calm.to)).collect();
        assert_eq!(spans, [(30, 50), (60, 70), (70, 100)]);
    }
}
