//! One request and its answer.

use crate::{Act, Asked, Inner};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::response::Builder;
use hyper::{Method, Request, Response, StatusCode};
use std::collections::BTreeSet;
use std::fmt::Write;

type Answer = Response<Full<Bytes>>;

/// Nothing here depends on time.
const MODIFIED: (&str, &str) = ("Sat, 21 Nov 2026 00:00:00 GMT", "2026-11-21T00:00:00.000Z");

pub(crate) async fn answer(inner: &Inner, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = decoded(head.uri.path().trim_start_matches('/'));
    let query = head.uri.query().unwrap_or_default();
    let bucket = path.split('/').next().unwrap_or_default().to_owned();
    let bulk = head.method == Method::POST && query.starts_with("delete");
    let (asked, key) = match head.method {
        Method::PUT => (Asked::Put, path),
        Method::DELETE => (Asked::Delete, path),
        _ if bulk => (Asked::Delete, path),
        _ if query.contains("list-type=2") => {
            let prefix = parameter(query, "prefix").unwrap_or_default();
            (Asked::List, format!("{bucket}/{prefix}"))
        }
        _ => (Asked::Get, path),
    };
    let act = inner.act(asked, &key);
    match act {
        Act::Refuse(status) => return Ok(error(status)),
        Act::Dawdle(time) => tokio::time::sleep(time).await,
        Act::Hang => std::future::pending::<()>().await,
        _ => {}
    }
    let if_absent = head.headers.get("if-none-match").is_some_and(|it| it == "*")
        || head
            .headers
            .get("x-goog-if-generation-match")
            .is_some_and(|it| it == "0");
    let answer = match asked {
        Asked::Put => put(inner, &key, body, if_absent, act),
        Asked::Get => {
            let range = head.headers.get("range").and_then(|it| it.to_str().ok());
            get(inner, &key, range, head.method == Method::HEAD, act)
        }
        Asked::Delete if bulk => delete_many(inner, &bucket, &String::from_utf8_lossy(&body)),
        Asked::Delete => {
            let there = inner.objects().remove(&key).is_some();
            Response::builder()
                .status(if there { 204 } else { 404 })
                .or_500(Bytes::new())
        }
        Asked::List => list(inner, &bucket, &key, parameter(query, "delimiter").is_some()),
    };
    Ok(if act == Act::LoseAnswer {
        error(500)
    } else {
        answer
    })
}

fn put(inner: &Inner, key: &str, body: Bytes, if_absent: bool, act: Act) -> Answer {
    let mut objects = inner.objects();
    if act == Act::SayExists || (if_absent && objects.contains_key(key)) {
        return error(412);
    }
    match act {
        Act::Forget => {}
        Act::KeepHalf => {
            objects.insert(key.to_owned(), body.slice(0..body.len() / 2));
        }
        _ => {
            objects.insert(key.to_owned(), body);
        }
    }
    described(Response::builder()).or_500(Bytes::new())
}

fn get(inner: &Inner, key: &str, range: Option<&str>, head: bool, act: Act) -> Answer {
    let Some(object) = inner.objects().get(key).cloned() else {
        return error(404);
    };
    let mut object = object;
    if act == Act::Corrupt && !object.is_empty() {
        let mut changed = object.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        object = changed.into();
    }
    let all = object.len();
    let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = bounds else {
        let length = described(Response::builder()).header("content-length", all);
        return length.or_500(if head { Bytes::new() } else { object });
    };
    let first: usize = first.parse().unwrap_or(0);
    let last = last.parse().unwrap_or(usize::MAX).min(all.saturating_sub(1));
    if first > last || first >= all {
        return error(416);
    }
    described(Response::builder())
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-range", format!("bytes {first}-{last}/{all}"))
        .or_500(object.slice(first..=last))
}

fn delete_many(inner: &Inner, bucket: &str, body: &str) -> Answer {
    let mut said = String::from("<DeleteResult>");
    for piece in body.split("<Key>").skip(1) {
        let key = piece.split("</Key>").next().unwrap_or_default();
        inner.objects().remove(&format!("{bucket}/{key}"));
        let _ = write!(said, "<Deleted><Key>{key}</Key></Deleted>");
    }
    xml(said + "</DeleteResult>")
}

fn list(inner: &Inner, bucket: &str, prefix: &str, folders: bool) -> Answer {
    let mut said = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
    let mut seen = BTreeSet::new();
    let before = bucket.len() + 1;
    for (key, object) in inner.objects().range(prefix.to_owned()..) {
        let Some(rest) = key.strip_prefix(prefix) else {
            break;
        };
        match rest.find('/').filter(|_| folders) {
            Some(at) => {
                seen.insert(key[before..prefix.len() + at + 1].to_owned());
            }
            None => {
                let _ = write!(
                    said,
                    "<Contents><Key>{}</Key><LastModified>{}</LastModified><Size>{}</Size><ETag>\"x\"</ETag></Contents>",
                    &key[before..],
                    MODIFIED.1,
                    object.len()
                );
            }
        }
    }
    for folder in seen {
        let _ = write!(said, "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
    }
    xml(said + "</ListBucketResult>")
}

fn xml(text: String) -> Answer {
    Response::builder()
        .header("content-type", "application/xml")
        .or_500(text.into())
}

fn error(status: u16) -> Answer {
    let code = match status {
        404 => "NoSuchKey",
        412 => "PreconditionFailed",
        503 => "SlowDown",
        507 => "InsufficientStorage",
        _ => "InternalError",
    };
    let text = format!("<Error><Code>{code}</Code><Message>as it was told</Message></Error>");
    Response::builder().status(status).or_500(text.into())
}

fn described(builder: Builder) -> Builder {
    builder
        .header("etag", "\"x\"")
        .header("last-modified", MODIFIED.0)
}

trait Or500 {
    fn or_500(self, body: Bytes) -> Answer;
}

impl Or500 for Builder {
    fn or_500(self, body: Bytes) -> Answer {
        self.body(Full::new(body)).unwrap_or_else(|_| {
            let mut answer = Response::new(Full::new(Bytes::new()));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        })
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map(decoded)
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
