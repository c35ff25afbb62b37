//! `pgctl restore`: from a repository to a data directory, without any agent; or the whole cluster in place.

mod in_place;
mod scratch;
mod table;

use crate::cli::Globals;
use crate::failure::Failure;
use crate::output::{self, Format, bytes};
use crate::repositories::{Opened, Which, refused};
use crate::wall_time::utc;
use agent_core::pg::{Lsn, TimelineId};
use clap::{ArgGroup, ValueEnum};
use repository::{
    Catalogue, Inventory, Plan, RecoveryOrder, Target, backups, inventory, parse_time, plan, restore_into,
    restore_over,
};
use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What a restored server must not have of the one that was copied.
const LEFT_OUT: [&str; 4] = [
    "standby.signal",
    "recovery.signal",
    "postmaster.pid",
    "pgctl.pass",
];
const ORDER: &str = "pgctl.recovery.json";

/// Restores a backup into an empty directory, or the whole cluster in place, to a point in time
///
/// With --into it reads the repository itself: no agent is needed, and none is asked. Run it as the user that will run the
/// server. Nothing is overwritten, unless --delta says so, and the restored server archives nothing and follows nobody. At the
/// target it becomes writable, on a timeline of its own, unless --action says otherwise.
///
/// With --in-place the cluster is stopped, and one node restored beside its old data and recovered to the target, where it
/// can be read. Then --step goes to another target, --commit makes it the primary, and --abort brings everything back as it
/// was. Each goes on by itself though agents die; --status says how far it is.
#[derive(Debug, Clone, clap::Args)]
#[command(
    group = ArgGroup::new("target").args(["to_time", "to_lsn", "to_xid", "to_name", "to_immediate"]),
    group = ArgGroup::new("way").args(["into", "scratch", "in_place", "step", "commit", "abort", "status"]),
    group = ArgGroup::new("what").args(["table", "database"]).multiple(true),
    group = ArgGroup::new("out").args(["dbname", "dump"]),
    after_help = "\
Examples:
  pgctl restore --preview --to-time '2026-11-21 14:02:59+01'
  pgctl restore --into /srv/rescue --to-time '2026-11-21 14:02:59+01' --port 5499
  pgctl restore --into /srv/pg                        # all that was archived
  pgctl restore --into /srv/pg --delta                # over what is left of the same database
  pgctl restore --into /srv/pg --config repository.toml --cluster demo
  pgctl restore --scratch /srv --table shop.public.orders --to-time '2026-11-21 14:02:59+01' --dbname 'host=10.0.0.1 dbname=shop'
  pgctl restore --in-place --preview --to-time '2026-11-21 14:02:59+01'
  pgctl restore --in-place --to-time '2026-11-21 14:02:59+01'
  pgctl restore --step --to-time '2026-11-21 14:03:10+01'
  pgctl restore --commit"
)]
pub struct Args {
    /// The directory; made if it is not there, and must be empty
    #[arg(long, value_name = "DIR", required_unless_present_any = ["preview", "way"])]
    into: Option<PathBuf>,
    /// Take tables, or a database, out of a copy that is restored below this directory and thrown away; give --table or
    /// --database, and --dbname or --dump
    #[arg(long, value_name = "DIR", requires_all = ["what", "out"], conflicts_with = "preview")]
    scratch: Option<PathBuf>,
    /// A table, as DATABASE.SCHEMA.TABLE (or SCHEMA.TABLE with --database), in pg_dump's patterns; may be given several times
    #[arg(long, value_name = "TABLE", requires = "scratch")]
    table: Vec<String>,
    /// The database to take out; with --table the one that the tables are in
    #[arg(long, value_name = "NAME", requires = "scratch")]
    database: Option<String>,
    /// The database to load it into, as a connection string; runs pg_restore
    #[arg(long, value_name = "CONNECTION", requires = "scratch")]
    dbname: Option<String>,
    /// The file to write, for pg_restore; it must not exist
    #[arg(long, value_name = "FILE", requires = "scratch")]
    dump: Option<PathBuf>,
    /// Drop what is there before it is made anew
    #[arg(long, requires = "dbname")]
    clean: bool,
    /// Where the server's programs are, instead of your PATH
    #[arg(long, value_name = "DIR", requires = "scratch")]
    bin_dir: Option<PathBuf>,
    /// Start without the libraries that the server preloads and without logical replication, so that nothing in it works by itself
    #[arg(long)]
    without_libraries: bool,
    /// Stop the cluster, and restore it on one node
    #[arg(long, requires = "target")]
    in_place: bool,
    /// Of a restore in place: go to another target
    #[arg(long, requires = "target", conflicts_with = "preview")]
    step: bool,
    /// Of a restore in place: the restored node becomes the primary; what was written after the target is given up
    #[arg(long, conflicts_with_all = ["target", "preview"])]
    commit: bool,
    /// Of a restore in place: put everything back as it was
    #[arg(long, conflicts_with_all = ["target", "preview"])]
    abort: bool,
    /// Of a restore in place: how far it is
    #[arg(long, conflicts_with_all = ["target", "preview"])]
    status: bool,
    /// The node that restores the cluster, instead of the primary's
    #[arg(long, value_name = "NODE", requires = "in_place")]
    node: Option<String>,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
    /// The directory holds an older state of the same database: what is right in it is kept, byte by byte, and all else
    /// replaced or removed
    #[arg(long, requires = "into")]
    delta: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    preview: bool,
    /// The moment, with a zone, such as '2026-11-21 14:02:59+01'
    #[arg(long, value_name = "TIME")]
    to_time: Option<String>,
    /// The position in the WAL, such as 16/B374D848
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Lsn>,
    /// The transaction
    #[arg(long, value_name = "XID")]
    to_xid: Option<u64>,
    /// The restore point made by pg_create_restore_point
    #[arg(long, value_name = "NAME")]
    to_name: Option<String>,
    /// The end of the backup
    #[arg(long)]
    to_immediate: bool,
    /// Stop just before the target instead of just after it
    #[arg(long, requires = "target")]
    exclusive: bool,
    /// What the server does at the target
    #[arg(long, value_enum, default_value = "promote", value_name = "ACTION")]
    action: Action,
    /// Begin with this backup, instead of the newest before the target
    #[arg(long, value_name = "BACKUP")]
    backup: Option<String>,
    /// Recover along this timeline, instead of the newest
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<u32>,
    /// The restored server's port
    #[arg(long, value_name = "PORT", default_value = "5432", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Where the restored server puts its Unix socket
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    socket_dir: PathBuf,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Stop replaying; the server can be read, and goes on with pg_wal_replay_resume(). Locks of transactions that were under
    /// way then are held: a table that is about to be dropped cannot be read
    Pause,
    /// Become writable
    Promote,
    /// Shut down
    Shutdown,
}

