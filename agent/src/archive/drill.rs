//! A drill: a backup is restored into scratch space, recovered, looked at, and thrown away. What was found is kept in the
//! repository.

use super::scratch::{self, PORT, Scratch};
use super::{Archive, command};
use crate::wall_time::stamp;
use agent_core::pg::Lsn;
use repository::{
    Catalogue, Error, Inventory, Line, Plan, RecoveryOrder, Repository, Target, WalName, backups, chain,
    complete, inventory, plan, restore_into,
};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// Room that stays free on the volume, bytes.
const SPARE: u64 = 1 << 30;
const POLL: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_secs(60);
/// For how long a repository that cannot be reached is asked again.
const FETCH: Duration = Duration::from_secs(60);
const ORDER: &str = "pgctl.recovery.json";
/// What a restored server must not have of the one that was copied.
const LEFT_OUT: [&str; 4] = [
    "standby.signal",
    "recovery.signal",
    "postmaster.pid",
    "pgctl.pass",
];

/// Which backup, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The newest, to the end of the archive.
    Newest,
    /// Any other, to a point on the way.
    Random,
}

/// What was found. The operator's proof that a backup can be restored.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Evidence {
    pub id: String,
    pub node: String,
    pub succeeded: bool,
    /// Why not.
    pub error: String,
    pub backup: String,
    pub timeline: u32,
    /// Empty: the end of the archive.
    pub target_lsn: String,
    pub reached_lsn: String,
    /// It had to be reached.
    pub expected_lsn: String,
    pub began_unix_ms: u64,
    pub restore_ms: u64,
    pub recovery_ms: u64,
    pub checks_ms: u64,
    pub files: u64,
    pub bytes: u64,
    pub wal_segments: u64,
    /// Of pg_verifybackup and pg_amcheck: ok, or why they did not run.
    pub verified: String,
    pub amcheck: String,
    /// The newest epoch of which there is a row, and when that was written, by the primary's clock.
    pub newest_epoch: String,
    pub newest_epoch_at: String,
    /// What the operator's own query gave, row by row.
    pub query_rows: Vec<String>,
}

/// By the schedule: the newest one; says what was found.
pub(super) async fn newest(archive: &Arc<Archive>, id: &str) -> Result<String, String> {
    let evidence = run(archive, id, Which::Newest, |_| ()).await;
    if evidence.succeeded {
        Ok(evidence.in_words())
    } else {
        Err(evidence.error)
    }
}

/// Holds a drill. It does not fail: what went wrong is among the evidence.
pub(super) async fn run(archive: &Arc<Archive>, id: &str, which: Which, tell: impl Fn(&str)) -> Evidence {
    let mut evidence = Evidence {
        id: id.to_owned(),
        node: archive.config.node.clone(),
        began_unix_ms: stamp().0,
        ..Evidence::default()
    };
    let Ok(_turn) = archive.drilling.try_lock() else {
        evidence.error = "another drill is under way on this node".to_owned();
        return evidence;
    };
    let mut kept_in = None;
    let outcome = hold(archive, which, &mut evidence, &mut kept_in, tell).await;
    evidence.succeeded = outcome.is_ok();
    evidence.error = outcome.err().unwrap_or_default();
    if let Some((repository, line)) = kept_in {
        let kept = serde_json::to_vec_pretty(&evidence).map_err(|error| error.to_string());
        let kept = match kept {
            Ok(json) => repository
                .keep_evidence(&line, id, json)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            tracing::warn!(error, "what the drill found could not be kept in the repository");
        }
    }
    tracing::info!(
        drill = id,
        succeeded = evidence.succeeded,
        error = evidence.error,
        "the drill is over"
    );
    evidence
}

impl Evidence {
    pub(super) fn in_words(&self) -> String {
        format!(
            "backup {} restored in {} ms and recovered in {} ms to {} on timeline {}; pg_verifybackup: {}; pg_amcheck: {}",
            self.backup,
            self.restore_ms,
            self.recovery_ms,
            self.reached_lsn,
            self.timeline,
            self.verified,
            self.amcheck
        )
    }
}

