//! What a restore would do: which backup, which WAL, and what is in the way. Nothing is touched to find out.

use crate::catalogue::{Catalogue, chain, complete};
use crate::inventory::{Hole, Inventory, Span};
use agent_core::pg::{Lsn, TimelineId};
use serde::Serialize;

/// How far to recover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// As far as the archive goes.
    Latest,
    /// To the end of the backup.
    Immediate,
    /// ms since 1970.
    Time(i64),
    Lsn(Lsn),
    Xid(u64),
    /// A restore point.
    Name(String),
}

/// What a restore will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub backup: String,
    pub target: Target,
    pub timeline: TimelineId,
    /// The WAL that will be asked for, oldest first; the last span is open: it ends where the archive does.
    pub spans: Vec<Span>,
    /// The newest segment that is there without a hole.
    pub reach: String,
    /// Its timeline and number: recovery may not end before it without having reached its target.
    pub reach_at: (TimelineId, u64),
    /// When that one was archived, ms since 1970.
    pub reach_ms: Option<i64>,
    /// Segments to replay, at most.
    pub segments: u64,
    /// What is missing on this line beyond the reach.
    pub holes: Vec<Hole>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplannable {
    #[error("there is no finished backup in this repository")]
    NoBackup,
    #[error("there is no finished backup {0}; see `pgctl backup list`")]
    NoSuchBackup(String),
    #[error("backup {0} is an increment of one that is not there any more: choose another one")]
    BrokenChain(String),
    #[error("backup {id} is not complete: WAL {first} to {last} is not archived")]
    Incomplete { id: String, first: String, last: String },
    #[error("no complete backup ended before {target}; the oldest one ended at {oldest}")]
    TooEarly { target: String, oldest: String },
    #[error("timeline {to} does not descend from backup {backup} (timeline {from})")]
    NotOnTheLine {
        backup: String,
        from: TimelineId,
        to: TimelineId,
    },
    #[error(
        "the archive has a hole before that target: {first} to {last} are missing, and recovery could not get further \
         than {reach}. Restore from a backup after the hole, or to a target before it"
    )]
    Hole {
        first: String,
        last: String,
        reach: String,
    },
    #[error("the archive does not reach {target}: its last segment is {reach}")]
    TooLate { target: String, reach: String },
    #[error("which backup is before the target cannot be told for {0}: name one with --backup")]
    NameTheBackup(&'static str),
}

/// Chooses a backup and the WAL to replay. `backup` and `timeline` are the operator's choice, where there is one.
///
/// # Errors
/// Why it cannot be done, and what could be done instead.
pub fn plan(
    backups: &[Catalogue],
    inventory: &Inventory,
    target: &Target,
    backup: Option<&str>,
    timeline: Option<TimelineId>,
) -> Result<Plan, Unplannable> {
    let chosen = choose(backups, inventory, target, backup, timeline)?;
    if chain(backups, &chosen.id).is_none() {
        return Err(Unplannable::BrokenChain(chosen.id.clone()));
    }
    if let Some(hole) = chosen.lacks(inventory).first() {
        return Err(Unplannable::Incomplete {
            id: chosen.id.clone(),
            first: hole.first.clone(),
            last: hole.last.clone(),
        });
    }
    let timeline = timeline.unwrap_or_else(|| newest_descendant(inventory, chosen));
    let from = chosen.origin(inventory);
    let spans = Some(chosen)
        .filter(|chosen| chosen.reaches(inventory, timeline))
        .and_then(|chosen| inventory.line_of(from, chosen.start, timeline))
        .ok_or_else(|| Unplannable::NotOnTheLine {
            backup: chosen.id.clone(),
            from: chosen.timeline,
            to: timeline,
        })?;
    let reach_at = inventory.reach(&spans).ok_or_else(|| Unplannable::Incomplete {
        id: chosen.id.clone(),
        first: inventory.name_of(from, inventory.number_of(chosen.start)),
        last: inventory.name_of(from, inventory.number_of(chosen.start)),
    })?;
    let holes = beyond(inventory, &spans);
    let plan = Plan {
        backup: chosen.id.clone(),
        target: target.clone(),
        timeline,
        reach: inventory.name_of(reach_at.0, reach_at.1),
        reach_at,
        reach_ms: inventory.written_ms.get(&reach_at).copied(),
        segments: reach_at.1 + 1 - inventory.number_of(chosen.start),
        spans,
        holes,
    };
    check_reach(&plan, inventory)?;
    Ok(plan)
}

