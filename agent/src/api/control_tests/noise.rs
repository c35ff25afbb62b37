//! Noise on the gRPC port: conversations of a real client, recorded and then mangled byte by byte, so that the faults
//! lie in HTTP/2's frames, in its headers and in the messages alike.

use super::rig::{FakeConsensus, N1, N2, assignment, rig};
use crate::api::control::ControlService;
use agent_core::ids::NodeId;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use proto::control as wire;
use proto::control::control_client::ControlClient;
use proto::control::control_server::ControlServer;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};

const PATIENCE: Duration = Duration::from_secs(60);

async fn serve(service: ControlService) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = Server::builder().add_service(ControlServer::new(service));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

async fn client(address: SocketAddr) -> ControlClient<Channel> {
    let connected = tokio::time::timeout(PATIENCE, ControlClient::connect(format!("http://{address}"))).await;
    connected.expect("in time").expect("it listens")
}

/// Passes connections on to `server` and keeps what clients send.
async fn recorder(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let to = TcpStream::connect(server).await.expect("it listens");
            let (mut asks, mut is_told) = from.into_split();
            let (mut tells, mut is_asked) = to.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut tells, &mut is_told).await });
            let record = Arc::clone(&record);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = asks.read(&mut buffer).await {
                    record
                        .lock()
                        .expect("no panic")
                        .extend_from_slice(&buffer[..count]);
                    if is_asked.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, heard)
}

/// What clients send for each kind of request.
async fn conversations(server: SocketAddr) -> Vec<Vec<u8>> {
    let mut recorded = Vec::new();
    for which in 0..7 {
        let (address, heard) = recorder(server).await;
        let mut client = client(address).await;
        // Answered or refused: it is the question that counts.
        match which {
            0 => drop(client.get_cluster(wire::GetClusterRequest {}).await),
            1 => drop(client.explain(wire::ExplainRequest {}).await),
            2 => drop(
                client
                    .events(wire::EventsRequest {
                        from: 0,
                        follow: false,
                    })
                    .await,
            ),
            3 => drop(
                client
                    .check_settings(wire::CheckSettingsRequest {
                        assignments: vec![
                            assignment("timing.renew_ms", "400"),
                            assignment("sync_mode", "strict"),
                        ],
                    })
                    .await,
            ),
            4 => drop(
                client
                    .change_settings(wire::ChangeSettingsRequest {
                        request: "r1".to_owned(),
                        version: 77,
                        assignments: vec![assignment("hang_after_ms", "9000")],
                    })
                    .await,
            ),
            5 => drop(
                client
                    .preview_failover(wire::PreviewFailoverRequest { to: "n2".to_owned() })
                    .await,
            ),
            _ => drop(
                client
                    .switchover(wire::SwitchoverRequest {
                        request: "r2".to_owned(),
                        to: "nobody".to_owned(),
                    })
                    .await,
            ),
        }
        drop(client);
        recorded.push(heard.lock().expect("no panic").clone());
    }
    assert!(recorded.iter().all(|bytes| bytes.starts_with(b"PRI * HTTP/2.0")));
    recorded
}

/// Sends `bytes`, reads for a moment, goes away. Says how much came back.
async fn send(address: SocketAddr, bytes: &[u8]) -> usize {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return 0;
    };
    // The server may hang up at any point of it.
    let _ = stream.write_all(bytes).await;
    let (mut buffer, mut came) = ([0; 4096], 0);
    while let Ok(Ok(count @ 1..)) =
        tokio::time::timeout(Duration::from_millis(5), stream.read(&mut buffer)).await
    {
        came += count;
    }
    came
}

fn is_as_it_was(consensus: &FakeConsensus) {
    let state = Arc::clone(&consensus.state.borrow());
    assert_eq!(state.holder, Some(N1));
    assert!(state.members.contains_key(&N2) && !state.members.contains_key(&NodeId(9)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mangled_conversations_harm_nobody_else_and_move_no_primary() {
    let rig = rig();
    let address = serve(rig.service).await;
    let recorded = conversations(address).await;
    let noise = prop_oneof![
        6 => prop::sample::select(recorded).prop_flat_map(|bytes| mangled::bytes(&bytes)),
        1 => prop::collection::vec(any::<u8>(), 0..400),
        2 => prop::collection::vec(any::<u8>(), 0..400)
            .prop_map(|bytes| [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &bytes].concat()),
        2 => prop::collection::vec((0..12_u8, any::<u8>(), 0..3_u32, prop::collection::vec(any::<u8>(), 0..60)), 1..8)
            .prop_map(frames),
    ];
    let mut runner = TestRunner::new(mangled::cases(1_200));
    let mut answered = 0_usize;
    for case in 0..runner.config().cases {
        let bytes = noise.new_tree(&mut runner).expect("a case").current();
        answered += usize::from(send(address, &bytes).await > 0);
        if case % 100 == 0 {
            // In the middle of it, and not only afterwards.
            assert_eq!(heard_of(address).await, "demo");
        }
    }
    assert!(answered > 0, "no noise was taken for anything");
    assert_eq!(heard_of(address).await, "demo");
    is_as_it_was(&rig.consensus);
}

/// Well-formed frames of any kind with anything in them: kind, flags, stream, payload.
fn frames(frames: Vec<(u8, u8, u32, Vec<u8>)>) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for (kind, flags, stream, payload) in frames {
        let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
        bytes.extend_from_slice(&length[1..]);
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
    }
    bytes
}

async fn heard_of(address: SocketAddr) -> String {
    let mut client = client(address).await;
    let asked = tokio::time::timeout(PATIENCE, client.get_cluster(wire::GetClusterRequest {})).await;
    asked.expect("in time").expect("an answer").into_inner().name
}

#[tokio::test]
async fn any_words_in_a_request_are_taken_or_refused_with_an_id() {
    use proto::control::control_server::Control;
    let rig = rig();
    let mut runner = TestRunner::new(mangled::cases(256));
    let words = prop::collection::vec(
        prop_oneof![
            mangled::any_text(0..30),
            mangled::text("timing.renew_ms"),
            mangled::text("n2"),
            mangled::text("2000"),
        ],
        4,
    );
    for _ in 0..runner.config().cases {
        let drawn = words.new_tree(&mut runner).expect("a case").current();
        let [request, to, key, value] = drawn.as_slice() else {
            unreachable!("four words")
        };
        let refusals = [
            rig.service
                .preview_failover(tonic::Request::new(wire::PreviewFailoverRequest {
                    to: to.clone(),
                }))
                .await
                .err(),
            rig.service
                .check_settings(tonic::Request::new(wire::CheckSettingsRequest {
                    assignments: vec![assignment(key, value)],
                }))
                .await
                .err(),
            rig.service
                .change_settings(tonic::Request::new(wire::ChangeSettingsRequest {
                    request: request.clone(),
                    version: 77,
                    assignments: vec![assignment(key, value)],
                }))
                .await
                .err(),
            rig.service
                .remove_member(tonic::Request::new(wire::RemoveMemberRequest {
                    request: request.clone(),
                    name: format!("{to}!"),
                }))
                .await
                .err(),
        ];
        for status in refusals.into_iter().flatten() {
            assert!(!status.message().is_empty());
            assert!(status.metadata().contains_key("pgctl-id"), "{status:?}");
        }
    }
    is_as_it_was(&rig.consensus);
}
