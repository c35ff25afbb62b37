//! The consensus part of the peer service over gRPC.

use super::channels::MESSAGE_MAX;
use super::rpc::RaftRpc;
use proto::peer;
use proto::peer::peer_server::{Peer, PeerServer};
use tonic::{Request, Response, Status};

/// The service, ready to be added to a gRPC server.
#[must_use]
pub fn peer_server(rpc: RaftRpc) -> PeerServer<RaftRpc> {
    PeerServer::new(rpc)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX)
}

#[tonic::async_trait]
impl Peer for RaftRpc {
    async fn hello(
        &self,
        request: Request<peer::HelloRequest>,
    ) -> Result<Response<peer::HelloReply>, Status> {
        Ok(Response::new(self.handle_hello(request.get_ref())))
    }

    async fn adopt(
        &self,
        request: Request<peer::AdoptRequest>,
    ) -> Result<Response<peer::AdoptReply>, Status> {
        self.handle_adopt(request.into_inner()).await.map(Response::new)
    }

    async fn join(&self, request: Request<peer::JoinRequest>) -> Result<Response<peer::JoinReply>, Status> {
        Ok(Response::new(self.handle_join(request.into_inner()).await))
    }

    async fn append_entries(
        &self,
        request: Request<peer::AppendRequest>,
    ) -> Result<Response<peer::AppendReply>, Status> {
        self.handle_append(request.into_inner()).await.map(Response::new)
    }

    async fn request_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteReply>, Status> {
        self.handle_vote(request.into_inner()).await.map(Response::new)
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteReply>, Status> {
        self.handle_pre_vote(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn install_snapshot(
        &self,
        request: Request<peer::SnapshotRequest>,
    ) -> Result<Response<peer::SnapshotReply>, Status> {
        self.handle_snapshot(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferRequest>,
    ) -> Result<Response<peer::TransferReply>, Status> {
        self.handle_transfer(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn forward(
        &self,
        request: Request<peer::ForwardRequest>,
    ) -> Result<Response<peer::ForwardReply>, Status> {
        self.handle_forward(request.into_inner()).await.map(Response::new)
    }
}
