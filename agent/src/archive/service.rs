//! The archive for `pgctl`.

use super::backups::{self, Busy};
use super::{Archive, ready};
use crate::wall_time::now;
use proto::archive::archive_server::Archive as Wire;
use proto::archive::{
    ArchiveStatus, BackupProgress, CreateBackupRequest, RepositoryStatus, StatusRequest, SwitchWalReply,
    SwitchWalRequest,
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::{Code, Request, Response, Status};

/// Answers `pgctl`; `None` where no repository is configured.
pub struct ArchiveService {
    archive: Option<Arc<Archive>>,
}

impl ArchiveService {
    /// A service over this node's archive.
    #[must_use]
    pub fn new(archive: Option<Arc<Archive>>) -> ArchiveService {
        ArchiveService { archive }
    }

    fn archive(&self) -> Result<&Arc<Archive>, Status> {
        self.archive.as_ref().ok_or_else(|| {
            refuse(
                Code::FailedPrecondition,
                "no-repository",
                "no repository is configured on this node, or it is a witness",
                "add [[archive.repositories]] to node.toml on every node, and restart agent and server",
            )
        })
    }
}

/// As `pgctl` reads a refusal: an id, and what to do next.
fn refuse(code: Code, id: &'static str, message: impl Into<String>, next: &str) -> Status {
    let mut status = Status::new(code, message);
    status
        .metadata_mut()
        .insert("pgctl-id", MetadataValue::from_static(id));
    status
        .metadata_mut()
        .insert_bin("pgctl-next-bin", BinaryMetadataValue::from_bytes(next.as_bytes()));
    status
}

#[tonic::async_trait]
impl Wire for ArchiveService {
    type CreateBackupStream = ReceiverStream<Result<BackupProgress, Status>>;

    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let CreateBackupRequest {
            id,
            max_rate_kb,
            incremental,
        } = request.into_inner();
        let archive = self.archive()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !(1..=60).contains(&id.len()) || !id.chars().all(plain) {
            return Err(Status::invalid_argument(
                "a backup's id is 1 to 60 of a-z A-Z 0-9 -",
            ));
        }
        let rate = (max_rate_kb > 0).then_some(max_rate_kb);
        let begin = || backups::begin(archive, &id, rate, incremental);
        let mut progress = archive.backups.join_or_begin(&id, begin).map_err(|Busy { id }| {
            let message = format!("backup {id} is under way on this node");
            refuse(
                Code::FailedPrecondition,
                "backup-under-way",
                message,
                "wait for it",
            )
        })?;
        let (tell, told) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let now = progress.borrow_and_update().clone();
                let last = now.outcome.is_some();
                if tell.send(Ok(now)).await.is_err() || last {
                    return;
                }
                tokio::select! {
                    () = tell.closed() => return,
                    changed = progress.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<ArchiveStatus>, Status> {
        let archive = self.archive()?;
        let data_dir = archive.config.data_dir.clone();
        let waiting = tokio::task::spawn_blocking(move || ready::ready(&data_dir))
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let oldest = ready::oldest(&waiting, now());
        let tally = archive.pusher.tally();
        let (last_archived, last_archived_at) = tally.last_archived.unzip();
        let (last_error, last_error_at) = tally.last_error.unzip();
        let repositories = archive
            .doors
            .shown()
            .into_iter()
            .map(|(name, id, trouble)| RepositoryStatus { name, id, trouble });
        Ok(Response::new(ArchiveStatus {
            node: archive.config.node.clone(),
            repositories: repositories.collect(),
            ready: waiting.len() as u64,
            oldest_ready: oldest.map(|(name, _)| name.to_string()).unwrap_or_default(),
            oldest_ready_age_ms: oldest.map(|(_, age)| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            last_archived: last_archived.unwrap_or_default(),
            last_archived_at_unix_ms: last_archived_at,
            last_error: last_error.unwrap_or_default(),
            last_error_at_unix_ms: last_error_at,
            archived: tally.archived,
            already_there: tally.already_there,
            failed: tally.failed,
            quarantined: tally.quarantined,
        }))
    }

    async fn switch_wal(
        &self,
        request: Request<SwitchWalRequest>,
    ) -> Result<Response<SwitchWalReply>, Status> {
        let source = &self.archive()?.source;
        if request.into_inner().checkpoint {
            let made = source.checkpoint().await;
            made.map_err(|error| Status::new(Code::FailedPrecondition, error))?;
        }
        let lsn = source.switch_wal().await;
        let lsn = lsn.map_err(|error| Status::new(Code::FailedPrecondition, error))?;
        Ok(Response::new(SwitchWalReply { lsn: lsn.to_string() }))
    }
}