async fn hold(
    archive: &Arc<Archive>,
    which: Which,
    evidence: &mut Evidence,
    kept_in: &mut Option<(Repository, Line)>,
    tell: impl Fn(&str),
) -> Result<(), String> {
    let said = |error: repository::Error| error.to_string();
    let (system_id, _) = archive
        .source
        .identity()
        .ok_or("this node has no data directory yet")?;
    let line = Line::new(&archive.config.cluster, system_id);
    let (usable, trouble) = archive.doors.usable(&line).await;
    let repository = match (usable.into_iter().next(), trouble) {
        (Some(opened), _) => opened.plain,
        (None, Some(error)) => return Err(error.to_string()),
        (None, None) => return Err("there is no repository".to_owned()),
    };
    *kept_in = Some((repository.clone(), line.clone()));
    let there = inventory(&repository, &line).await.map_err(said)?;
    let entries = backups(&repository, &line).await.map_err(said)?;
    let (plan, expected) = choose(&entries, &there, which)?;
    let entry = entries.iter().find(|entry| entry.id == plan.backup);
    let entry = entry.ok_or("the plan names a backup that is not there")?;
    evidence.backup.clone_from(&entry.id);
    evidence.timeline = plan.timeline.0;
    evidence.wal_segments = plan.segments;
    evidence.expected_lsn = expected.to_string();
    if let Target::Lsn(lsn) = &plan.target {
        evidence.target_lsn = lsn.to_string();
    }
    let mut scratch = Scratch::make(&archive.config)?;
    let parts = chain(&entries, &entry.id).ok_or("the backup that it is an increment of is not there")?;
    let bytes = parts.iter().map(|part| part.bytes).sum();
    check_room(&scratch.data(), bytes, &plan, &there)?;
    tell("restoring");
    let begun = Instant::now();
    let unpacked = restore_into(&repository, entry, &scratch.data(), |_| (), |_| Ok(()))
        .await
        .map_err(said)?;
    scratch.give_away(&scratch.data())?;
    (evidence.files, evidence.bytes) = (unpacked.files, unpacked.bytes);
    evidence.verified = verify(archive, &scratch.data()).await?;
    evidence.restore_ms = ms(begun);
    let order = RecoveryOrder::of(&plan, &repository, &line, &there);
    configure(&scratch, &plan, &order)?;
    scratch.give_away(&scratch.data())?;
    let wal = Wal::serve(&scratch, order, repository)?;
    tell("recovering");
    let begun = Instant::now();
    scratch.start(archive.source.as_ref())?;
    let server = recovered(&mut scratch).await?;
    evidence.recovery_ms = ms(begun);
    drop(wal);
    tell("checking");
    let begun = Instant::now();
    let reached = server.value("SELECT pg_last_wal_replay_lsn()").await?;
    evidence.reached_lsn.clone_from(&reached);
    let lsn: Lsn = reached
        .parse()
        .map_err(|_| format!("{reached:?} is no position"))?;
    if lsn < expected {
        return Err(format!(
            "it was recovered to {lsn} only, {expected} had to be reached"
        ));
    }
    check_canary(archive, &server, lsn, evidence).await?;
    evidence.amcheck = amcheck(archive, &scratch).await?;
    let query = (archive.sight)().drill_sql;
    if !query.is_empty() {
        let server = Server::connect(&scratch, &(archive.sight)().drill_database).await?;
        evidence.query_rows = server
            .rows(&query)
            .await
            .map_err(|error| format!("drill_sql: {error}"))?;
    }
    evidence.checks_ms = ms(begun);
    Ok(())
}

fn ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// What to restore, and the position that must be reached at least.
fn choose(entries: &[Catalogue], there: &Inventory, which: Which) -> Result<(Plan, Lsn), String> {
    let segment = there.segment_bytes.max(1);
    let newest = plan(entries, there, &Target::Latest, None, None).map_err(|error| error.to_string())?;
    if which == Which::Newest {
        let expected = Lsn(newest.reach_at.1.saturating_mul(segment));
        return Ok((newest, expected));
    }
    let complete = complete(entries, there);
    let chosen = complete
        .get(rand::random_range(0..complete.len().max(1)))
        .ok_or("there is no complete backup")?;
    let whole =
        plan(entries, there, &Target::Latest, Some(&chosen.id), None).map_err(|error| error.to_string())?;
    let first = there.number_of(chosen.stop) + 1;
    if first > whole.reach_at.1 {
        let plan = plan(entries, there, &Target::Immediate, Some(&chosen.id), None);
        return plan
            .map(|plan| (plan, chosen.stop))
            .map_err(|error| error.to_string());
    }
    let target = Lsn(rand::random_range(first..=whole.reach_at.1).saturating_mul(segment));
    let plan = plan(entries, there, &Target::Lsn(target), Some(&chosen.id), None);
    plan.map(|plan| (plan, target)).map_err(|error| error.to_string())
}

fn check_room(place: &Path, bytes: u64, plan: &Plan, there: &Inventory) -> Result<(), String> {
    let volume =
        nix::sys::statvfs::statvfs(place).map_err(|error| format!("{}: {error}", place.display()))?;
    #[expect(clippy::useless_conversion, reason = "its width differs between systems")]
    let free = u64::from(volume.blocks_available()).saturating_mul(u64::from(volume.fragment_size()));
    // Replayed WAL is recycled: what lies there at once is bounded.
    let wal = plan.segments.saturating_mul(there.segment_bytes).min(SPARE);
    let needed = bytes
        .saturating_add(bytes / 5)
        .saturating_add(wal)
        .saturating_add(SPARE);
    if free < needed {
        return Err(format!(
            "there is no room: {needed} bytes are needed on the volume of {}, {free} are free",
            place.display()
        ));
    }
    Ok(())
}

