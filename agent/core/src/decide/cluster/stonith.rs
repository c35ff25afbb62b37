//! Turning the machine of a lost holder off, beside the promotion path: the gate says whether a grant waits for it.

use super::{ClusterAction, CoordinatorView, Round, candidate};
use crate::cluster::{StonithMode, own_word};
use crate::decide::Decision;
use crate::ids::NodeId;
use crate::reason::Reason;
use std::collections::BTreeMap;

const ID: &str = "fence-device-works";

/// `decision`, with the order to turn the holder off where that is wanted and has not been done.
pub(super) fn beside(
    view: &CoordinatorView<'_>,
    holder: NodeId,
    round: Option<&Round>,
    mut decision: Decision<ClusterAction>,
) -> Decision<ClusterAction> {
    let settings = &view.state.settings;
    let none = BTreeMap::new();
    let released = round.map_or(&none, |round| &round.released);
    if settings.stonith == StonithMode::None
        || view.state.holder_off().is_some()
        || own_word(&view.state, candidate::newest_word(view).as_ref(), released).is_some()
    {
        return decision;
    }
    let name = view.name(holder);
    if holder == view.me {
        // This very agent lives, and ends its server itself: that is quicker, and its receipt says more.
        return decision;
    }
    let progress = view
        .memory
        .stonith
        .as_ref()
        .filter(|progress| progress.epoch == view.state.epoch);
    let tries = progress.map_or(0, |progress| progress.tries);
    if settings.stonith == StonithMode::BestEffort && tries >= settings.stonith_tries {
        return decision;
    }
    let pause = std::time::Duration::from_millis(settings.stonith_pause_ms);
    let due =
        progress.is_none_or(|progress| progress.ended.is_some_and(|ended| view.now.since(ended) >= pause));
    if due {
        let action = ClusterAction::TurnOff {
            node: holder,
            epoch: view.state.epoch,
        };
        decision.actions.insert(0, action);
    } else if let Some(ended) = progress.and_then(|progress| progress.ended)
        && decision.wake_at.is_none()
    {
        decision = decision.again(ended.plus(pause), "try to turn the old primary off again");
    }
    let found = match progress.and_then(|progress| progress.failure.as_deref()) {
        Some(failure) => format!("{tries} attempts to turn {name} off failed, the last one so: {failure}"),
        None => format!("{} turns {name} off", view.name(view.me)),
    };
    decision.because(Reason::shut(
        ID,
        found,
        format!(
            "the device says that {name} is off; to try the device: pgctl fence test {name}; if you have seen that the \
             machine is off: pgctl fence confirm {name}"
        ),
    ))
}
