//! A throw-away server of each version, and what it shows of a statement that is rolled back.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::OsUser;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const PATIENCE: Duration = Duration::from_secs(90);

/// A running server, killed and removed when dropped.
pub struct Server {
    process: Child,
    _home: tempfile::TempDir,
    port: u16,
    pub version: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // An immediate shutdown: its children end with it.
        let _ = Command::new("kill")
            .args(["-QUIT", &self.process.id().to_string()])
            .status();
        let _ = self.process.wait();
    }
}

/// What the server showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The strongest lock on each relation that was there before.
    pub locks: BTreeMap<String, String>,
    pub rewritten: BTreeSet<String>,
    /// Read from beginning to end.
    pub scanned: BTreeSet<String>,
}

impl Server {
    pub async fn start(bin_dir: &Path) -> Server {
        let user = OsUser::for_servers().expect("an account");
        let home = tempfile::Builder::new()
            .prefix("pgctl-ddl-")
            .tempdir()
            .expect("a folder");
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
        let own = home.path().join("own");
        user.make_dir(&own).expect("a folder");
        let run = |program: &str| {
            let mut command = Command::new(bin_dir.join(program));
            command
                .uid(user.uid.as_raw())
                .gid(user.gid.as_raw())
                .current_dir(&own)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        };
        let data = own.join("data");
        let made = run("initdb")
            .args(["-U", "postgres", "-A", "trust", "-N", "--locale=C.UTF-8", "-D"])
            .arg(&data)
            .status()
            .expect("initdb runs");
        assert!(made.success(), "initdb failed");
        let port = lab::free_port().expect("a port");
        let process = run("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-F"])
            .args([
                "-c",
                "unix_socket_directories=",
                "-c",
                "autovacuum=off",
                "-c",
                "wal_level=logical",
            ])
            .args(["-c", "shared_buffers=16MB", "-c", "timezone=Europe/Berlin"])
            .spawn()
            .expect("postgres runs");
        let mut server = Server {
            process,
            _home: home,
            port,
            version: 0,
        };
        let begun = Instant::now();
        let client = loop {
            match server.connect().await {
                Ok(client) => break client,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "the server does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let version: u16 = value(
            &client,
            "SELECT current_setting('server_version_num')::int / 10000",
        )
        .await
        .parse()
        .expect("a number");
        server.version = version;
        server
    }

    pub async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let text = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&text, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// An empty database with `setup` run in it.
    pub async fn prepare(&self, client: &Client, setup: &str) -> Result<(), tokio_postgres::Error> {
        client
            .batch_execute("DROP PUBLICATION IF EXISTS u; DROP SCHEMA public CASCADE; CREATE SCHEMA public;")
            .await?;
        client.batch_execute(setup).await
    }

    /// Runs `sql` in a transaction, looks, and rolls it back.
    pub async fn trace(&self, client: &Client, sql: &str) -> Result<Trace, tokio_postgres::Error> {
        client.batch_execute("BEGIN").await?;
        let before = relations(client).await?;
        let begun = scans(client).await?;
        let ran = client.batch_execute(sql).await;
        let traced = match ran {
            Ok(()) => look(client, &before, &begun).await,
            Err(error) => Err(error),
        };
        client.batch_execute("ROLLBACK").await?;
        traced
    }
}

/// oid: name, kind and file.
type Relations = BTreeMap<String, (String, String, String)>;

async fn relations(client: &Client) -> Result<Relations, tokio_postgres::Error> {
    let sql =
        "SELECT oid, relname, relkind, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    let rows = rows(client, sql).await?;
    Ok(rows
        .into_iter()
        .map(|row| (row[0].clone(), (row[1].clone(), row[2].clone(), row[3].clone())))
        .collect())
}

async fn scans(client: &Client) -> Result<BTreeMap<String, u64>, tokio_postgres::Error> {
    let rows = rows(
        client,
        "SELECT relid, coalesce(seq_scan, 0) FROM pg_stat_xact_user_tables",
    )
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row[0].clone(), row[1].parse().unwrap_or(0)))
        .collect())
}

async fn look(
    client: &Client,
    before: &Relations,
    begun: &BTreeMap<String, u64>,
) -> Result<Trace, tokio_postgres::Error> {
    let mut trace = Trace::default();
    let held = rows(
        client,
        "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted",
    )
    .await?;
    for row in held {
        if let Some((name, _, _)) = before.get(&row[0]) {
            let strongest = trace.locks.entry(name.clone()).or_insert_with(|| row[1].clone());
            if strength(&row[1]) > strength(strongest) {
                strongest.clone_from(&row[1]);
            }
        }
    }
    let after = relations(client).await?;
    let counts = scans(client).await?;
    for (oid, (name, kind, file)) in before {
        let is_table = matches!(kind.as_str(), "r" | "m");
        if is_table && after.get(oid).is_some_and(|(_, _, now)| now != file) {
            trace.rewritten.insert(name.clone());
        }
        if counts.get(oid).unwrap_or(&0) > begun.get(oid).unwrap_or(&0) {
            trace.scanned.insert(name.clone());
        }
    }
    Ok(trace)
}

/// From weak to strong.
pub fn strength(mode: &str) -> usize {
    const MODES: [&str; 8] = [
        "AccessShareLock",
        "RowShareLock",
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    ];
    MODES
        .iter()
        .position(|known| *known == mode)
        .expect("a mode of PostgreSQL")
}

pub async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|at| row.get(at).unwrap_or_default().to_owned())
                    .collect(),
            ),
            _ => None,
        })
        .collect())
}

async fn value(client: &Client, sql: &str) -> String {
    rows(client, sql).await.expect("an answer")[0][0].clone()
}