/// The server's own look at the files against the backup's manifest.
async fn verify(archive: &Archive, data: &Path) -> Result<String, String> {
    let mut command = archive.source.at_low_priority("pg_verifybackup");
    // The WAL is replayed in a moment, which looks at it harder.
    command.arg("--no-parse-wal").arg("--quiet").arg(data);
    match scratch::run(command).await? {
        None => Ok("not installed".to_owned()),
        Some((true, _)) => Ok("ok".to_owned()),
        Some((false, said)) => Err(format!("pg_verifybackup: {}", said.trim())),
    }
}

async fn amcheck(archive: &Archive, scratch: &Scratch) -> Result<String, String> {
    let mut command = archive.source.at_low_priority("pg_amcheck");
    command
        .args([
            "--all",
            "--install-missing",
            "--no-password",
            "--username=postgres",
        ])
        .arg(format!("--host={}", scratch.sockets().display()))
        .arg(format!("--port={PORT}"));
    match scratch::run(command).await? {
        None => Ok("not installed".to_owned()),
        Some((true, _)) => Ok("ok".to_owned()),
        Some((false, said))
            if said.contains("is not available") || said.contains("could not open extension control") =>
        {
            Ok("amcheck is not installed".to_owned())
        }
        Some((false, said)) => Err(format!("pg_amcheck: {}", said.trim())),
    }
}

/// The row that each primary writes when it begins must be there, if its position was passed.
async fn check_canary(
    archive: &Archive,
    server: &Server,
    reached: Lsn,
    evidence: &mut Evidence,
) -> Result<(), String> {
    if server
        .value("SELECT to_regclass('pgctl.epochs') IS NOT NULL")
        .await?
        != "t"
    {
        return Ok(());
    }
    let rows = server
        .rows("SELECT epoch || ' ' || at FROM pgctl.epochs ORDER BY epoch DESC LIMIT 1")
        .await?;
    if let Some((epoch, at)) = rows.first().and_then(|row| row.split_once(' ')) {
        evidence.newest_epoch = epoch.to_owned();
        evidence.newest_epoch_at = at.to_owned();
    }
    let found: u64 = evidence.newest_epoch.parse().unwrap_or(0);
    match (archive.sight)().promotion {
        Some((epoch, lsn)) if lsn <= reached && found < epoch => Err(format!(
            "the row of epoch {epoch}, written before {lsn}, is not there: the newest is of epoch {found}"
        )),
        _ => Ok(()),
    }
}

fn configure(scratch: &Scratch, plan: &Plan, order: &RecoveryOrder) -> Result<(), String> {
    let data = scratch.data();
    for name in LEFT_OUT {
        match std::fs::remove_file(data.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{name}: {error}"));
            }
            _ => {}
        }
    }
    let write = |name: &str, content: &[u8]| {
        std::fs::write(data.join(name), content).map_err(|error| format!("{name}: {error}"))
    };
    let json = serde_json::to_vec_pretty(order).map_err(|error| error.to_string())?;
    write(ORDER, &json)?;
    // Nobody else reaches the socket's folder.
    write("pgctl-drill-hba.conf", b"local all all trust\n")?;
    let restore = command::wal_commands(&scratch.sockets().join("wal"))?.exact;
    let auto = std::fs::read_to_string(data.join("postgresql.auto.conf")).unwrap_or_default();
    let mut text: String = auto
        .lines()
        .filter(|line| !line.trim_start().starts_with("recovery_target"))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (name, value) in settings(scratch, plan, restore) {
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "{name} = '{}'",
            value.replace('\\', r"\\").replace('\'', "''")
        );
    }
    write("postgresql.auto.conf", text.as_bytes())?;
    write("recovery.signal", b"")
}

