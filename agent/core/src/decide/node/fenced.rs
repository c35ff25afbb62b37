//! A node that an operator keeps out: its server is ended and stays down until `pgctl unfence`.

use super::{Decision, NodeAction, NodeView};
use crate::cluster::HandFence;
use crate::reason::Reason;
use crate::view::Server;

pub(super) fn decide(view: &NodeView<'_>, fence: &HandFence) -> Decision<NodeAction> {
    let epoch = view.state.epoch;
    let reason = Reason::shut(
        "not-fenced-by-hand",
        format!("this node is fenced by hand: {}", fence.reason),
        format!("pgctl unfence {}", view.state.name_of(view.me)),
    );
    if view.state.holder == Some(view.me) && view.lease.fenced < epoch {
        // Its receipt lets the others go on at once.
        let why = "an operator fenced this node".to_owned();
        return Decision::act("fenced-by-hand", NodeAction::Fence { epoch, why }).because(reason);
    }
    match &view.pg.server {
        Server::NoData | Server::Down => Decision::wait("fenced-by-hand", reason),
        Server::Unusable { .. } | Server::Busy { .. } => Decision::wait("fenced-by-hand", reason),
        Server::Starting | Server::Standby(_) | Server::Primary(_) | Server::Unresponsive { .. } => {
            Decision::act("fenced-by-hand", NodeAction::Stop).because(reason)
        }
    }
}