/// Refuses a plan that could only end short of what was asked for.
fn check_reach(plan: &Plan, inventory: &Inventory) -> Result<(), Unplannable> {
    let hole = plan.holes.first();
    let through_the_hole = match &plan.target {
        Target::Immediate => false,
        // "Latest" means all that was archived. A name or a number is somewhere; only the server can tell where.
        Target::Latest | Target::Xid(_) | Target::Name(_) => true,
        Target::Lsn(lsn) => inventory.number_of(*lsn) > plan.reach_at.1,
        // What was written after the hole began is not before the target for sure.
        Target::Time(at) => plan.reach_ms.is_none_or(|reach| *at > reach),
    };
    if let (Some(hole), true) = (hole, through_the_hole) {
        return Err(Unplannable::Hole {
            first: hole.first.clone(),
            last: hole.last.clone(),
            reach: plan.reach.clone(),
        });
    }
    if let Target::Lsn(lsn) = &plan.target
        && inventory.number_of(*lsn) > plan.reach_at.1
    {
        return Err(Unplannable::TooLate {
            target: lsn.to_string(),
            reach: plan.reach.clone(),
        });
    }
    Ok(())
}

fn choose<'a>(
    backups: &'a [Catalogue],
    inventory: &Inventory,
    target: &Target,
    backup: Option<&str>,
    timeline: Option<TimelineId>,
) -> Result<&'a Catalogue, Unplannable> {
    if let Some(id) = backup {
        let named = backups.iter().find(|entry| entry.id == id);
        return named.ok_or_else(|| Unplannable::NoSuchBackup(id.to_owned()));
    }
    if backups.is_empty() {
        return Err(Unplannable::NoBackup);
    }
    let on_line = |entry: &&Catalogue| timeline.is_none_or(|to| entry.reaches(inventory, to));
    let complete: Vec<&Catalogue> = complete(backups, inventory).into_iter().filter(on_line).collect();
    let Some(oldest) = complete.first() else {
        let newest = &backups[backups.len() - 1];
        let lacks = newest.lacks(inventory);
        return Err(match (lacks.first(), timeline) {
            (Some(hole), _) => Unplannable::Incomplete {
                id: newest.id.clone(),
                first: hole.first.clone(),
                last: hole.last.clone(),
            },
            (None, Some(to)) => Unplannable::NotOnTheLine {
                backup: newest.id.clone(),
                from: newest.timeline,
                to,
            },
            (None, None) => Unplannable::NoBackup,
        });
    };
    let newest_before = |fits: &dyn Fn(&Catalogue) -> bool, target: String| {
        let before = complete.iter().rev().find(|entry| fits(entry)).copied();
        before.ok_or_else(|| Unplannable::TooEarly {
            target,
            oldest: format!("{} ({})", oldest.stop, crate::timestamp::show(oldest.ended_ms)),
        })
    };
    match target {
        Target::Latest | Target::Immediate => newest_before(&|_| true, String::new()),
        Target::Time(at) => newest_before(&|entry| entry.ended_ms <= *at, crate::timestamp::show(*at)),
        Target::Lsn(lsn) => newest_before(&|entry| entry.stop <= *lsn, lsn.to_string()),
        Target::Xid(_) | Target::Name(_) if complete.len() == 1 => Ok(oldest),
        Target::Xid(_) => Err(Unplannable::NameTheBackup("a transaction")),
        Target::Name(_) => Err(Unplannable::NameTheBackup("a restore point")),
    }
}

/// The highest timeline that descends from the backup: the one on which the cluster went on last.
fn newest_descendant(inventory: &Inventory, backup: &Catalogue) -> TimelineId {
    let newest = inventory
        .histories
        .keys()
        .rev()
        .find(|to| backup.reaches(inventory, **to));
    newest.copied().unwrap_or(backup.timeline)
}

