//! Rubbish on the peer port, from a dialogue that begins as it should: what a broken agent or a broken network sends.

mod consensus_support;

use agent::ports::Consensus;
use consensus_support::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message;
use proto::peer;
use proto::peer::peer_client::PeerClient;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

/// Of another cluster: no fault of a few bytes makes it ours, so whatever is decoded changes nothing.
fn elsewhere() -> Option<peer::Route> {
    Some(peer::Route {
        cluster_id: "8b0f7f4e-0000-4000-8000-000000000000".to_owned(),
        from: 2,
        to: 9,
    })
}

fn vote(term: u64) -> Option<peer::Vote> {
    Some(peer::Vote {
        term,
        node: 2,
        committed: true,
    })
}

fn log_id(term: u64, index: u64) -> peer::LogId {
    peer::LogId { term, node: 2, index }
}

/// One message of each kind, by the name of its method.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let command = serde_json::to_vec(&note("forged")).expect("json");
    let entry = peer::Entry {
        id: Some(log_id(3, 7)),
        payload: Some(peer::entry::Payload::Command(command.clone())),
    };
    let append = peer::AppendRequest {
        route: elsewhere(),
        vote: vote(3),
        previous: Some(log_id(3, 6)),
        entries: vec![entry; 3],
        leader_commit: Some(log_id(3, 6)),
    };
    let asks = peer::VoteRequest {
        route: elsewhere(),
        vote: vote(3),
        last_log: Some(log_id(3, 6)),
        leadership_transfer: true,
    };
    let snapshot = peer::SnapshotRequest {
        route: elsewhere(),
        vote: vote(3),
        snapshot: Some(peer::Snapshot {
            last_applied: Some(log_id(3, 6)),
            membership: Some(peer::StoredMembership::default()),
            state: b"{}".to_vec(),
        }),
    };
    let transfer = peer::TransferRequest {
        route: elsewhere(),
        from_leader: vote(3),
        last_log: Some(log_id(3, 6)),
    };
    let forward = peer::ForwardRequest {
        route: elsewhere(),
        deadline_ms: 50,
        change: Some(peer::forward_request::Change::Command(command)),
    };
    let adopt = peer::AdoptRequest {
        cluster_name: "elsewhere".to_owned(),
        cluster_id: "x".to_owned(),
        node_id: 9,
        name: "n1".to_owned(),
        members_hash: "0".repeat(64),
        founding_members: b"{\"9\":{}}".to_vec(),
    };
    let join = peer::JoinRequest {
        cluster_name: "elsewhere".to_owned(),
        member: b"{\"name\":\"n9\"}".to_vec(),
        start_id: 5,
        passed_on: true,
    };
    let hello = peer::HelloRequest {
        cluster_name: "testing".to_owned(),
        from: "n9".to_owned(),
    };
    vec![
        ("AppendEntries", append.encode_to_vec()),
        ("RequestVote", asks.encode_to_vec()),
        ("PreVote", asks.encode_to_vec()),
        ("InstallSnapshot", snapshot.encode_to_vec()),
        ("TransferLeader", transfer.encode_to_vec()),
        ("Forward", forward.encode_to_vec()),
        ("Adopt", adopt.encode_to_vec()),
        ("Join", join.encode_to_vec()),
        ("Hello", hello.encode_to_vec()),
    ]
}

/// A header field without compression, its name and value short or long.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // Both are shorter than the 127 from which a length takes more than a byte.
        bytes.push(u8::try_from(text.len()).expect("short"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A whole call over HTTP/2, put together by hand so that `message` may be no message.
fn call(method: &str, message: &[u8]) -> Vec<u8> {
    let path = format!("/pgctl.peer.v1.Peer/{method}");
    let headers: Vec<u8> = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path.as_str()),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .iter()
    .flat_map(|(name, value)| field(name, value))
    .collect();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
    body.extend(message);
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &headers),
        frame(0, 1, 1, &body),
    ]
    .concat()
}

