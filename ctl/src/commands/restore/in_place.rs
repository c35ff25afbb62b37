//! The whole cluster goes back to a point in time.

use super::{Args, target};
use crate::cli::Globals;
use crate::commands::through;
use crate::failure::Failure;
use crate::output::{self, Format, confirm};
use crate::session::Session;
use crate::wall_time::utc;
use proto::archive::archive_client::ArchiveClient;
use proto::archive::{RestoreClusterReply, RestoreClusterRequest, RestoreClusterTarget};
use proto::control::{Cluster, Member};
use repository::Target;
use std::time::{Duration, Instant};
use tonic::transport::Endpoint;

const CONNECT: Duration = Duration::from_secs(3);
/// An order is committed, or refused, within this time.
const ANSWER: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);
/// For how long agents may be silent while it is watched how a restore goes on.
const SILENCE: Duration = Duration::from_secs(60);
/// For how long it is waited that the restored node serves.
const SERVES: Duration = Duration::from_secs(120);

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    let session = globals.session()?;
    let cluster = session.cluster().await?;
    if args.status {
        return show(globals.output, &newest(&cluster).await?);
    }
    if args.in_place {
        return begin(globals, args, &cluster).await;
    }
    let now = newest(&cluster).await?;
    if args.step {
        let to = RestoreClusterRequest {
            target: Some(wire(args)?),
            ..order("step")
        };
        ask(&cluster, to).await?;
        return follow(globals, &cluster).await;
    }
    if args.abort {
        confirm(
            "Give the restore up, and put everything back as it was?",
            args.yes,
        )?;
        let reply = ask(&cluster, order("abort")).await?;
        eprintln!("{}", reply.last);
        return serve(globals, &session).await;
    }
    if now.phase != "inspecting" && now.phase != "committing" {
        return Err(Failure::refused(
            "not-inspecting",
            format!(
                "there is nothing to commit: {}",
                if now.phase.is_empty() {
                    "no restore is under way"
                } else {
                    &now.phase
                }
            ),
        ));
    }
    let question = format!(
        "Make {} the primary at {} ({})? What was written after that is given up.",
        now.node,
        now.reached_lsn,
        last_commit(&now)
    );
    confirm(&question, args.yes)?;
    let commit = RestoreClusterRequest {
        round: now.round,
        ..order("commit")
    };
    ask(&cluster, commit).await?;
    serve(globals, &session).await?;
    eprintln!("a full backup of the restored cluster is ordered: see `pgctl backup schedule show`");
    Ok(())
}

async fn begin(globals: &Globals, args: &Args, cluster: &Cluster) -> Result<(), Failure> {
    let member = match &args.node {
        Some(name) => through::named(cluster, name)?,
        None => primary(cluster)?,
    };
    let preview = RestoreClusterRequest {
        target: Some(wire(args)?),
        ..order("preview")
    };
    let planned = ask_one(member, preview.clone()).await?;
    if args.preview && globals.output == Format::Json {
        return output::json(&planned);
    }
    let mut lines = planned.lines.clone();
    lines.push(format!("target    {}", planned.target));
    lines.push(format!(
        "node      {}: its data are set aside, and the other nodes rewound or copied anew afterwards",
        member.name
    ));
    if args.preview {
        lines.push(
            "lost      everything written after the target, once it is committed; before that nothing"
                .to_owned(),
        );
        return lines.iter().try_for_each(output::line);
    }
    lines.iter().for_each(|line| eprintln!("{line}"));
    let question = format!("Stop {} and restore it on {}?", cluster.name, member.name);
    confirm(&question, args.yes)?;
    let begin = RestoreClusterRequest {
        request: Session::request_id(),
        act: "begin".to_owned(),
        ..preview
    };
    ask_one(member, begin).await?;
    follow(globals, cluster).await
}

fn primary(cluster: &Cluster) -> Result<&Member, Failure> {
    let found = cluster
        .members
        .iter()
        .find(|member| member.name == cluster.holder);
    found.ok_or_else(|| Failure::usage("there is no primary: name the node that restores with --node"))
}

fn order(act: &str) -> RestoreClusterRequest {
    RestoreClusterRequest {
        request: Session::request_id(),
        act: act.to_owned(),
        ..RestoreClusterRequest::default()
    }
}

fn wire(args: &Args) -> Result<RestoreClusterTarget, Failure> {
    let (kind, value) = match target(args)? {
        Target::Immediate => ("immediate", String::new()),
        Target::Time(ms) => ("time", ms.to_string()),
        Target::Lsn(lsn) => ("lsn", lsn.to_string()),
        Target::Xid(xid) => ("xid", xid.to_string()),
        Target::Name(name) => ("name", name),
        Target::Latest => {
            return Err(Failure::usage(
                "a restore in place needs a target: --to-time, --to-lsn, --to-xid, --to-name or --to-immediate",
            ));
        }
    };
    Ok(RestoreClusterTarget {
        kind: kind.to_owned(),
        value,
        exclusive: args.exclusive,
        backup: args.backup.clone().unwrap_or_default(),
        timeline: args.timeline.unwrap_or(0),
    })
}

