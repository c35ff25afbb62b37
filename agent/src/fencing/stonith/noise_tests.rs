//! HTTP devices whose answers are rubbish: none of it may be taken for a machine that is off.

use super::http;
use super::{DeviceError, Power};
use crate::config::HttpCall;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const DEADLINE: Duration = Duration::from_secs(20);

/// What says that it is off.
const OFF: &str = "power=off";

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\npower=on",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\npower=on\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\npower=on",
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\npower=off",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 301 Moved\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n",
];

fn answer() -> impl Strategy<Value = Vec<u8>> {
    let valid = || prop::sample::select(ANSWERS);
    prop_oneof![
        8 => valid().prop_flat_map(|answer| mangled::bytes(answer.as_bytes())),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => valid().prop_map(|answer| {
            answer.replacen("\r\n", &format!("\r\nX: {}\r\n", "y".repeat(200_000)), 1).into_bytes()
        }),
    ]
}

async fn device(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a question");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(&answer).await;
    });
    format!("http://{address}/n1")
}

#[test]
fn rubbish_is_never_taken_for_a_machine_that_is_off() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let config = mangled::cases(400);
    let cases = config.cases;
    let mut runner = TestRunner::new(config);
    let (mut on, mut failed) = (0, 0);
    for _ in 0..cases {
        let answer = answer().new_tree(&mut runner).expect("a case").current();
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let asked = runtime.block_on(async {
            let url = device(answer).await;
            let call = HttpCall {
                method: "POST".to_owned(),
                url: url.clone(),
                expect: 202,
                status_url: url,
                status_expect: 200,
                status_contains: Some(OFF.to_owned()),
                headers: [].into(),
            };
            http::ask(&call, DEADLINE).await
        });
        match asked {
            // A fault may have made a yes of a no; out of nothing there is none.
            Ok((Power::Off, _)) => assert!(shown.contains(" 200") && shown.contains("off"), "{shown}"),
            Ok((Power::On, _)) => on += 1,
            Err(DeviceError::TooLate { .. }) => panic!("the device had closed: {shown}"),
            Err(_) => failed += 1,
        }
    }
    assert!(on > 0 && failed > 0, "on {on}, failed {failed}");
}
