//! The HTTP port: health checks, status, metrics.
//!
//! It has an operating system's thread and a runtime of its own and answers from memory, so that neither a busy agent
//! nor a hung server delays it. Its work per request is a pure function of the newest [`HealthSnapshot`]
//! ([`agent_core::health`]); nothing here waits for anything but the client.

use agent_core::health::{HealthAnswer, HealthSnapshot, Instants, respond};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

/// Reads the clocks that an answer depends on.
pub type Clock = Arc<dyn Fn() -> Instants + Send + Sync>;

/// How much strangers can take.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// The most connections at once. When one more comes, the one that was opened first gives way: a crowd of silent
    /// clients never keeps a health check out.
    pub connections: usize,
    /// How long a connection may take for the head of its next request.
    pub idle: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits {
            connections: 512,
            idle: Duration::from_secs(10),
        }
    }
}

/// The longest head of a request, bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// The running server. Dropping it closes its port and its connections.
pub struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Answers on `listener` from the newest of `snapshots`, at the time that `clock` tells.
    ///
    /// # Errors
    /// The thread or its runtime cannot be had.
    pub fn start(
        listener: TcpListener,
        limits: HttpLimits,
        snapshots: watch::Receiver<Arc<HealthSnapshot>>,
        clock: Clock,
    ) -> io::Result<HttpServer> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let answers = Arc::new(Answers {
            snapshots,
            clock,
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let thread = std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || runtime.block_on(accept(listener, limits, answers, stopped)))?;
        Ok(HttpServer {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was reported where it happened.
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    limits: HttpLimits,
    answers: Arc<Answers>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the HTTP port cannot accept a connection");
                // Out of file descriptors, most likely: the listener would report it again and again without a pause.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Answers are small, and a load balancer waits for each.
        let _ = stream.set_nodelay(true);
        make_room(&mut open, limits.connections);
        open.push_back(tokio::spawn(converse(stream, limits.idle, Arc::clone(&answers))).abort_handle());
    }
}

fn make_room(open: &mut VecDeque<AbortHandle>, most: usize) {
    if open.len() < most {
        return;
    }
    open.retain(|connection| !connection.is_finished());
    while open.len() >= most {
        if let Some(oldest) = open.pop_front() {
            oldest.abort();
        }
    }
}

async fn converse(stream: tokio::net::TcpStream, idle: Duration, answers: Arc<Answers>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answers.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        // Simple clients send their request, close their side, and then read.
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        // Port scanners and clients that go away are not worth more.
        tracing::trace!(%error, "an HTTP connection ended early");
    }
}

struct Answers {
    snapshots: watch::Receiver<Arc<HealthSnapshot>>,
    clock: Clock,
    requests: AtomicU64,
    refused: AtomicU64,
}

impl Answers {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut answer = if [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
            let snapshot = Arc::clone(&self.snapshots.borrow());
            // Read after the snapshot was taken: the answer is never younger than the clock says.
            respond(
                request.uri().path(),
                request.uri().query().unwrap_or_default(),
                &snapshot,
                (self.clock)(),
            )
        } else {
            HealthAnswer {
                status: 405,
                content_type: "application/json",
                body: r#"{"error":"this port only answers; use pgctl to change anything"}"#.to_owned(),
            }
        };
        if answer.status >= 500 {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        if request.uri().path() == "/metrics" {
            self.append_own_metrics(&mut answer.body);
        }
        // HEAD gets the length of the body that a GET would have; OPTIONS has none.
        let body = if *request.method() == Method::OPTIONS {
            String::new()
        } else {
            answer.body
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if answer.status == 405 || *request.method() == Method::OPTIONS {
            headers.insert(ALLOW, METHODS);
        }
        response
    }

    fn append_own_metrics(&self, page: &mut String) {
        let requests = self.requests.load(Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        // Writing into a String cannot fail.
        let _ = write!(
            page,
            "# HELP pgctl_http_requests_total Requests to this port.\n\
             # TYPE pgctl_http_requests_total counter\n\
             pgctl_http_requests_total {requests}\n\
             # HELP pgctl_http_refusals_total Requests answered with 503.\n\
             # TYPE pgctl_http_refusals_total counter\n\
             pgctl_http_refusals_total {refused}\n"
        );
    }
}