async fn send(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut came = Vec::new();
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return came;
    };
    // The other side may hang up at any point of it.
    let _ = stream.write_all(bytes).await;
    let mut buffer = [0; 4096];
    while let Ok(Ok(count @ 1..)) =
        tokio::time::timeout(Duration::from_millis(5), stream.read(&mut buffer)).await
    {
        came.extend_from_slice(&buffer[..count]);
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mangled_messages_and_frames_leave_the_cluster_at_work() {
    let mut homes = [Home::new("n1")];
    let members = vec![homes[0].listed()];
    let agent = homes[0].start(&members);
    let handle = agent.handle().await;
    propose_note(&handle, "before").await;
    let address = homes[0].address;
    let whole = messages();
    let noise = prop_oneof![
        // Sound frames around a message that is not.
        3 => prop::sample::select(whole.clone())
            .prop_flat_map(|(method, message)| mangled::bytes(&message).prop_map(move |message| call(method, &message))),
        2 => prop::sample::select(whole.clone())
            .prop_flat_map(|(method, message)| mangled::bytes(&call(method, &message))),
        1 => (prop::sample::select(whole), prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|((method, _), rubbish)| call(method, &rubbish)),
    ];
    let mut runner = TestRunner::new(mangled::cases(1_000));
    let (cases, mut told) = (runner.config().cases, 0);
    for _ in 0..cases {
        let bytes = noise.new_tree(&mut runner).expect("a case").current();
        told += usize::from(!send(address, &bytes).await.is_empty());
    }
    assert!(told > 0, "no noise was answered at all");
    assert!(handle.leads());
    propose_note(&handle, "after").await;
    assert!(!notes(&handle).contains(&"forged".to_owned()));
    let mut client = PeerClient::connect(format!("http://{address}"))
        .await
        .expect("connects");
    let hello = client.hello(peer::HelloRequest::default()).await.expect("hello");
    assert_eq!(hello.into_inner().name, "n1");
    agent.kill().await;
}

/// A vote for the last term there is would keep every later leader out, for ever, since votes are kept on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_after_which_nothing_can_be_counted_are_refused_and_change_nothing() {
    let mut homes = [Home::new("n1")];
    let members = vec![homes[0].listed()];
    let agent = homes[0].start(&members);
    let handle = agent.handle().await;
    propose_note(&handle, "before").await;
    let mut client = PeerClient::connect(format!("http://{}", homes[0].address))
        .await
        .expect("connects");
    let route = || {
        Some(peer::Route {
            cluster_id: handle.cluster_id().to_owned(),
            from: 2,
            to: 1,
        })
    };
    for (term, index) in [(u64::MAX, 7), (3, u64::MAX), (1 << 60, 1 << 60)] {
        let entry = peer::Entry {
            id: Some(log_id(term, index)),
            payload: None,
        };
        let append = peer::AppendRequest {
            route: route(),
            vote: vote(term),
            previous: Some(log_id(term, index)),
            entries: vec![entry],
            leader_commit: Some(log_id(term, index)),
        };
        let asks = peer::VoteRequest {
            route: route(),
            vote: vote(term),
            last_log: Some(log_id(term, index)),
            leadership_transfer: true,
        };
        let transfer = peer::TransferRequest {
            route: route(),
            from_leader: vote(term),
            last_log: Some(log_id(term, index)),
        };
        let refusals = [
            client.append_entries(append).await.map(|_| ()),
            client.request_vote(asks.clone()).await.map(|_| ()),
            client.pre_vote(asks).await.map(|_| ()),
            client.transfer_leader(transfer).await.map(|_| ()),
        ];
        for refusal in refusals {
            assert_eq!(refusal.expect_err("refused").code(), Code::InvalidArgument);
        }
        assert!(handle.leads());
    }
    propose_note(&handle, "after").await;
    agent.kill().await;
}
