//! The archive for `pgctl`.

use super::backups::{self, Busy};
use super::drill::{self, Evidence, Which};
use super::dumps::{self, Asked};
use super::{Archive, duties, in_place, local, ready, schedule};
use crate::ports::Consensus;
use crate::wall_time::{now, stamp};
use agent_core::cluster::DutyKind;
use proto::archive::archive_server::Archive as Wire;
use proto::archive::{
    ArchiveStatus, BackupProgress, CreateBackupRequest, CreateDumpRequest, DrillOutcome, DrillProgress,
    DrillRequest, DumpProgress, FetchWalRequest, RepositoryStatus, RestoreClusterReply,
    RestoreClusterRequest, ScheduleReply, ScheduleRequest, StatusRequest, SwitchWalReply, SwitchWalRequest,
    WalPiece,
};
use repository::WalName;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::{Code, Request, Response, Status};

/// Bytes of a message with WAL.
const PIECE: usize = 256 << 10;

/// Answers `pgctl`; `None` where no repository is configured.
pub struct ArchiveService {
    archive: Option<Arc<Archive>>,
    consensus: Arc<dyn Consensus>,
}

impl ArchiveService {
    /// A service over this node's archive.
    #[must_use]
    pub fn new(archive: Option<Arc<Archive>>, consensus: Arc<dyn Consensus>) -> ArchiveService {
        ArchiveService { archive, consensus }
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
pub(super) fn refuse(code: Code, id: &'static str, message: impl Into<String>, next: &str) -> Status {
    let mut status = Status::new(code, message);
    status
        .metadata_mut()
        .insert("pgctl-id", MetadataValue::from_static(id));
    status
        .metadata_mut()
        .insert_bin("pgctl-next-bin", BinaryMetadataValue::from_bytes(next.as_bytes()));
    status
}

/// Lets the cluster know of a backup by hand, whether or not its client stays.
async fn tell_of(mut progress: watch::Receiver<BackupProgress>, consensus: Arc<dyn Consensus>) {
    let began = stamp().0;
    let Ok(last) = progress
        .wait_for(|progress| progress.outcome.is_some())
        .await
        .map(|progress| progress.clone())
    else {
        return;
    };
    if let Some(outcome) = last.outcome.filter(|outcome| outcome.succeeded) {
        let text = format!(
            "by hand, {} bytes in {} stored",
            outcome.bytes, outcome.stored_bytes
        );
        duties::done_by_hand(&consensus, DutyKind::Backup, &outcome.id, text, began).await;
    }
}

/// It becomes part of a name.
fn check_id(id: &str) -> Result<(), Status> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (1..=60).contains(&id.len()) && id.chars().all(plain) {
        Ok(())
    } else {
        Err(Status::invalid_argument("an id is 1 to 60 of a-z A-Z 0-9 -"))
    }
}

impl From<Evidence> for DrillOutcome {
    fn from(found: Evidence) -> DrillOutcome {
        DrillOutcome {
            succeeded: found.succeeded,
            error: found.error,
            id: found.id,
            node: found.node,
            backup: found.backup,
            timeline: found.timeline,
            target_lsn: found.target_lsn,
            expected_lsn: found.expected_lsn,
            reached_lsn: found.reached_lsn,
            restore_ms: found.restore_ms,
            recovery_ms: found.recovery_ms,
            checks_ms: found.checks_ms,
            bytes: found.bytes,
            wal_segments: found.wal_segments,
            verified: found.verified,
            amcheck: found.amcheck,
            newest_epoch: found.newest_epoch,
            newest_epoch_at: found.newest_epoch_at,
            query_rows: found.query_rows,
        }
    }
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
        check_id(&id)?;
        let rate = (max_rate_kb > 0).then_some(max_rate_kb);
        let begin = || {
            let progress = backups::begin(archive, &id, rate, incremental);
            tokio::spawn(tell_of(progress.clone(), Arc::clone(&self.consensus)));
            progress
        };
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
        let fetched = archive.fetcher.tally();
        let (last_fetched, last_fetched_at) = fetched.last.unzip();
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
            fetched_from_peers: fetched.from_peers,
            fetched_from_repositories: fetched.from_repositories,
            last_fetched: last_fetched.unwrap_or_default(),
            last_fetched_at_unix_ms: last_fetched_at,
            fetch_error: fetched.error,
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

