//! The server that a data directory is rewound or copied from.

use super::session::{DATABASE, Session};
use super::{Instance, PgError, look};
use agent_core::pg::{SystemId, TimelineHistory, TimelineId};
use agent_core::view::Upstream;
use std::time::{Duration, Instant};

const SQL_WITHIN: Duration = Duration::from_secs(5);
/// How long the source's first checkpoint after its promotion may take.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

impl Instance {
    /// Whether the server at `from` answers, and is of the same cluster as the data here. One that refuses the session answers:
    /// a base backup logs in as another role.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer within seconds, or belongs to another cluster.
    pub async fn check_source(&self, from: &Upstream) -> Result<(), PgError> {
        let session = match self.open_source(from).await {
            Ok(session) => session,
            Err(PgError::Connect { answered: true, .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.control_data()? {
            Some(control) => self.check_system(&session, from, control.file.system_id).await,
            None => Ok(()),
        }
    }

    /// Connects to the source and waits until its control file is on the timeline that it writes.
    pub(super) async fn ask_source(&self, from: &Upstream, ours: SystemId) -> Result<Source, PgError> {
        let session = self.open_source(from).await?;
        self.check_system(&session, from, ours).await?;
        let timeline = settled_timeline(&session).await?;
        let history = if timeline.0 <= 1 {
            TimelineHistory {
                timeline,
                switches: Vec::new(),
            }
        } else {
            let sql = format!(
                "SELECT convert_from(pg_read_binary_file('pg_wal/{:08X}.history', 0, 16777216, false), 'UTF8')",
                timeline.0
            );
            let doing = "read the history of the source's timeline";
            let content = session.text(doing, &sql, SQL_WITHIN).await?.unwrap_or_default();
            TimelineHistory::parse(timeline, &content).ok_or_else(|| PgError::Sql {
                doing,
                why: "its history file is damaged".to_owned(),
            })?
        };
        Ok(Source { history })
    }

    async fn open_source(&self, from: &Upstream) -> Result<Session, PgError> {
        let credentials = self.credentials();
        let mut config = tokio_postgres::Config::new();
        config
            .host(&from.host)
            .port(from.port)
            .user(&credentials.rewind_user)
            .password(&credentials.rewind_password)
            .dbname(DATABASE)
            .application_name("pgctl-agent")
            .options("-c search_path=pg_catalog");
        Session::open(&config, format!("{}:{}", from.host, from.port), SQL_WITHIN).await
    }

    async fn check_system(&self, session: &Session, from: &Upstream, ours: SystemId) -> Result<(), PgError> {
        let sql = "SELECT system_identifier FROM pg_control_system()";
        let told = session
            .text("ask the source which cluster it is of", sql, SQL_WITHIN)
            .await?;
        let theirs = told
            .and_then(|text| text.parse::<i64>().ok())
            .unwrap_or_default()
            .cast_unsigned();
        if SystemId(theirs) == ours {
            return Ok(());
        }
        Err(PgError::Unusable {
            path: self.config().data_dir.clone(),
            why: format!(
                "it is of the database cluster {ours}, but the server at {}:{} is of {}; check the addresses",
                from.host,
                from.port,
                SystemId(theirs)
            ),
        })
    }
}

/// What a rewind has to know of its source.
pub(super) struct Source {
    pub(super) history: TimelineHistory,
}

/// The timeline of the source's control file, once that is the one it writes to.
async fn settled_timeline(session: &Session) -> Result<TimelineId, PgError> {
    let doing = "wait for the source's first checkpoint on its timeline";
    let sql = "SELECT timeline_id, CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END, \
               current_setting('server_version_num')::int >= 150000 FROM pg_control_checkpoint()";
    let begun = Instant::now();
    let mut asked = false;
    loop {
        let rows = session.rows(doing, sql, SQL_WITHIN).await?;
        let row = rows.first().map(Vec::as_slice).unwrap_or_default();
        let column = |index: usize| row.get(index).and_then(Option::as_deref);
        let recorded = TimelineId(column(0).and_then(|text| text.parse().ok()).unwrap_or_default());
        let written = column(1).and_then(look::timeline_of_walfile);
        if written.is_none_or(|written| written == recorded) {
            return Ok(recorded);
        }
        if column(2) == Some("t") && !asked {
            asked = true;
            session.execute(doing, "CHECKPOINT", CHECKPOINT_WITHIN).await?;
            continue;
        }
        if begun.elapsed() > CHECKPOINT_WITHIN {
            let why = "run CHECKPOINT on the source, then try again".to_owned();
            return Err(PgError::Deadline {
                doing,
                after: CHECKPOINT_WITHIN,
                why,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}