#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    plan: Plan,
    into: PathBuf,
    files: u64,
    bytes: u64,
    /// Of the bytes, those that were there already.
    kept: u64,
    start: String,
}

pub async fn run(globals: &Globals, args: &Args) -> Result<(), Failure> {
    if args.in_place || args.step || args.commit || args.abort || args.status {
        return in_place::run(globals, args).await;
    }
    if let Some(below) = &args.scratch {
        return table::run(globals.output, args, below).await;
    }
    let format = globals.output;
    let opened = args.which.open().await?;
    let Planned { plan, entry, there } = planned(args, &opened).await?;
    let into = match (&args.into, args.preview) {
        (Some(into), false) => into,
        _ => return preview(format, &plan, &entry),
    };
    let restored = restore(args, into, &opened, &there, &plan, &entry).await?;
    let start = format!("pg_ctl -D '{}' start", restored.into.display());
    match format {
        Format::Json => output::json(&Done {
            files: restored.unpacked.files,
            bytes: restored.unpacked.bytes,
            kept: restored.unpacked.kept,
            into: restored.into,
            plan,
            start,
        }),
        Format::Table => output::line(format!(
            "restored {} files, {}; start the recovery with: {start}",
            restored.unpacked.files,
            bytes(restored.unpacked.bytes)
        )),
    }
}

struct Planned {
    plan: Plan,
    entry: Catalogue,
    there: Inventory,
}

