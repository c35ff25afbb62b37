//! Load on the health endpoint of the primary.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::sample::Samples;
use crate::system::System;

/// How long each step lasts.
const STEP: Duration = Duration::from_secs(4);
/// A request that takes longer is counted as failed.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Requests as fast as they are answered, over 1, 16 and 64 connections.
///
/// # Errors
/// The endpoint does not answer at all.
pub async fn measure<S: System>(address: SocketAddr, system: &S, samples: &mut Samples) -> Result<()> {
    for connections in [1_usize, 16, 64] {
        let end = Instant::now() + STEP;
        let clients = (0..connections).map(|_| tokio::spawn(client(address, system.health_path(), end)));
        let (mut latencies, mut failed) = (Vec::new(), 0);
        for client in futures::future::join_all(clients).await {
            let (mut seen, missed) = client.context("a load client panicked")?;
            latencies.append(&mut seen);
            failed += missed;
        }
        if latencies.is_empty() {
            bail!("{address} answered none of {failed} requests");
        }
        latencies.sort_unstable();
        let p99 = latencies[(latencies.len() - 1) * 99 / 100];
        let name = |what: &str| format!("health endpoint, {connections} connections: {what}");
        samples.add(
            &name("requests/s"),
            "1/s",
            latencies.len() as f64 / STEP.as_secs_f64(),
        );
        samples.add(&name("p99"), "ms", p99.as_secs_f64() * 1000.0);
        if failed > 0 {
            samples.add(&name("failed"), "requests", failed as f64);
        }
    }
    Ok(())
}

/// One connection's worth of requests: how long each took, and how many failed. The connection is kept if the server
/// keeps it; connecting anew counts into the latency.
async fn client(address: SocketAddr, path: &'static str, end: Instant) -> (Vec<Duration>, u64) {
    let (mut latencies, mut failed) = (Vec::new(), 0);
    let mut connection = None;
    while Instant::now() < end {
        let began = Instant::now();
        match tokio::time::timeout(GIVE_UP, exchange(&mut connection, address, path)).await {
            Ok(Ok(200)) => latencies.push(began.elapsed()),
            _ => {
                failed += 1;
                connection = None;
                // A server that refuses at once is not to be measured by how fast we can be refused.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    (latencies, failed)
}

async fn exchange(
    connection: &mut Option<BufReader<TcpStream>>,
    address: SocketAddr,
    path: &str,
) -> Result<u16> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            BufReader::new(stream)
        }
    };
    stream
        .get_mut()
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .await?;
    let (mut line, mut status, mut length, mut keep) = (String::new(), None, None, true);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            bail!("closed before the answer's end");
        }
        let text = line.trim_end().to_ascii_lowercase();
        if text.is_empty() {
            break;
        }
        if status.is_none() {
            keep = text.starts_with("http/1.1");
            status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        } else if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse::<usize>().ok();
        } else if text.starts_with("connection:") && text.contains("close") {
            keep = false;
        }
    }
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length, 0);
            stream.read_exact(&mut body).await?;
        }
        None => {
            keep = false;
            stream.read_to_end(&mut body).await?;
        }
    }
    if keep {
        *connection = Some(stream);
    }
    status.context("no status")
}
