//! `pgctl backup schedule show`

use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, or_dash, text_or_dash};
use crate::wall_time::{span, utc};
use proto::archive::archive_client::ArchiveClient;
use proto::archive::{ScheduleReply, ScheduleRequest, ScheduledWork, WorkRecord};
use std::time::Duration;
use tonic::transport::Endpoint;

const WITHIN: Duration = Duration::from_secs(5);
/// How many of the ended ones a table shows.
const SHOWN: usize = 10;

pub async fn show(globals: &Globals) -> Result<(), Failure> {
    print(globals.output, &asked(globals).await?)
}

/// What the cluster has given to a node, by name: backups among it that are not finished yet.
pub async fn under_way(globals: &Globals) -> Result<Vec<String>, Failure> {
    let work = asked(globals).await?.work.into_iter();
    Ok(work.filter_map(|work| Some(work.running?.id)).collect())
}

async fn asked(globals: &Globals) -> Result<ScheduleReply, Failure> {
    let cluster = globals.session()?.cluster().await?;
    let mut silent = Vec::new();
    for member in &cluster.members {
        match ask(&member.peer).await {
            Ok(reply) => return Ok(reply),
            Err(error) => silent.push(format!("{} ({}): {error}", member.name, member.peer)),
        }
    }
    Err(Failure::Unreachable { tried: silent })
}

async fn ask(peer: &str) -> Result<ScheduleReply, String> {
    let endpoint = Endpoint::from_shared(format!("http://{peer}")).map_err(|error| error.to_string())?;
    let asked = async {
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let reply = ArchiveClient::new(channel).schedule(ScheduleRequest {}).await;
        reply.map_err(|status| status.message().to_owned())
    };
    match tokio::time::timeout(WITHIN, asked).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn print(format: Format, reply: &ScheduleReply) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(reply);
    }
    let headings = ["WORK", "SCHEDULE (UTC)", "NEXT", "NOW", "LAST DONE", "BY"];
    output::table(&headings, reply.work.iter().map(work))?;
    if reply.records.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let headings = ["ENDED", "WORK", "OUTCOME", "ATTEMPT", "NODE", "TOOK", "WHAT"];
    let skipped = reply.records.len().saturating_sub(SHOWN);
    output::table(&headings, reply.records.iter().skip(skipped).map(record))
}

fn work(work: &ScheduledWork) -> Vec<String> {
    let running = work
        .running
        .as_ref()
        .map(|running| format!("{} on {}", running.id, running.node));
    let done = work.last_done.as_ref();
    vec![
        work.kind.clone(),
        text_or_dash(&work.schedule),
        or_dash(work.next_due_unix_ms.map(utc)),
        or_dash(running),
        or_dash(done.map(|done| utc(done.ended_unix_ms))),
        or_dash(done.map(|done| done.node.clone())),
    ]
}

fn record(record: &WorkRecord) -> Vec<String> {
    let what = if record.id.is_empty() {
        record.text.clone()
    } else {
        format!("{}: {}", record.id, record.text)
    };
    vec![
        utc(record.ended_unix_ms),
        record.kind.clone(),
        record.outcome.clone(),
        record.attempt.to_string(),
        text_or_dash(&record.node),
        span(record.ended_unix_ms.saturating_sub(record.began_unix_ms)),
        what,
    ]
}
