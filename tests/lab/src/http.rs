//! The smallest HTTP client that can read a health endpoint: one request, one connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// 200, 503 ...
    pub status: u16,
    /// Without chunk marks.
    pub body: String,
}

impl Response {
    /// The body read as JSON.
    ///
    /// # Errors
    /// It is not JSON, or not of this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.body).with_context(|| format!("unexpected body: {}", self.body))
    }
}

/// Asks for `path` with GET.
///
/// # Errors
/// No answer within `deadline`, or no HTTP answer.
pub async fn get(address: SocketAddr, path: &str, deadline: Duration) -> Result<Response> {
    request("GET", address, path, deadline).await
}

/// Asks for `path` with any method that has no body.
///
/// # Errors
/// As for [`get`].
pub async fn request(method: &str, address: SocketAddr, path: &str, deadline: Duration) -> Result<Response> {
    timeout(deadline, exchange(method, address, path))
        .await
        .with_context(|| format!("no answer from http://{address}{path} within {deadline:?}"))?
        .with_context(|| format!("{method} http://{address}{path}"))
}

async fn exchange(method: &str, address: SocketAddr, path: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(
            format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<Response> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("not an HTTP answer: {answer:?}")
    };
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in {head:?}"))?;
    let chunked = lines.any(|line| line.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    Ok(Response {
        status,
        body: if chunked { unchunk(body)? } else { body.to_owned() },
    })
}

fn unchunk(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16)
            .context("a chunk's size")?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..size).context("a chunk is cut short")?);
        rest = after.get(size + 2..).context("a chunk is cut short")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_plain_and_chunked_answers() {
        let plain = parse("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno").expect("plain");
        assert_eq!((plain.status, plain.body.as_str()), (503, "no"));
        let chunked = parse(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.expect("chunked").body, "abcde");
    }

    #[test]
    fn refuses_garbage() {
        assert!(parse("SSH-2.0-x").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc").is_err());
    }
}