    async fn restore_cluster(
        &self,
        request: Request<RestoreClusterRequest>,
    ) -> Result<Response<RestoreClusterReply>, Status> {
        let answered = in_place::answer(self.archive.as_ref(), &self.consensus, request.into_inner());
        answered.await.map(Response::new)
    }

    type DrillStream = ReceiverStream<Result<DrillProgress, Status>>;

    async fn drill(&self, request: Request<DrillRequest>) -> Result<Response<Self::DrillStream>, Status> {
        let DrillRequest { id, random } = request.into_inner();
        let archive = Arc::clone(self.archive()?);
        check_id(&id)?;
        let which = if random { Which::Random } else { Which::Newest };
        let (tell, told) = mpsc::channel(8);
        let consensus = Arc::clone(&self.consensus);
        let begun = Instant::now();
        let elapsed = move || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let handle = archive.runtime.handle().cloned();
        let handle = handle.ok_or_else(|| Status::unavailable("the agent ends"))?;
        handle.spawn(async move {
            let phase = |name: &str| {
                let progress = DrillProgress {
                    phase: name.to_owned(),
                    elapsed_ms: elapsed(),
                    outcome: None,
                };
                // Nobody waits for what is only told on the way.
                let _ = tell.try_send(Ok(progress));
            };
            let evidence = tokio::select! {
                evidence = drill::run(&archive, &id, which, phase) => evidence,
                () = tell.closed() => return,
            };
            if evidence.succeeded {
                duties::done_by_hand(
                    &consensus,
                    DutyKind::Drill,
                    &id,
                    evidence.in_words(),
                    evidence.began_unix_ms,
                )
                .await;
            }
            let phase = if evidence.succeeded { "done" } else { "failed" };
            let last = DrillProgress {
                phase: phase.to_owned(),
                elapsed_ms: elapsed(),
                outcome: Some(evidence.into()),
            };
            let _ = tell.send(Ok(last)).await;
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    type CreateDumpStream = ReceiverStream<Result<DumpProgress, Status>>;

    async fn create_dump(
        &self,
        request: Request<CreateDumpRequest>,
    ) -> Result<Response<Self::CreateDumpStream>, Status> {
        let CreateDumpRequest {
            id,
            databases,
            globals,
        } = request.into_inner();
        check_id(&id)?;
        let archive = Arc::clone(self.archive()?);
        let asked = Asked {
            id,
            databases,
            globals,
            all: false,
        };
        let (tell, told) = mpsc::channel(4);
        let handle = archive.runtime.handle().cloned();
        let handle = handle.ok_or_else(|| Status::unavailable("the agent ends"))?;
        handle.spawn(async move {
            let gone = tell.clone();
            tokio::select! {
                () = dumps::run(&archive, asked, tell) => {}
                () = gone.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn schedule(&self, _: Request<ScheduleRequest>) -> Result<Response<ScheduleReply>, Status> {
        Ok(Response::new(schedule::shown(&self.consensus.state(), stamp())))
    }

    type FetchWalStream = ReceiverStream<Result<WalPiece, Status>>;

    async fn fetch_wal(
        &self,
        request: Request<FetchWalRequest>,
    ) -> Result<Response<Self::FetchWalStream>, Status> {
        let FetchWalRequest { cluster_id, name } = request.into_inner();
        let archive = self.archive()?;
        if cluster_id.is_empty() || cluster_id != (archive.sight)().cluster_id {
            return Err(Status::permission_denied("the agent is of another cluster"));
        }
        let name = WalName::parse(&name).ok_or_else(|| Status::invalid_argument("no WAL has that name"))?;
        let not_here = || Status::not_found(format!("{name} is not here, or not whole"));
        let (system_id, _) = archive.source.identity().ok_or_else(not_here)?;
        let gift = Arc::clone(&archive.gifts).acquire_owned().await;
        let gift = gift.map_err(|error| Status::unavailable(error.to_string()))?;
        let data_dir = archive.config.data_dir.clone();
        let reading = tokio::task::spawn_blocking(move || local::to_give(&data_dir, name, system_id));
        let found = reading
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let (content, hash) = found.ok_or_else(not_here)?;
        let (tell, told) = mpsc::channel(2);
        tokio::spawn(async move {
            let _gift = gift;
            for (index, piece) in content.chunks(PIECE).enumerate() {
                let piece = WalPiece {
                    content: piece.to_vec(),
                    hash: if index == 0 { hash.clone() } else { String::new() },
                };
                if tell.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }
}
