//! Making a cluster out of nodes of which none belongs to one.
//!
//! Only one node may do it: the first by name in a member list that all of them have. It writes its own identity first,
//! with a new UUID for the cluster, then gives each of the others theirs, and only when all have one does it start the
//! Raft group. A crash in between leaves an identity that says where to go on; a second cluster cannot come of it,
//! because no node takes on another identity.

use super::config::InitialMember;
use super::identity::{FORMAT, Identity};
use super::room::Room;
use super::wire;
use agent_core::cluster::{Member, Secrets};
use agent_core::ids::NodeId;
use proto::peer::AdoptRequest;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

const ADOPT_DEADLINE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(300);

/// The identity of the founder of a new cluster of these members, of which it is itself the first.
pub(super) fn new_identity(members: Vec<Member>) -> Identity {
    let founding_members: BTreeMap<NodeId, Member> = members
        .into_iter()
        .zip(1..)
        .map(|(member, number)| (NodeId(number), member))
        .collect();
    Identity {
        format: FORMAT,
        cluster_id: uuid::Uuid::new_v4().to_string(),
        node_id: NodeId(1),
        name: founding_members
            .get(&NodeId(1))
            .map(|member| member.name.clone())
            .unwrap_or_default(),
        founding_members,
        founder: true,
    }
}

/// Gives every other founding member its identity; returns when all have it.
pub(super) async fn adopt_others(room: &Room, identity: &Identity) {
    loop {
        let others = identity
            .founding_members
            .iter()
            .filter(|(number, _)| **number != identity.node_id);
        let asked = others.map(|(number, member)| adopt(room, identity, *number, member));
        let missing: Vec<String> = futures::future::join_all(asked)
            .await
            .into_iter()
            .filter_map(Result::err)
            .collect();
        if missing.is_empty() {
            return;
        }
        room.report(missing);
        tokio::time::sleep(AGAIN).await;
    }
}

async fn adopt(room: &Room, identity: &Identity, number: NodeId, member: &Member) -> Result<(), String> {
    let request = AdoptRequest {
        cluster_name: room.config.cluster_name.clone(),
        cluster_id: identity.cluster_id.clone(),
        node_id: number.0,
        name: member.name.clone(),
        members_hash: room.members_hash.clone(),
        founding_members: wire::to_json(&identity.founding_members),
    };
    let call = room
        .channels
        .call(&member.peer, ADOPT_DEADLINE, |mut peer| async move {
            peer.adopt(request).await
        })
        .await;
    match call {
        Ok(reply) if reply.accepted => Ok(()),
        Ok(reply) => Err(format!(
            "{} at {} does not join the new cluster {}: {}",
            member.name, member.peer, identity.cluster_id, reply.refusal
        )),
        Err(error) => Err(format!(
            "{} has to take on its place in the new cluster: {error}",
            member.name
        )),
    }
}

/// Passwords that nobody has to know.
pub(super) fn new_secrets() -> Secrets {
    Secrets {
        replication_password: random_hex(),
        rewind_password: random_hex(),
    }
}

fn random_hex() -> String {
    hex(&rand::random::<[u8; 32]>())
}

/// SHA-256, in hex, of a member list in the order of the names: two nodes found a cluster only if they mean the same.
pub(super) fn members_hash(sorted: &[InitialMember]) -> String {
    hex(&Sha256::digest(wire::to_json(&sorted)))
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing into a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, peer: &str) -> InitialMember {
        InitialMember {
            name: name.into(),
            peer: peer.into(),
            witness: false,
        }
    }

    #[test]
    fn the_hash_tells_every_difference_of_two_lists() {
        let list = [member("n1", "a:1"), member("n2", "b:1")];
        let mut witness = list.clone();
        witness[1].witness = true;
        let others = [
            vec![member("n1", "a:1")],
            vec![member("n1", "a:1"), member("n2", "b:2")],
            vec![member("n1", "a:1n2"), member("", "b:1")],
            witness.to_vec(),
        ];
        for other in others {
            assert_ne!(members_hash(&list), members_hash(&other), "{other:?}");
        }
        assert_eq!(members_hash(&list), members_hash(&list.clone()));
    }

    #[test]
    fn secrets_are_long_and_never_the_same() {
        let (one, two) = (new_secrets(), new_secrets());
        assert_eq!(one.replication_password.len(), 64);
        assert_ne!(one.replication_password, two.replication_password);
        assert_ne!(one.replication_password, one.rewind_password);
    }
}