async fn planned(args: &Args, opened: &Opened) -> Result<Planned, Failure> {
    let target = target(args)?;
    let there = inventory(&opened.repository, &opened.line)
        .await
        .map_err(refused)?;
    let entries = backups(&opened.repository, &opened.line).await.map_err(refused)?;
    let timeline = args.timeline.map(TimelineId);
    let plan = plan(&entries, &there, &target, args.backup.as_deref(), timeline).map_err(|unplannable| {
        Failure::Refused {
            id: "no-plan".to_owned(),
            message: unplannable.to_string(),
            next: "see `pgctl backup list` and `pgctl wal holes`".to_owned(),
        }
    })?;
    let entry = entries.into_iter().find(|entry| entry.id == plan.backup);
    let entry = entry.ok_or_else(|| Failure::local("the plan names a backup that is not there"))?;
    Ok(Planned { plan, entry, there })
}

struct Restored {
    into: PathBuf,
    unpacked: repository::Unpacked,
}

/// Writes the files, and prepares their recovery.
async fn restore(
    args: &Args,
    into: &Path,
    opened: &Opened,
    there: &Inventory,
    plan: &Plan,
    entry: &Catalogue,
) -> Result<Restored, Failure> {
    let into = prepare(into)?;
    describe(plan, entry).iter().for_each(|line| eprintln!("{line}"));
    let mut done = 0;
    let progress = |bytes_more| {
        done += bytes_more;
        tell(done, entry.bytes);
    };
    let is_empty = fs::read_dir(&into).is_ok_and(|mut entries| entries.next().is_none());
    let ready = |into: &Path| {
        configure(into, args, plan, opened, there)
            .map_err(|error| format!("its recovery could not be prepared: {error}"))
    };
    let unpacked = if args.delta && !is_empty {
        restore_over(&opened.repository, entry, &into, progress, ready).await
    } else {
        restore_into(&opened.repository, entry, &into, progress, ready).await
    };
    let unpacked = unpacked.map_err(refused)?;
    Ok(Restored { into, unpacked })
}

fn target(args: &Args) -> Result<Target, Failure> {
    if let Some(text) = &args.to_time {
        let at = parse_time(text).ok_or_else(|| {
            Failure::usage(format!(
                "--to-time {text:?}: give a date, a time and a zone, such as '2026-11-21 14:02:59+01'"
            ))
        })?;
        return Ok(Target::Time(at));
    }
    Ok(match (args.to_lsn, args.to_xid, &args.to_name) {
        (Some(lsn), ..) => Target::Lsn(lsn),
        (_, Some(xid), _) => Target::Xid(xid),
        (_, _, Some(name)) => Target::Name(name.clone()),
        _ if args.to_immediate => Target::Immediate,
        _ => Target::Latest,
    })
}

fn preview(format: Format, plan: &Plan, entry: &Catalogue) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(plan);
    }
    describe(plan, entry).iter().try_for_each(output::line)
}

fn describe(plan: &Plan, entry: &Catalogue) -> Vec<String> {
    let time = |ms: i64| utc(u64::try_from(ms).unwrap_or(0));
    let mut lines = vec![
        format!(
            "backup    {} of {}, ended {}, {}",
            entry.id,
            entry.node,
            time(entry.ended_ms),
            bytes(entry.bytes)
        ),
        format!("timeline  {}", plan.timeline),
        format!("WAL       {} segments, up to {}", plan.segments, plan.reach),
    ];
    if let Some(ms) = plan.reach_ms {
        lines.push(format!("          archived until {}", time(ms)));
    }
    lines.extend(plan.holes.iter().map(|hole| {
        format!(
            "MISSING   {} to {} ({} segments): what comes after is out of reach",
            hole.first, hole.last, hole.segments
        )
    }));
    lines
}

/// The directory, made and empty, by its full path: the server's settings name it.
fn prepare(into: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| Failure::local(format!("{}: {error}", into.display()));
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        return Err(Failure::usage(
            "PostgreSQL does not run as root: run this as the user that will run the server (sudo -u postgres pgctl ...)",
        ));
    }
    fs::create_dir_all(into).map_err(failed)?;
    into.canonicalize().map_err(failed)
}

