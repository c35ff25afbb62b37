//! The HAProxy configuration that we ship, with real servers and health endpoints that say what they are told to.

mod plain;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use lab::{Backend, DEADLINE, Haproxy, Lab, Mono, Target, Writer, WriterOptions, sql, wait_until};
use plain::Plain;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// Answers `/primary` with 200 while `primary` is set, `/replica` while it is not.
async fn health(primary: Arc<AtomicBool>) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut request = String::new();
            if stream.read_line(&mut request).await.is_err() {
                continue;
            }
            let yes = primary.load(Ordering::Relaxed) == request.contains(" /primary ");
            let status = if yes { "200 OK" } else { "503 Service Unavailable" };
            let answer = format!("HTTP/1.0 {status}\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.get_mut().write_all(answer.as_bytes()).await;
        }
    });
    Ok(address)
}

#[tokio::test]
async fn clients_move_with_the_primary_and_old_sessions_are_cut() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (Plain::new(&lab, "a").await?, Plain::new(&lab, "b").await?);
    let roles = [Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false))];
    let mut backends = Vec::new();
    for (server, role) in [&a, &b].into_iter().zip(&roles) {
        Writer::prepare(server.address).await?;
        backends.push(Backend {
            name: server.host.name().to_owned(),
            postgres: server.address,
            http: health(Arc::clone(role)).await?,
        });
    }
    let proxy = Haproxy::start(&lab, &backends).await?;
    // A session that asks nothing, and must be cut all the same.
    let (idle, connection) = wait_until("the primary is found", DEADLINE, || async {
        Ok(sql::config(proxy.read_write)
            .connect(tokio_postgres::NoTls)
            .await?)
    })
    .await?;
    let cut = tokio::spawn(connection);
    let writer = Writer::start(Target::One(proxy.read_write), WriterOptions::default());
    writer.wait_for_acks(50, DEADLINE).await?;
    assert_eq!(
        writer.last_ack().map(|ack| ack.server),
        Some(a.address),
        "seen through the proxy"
    );

    roles[0].store(false, Ordering::Relaxed);
    roles[1].store(true, Ordering::Relaxed);
    let moved = Mono::now();
    wait_until("the other one acknowledges", DEADLINE, || async {
        match writer.last_ack() {
            Some(ack) if ack.server == b.address => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .await?;
    assert!(
        cut.await?.is_err() || idle.is_closed(),
        "the idle session should have been cut"
    );
    let history = writer.stop().await;
    let last_of_old = history.last_ack_of(a.address).map(|ack| ack.acked);
    let first_of_new = history
        .first_ack_after(moved, Some(b.address))
        .map(|ack| ack.acked);
    assert!(last_of_old < first_of_new, "{last_of_old:?} {first_of_new:?}");

    let standby = sql::value(proxy.read_only, "SELECT inet_server_port()").await?;
    assert_eq!(standby, a.address.port().to_string());
    Ok(())
}
