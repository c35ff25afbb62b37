use super::{ClusterState, MemberKind, SyncMode};
use crate::ids::NodeId;
use crate::view::{ClusterView, Server, StandbyView};
use std::cmp::Reverse;
use std::time::Duration;

/// A report older than this means that the node is gone, as far as a switchover may count on it.
pub const TARGET_MAX_AGE: Duration = Duration::from_secs(5);

/// Why a node cannot be the target of a switchover.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}; {next}")]
pub struct Unfit {
    /// A stable kebab-case id.
    pub id: &'static str,
    /// What was found.
    pub found: String,
    /// What to do.
    pub next: String,
}

/// Whether the primary could be switched over to `target`, by what is known before anything is begun. The switchover
/// itself checks again with what is true then.
///
/// # Errors
/// The first thing that stands in the way.
pub fn fit_for_switchover<'a>(
    state: &ClusterState,
    view: &'a ClusterView,
    age: impl Fn(NodeId) -> Option<Duration>,
    target: NodeId,
) -> Result<&'a StandbyView, Unfit> {
    let name = state.name_of(target);
    let unfit = |id, found: String, next: &str| Unfit {
        id,
        found,
        next: next.to_owned(),
    };
    let Some(member) = state.members.get(&target) else {
        return Err(unfit(
            "not-a-member",
            format!("{name} is not a member"),
            "choose a node of `pgctl list`",
        ));
    };
    if member.kind == MemberKind::Witness {
        return Err(unfit(
            "witness",
            format!("{name} is a witness and has no data"),
            "choose a data node",
        ));
    }
    if state.fenced.contains_key(&target) {
        return Err(unfit(
            "fenced-by-hand",
            format!("{name} is fenced by hand"),
            "pgctl unfence it first, or choose another node",
        ));
    }
    if state.holder == Some(target) {
        return Err(unfit(
            "already-primary",
            format!("{name} is the primary already"),
            "choose another node",
        ));
    }
    if age(target).is_none_or(|age| age > TARGET_MAX_AGE) {
        let since = age(target).map_or_else(
            || "never reported".to_owned(),
            |age| format!("last reported {} s ago", age.as_secs()),
        );
        return Err(unfit(
            "target-is-gone",
            format!("{name} {since}"),
            "start its agent, or choose another node",
        ));
    }
    let pg = view
        .reports
        .get(&target)
        .and_then(|(_, report)| report.pg.as_ref());
    let Some(Server::Standby(standby)) = pg.map(|pg| &pg.server) else {
        return Err(unfit(
            "target-is-no-standby",
            format!("{name}'s server is not a running standby"),
            "see `pgctl explain` for what it waits for, or choose another node",
        ));
    };
    if !standby
        .receiver
        .as_ref()
        .is_some_and(|receiver| receiver.streaming)
    {
        return Err(unfit(
            "target-does-not-stream",
            format!("{name} does not stream from the primary"),
            "wait until it does (pgctl list), or choose another node",
        ));
    }
    Ok(standby)
}

/// The best target of a switchover that names none: of the standbys in the synchronous set (of all, in `async` mode)
/// that are fit and not held back by a mark or by maintenance, the one that has most WAL on disk, then the one with
/// least left to replay.
///
/// # Errors
/// No standby will do; the text says of each why.
pub fn choose_target(
    state: &ClusterState,
    view: &ClusterView,
    age: impl Fn(NodeId) -> Option<Duration>,
) -> Result<NodeId, Unfit> {
    let rule = state.sync_rule();
    let mut refused = Vec::new();
    let mut fit = Vec::new();
    for (node, member) in state
        .data_members()
        .filter(|(node, _)| state.holder != Some(*node))
    {
        let in_set = rule.is_some_and(|rule| rule.k > 0 && rule.members.contains(&node));
        if member.nofailover {
            refused.push(format!("{} is marked nofailover", member.name));
        } else if state.fenced.contains_key(&node) {
            refused.push(format!("{} is fenced by hand", member.name));
        } else if state.maintenance.contains(&node) {
            refused.push(format!("{} is in maintenance", member.name));
        } else if !in_set && state.settings.sync_mode != SyncMode::Async {
            refused.push(format!("{} is not in the synchronous set", member.name));
        } else {
            match fit_for_switchover(state, view, &age, node) {
                Ok(standby) => fit.push((standby.position, standby.replay, Reverse(node))),
                Err(unfit) => refused.push(unfit.found),
            }
        }
    }
    fit.into_iter()
        .max()
        .map(|(_, _, Reverse(node))| node)
        .ok_or_else(|| Unfit {
            id: "no-target",
            found: if refused.is_empty() {
                "there is no other data node".to_owned()
            } else {
                refused.join("; ")
            },
            next: "name one with --to, or see `pgctl explain`".to_owned(),
        })
}