/// How it stands, by the agent that knows most: one that has just started is behind.
async fn newest(cluster: &Cluster) -> Result<RestoreClusterReply, Failure> {
    let mut asking = tokio::task::JoinSet::new();
    for member in cluster.members.clone() {
        asking.spawn(async move { ask_one(&member, order("status")).await });
    }
    let mut newest: Option<RestoreClusterReply> = None;
    let mut tried = Vec::new();
    for answer in asking.join_all().await {
        match answer {
            Ok(reply)
                if newest
                    .as_ref()
                    .is_none_or(|known| known.applied_index < reply.applied_index) =>
            {
                newest = Some(reply);
            }
            Ok(_) => {}
            Err(Failure::Unreachable { tried: more }) => tried.extend(more),
            Err(failure) => return Err(failure),
        }
    }
    newest.ok_or(Failure::Unreachable { tried })
}

/// Asks whichever agent answers.
async fn ask(cluster: &Cluster, request: RestoreClusterRequest) -> Result<RestoreClusterReply, Failure> {
    let mut tried = Vec::new();
    for member in &cluster.members {
        match ask_one(member, request.clone()).await {
            Err(Failure::Unreachable { tried: more }) => tried.extend(more),
            answer => return answer,
        }
    }
    Err(Failure::Unreachable { tried })
}

async fn ask_one(member: &Member, request: RestoreClusterRequest) -> Result<RestoreClusterReply, Failure> {
    let unreachable = |error: String| Failure::Unreachable {
        tried: vec![format!("{} ({}): {error}", member.name, member.peer)],
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", member.peer))
        .map_err(|error| unreachable(error.to_string()))?;
    let channel = endpoint
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .connect()
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let answered = ArchiveClient::new(channel).restore_cluster(request).await;
    answered.map(tonic::Response::into_inner).map_err(|status| {
        Failure::of_agent(&status).unwrap_or_else(|| unreachable(status.message().to_owned()))
    })
}

/// Until it can be read, or somebody has ended it.
async fn follow(globals: &Globals, cluster: &Cluster) -> Result<(), Failure> {
    let mut told = String::new();
    let mut heard = Instant::now();
    loop {
        match newest(cluster).await {
            Ok(now) => {
                heard = Instant::now();
                let what = format!("{} {}", now.phase, now.trouble);
                if what != told {
                    eprintln!("{}", what.trim_end());
                    told = what;
                }
                if !matches!(now.phase.as_str(), "stopping" | "restoring") {
                    return show(globals.output, &now);
                }
            }
            Err(failure) if heard.elapsed() > SILENCE => return Err(failure),
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Until the cluster takes writes again.
async fn serve(globals: &Globals, session: &Session) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        if let Ok(cluster) = session.cluster().await
            && cluster.writable
        {
            return match globals.output {
                Format::Json => output::json(&cluster),
                Format::Table => output::line(format!(
                    "{} serves on timeline {}",
                    cluster.holder, cluster.timeline
                )),
            };
        }
        if begun.elapsed() > SERVES {
            return Err(Failure::refused(
                "not-writable",
                "the order was taken, and the cluster takes no writes yet: pgctl explain says what it waits for",
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn last_commit(reply: &RestoreClusterReply) -> String {
    reply.last_commit_unix_ms.map_or_else(
        || "no transaction was replayed since the backup".to_owned(),
        |ms| format!("last transaction {}", utc(ms)),
    )
}

fn show(format: Format, reply: &RestoreClusterReply) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(reply);
    }
    let mut lines = Vec::new();
    if reply.phase.is_empty() {
        lines.push("no restore of the cluster is under way".to_owned());
    } else {
        lines.push(format!(
            "{} on {} since {}",
            reply.phase,
            reply.node,
            utc(reply.since_unix_ms)
        ));
        lines.push(format!("target    {}", reply.target));
    }
    if !reply.reached_lsn.is_empty() {
        lines.push(format!(
            "reached   {} on timeline {}, from backup {}",
            reply.reached_lsn, reply.timeline, reply.backup
        ));
        lines.push(format!("          {}", last_commit(reply)));
    }
    if !reply.trouble.is_empty() {
        lines.push(format!("trouble   {}", reply.trouble));
    }
    if !reply.last.is_empty() {
        lines.push(format!("last one  {}", reply.last));
    }
    lines.push(format!("next      {}", reply.next));
    lines.iter().try_for_each(output::line)
}
