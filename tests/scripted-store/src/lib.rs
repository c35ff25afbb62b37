//! An object store for tests that does what it is told: it serves, fails, throttles, forgets, lies and dawdles.
//!
//! It speaks as much of S3 and of Google's XML interface as `object_store` uses: put (if absent), get with a range, head,
//! delete, list. Objects are in memory. Nothing is authenticated.
//!
//! Every object can be seen and changed from outside, so that a test knows what is really there.

#![forbid(unsafe_code)]

mod answer;

use answer::answer;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Put,
    Get,
    Delete,
    List,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// Counts from 0.
    pub number: u64,
    pub asked: Asked,
    /// The object's key, or the prefix of a listing.
    pub key: String,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// As it should be.
    Serve,
    /// An error, and nothing was done: 500, or 503 with "SlowDown".
    Refuse(u16),
    /// It is done, and the answer is an error.
    LoseAnswer,
    /// It is done, after a while.
    Dawdle(Duration),
    /// It is never answered.
    Hang,
    /// A put is answered with "done", and not kept.
    Forget,
    /// A put is answered with "it is there already", and not kept.
    SayExists,
    /// A put keeps only the first half.
    KeepHalf,
    /// A get gives a byte that is not what was put.
    Corrupt,
}

type Script = dyn Fn(&Call) -> Act + Send + Sync;

pub(crate) struct Inner {
    objects: Mutex<BTreeMap<String, Bytes>>,
    script: Mutex<Arc<Script>>,
    calls: AtomicU64,
}

/// The server; it ends when it is dropped.
pub struct ScriptedStore {
    address: SocketAddr,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

impl ScriptedStore {
    /// Starts one on a free port, which serves everything.
    ///
    /// # Errors
    /// No port is to be had at that address.
    pub async fn start(ip: impl Into<IpAddr>) -> std::io::Result<ScriptedStore> {
        let listener = TcpListener::bind((ip.into(), 0)).await?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner {
            objects: Mutex::default(),
            script: Mutex::new(Arc::new(|_: &Call| Act::Serve)),
            calls: AtomicU64::new(0),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&inner)));
        Ok(ScriptedStore {
            address,
            inner,
            serving,
        })
    }

    /// Where it is, as a repository's `endpoint` has it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it does from now on.
    pub fn script(&self, script: impl Fn(&Call) -> Act + Send + Sync + 'static) {
        *self.inner.script.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// It serves everything from now on.
    pub fn behave(&self) {
        self.script(|_| Act::Serve);
    }

    /// Every key that is there, in order, with the bucket before it.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.inner.objects().keys().cloned().collect()
    }

    /// Changes what is there behind everybody's back.
    pub fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Bytes>)) {
        change(&mut self.inner.objects());
    }

    /// How many requests have come.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.inner.calls.load(Ordering::Relaxed)
    }
}

impl Drop for ScriptedStore {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Inner {
    pub(crate) fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn act(&self, asked: Asked, key: &str) -> Act {
        let call = Call {
            number: self.calls.fetch_add(1, Ordering::Relaxed),
            asked,
            key: key.to_owned(),
        };
        let script = Arc::clone(&self.script.lock().unwrap_or_else(PoisonError::into_inner));
        script(&call)
    }
}

async fn serve(listener: TcpListener, inner: Arc<Inner>) {
    // What is under way ends with the server.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let inner = Arc::clone(&inner);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let inner = Arc::clone(&inner);
                async move { answer(&inner, request).await }
            });
            // A client that goes away is no matter.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}
