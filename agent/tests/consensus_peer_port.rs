//! What does not belong on the peer port: messages for others, and noise.

mod consensus_support;

use agent::ports::Consensus;
use consensus_support::*;
use proto::peer;
use proto::peer::peer_client::PeerClient;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_another_cluster_or_for_another_number_is_refused_and_changes_nothing() {
    let mut homes = [Home::new("n1")];
    let members = vec![homes[0].listed()];
    let agent = homes[0].start(&members);
    let handle = agent.handle().await;
    propose_note(&handle, "before").await;
    let mut client = PeerClient::connect(format!("http://{}", homes[0].address))
        .await
        .expect("connects");
    let cluster = handle.cluster_id().to_owned();
    let vote = peer::Vote {
        term: 1_000,
        node: 9,
        committed: true,
    };
    let route = |cluster_id: &str, from, to| {
        Some(peer::Route {
            cluster_id: cluster_id.to_owned(),
            from,
            to,
        })
    };
    for (route, says) in [
        (route("elsewhere", 2, 1), "the message is of elsewhere"),
        (route(&cluster, 2, 3), "the message is for node 3"),
        (
            route(&cluster, 1, 1),
            "two agents must not share one state directory",
        ),
        (None, "no route"),
    ] {
        let request = peer::AppendRequest {
            route: route.clone(),
            vote: Some(vote),
            ..Default::default()
        };
        let refused = client.append_entries(request).await.expect_err("refused");
        assert!(refused.message().contains(says), "{refused}");
        let request = peer::VoteRequest {
            route: route.clone(),
            vote: Some(vote),
            ..Default::default()
        };
        assert!(client.request_vote(request.clone()).await.is_err());
        assert!(client.pre_vote(request).await.is_err());
        let request = peer::SnapshotRequest {
            route: route.clone(),
            vote: Some(vote),
            snapshot: None,
        };
        assert!(client.install_snapshot(request).await.is_err());
        let request = peer::TransferRequest {
            route: route.clone(),
            from_leader: Some(vote),
            last_log: None,
        };
        assert!(client.transfer_leader(request).await.is_err());
        let request = peer::ForwardRequest {
            route,
            deadline_ms: 100,
            change: Some(peer::forward_request::Change::Command(
                serde_json::to_vec(&note("forged")).expect("json"),
            )),
        };
        assert!(client.forward(request).await.is_err());
    }
    // For this node, but without what matters.
    let request = peer::VoteRequest {
        route: route(&cluster, 2, 1),
        ..Default::default()
    };
    assert_eq!(
        client.request_vote(request).await.expect_err("refused").code(),
        Code::InvalidArgument
    );
    let request = peer::ForwardRequest {
        route: route(&cluster, 2, 1),
        deadline_ms: 100,
        change: Some(peer::forward_request::Change::Command(b"{}".to_vec())),
    };
    assert_eq!(
        client.forward(request).await.expect_err("refused").code(),
        Code::InvalidArgument
    );
    // Another identity is not taken on.
    let hello = client
        .hello(peer::HelloRequest::default())
        .await
        .expect("hello")
        .into_inner();
    let adopt = peer::AdoptRequest {
        cluster_name: hello.cluster_name,
        cluster_id: "elsewhere".to_owned(),
        node_id: 1,
        name: hello.name,
        members_hash: hello.members_hash,
        founding_members: b"{}".to_vec(),
    };
    let reply = client.adopt(adopt).await.expect("an answer").into_inner();
    assert!(
        !reply.accepted && reply.refusal.contains(&cluster),
        "{}",
        reply.refusal
    );

    assert!(handle.leads());
    propose_note(&handle, "after").await;
    assert!(!notes(&handle).contains(&"forged".to_owned()));
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_vote_changes_nothing_and_a_vote_needs_the_leaders_word_while_it_lives() {
    let mut homes = [Home::new("n1")];
    let members = vec![homes[0].listed()];
    let agent = homes[0].start(&members);
    let handle = agent.handle().await;
    propose_note(&handle, "before").await;
    let mut client = PeerClient::connect(format!("http://{}", homes[0].address))
        .await
        .expect("connects");
    let vote = peer::Vote {
        term: 1_000,
        node: 2,
        committed: false,
    };
    let request = peer::VoteRequest {
        route: Some(peer::Route {
            cluster_id: handle.cluster_id().to_owned(),
            from: 2,
            to: 1,
        }),
        vote: Some(vote),
        last_log: Some(peer::LogId {
            term: 999,
            node: 2,
            index: 1_000_000,
        }),
        leadership_transfer: false,
    };
    // The leader is heard of, so nobody is given a vote, and the term stays as it is.
    for _ in 0..3 {
        let reply = client
            .pre_vote(request.clone())
            .await
            .expect("an answer")
            .into_inner();
        assert!(!reply.granted && reply.vote.expect("a vote").term < 1_000);
        let reply = client
            .request_vote(request.clone())
            .await
            .expect("an answer")
            .into_inner();
        assert!(!reply.granted && reply.vote.expect("a vote").term < 1_000);
        assert!(handle.leads());
    }
    // The leader itself wants it so.
    let wanted = peer::VoteRequest {
        leadership_transfer: true,
        ..request
    };
    let reply = client.request_vote(wanted).await.expect("an answer").into_inner();
    assert!(reply.granted && reply.vote == Some(vote), "{reply:?}");
    propose_note(&handle, "elected again").await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_port_harms_nobody() {
    let mut homes = [Home::new("n1")];
    let members = vec![homes[0].listed()];
    let agent = homes[0].start(&members);
    let handle = agent.handle().await;
    propose_note(&handle, "before").await;
    let address = homes[0].address;
    let noises: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0xff; 70_000],
        (0..70_000_u32)
            .map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect(),
        // A true HTTP/2 beginning, then a frame that claims to be as long as a frame can be.
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0xff; 200]].concat(),
    ];
    let mut idle = Vec::new();
    tokio::task::spawn_blocking(move || {
        for noise in noises {
            let mut socket = TcpStream::connect(address).expect("connects");
            socket
                .set_read_timeout(Some(Duration::from_millis(300)))
                .expect("timeout");
            // The other side may hang up at any point of it.
            drop(socket.write_all(&noise));
            drop(socket.read(&mut [0; 1_000]));
            idle.push(socket);
        }
        idle
    })
    .await
    .expect("no panic");
    assert!(handle.leads());
    propose_note(&handle, "after").await;
    agent.kill().await;
}
