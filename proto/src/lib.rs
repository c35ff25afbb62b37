//! pgctl's wire formats: `peer` between agents, `control` between `pgctl` and an agent.

/// What agents say to each other: Raft, lease hand-over, observations, joining.
pub mod peer {
    tonic::include_proto!("pgctl.peer.v1");
}

/// What `pgctl` asks of an agent.
pub mod control {
    tonic::include_proto!("pgctl.control.v1");
}

/// What agents say to each other about servers and leases.
pub mod supervision {
    tonic::include_proto!("pgctl.supervision.v1");
}

/// Backups and the WAL archive.
pub mod archive {
    tonic::include_proto!("pgctl.archive.v1");
}

/// Schema changes that are carried out step by step.
pub mod rollout {
    tonic::include_proto!("pgctl.rollout.v1");
}
