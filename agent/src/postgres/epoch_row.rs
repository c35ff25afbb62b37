//! The row that proves a new primary's commits to be safe on its synchronous standbys.

use super::conf_text::sql_literal;
use super::reload::current_flush;
use super::{Instance, PgError};
use agent_core::ids::Epoch;
use agent_core::pg::Lsn;
use std::time::{Duration, Instant};

const DOING: &str = "write the epoch's row";
/// Made in the transaction of the first row, so that no half-made table is ever seen.
const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS pgctl; \
    CREATE TABLE IF NOT EXISTS pgctl.epochs (epoch bigint PRIMARY KEY, node text NOT NULL, at timestamptz NOT NULL)";
/// A schema or table of that name that a lesser role owns could carry triggers, which would run with our rights.
const SAFE: &str = "SELECT bool_and(r.rolsuper) FROM (\
    SELECT nspowner AS owner FROM pg_namespace WHERE nspname = 'pgctl' UNION ALL \
    SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'pgctl' AND relname = 'epochs') o JOIN pg_roles r ON r.oid = o.owner";

impl Instance {
    /// Writes `epoch` into `pgctl.epochs` and waits until its commit is acknowledged as `synchronous_standby_names`
    /// demands. Returns a position at or after that commit.
    ///
    /// # Errors
    /// [`PgError::Deadline`] or [`PgError::NotAcknowledged`] if the acknowledgement does not come. The wait is never
    /// cancelled, because PostgreSQL reports a cancelled one as a success with a warning: the connection is dropped
    /// instead, and any warning counts as failure. The row may be there all the same; writing it again is fine.
    pub async fn write_epoch_row(&self, epoch: Epoch, deadline: Duration) -> Result<Lsn, PgError> {
        let begun = Instant::now();
        let left = || deadline.saturating_sub(begun.elapsed());
        let settings = [
            "synchronous_commit=on",
            "default_transaction_read_only=off",
            "client_min_messages=warning",
        ];
        let mut session = self.session(&settings, left()).await?;
        session.execute(DOING, "BEGIN", left()).await?;
        let there = "SELECT to_regclass('pgctl.epochs') IS NOT NULL";
        if session.text(DOING, there, left()).await?.as_deref() != Some("t") {
            session.execute(DOING, CREATE, left()).await?;
        }
        if session.text(DOING, SAFE, left()).await?.as_deref() != Some("t") {
            return Err(PgError::Sql {
                doing: DOING,
                why: "the schema `pgctl` belongs to a role that is no superuser; rename that schema"
                    .to_owned(),
            });
        }
        let insert = format!(
            "INSERT INTO pgctl.epochs (epoch, node, at) VALUES ({epoch}, {}, clock_timestamp()) \
             ON CONFLICT (epoch) DO UPDATE SET node = excluded.node, at = excluded.at",
            sql_literal(&self.config().node_name)
        );
        session.execute(DOING, &insert, left()).await?;
        session.take_warnings();
        session.execute(DOING, "COMMIT", left()).await?;
        let warnings = session.take_warnings();
        if !warnings.is_empty() {
            return Err(PgError::NotAcknowledged {
                why: warnings.join("; "),
            });
        }
        current_flush(&session, DOING).await
    }
}