fn tell(done: u64, all: u64) {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprint!("\r\x1b[K{} of {}", bytes(done), bytes(all));
        if done >= all {
            eprintln!();
        }
    }
}

fn configure(
    into: &Path,
    args: &Args,
    plan: &Plan,
    opened: &Opened,
    there: &Inventory,
) -> Result<(), String> {
    for name in LEFT_OUT {
        match fs::remove_file(into.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{name}: {error}"));
            }
            _ => {}
        }
    }
    let order = RecoveryOrder::of(plan, &opened.repository, &opened.line, there);
    let json = serde_json::to_vec_pretty(&order).map_err(|error| error.to_string())?;
    let write = |name: &str, content: &[u8]| {
        fs::write(into.join(name), content).map_err(|error| format!("{name}: {error}"))
    };
    write(ORDER, &json)?;
    let auto = into.join("postgresql.auto.conf");
    // The target of an earlier recovery would be a second one, which the server refuses.
    let kept = fs::read_to_string(&auto).unwrap_or_default();
    let kept = kept
        .lines()
        .filter(|line| !line.trim_start().starts_with("recovery_target"));
    let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
    text.push_str(&settings(into, args, plan, &restore_command(into, args)?));
    write("postgresql.auto.conf", text.as_bytes())?;
    write("recovery.signal", b"")
}

/// The last word of the server's configuration: this one is nobody's standby, and archives nothing.
fn settings(into: &Path, args: &Args, plan: &Plan, restore_command: &str) -> String {
    let place = |name: &str| into.join(name).display().to_string();
    let mut all = vec![
        ("restore_command", restore_command.to_owned()),
        ("recovery_target_timeline", plan.timeline.to_string()),
        ("archive_mode", "off".to_owned()),
        ("archive_command", String::new()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("synchronous_standby_names", String::new()),
        ("cluster_name", "restored".to_owned()),
        ("listen_addresses", "localhost".to_owned()),
        ("port", args.port.to_string()),
        ("unix_socket_directories", args.socket_dir.display().to_string()),
        ("hba_file", place("pg_hba.conf")),
        ("ident_file", place("pg_ident.conf")),
        ("log_directory", "log".to_owned()),
    ];
    match &plan.target {
        Target::Latest => {}
        Target::Immediate => all.push(("recovery_target", "immediate".to_owned())),
        Target::Time(ms) => all.push(("recovery_target_time", repository::show_time(*ms))),
        Target::Lsn(lsn) => all.push(("recovery_target_lsn", lsn.to_string())),
        Target::Xid(xid) => all.push(("recovery_target_xid", xid.to_string())),
        Target::Name(name) => all.push(("recovery_target_name", name.clone())),
    }
    if plan.target != Target::Latest {
        let action = match args.action {
            Action::Pause => "pause",
            Action::Promote => "promote",
            Action::Shutdown => "shutdown",
        };
        all.push(("recovery_target_action", action.to_owned()));
        let inclusive = if args.exclusive { "off" } else { "on" };
        all.push(("recovery_target_inclusive", inclusive.to_owned()));
    }
    if args.without_libraries || args.scratch.is_some() {
        all.push(("shared_preload_libraries", String::new()));
        all.push(("session_preload_libraries", String::new()));
        all.push(("max_logical_replication_workers", "0".to_owned()));
    }
    if args.scratch.is_some() {
        all.extend(scratch::settings(into));
    }
    let mut text = String::from("\n# Written by pgctl restore.\n");
    for (name, value) in all {
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "{name} = '{}'",
            value.replace('\\', r"\\").replace('\'', "''")
        );
    }
    text
}

fn restore_command(into: &Path, args: &Args) -> Result<String, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let config = args
        .which
        .config
        .canonicalize()
        .map_err(|error| error.to_string())?;
    let quoted = |path: &Path| {
        let text = path.display().to_string();
        format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%"))
    };
    let mut words = vec![
        quoted(&own),
        "wal get --order".to_owned(),
        quoted(&into.join(ORDER)),
        "--config".to_owned(),
        quoted(&config),
    ];
    if let Some(name) = &args.which.repository {
        words.push(format!("--repository {}", quoted(Path::new(name))));
    }
    words.push("%f %p".to_owned());
    Ok(words.join(" "))
}
