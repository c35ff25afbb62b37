//! `pgctl wal status`

use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, or_dash, text_or_dash};
use crate::wall_time::{span, utc};
use proto::archive::archive_client::ArchiveClient;
use proto::archive::{ArchiveStatus, StatusRequest};
use std::time::Duration;
use tonic::transport::Endpoint;

const WITHIN: Duration = Duration::from_secs(5);

pub async fn run(globals: &Globals) -> Result<(), Failure> {
    let cluster = globals.session()?.cluster().await?;
    let mut answers = Vec::new();
    let mut silent = Vec::new();
    for member in cluster.members.iter().filter(|member| member.kind == "data") {
        match ask(&member.peer).await {
            Ok(status) => answers.push(status),
            Err(error) => silent.push(format!("{} ({}): {error}", member.name, member.peer)),
        }
    }
    if answers.is_empty() {
        return Err(Failure::Unreachable { tried: silent });
    }
    for line in &silent {
        eprintln!("no answer from {line}");
    }
    if globals.output == Format::Json {
        return output::json(&answers);
    }
    let headings = [
        "NODE",
        "WAITING",
        "OLDEST",
        "LAST ARCHIVED",
        "AT",
        "ARCHIVED",
        "THERE ALREADY",
        "FAILED",
        "QUARANTINED",
    ];
    output::table(&headings, answers.iter().map(row))?;
    for status in &answers {
        for repository in status.repositories.iter().filter(|it| !it.trouble.is_empty()) {
            output::line(format!(
                "{}: repository {}: {}",
                status.node, repository.name, repository.trouble
            ))?;
        }
        if status.ready > 0 && !status.last_error.is_empty() {
            output::line(format!("{}: {}", status.node, status.last_error))?;
        }
    }
    Ok(())
}

async fn ask(peer: &str) -> Result<ArchiveStatus, String> {
    let endpoint = Endpoint::from_shared(format!("http://{peer}")).map_err(|error| error.to_string())?;
    let asked = async {
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let status = ArchiveClient::new(channel).status(StatusRequest {}).await;
        status.map_err(|status| status.message().to_owned())
    };
    match tokio::time::timeout(WITHIN, asked).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn row(status: &ArchiveStatus) -> Vec<String> {
    vec![
        status.node.clone(),
        status.ready.to_string(),
        or_dash(status.oldest_ready_age_ms.map(span)),
        text_or_dash(&status.last_archived),
        or_dash(status.last_archived_at_unix_ms.map(utc)),
        status.archived.to_string(),
        status.already_there.to_string(),
        status.failed.to_string(),
        status.quarantined.to_string(),
    ]
}
