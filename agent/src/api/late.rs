//! A gRPC service that is not there yet: until the node belongs to a cluster, only `Peer` has something to answer.

use futures::future::BoxFuture;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// Answers `UNAVAILABLE` until the service it stands for is there.
pub struct Late<S> {
    service: Arc<OnceLock<S>>,
}

impl<S> Default for Late<S> {
    fn default() -> Self {
        Late {
            service: Arc::default(),
        }
    }
}

impl<S> Clone for Late<S> {
    fn clone(&self) -> Self {
        Late {
            service: self.service.clone(),
        }
    }
}

impl<S> Late<S> {
    /// From now on `service` answers. A second one is ignored.
    pub fn open(&self, service: S) {
        let _ = self.service.set(service);
    }
}

impl<S: NamedService> NamedService for Late<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Late<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.service.get() {
            Some(service) => {
                let mut service = service.clone();
                Box::pin(async move { service.call(request).await })
            }
            None => {
                let status = Status::unavailable(
                    "this agent does not belong to a cluster yet: its log says which members it waits for",
                );
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}