/// The last word: no network, nothing that works by itself, little memory, and nothing that need survive a crash.
fn settings(scratch: &Scratch, plan: &Plan, restore: String) -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    let mut all = vec![
        ("restore_command", restore),
        ("recovery_target_timeline", plan.timeline.to_string()),
        ("archive_mode", text("off")),
        ("archive_command", String::new()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("synchronous_standby_names", String::new()),
        ("cluster_name", text("drill")),
        ("listen_addresses", String::new()),
        ("port", PORT.to_string()),
        ("unix_socket_directories", scratch.sockets().display().to_string()),
        (
            "hba_file",
            scratch.data().join("pgctl-drill-hba.conf").display().to_string(),
        ),
        (
            "ident_file",
            scratch.data().join("pg_ident.conf").display().to_string(),
        ),
        ("ssl", text("off")),
        ("logging_collector", text("off")),
        ("log_destination", text("stderr")),
        // What is loaded might do its work here as well: jobs, subscriptions.
        ("shared_preload_libraries", String::new()),
        ("session_preload_libraries", String::new()),
        ("max_logical_replication_workers", text("0")),
        ("autovacuum", text("off")),
        ("shared_buffers", text("32MB")),
        ("huge_pages", text("off")),
        ("max_wal_size", text("1GB")),
        ("fsync", text("off")),
        ("full_page_writes", text("off")),
    ];
    match &plan.target {
        Target::Immediate => all.push(("recovery_target", text("immediate"))),
        Target::Lsn(lsn) => all.push(("recovery_target_lsn", lsn.to_string())),
        Target::Latest | Target::Time(_) | Target::Xid(_) | Target::Name(_) => {}
    }
    if plan.target != Target::Latest {
        all.push(("recovery_target_action", text("promote")));
    }
    all
}

/// Gives the scratch server its WAL, by the rules of a restore: what must be there and is not stops it.
struct Wal(tokio::task::JoinHandle<()>);

impl Drop for Wal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Wal {
    fn serve(scratch: &Scratch, order: RecoveryOrder, repository: Repository) -> Result<Wal, String> {
        let path = scratch.sockets().join("wal");
        let listener = UnixListener::bind(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        scratch.give_away(&path)?;
        let shared = Arc::new((order, repository));
        Ok(Wal(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // Whoever asked may be gone.
                    let _ = answer(stream, &shared.0, &shared.1).await;
                });
            }
        })))
    }
}

async fn answer(stream: UnixStream, order: &RecoveryOrder, repository: &Repository) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut question = String::new();
    BufReader::new(reader).read_line(&mut question).await?;
    let name = question.trim_end().strip_prefix("get ").and_then(WalName::parse);
    let begun = Instant::now();
    let mut pause = Duration::from_millis(500);
    let said = loop {
        let Some(name) = name else {
            break "absent".to_owned();
        };
        match order.fetch(repository, name).await {
            Ok(Some(fetched)) => {
                let head = format!("content {}\n", fetched.content.len());
                writer.write_all(head.as_bytes()).await?;
                writer.write_all(&fetched.content).await?;
                return writer.shutdown().await;
            }
            Ok(None) => break "absent".to_owned(),
            // To ask again helps against an outage only.
            Err(error @ (Error::Missing { .. } | Error::Damaged { .. } | Error::Key { .. })) => {
                break error.to_string();
            }
            Err(error) if begun.elapsed() >= FETCH => break error.to_string(),
            Err(error) => tracing::warn!(%error, "the drill asks the repository again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    };
    writer
        .write_all(format!("{}\n", said.replace('\n', " ")).as_bytes())
        .await?;
    writer.shutdown().await
}

/// A session with the scratch server.
struct Server {
    client: tokio_postgres::Client,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Server {
    async fn connect(scratch: &Scratch, database: &str) -> Result<Server, String> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(scratch.sockets())
            .port(PORT)
            .user("postgres")
            .dbname(database)
            .connect_timeout(ANSWER);
        let (client, connection) = config.connect(NoTls).await.map_err(|error| in_full(&error))?;
        Ok(Server {
            client,
            connection: tokio::spawn(async move {
                // It ends with the server.
                let _ = connection.await;
            }),
        })
    }

    async fn rows(&self, query: &str) -> Result<Vec<String>, String> {
        let messages = self
            .client
            .simple_query(query)
            .await
            .map_err(|error| in_full(&error))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let columns = (0..row.len()).map(|column| row.get(column).unwrap_or("NULL"));
                Some(columns.collect::<Vec<_>>().join(" | "))
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    async fn value(&self, query: &str) -> Result<String, String> {
        let rows = tokio::time::timeout(ANSWER, self.rows(query));
        let rows = rows
            .await
            .map_err(|_| format!("no answer in time to: {query}"))??;
        rows.into_iter()
            .next()
            .ok_or_else(|| format!("no row for: {query}"))
    }
}

/// With what the server said, which the library keeps apart.
fn in_full(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// Waits until the server is out of recovery.
async fn recovered(scratch: &mut Scratch) -> Result<Server, String> {
    loop {
        if let Some(said) = scratch.has_ended() {
            return Err(said);
        }
        if let Ok(server) = Server::connect(scratch, "postgres").await
            && server.value("SELECT pg_is_in_recovery()").await.as_deref() == Ok("f")
        {
            return Ok(server);
        }
        tokio::time::sleep(POLL).await;
    }
}
