//! Talking to the cluster: any of its agents will do, so they are tried in turn.
//!
//! Every request that changes something carries an id of its own, made once. So a request whose answer did not come can
//! be sent again, to another agent, without being carried out twice.

use crate::failure::Failure;
use proto::control::control_client::ControlClient;
use proto::control::{Cluster, GetClusterRequest, Progress};
use std::future::Future;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

/// A client of one agent.
pub type Client = ControlClient<Channel>;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_millis(1_500);

/// Silence longer than this is explained on standard error.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the end of a switchover or failover is looked for after its stream broke.
const REJOIN: Duration = Duration::from_secs(60);

/// Whether a request changes anything: it decides what a lost answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Read,
    Write,
}

/// The agents that may be asked.
#[derive(Debug, Clone)]
pub struct Session {
    endpoints: Vec<String>,
    timeout: Duration,
}

impl Session {
    /// A session with the agents at `endpoints`; each answer may take as long as `timeout`.
    pub fn new(endpoints: Vec<String>, timeout: Duration) -> Session {
        Session { endpoints, timeout }
    }

    /// The same, with at least so much time for each answer.
    pub fn at_least(mut self, timeout: Duration) -> Session {
        self.timeout = self.timeout.max(timeout);
        self
    }

    /// A new request id.
    pub fn request_id() -> String {
        uuid::Uuid::new_v4().to_string()
    }

    /// What is known of the cluster.
    pub async fn cluster(&self) -> Result<Cluster, Failure> {
        self.call(Intent::Read, async |mut client| {
            client.get_cluster(GetClusterRequest {}).await
        })
        .await
    }

    /// Asks one agent after the other until one answers.
    pub async fn call<T>(
        &self,
        intent: Intent,
        ask: impl AsyncFn(Client) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.call_over(intent, async |channel| ask(Client::new(channel)).await)
            .await
    }

    /// The same for other services than the first: over the bare connection.
    pub async fn call_over<T>(
        &self,
        intent: Intent,
        ask: impl AsyncFn(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut tried = Tried::default();
        for endpoint in &self.endpoints {
            let answer = noticed(endpoint, async {
                let channel = self.connect(endpoint).await.map_err(Missed::NotSent)?;
                let answer = tokio::time::timeout(self.timeout, ask(channel)).await;
                answer
                    .map_err(|_| Missed::Lost(format!("no answer within {} s", self.timeout.as_secs_f32())))?
                    .map_err(Missed::of)
            });
            match answer.await {
                Ok(response) => return Ok(response.into_inner()),
                Err(missed) => tried.note(endpoint, missed)?,
            }
        }
        Err(tried.failure(intent))
    }

    /// Opens a stream that is told to its end by whichever agent is left; `tell` gets each message.
    pub async fn follow(
        &self,
        open: impl AsyncFn(Client) -> Result<Response<Streaming<Progress>>, Status>,
        mut tell: impl FnMut(&Progress) -> Result<(), Failure>,
    ) -> Result<Progress, Failure> {
        let began = Instant::now();
        let mut opened = false;
        loop {
            let mut tried = Tried::default();
            for endpoint in &self.endpoints {
                let missed = match self.follow_one(endpoint, &open, &mut tell, &mut opened).await? {
                    Ok(end) => return Ok(end),
                    Err(missed) => missed,
                };
                tried.note(endpoint, missed)?;
            }
            // Where it was never begun there is nothing to find out by trying for longer.
            if (!opened && !tried.sent) || began.elapsed() > REJOIN {
                return Err(tried.failure(Intent::Write));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn follow_one(
        &self,
        endpoint: &str,
        open: &impl AsyncFn(Client) -> Result<Response<Streaming<Progress>>, Status>,
        tell: &mut impl FnMut(&Progress) -> Result<(), Failure>,
        opened: &mut bool,
    ) -> Result<Result<Progress, Missed>, Failure> {
        let client = match self.connect(endpoint).await {
            Ok(channel) => Client::new(channel),
            Err(text) => return Ok(Err(Missed::NotSent(text))),
        };
        let stream = match tokio::time::timeout(self.timeout, open(client)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Ok(Err(Missed::of(status))),
            Err(_) => return Ok(Err(Missed::Lost("no answer".to_owned()))),
        };
        *opened = true;
        let mut stream = stream;
        loop {
            match stream.message().await {
                Ok(Some(progress)) => {
                    tell(&progress)?;
                    if progress.outcome.is_some() {
                        return Ok(Ok(progress));
                    }
                }
                Ok(None) => return Ok(Err(Missed::Lost("it stopped telling".to_owned()))),
                Err(status) => return Ok(Err(Missed::of(status))),
            }
        }
    }

    async fn connect(&self, endpoint: &str) -> Result<Channel, String> {
        let target =
            Endpoint::from_shared(format!("http://{endpoint}")).map_err(|error| error.to_string())?;
        let target = target.connect_timeout(CONNECT);
        match tokio::time::timeout(CONNECT, target.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(cause(&error)),
            Err(_) => Err("no connection in time".to_owned()),
        }
    }
}

/// Says on standard error whom is waited for, once that takes long.
async fn noticed<T>(endpoint: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    match tokio::time::timeout(PATIENCE, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            eprintln!("waiting for {endpoint} ...");
            work.await
        }
    }
}

/// Why one agent gave no final answer.
enum Missed {
    /// The request never reached it.
    NotSent(String),
    /// It may have got the request.
    Lost(String),
    /// It answered.
    Told(Failure, tonic::Code),
}

impl Missed {
    fn of(status: Status) -> Missed {
        match Failure::of_agent(&status) {
            Some(failure) => Missed::Told(failure, status.code()),
            None if status.code() == tonic::Code::Unimplemented => {
                Missed::NotSent("it is no pgctl-agent, or one of another version".to_owned())
            }
            // A broken connection has a source; what an agent says has none.
            None if std::error::Error::source(&status).is_none()
                && status.code() == tonic::Code::Unavailable =>
            {
                Missed::Told(Failure::refused("unavailable", status.message()), status.code())
            }
            None if status.message().is_empty() => Missed::Lost(status.code().description().to_owned()),
            None => Missed::Lost(status.message().to_owned()),
        }
    }
}

#[derive(Default)]
struct Tried {
    lines: Vec<String>,
    sent: bool,
    told: Option<Failure>,
}

impl Tried {
    /// Notes why `endpoint` gave no answer; fails where its word is final.
    fn note(&mut self, endpoint: &str, missed: Missed) -> Result<(), Failure> {
        match missed {
            Missed::NotSent(text) => self.lines.push(format!("{endpoint}: {text}")),
            Missed::Lost(text) => {
                self.sent = true;
                self.lines.push(format!("{endpoint}: {text}"));
            }
            // Another agent may be better placed: it reaches the Raft leader, or belongs to the majority.
            Missed::Told(failure, tonic::Code::Unavailable) => self.told = Some(failure),
            Missed::Told(failure, _) => return Err(failure),
        }
        Ok(())
    }

    fn failure(self, intent: Intent) -> Failure {
        if self.sent && intent == Intent::Write {
            return Failure::Unknown {
                message: self.lines.join("; "),
                next: "look with `pgctl status` and `pgctl events` before anything else".to_owned(),
            };
        }
        self.told.unwrap_or(Failure::Unreachable { tried: self.lines })
    }
}

/// The innermost cause of an error: the one that a person can do something about.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
