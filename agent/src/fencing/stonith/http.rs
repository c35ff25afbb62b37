//! Devices that are driven by HTTP/1.1: one call that orders, one that asks.

use super::{Answer, DeviceError, Power, excerpt};
use crate::config::{HttpCall, is_secret};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// The longest answer that is read.
const READ_AT_MOST: usize = 64 << 10;

pub(super) async fn order(call: &HttpCall, deadline: Duration) -> Result<Answer, DeviceError> {
    let (status, body) = within(call, &call.method, &call.url, "off", deadline).await?;
    let output = told(call, status, &body);
    if status == call.expect {
        Ok(Answer {
            power: None,
            exit_code: None,
            output,
        })
    } else {
        Err(DeviceError::Failed {
            device: call.url.clone(),
            doing: "off",
            how: format!("status {status} instead of {}", call.expect),
            output,
        })
    }
}

pub(super) async fn ask(call: &HttpCall, deadline: Duration) -> Result<(Power, Answer), DeviceError> {
    let (status, body) = within(call, "GET", &call.status_url, "status", deadline).await?;
    let output = told(call, status, &body);
    // A server that fails knows nothing of the machine, unless the operator says that this very status means "off".
    if status != call.status_expect && status >= 400 {
        return Err(DeviceError::Failed {
            device: call.status_url.clone(),
            doing: "status",
            how: format!("status {status}"),
            output,
        });
    }
    let text = String::from_utf8_lossy(&body);
    let says_so = call
        .status_contains
        .as_ref()
        .is_none_or(|wanted| text.contains(wanted));
    let power = if status == call.status_expect && says_so {
        Power::Off
    } else {
        Power::On
    };
    let answer = Answer {
        power: Some(power),
        exit_code: None,
        output,
    };
    Ok((power, answer))
}

fn told(call: &HttpCall, status: u16, body: &[u8]) -> String {
    let secrets = call
        .headers
        .iter()
        .filter(|(name, _)| is_secret(name))
        .map(|(_, value)| value.as_str());
    let body = excerpt::excerpt(body, secrets);
    format!("HTTP {status} {body}").trim_end().to_owned()
}

async fn within(
    call: &HttpCall,
    method: &str,
    url: &str,
    doing: &'static str,
    deadline: Duration,
) -> Result<(u16, Bytes), DeviceError> {
    let answer = tokio::time::timeout(deadline, exchange(call, method, url)).await;
    let answer = answer.map_err(|_| DeviceError::TooLate {
        device: url.to_owned(),
        doing,
        deadline,
    })?;
    answer.map_err(|error| DeviceError::Failed {
        device: url.to_owned(),
        doing,
        how: format!("{error:#}"),
        output: String::new(),
    })
}

async fn exchange(call: &HttpCall, method: &str, url: &str) -> anyhow::Result<(u16, Bytes)> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let stream = TcpStream::connect(address.as_str()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes())?)
        .uri(path)
        .header("host", host);
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), READ_AT_MOST).collect().await;
    driving.abort();
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok((status, body.to_bytes()))
}
