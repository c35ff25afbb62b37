//! How a node without an identity gets one: from the cluster that its configuration names, or by founding that cluster
//! together with the others.
//!
//! * Some member belongs to a cluster: this node asks to be let in ([`super::admission`] answers).
//! * All members answer, none belongs to a cluster, all have the same member list: the first by name founds one
//!   ([`super::founding`]), and the others wait to be adopted.
//! * Anything else: it waits, and says for whom and why.

use super::config::{InitialMember, StartConfig};
use super::founding;
use super::identity::{FORMAT, Identity, IdentityError};
use super::room::Room;
use super::wire;
use agent_core::cluster::Member;
use agent_core::ids::NodeId;
use proto::peer::{HelloReply, HelloRequest, JoinRequest, join_reply};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const HELLO_DEADLINE: Duration = Duration::from_secs(1);
const JOIN_DEADLINE: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(300);

/// Waits until this node has an identity.
///
/// # Errors
/// The identity could not be written.
pub(super) async fn obtain_identity(room: &Room) -> Result<Arc<Identity>, IdentityError> {
    let mut adopted = room.card.watch();
    loop {
        if let Some(identity) = room.card.get() {
            return Ok(identity);
        }
        let round = async {
            let answers = ask_around(room).await;
            match next(&room.config, &room.members, &room.members_hash, &answers) {
                Next::Wait(reasons) => room.report(reasons),
                Next::Join(addresses) => join_one_of(room, &addresses).await?,
                Next::Found(members) => {
                    let identity = founding::new_identity(members);
                    tracing::info!(cluster = identity.cluster_id, "founding a cluster");
                    take(room, identity).await?;
                }
            }
            tokio::time::sleep(AGAIN).await;
            Ok(())
        };
        tokio::select! {
            done = round => done?,
            // Another node founded the cluster and gave this one its place.
            _ = adopted.changed() => {}
        }
    }
}

