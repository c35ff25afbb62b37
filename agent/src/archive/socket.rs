//! Answers `pgctl-wal`: one question a connection, one line; the answer is one line, and for a file its content.

use super::fetch::{FetchError, Fetcher};
use super::push::Pusher;
use super::recovering::Recovering;
use repository::WalName;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// The longest question, bytes.
const QUESTION_MAX: u64 = 4096;
/// How long whoever connects may take to ask.
const ASK: Duration = Duration::from_secs(5);
/// How long one answer may take: less than `pgctl-wal` waits.
const ANSWER: Duration = Duration::from_secs(70);
const AGAIN: Duration = Duration::from_secs(1);

/// Listens for ever; a socket that cannot be made is tried again, because its folder may come later.
pub(super) async fn serve(
    path: PathBuf,
    owner: (u32, u32),
    pusher: Arc<Pusher>,
    fetcher: Arc<Fetcher>,
    recovering: Arc<Recovering>,
) {
    let mut told = false;
    let listener = loop {
        match listen(&path, owner) {
            Ok(listener) => break listener,
            Err(error) => {
                if !told {
                    told = true;
                    tracing::warn!(socket = %path.display(), %error, "WAL cannot be archived yet; it is tried again");
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    let allowed = [0, owner.0, nix::unistd::Uid::effective().as_raw()];
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let whose = stream.peer_cred().map(|peer| peer.uid());
                if !whose.as_ref().is_ok_and(|uid| allowed.contains(uid)) {
                    tracing::warn!(?whose, "somebody else than the server asks for WAL; not answered");
                    continue;
                }
                let (pusher, fetcher) = (Arc::clone(&pusher), Arc::clone(&fetcher));
                let recovering = Arc::clone(&recovering);
                tokio::spawn(async move {
                    let answering = answer(stream, &pusher, &fetcher, &recovering);
                    let answered = tokio::time::timeout(ANSWER, answering).await;
                    if let Ok(Err(error)) = answered {
                        tracing::debug!(%error, "pgctl-wal went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a question for WAL could not be taken");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn listen(path: &Path, owner: (u32, u32)) -> std::io::Result<UnixListener> {
    // Of an agent that has ended; one that runs would not have let this one take its ports.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    if nix::unistd::Uid::effective().is_root() {
        chown(path, Some(owner.0), Some(owner.1))?;
    }
    Ok(listener)
}

async fn answer(
    stream: UnixStream,
    pusher: &Arc<Pusher>,
    fetcher: &Arc<Fetcher>,
    recovering: &Recovering,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(reader.take(QUESTION_MAX));
    let asked = tokio::time::timeout(ASK, limited.read_line(&mut line)).await;
    asked.map_err(|_| std::io::Error::other("nothing was asked"))??;
    let question = line.trim_end_matches('\n');
    let said = match question.split_once(' ') {
        Some(("push", _)) if recovering.is_on() => {
            "this node restores the cluster: nothing is archived until that is committed".to_owned()
        }
        Some(("push", path)) => match pusher.push(path).await {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        },
        Some((verb @ ("get" | "follow"), name)) => {
            let said = |error: Arc<FetchError>| error.to_string();
            let outcome = match WalName::parse(name) {
                None => Ok(None),
                Some(name) => match recovering.fetch(name).await {
                    Some(by_order) => by_order.map(|content| content.map(Arc::new)),
                    None if verb == "get" => fetcher.exactly(name).await.map_err(said),
                    None => fetcher.follow(name).await.map_err(said),
                },
            };
            match outcome {
                Ok(None) => "absent".to_owned(),
                Err(error) => error,
                Ok(Some(content)) => {
                    let head = format!("content {}\n", content.len());
                    writer.write_all(head.as_bytes()).await?;
                    writer.write_all(&content).await?;
                    return writer.shutdown().await;
                }
            }
        }
        _ => "the question is not understood: pgctl-wal and pgctl-agent are of different versions".to_owned(),
    };
    let one_line = said.replace(['\n', '\r'], " ");
    writer.write_all(format!("{one_line}\n").as_bytes()).await?;
    writer.shutdown().await
}