/// What is missing on the line, up to the newest segment of its last timeline.
fn beyond(inventory: &Inventory, spans: &[Span]) -> Vec<Hole> {
    let mut holes = Vec::new();
    for span in spans {
        let mut span = *span;
        if span.last == u64::MAX {
            let newest = inventory
                .segments
                .get(&span.timeline)
                .and_then(|there| there.last());
            // Nothing of the newest timeline is archived yet: that is its beginning, not a hole.
            let Some(newest) = newest.filter(|newest| **newest >= span.first) else {
                continue;
            };
            span.last = *newest;
        }
        holes.extend(inventory.missing(span));
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::entry;
    use crate::inventory::tests::{MIB, made_of};

    const FORK: &[(u32, u64)] = &[(1, 10 * MIB + 5)];

    fn two() -> Vec<Catalogue> {
        vec![
            entry("old", 1, 3 * MIB + 40, 4 * MIB, 1_000),
            entry("new", 1, 7 * MIB + 40, 8 * MIB, 2_000),
        ]
    }

    #[test]
    fn the_newest_backup_before_the_target_is_taken() {
        let inventory = made_of(&[(1, 3..=9), (2, 10..=12)], &[(2, FORK)]);
        for (target, backup) in [
            (Target::Latest, "new"),
            (Target::Immediate, "new"),
            (Target::Time(2_000), "new"),
            (Target::Time(1_999), "old"),
            (Target::Lsn(Lsn(8 * MIB)), "new"),
            (Target::Lsn(Lsn(8 * MIB - 1)), "old"),
        ] {
            let plan = plan(&two(), &inventory, &target, None, None).expect("a plan");
            assert_eq!(plan.backup, backup, "{target:?}");
            assert_eq!(
                plan.timeline,
                TimelineId(2),
                "it goes on where the cluster went on"
            );
            assert_eq!(plan.reach, inventory.name_of(TimelineId(2), 12));
        }
        for target in [Target::Time(999), Target::Lsn(Lsn(4 * MIB - 1))] {
            let error = plan(&two(), &inventory, &target, None, None);
            assert!(matches!(error, Err(Unplannable::TooEarly { .. })), "{error:?}");
        }
    }

    #[test]
    fn a_hole_is_never_recovered_into_silently() {
        let inventory = made_of(&[(1, 3..=6), (2, 10..=12)], &[(2, FORK)]);
        let backups = &two()[..1];
        let latest = plan(backups, &inventory, &Target::Latest, None, None);
        let hole = Unplannable::Hole {
            first: inventory.name_of(TimelineId(1), 7),
            last: inventory.name_of(TimelineId(1), 9),
            reach: inventory.name_of(TimelineId(1), 6),
        };
        assert_eq!(latest, Err(hole.clone()));
        let behind = plan(backups, &inventory, &Target::Lsn(Lsn(8 * MIB)), None, None);
        assert_eq!(behind, Err(hole));
        let before =
            plan(backups, &inventory, &Target::Lsn(Lsn(6 * MIB)), None, None).expect("before the hole");
        assert_eq!(before.holes.len(), 1, "it is shown all the same");
        assert!(plan(backups, &inventory, &Target::Immediate, None, None).is_ok());
    }

    #[test]
    fn a_backup_without_its_wal_is_not_taken() {
        let inventory = made_of(&[(1, 3..=6)], &[]);
        let plan_of = |id| plan(&two(), &inventory, &Target::Latest, id, None);
        assert_eq!(plan_of(None).expect("the older one").backup, "old");
        assert!(matches!(
            plan_of(Some("new")),
            Err(Unplannable::Incomplete { .. })
        ));
        assert!(matches!(plan_of(Some("none")), Err(Unplannable::NoSuchBackup(_))));
        assert_eq!(
            plan(&[], &inventory, &Target::Latest, None, None),
            Err(Unplannable::NoBackup)
        );
    }

    #[test]
    fn a_target_beyond_the_archive_is_refused() {
        let inventory = made_of(&[(1, 3..=9)], &[]);
        let error = plan(&two(), &inventory, &Target::Lsn(Lsn(10 * MIB)), None, None);
        assert!(matches!(error, Err(Unplannable::TooLate { .. })), "{error:?}");
    }

    #[test]
    fn the_operator_may_choose_a_line() {
        let inventory = made_of(&[(1, 3..=14), (2, 10..=12)], &[(2, FORK)]);
        let one = plan(&two(), &inventory, &Target::Latest, None, Some(TimelineId(1))).expect("a plan");
        assert_eq!(one.reach, inventory.name_of(TimelineId(1), 14));
        let strange = plan(&two(), &inventory, &Target::Latest, None, Some(TimelineId(7)));
        assert!(
            matches!(strange, Err(Unplannable::NotOnTheLine { .. })),
            "{strange:?}"
        );
    }

    #[test]
    fn a_backup_that_ended_after_the_fork_does_not_go_along_the_new_line() {
        let inventory = made_of(&[(1, 3..=14), (2, 10..=12)], &[(2, FORK)]);
        let mut backups = two();
        backups.push(entry("across", 1, 9 * MIB, 11 * MIB, 3_000));
        let second = Some(TimelineId(2));
        let chosen = plan(&backups, &inventory, &Target::Latest, None, second).expect("a plan");
        assert_eq!(chosen.backup, "new");
        let named = plan(&backups, &inventory, &Target::Latest, Some("across"), second);
        assert!(
            matches!(named, Err(Unplannable::NotOnTheLine { .. })),
            "{named:?}"
        );
        let own = plan(&backups, &inventory, &Target::Latest, None, None).expect("a plan");
        assert_eq!((own.backup.as_str(), own.timeline), ("across", TimelineId(1)));
    }

    #[test]
    fn an_increment_without_what_it_is_an_increment_of_is_not_taken() {
        let inventory = made_of(&[(1, 3..=9)], &[]);
        let mut backups = two();
        backups[1].parent = Some("gone".to_owned());
        assert_eq!(
            plan(&backups, &inventory, &Target::Latest, None, None)
                .expect("the full one")
                .backup,
            "old"
        );
        let named = plan(&backups, &inventory, &Target::Latest, Some("new"), None);
        assert_eq!(named, Err(Unplannable::BrokenChain("new".to_owned())));
    }

    #[test]
    fn for_a_name_the_backup_must_be_named_unless_there_is_one_only() {
        let inventory = made_of(&[(1, 3..=9)], &[]);
        let target = Target::Name("before the release".to_owned());
        let error = plan(&two(), &inventory, &target, None, None);
        assert!(matches!(error, Err(Unplannable::NameTheBackup(_))), "{error:?}");
        assert!(plan(&two()[..1], &inventory, &target, None, None).is_ok());
        assert!(plan(&two(), &inventory, &target, Some("old"), None).is_ok());
    }
}
