//! Before the first epoch: one node creates the database, or brings the one it has.

use super::{Decision, NodeAction, NodeView};
use crate::cluster::Command;
use crate::reason::Reason;
use crate::time::WallTime;
use crate::view::Server;

pub(super) fn decide(view: &NodeView<'_>) -> Decision<NodeAction> {
    match view.state.creator {
        Some(creator) if creator == view.me => create(view),
        Some(creator) => Decision::wait(
            "another-node-creates",
            Reason::shut(
                "database-exists",
                format!("{} creates the database", view.state.name_of(creator)),
                "it is done",
            ),
        ),
        None => Decision::wait(
            "no-creator-yet",
            Reason::shut(
                "creator-chosen",
                "the cluster has not yet chosen the node that creates the database",
                "every data node of the member list has reported: start the agents that are missing",
            ),
        ),
    }
}

fn create(view: &NodeView<'_>) -> Decision<NodeAction> {
    match &view.pg.server {
        Server::NoData => match view.may_retry() {
            Ok(()) => Decision::act("create-the-database", NodeAction::CreateDatabase),
            Err(at) => Decision::rest("creation-failed").again(at, "try to create the database again"),
        },
        // An agent that has just started may not know of the later epochs yet.
        Server::Down if view.memory.broken => Decision::wait(
            "data-broken",
            Reason::shut(
                "data-is-whole",
                "a rewind was interrupted",
                "the newest state reaches this node, and it is rewound or copied again",
            ),
        ),
        Server::Down => Decision::act("start-to-be-promoted", NodeAction::Start { conf: view.alone() }),
        Server::Standby(_) => match (view.state.system_id, view.pg.system_id()) {
            (None, Some(system_id)) => Decision::act(
                "tell-the-system-id",
                NodeAction::Propose(Command::AdoptSystem {
                    node: view.me,
                    system_id,
                    at: WallTime(0),
                }),
            ),
            _ => Decision::rest("wait-for-the-first-epoch"),
        },
        // Data that was brought along and runs as a primary outside any epoch: it becomes a standby first, like all.
        Server::Primary(_) => Decision::act(
            "end-the-ungoverned-server",
            NodeAction::Shutdown {
                epoch: view.state.epoch,
            },
        ),
        Server::Starting | Server::Unresponsive { .. } => Decision::rest("server-starting"),
        Server::Unusable { .. } | Server::Busy { .. } => Decision::rest("server-not-free"),
    }
}