/// Takes on `identity`, unless another was given to this node a moment ago: then that one holds.
async fn take(room: &Room, identity: Identity) -> Result<(), IdentityError> {
    match room.card.take(identity).await {
        Ok(()) | Err(IdentityError::Taken(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What each configured member said, by name.
type Answers = BTreeMap<String, Result<HelloReply, String>>;

async fn ask_around(room: &Room) -> Answers {
    let asked = room.members.iter().map(|member| async move {
        let hello = HelloRequest {
            cluster_name: room.config.cluster_name.clone(),
            from: room.config.member.name.clone(),
        };
        let answer = room.channels.hello(&member.peer, hello, HELLO_DEADLINE).await;
        (member.name.clone(), answer.map_err(|error| error.to_string()))
    });
    futures::future::join_all(asked).await.into_iter().collect()
}

#[derive(Debug, PartialEq)]
enum Next {
    Wait(Vec<String>),
    /// Ask these, which belong to the cluster.
    Join(Vec<String>),
    /// Found a cluster of these, in this order.
    Found(Vec<Member>),
}

/// What follows from the answers. Touches nothing, so that each case can be tested.
fn next(config: &StartConfig, members: &[InitialMember], members_hash: &str, answers: &Answers) -> Next {
    let me = &config.member.name;
    let mut reasons = Vec::new();
    let mut clusters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut unbound: Vec<(Member, bool)> = Vec::new();
    for member in members {
        let told = match answers.get(&member.name) {
            Some(Ok(told)) => told,
            Some(Err(error)) => {
                reasons.push(format!("{} does not answer: {error}", member.name));
                continue;
            }
            None => {
                reasons.push(format!("{} was not asked yet", member.name));
                continue;
            }
        };
        let at = format!("the agent at {}, where {} should be,", member.peer, member.name);
        if told.cluster_name != config.cluster_name {
            reasons.push(format!(
                "{at} is of the cluster {}, and this one of {}: correct cluster.name or cluster.members",
                told.cluster_name, config.cluster_name
            ));
        } else if told.name != member.name {
            reasons.push(format!(
                "{at} calls itself {}: correct node.name or cluster.members",
                told.name
            ));
        } else if member.name == *me && told.start_id != config.start_id {
            reasons.push(format!(
                "{at} is another one than this: two agents must not have one name, correct node.name or peer.listen"
            ));
        } else if !told.cluster_id.is_empty() {
            clusters
                .entry(told.cluster_id.clone())
                .or_default()
                .push(member.peer.clone());
        } else if told.members_hash != members_hash {
            reasons.push(format!(
                "{} has another member list: it has {}, this node has {}",
                member.name,
                list(
                    told.members
                        .iter()
                        .map(|other| (&other.name, &other.peer, other.witness))
                ),
                list(members.iter().map(|mine| (&mine.name, &mine.peer, mine.witness))),
            ));
        } else {
            match wire::from_json::<Member>(&told.member, "member") {
                Ok(addresses) => unbound.push((addresses, member.name == *me)),
                Err(error) => reasons.push(format!("{at} does not make itself clear: {error}")),
            }
        }
    }
    if clusters.len() > 1 {
        for (cluster, addresses) in clusters {
            reasons.push(format!(
                "{} belong to the cluster {cluster}",
                addresses.join(", ")
            ));
        }
        reasons.push("the members belong to different clusters: correct cluster.members".to_owned());
        return Next::Wait(reasons);
    }
    if let Some(addresses) = clusters.into_values().next() {
        return Next::Join(addresses);
    }
    if !members.iter().any(|member| member.name == *me) {
        reasons.push(format!(
            "no member belongs to a cluster yet, and {me} is not in its own member list: it can only join"
        ));
    }
    if !reasons.is_empty() {
        return Next::Wait(reasons);
    }
    match unbound.first() {
        Some((_, true)) => Next::Found(unbound.into_iter().map(|(member, _)| member).collect()),
        Some((first, false)) => Next::Wait(vec![format!(
            "{} founds the cluster, as the first by name",
            first.name
        )]),
        None => Next::Wait(vec!["the member list is empty: set cluster.members".to_owned()]),
    }
}

fn list<'a>(members: impl Iterator<Item = (&'a String, &'a String, bool)>) -> String {
    let each: Vec<String> = members
        .map(|(name, peer, witness)| format!("{name}={peer}{}", if witness { " (witness)" } else { "" }))
        .collect();
    format!("[{}]", each.join(", "))
}

/// Asks the members in turn until one has an answer.
async fn join_one_of(room: &Room, addresses: &[String]) -> Result<(), IdentityError> {
    let mut reasons = BTreeSet::new();
    for address in addresses {
        let request = JoinRequest {
            cluster_name: room.config.cluster_name.clone(),
            member: wire::to_json(&room.config.member),
            start_id: room.config.start_id,
            passed_on: false,
        };
        let reply = room
            .channels
            .call(address, JOIN_DEADLINE, |mut peer| async move {
                peer.join(request).await
            })
            .await;
        match reply.map(|reply| reply.answer) {
            Ok(Some(join_reply::Answer::Admitted(place))) => {
                tracing::info!(
                    cluster = place.cluster_id,
                    node = place.node_id,
                    "joining the cluster"
                );
                let identity = Identity {
                    format: FORMAT,
                    cluster_id: place.cluster_id,
                    node_id: NodeId(place.node_id),
                    name: room.config.member.name.clone(),
                    founding_members: BTreeMap::new(),
                    founder: false,
                };
                return take(room, identity).await;
            }
            Ok(Some(join_reply::Answer::Refused(why) | join_reply::Answer::Later(why))) => {
                reasons.insert(why);
            }
            Ok(None) => {
                reasons.insert(format!("{address} gave no answer that this agent understands"));
            }
            Err(error) => {
                reasons.insert(error.to_string());
            }
        }
    }
    room.report(reasons.into_iter().collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::RaftTiming;
    use agent_core::cluster::{MemberKind, Settings};

    const HASH: &str = "the list of n1, n2 and n3";

    fn members() -> Vec<InitialMember> {
        ["n1", "n2", "n3"]
            .map(|name| InitialMember {
                name: name.into(),
                peer: format!("{name}:7432"),
                witness: false,
            })
            .to_vec()
    }

    fn member(name: &str) -> Member {
        Member {
            name: name.into(),
            kind: MemberKind::Data,
            peer: format!("{name}:7432"),
            http: format!("{name}:8008"),
            postgres: format!("{name}:5432"),
            tags: BTreeMap::new(),
            nofailover: false,
        }
    }

    fn config(name: &str) -> StartConfig {
        StartConfig {
            state_dir: "/nowhere".into(),
            cluster_name: "c".into(),
            member: member(name),
            members: members(),
            settings: Settings::default(),
            timing: RaftTiming::LAN,
            start_id: start_id(name),
        }
    }

    fn start_id(name: &str) -> u64 {
        name.bytes().map(u64::from).sum()
    }

    fn unbound(name: &str) -> HelloReply {
        HelloReply {
            cluster_name: "c".into(),
            name: name.into(),
            members_hash: HASH.into(),
            start_id: start_id(name),
            member: wire::to_json(&member(name)),
            ..HelloReply::default()
        }
    }

    /// What `me` does when the three answer so.
    fn next_of(me: &str, change: impl Fn(&mut Answers)) -> Next {
        let mut answers: Answers = ["n1", "n2", "n3"]
            .map(|name| (name.to_owned(), Ok(unbound(name))))
            .into();
        change(&mut answers);
        next(&config(me), &members(), HASH, &answers)
    }

    fn reply<'a>(answers: &'a mut Answers, name: &str) -> &'a mut HelloReply {
        answers
            .get_mut(name)
            .and_then(|answer| answer.as_mut().ok())
            .expect("there")
    }

    fn waits_because(next: Next, part: &str) {
        match next {
            Next::Wait(reasons) if reasons.iter().any(|reason| reason.contains(part)) => {}
            other => panic!("not waiting because of {part:?}: {other:?}"),
        }
    }

    #[test]
    fn when_all_agree_the_first_founds_and_the_others_wait_for_it() {
        assert_eq!(
            next_of("n1", |_| ()),
            Next::Found(vec![member("n1"), member("n2"), member("n3")])
        );
        waits_because(next_of("n2", |_| ()), "n1 founds the cluster");
        waits_because(next_of("n3", |_| ()), "n1 founds the cluster");
    }

    #[test]
    fn nobody_founds_while_one_is_silent_or_of_another_mind() {
        for silent in ["n2", "n3"] {
            let next = next_of("n1", |answers| {
                drop(answers.insert(silent.into(), Err("connection refused".into())))
            });
            waits_because(next, &format!("{silent} does not answer: connection refused"));
        }
        waits_because(
            next_of("n1", |answers| drop(answers.remove("n3"))),
            "n3 was not asked yet",
        );
        waits_because(
            next_of("n1", |answers| {
                reply(answers, "n2").members_hash = "another".into()
            }),
            "n2 has another member list",
        );
        waits_because(
            next_of("n1", |answers| reply(answers, "n2").cluster_name = "d".into()),
            "is of the cluster d",
        );
        waits_because(
            next_of("n1", |answers| reply(answers, "n2").name = "n7".into()),
            "calls itself n7",
        );
        waits_because(
            next_of("n1", |answers| reply(answers, "n1").start_id = 99),
            "two agents must not have one name",
        );
        waits_because(
            next_of("n1", |answers| reply(answers, "n3").member = b"?".to_vec()),
            "does not make itself clear",
        );
    }

    #[test]
    fn a_member_of_a_cluster_is_joined_even_while_others_are_silent() {
        let next = next_of("n1", |answers| {
            reply(answers, "n3").cluster_id = "id".into();
            answers.insert("n2".into(), Err("no route".into()));
        });
        assert_eq!(next, Next::Join(vec!["n3:7432".into()]));
    }

    #[test]
    fn members_of_two_clusters_are_shown_and_neither_is_joined() {
        let next = next_of("n1", |answers| {
            reply(answers, "n2").cluster_id = "one".into();
            reply(answers, "n3").cluster_id = "two".into();
        });
        waits_because(next, "n3:7432 belong to the cluster two");
    }

    #[test]
    fn a_node_outside_the_list_only_joins() {
        waits_because(next_of("n9", |_| ()), "it can only join");
        let joined = next_of("n9", |answers| reply(answers, "n1").cluster_id = "id".into());
        assert_eq!(joined, Next::Join(vec!["n1:7432".into()]));
    }
}
