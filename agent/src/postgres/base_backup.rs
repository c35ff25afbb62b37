//! Copying a whole database cluster from a running server.

use super::conf_text::write_conninfo;
use super::program::Program;
use super::{Instance, PgError};
use agent_core::view::Upstream;

impl Instance {
    /// Copies the database cluster that runs at `from`, with the WAL that the copy needs. It takes its place only when it
    /// is complete and on disk. `progress` is told the bytes that have come and, once known, how many it will be.
    ///
    /// # Errors
    /// If the data directory is not empty (set it aside first), a server or another job uses it, or the copy fails: full
    /// disk, wrong password, source gone. What had come until then is removed at the next try.
    pub async fn base_backup(
        &self,
        from: &Upstream,
        progress: impl Fn(u64, Option<u64>) + Send,
    ) -> Result<(), PgError> {
        let result = self.base_backup_unnoted(from, progress).await;
        self.note(result)
    }

    async fn base_backup_unnoted(
        &self,
        from: &Upstream,
        progress: impl Fn(u64, Option<u64>) + Send,
    ) -> Result<(), PgError> {
        let _claim = self.claim("copy the database", "base backup")?;
        self.require_absent()?;
        let place = self.unfinished_place()?;
        let credentials = self.credentials();
        let program = Program::new("pg_basebackup")
            .arg("--pgdata")
            .arg(&place)
            .arg(format!(
                "--dbname={}",
                source(from, &credentials.replication_user, None)
            ))
            .arg("--wal-method=stream")
            .arg("--checkpoint=fast")
            .arg("--no-password")
            .arg("--progress")
            .env("PGPASSWORD", credentials.replication_password);
        self.run(program, move |line| match parse_progress(line) {
            Some((done, total)) => {
                progress(done, total);
                true
            }
            None => false,
        })
        .await?;
        self.finish(&place)
    }
}

/// The connection string of a program that reads from `from`.
pub(super) fn source(from: &Upstream, user: &str, dbname: Option<&str>) -> String {
    let port = from.port.to_string();
    let mut pairs = vec![
        ("host", from.host.as_str()),
        ("port", &port),
        ("user", user),
        ("application_name", "pgctl-copy"),
        ("connect_timeout", "5"),
        ("keepalives_idle", "5"),
        ("keepalives_interval", "2"),
        ("keepalives_count", "3"),
        ("tcp_user_timeout", "15000"),
    ];
    pairs.extend(dbname.map(|dbname| ("dbname", dbname)));
    write_conninfo(&pairs)
}

/// Reads `  23456/78901 kB (29%), 0/1 tablespace (...)` into bytes.
fn parse_progress(line: &str) -> Option<(u64, Option<u64>)> {
    let (done, rest) = line.trim_start().split_once('/')?;
    let (total, _) = rest.split_once(" kB")?;
    let kib = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1024);
    Some((kib(done)?, kib(total).filter(|total| *total > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_progress_reports() {
        let line = "  23456/78901 kB (29%), 0/1 tablespace (...data/base/1/1255)";
        assert_eq!(parse_progress(line), Some((23_456 * 1024, Some(78_901 * 1024))));
        assert_eq!(parse_progress("pg_basebackup: initiating base backup"), None);
        assert_eq!(parse_progress("0/0 kB"), Some((0, None)));
    }

    proptest! {
        #[test]
        fn progress_is_read_as_the_program_writes_it(done in 0..1_u64 << 40, total in 1..1_u64 << 40) {
            let line = format!("{done:>12}/{total} kB ({}%), 0/1 tablespace", done * 100 / total);
            prop_assert_eq!(parse_progress(&line), Some((done * 1024, Some(total * 1024))));
        }

        #[test]
        fn mangled_progress_is_a_number_or_another_line(
            line in prop_oneof![
                mangled::any_text(0..80),
                mangled::text("  23456/78901 kB (29%), 0/1 tablespace (...data/base/1/1255)"),
            ],
        ) {
            if let Some((done, total)) = parse_progress(&line) {
                prop_assert!(line.contains('/') && done % 1024 == 0);
                prop_assert!(total.is_none_or(|total| total > 0 && total % 1024 == 0));
            }
        }
    }
}
