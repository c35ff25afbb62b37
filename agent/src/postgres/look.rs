//! The query of one look at the server, and its answer.

use super::conf_text::parse_conninfo;
use agent_core::pg::{Lsn, TimelineId};
use agent_core::view::{StandbyConnection, Upstream};
use serde::Deserialize;

/// The one query of a look. Each function is called only on the kind of server that has an answer.
pub const LOOK: &str = "
WITH me AS MATERIALIZED (SELECT pg_is_in_recovery() AS standby)
SELECT json_build_object(
  'standby', me.standby,
  'pending_restart', CASE WHEN $1::bool
    THEN (SELECT json_agg(name ORDER BY name) FROM pg_settings WHERE pending_restart) END,
  'replay', CASE WHEN me.standby THEN pg_last_wal_replay_lsn() END,
  'receive', CASE WHEN me.standby THEN pg_last_wal_receive_lsn() END,
  'replay_age_ms', CASE WHEN me.standby THEN greatest(0,
    1000 * extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()))::bigint END,
  'paused', CASE WHEN me.standby THEN pg_is_wal_replay_paused() END,
  'has_target', CASE WHEN me.standby THEN current_setting('recovery_target') || current_setting('recovery_target_time')
    || current_setting('recovery_target_lsn') || current_setting('recovery_target_xid')
    || current_setting('recovery_target_name') <> '' END,
  'waits_for_wal', CASE WHEN me.standby THEN EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup'
    AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval')) END,
  'conninfo', CASE WHEN me.standby THEN current_setting('primary_conninfo') END,
  'receiver', CASE WHEN me.standby THEN (SELECT json_build_object('pid', pid, 'status', status,
    'latest_end', latest_end_lsn, 'timeline', received_tli) FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) END,
  'flush', CASE WHEN NOT me.standby THEN pg_current_wal_flush_lsn() END,
  'walfile', CASE WHEN NOT me.standby THEN pg_walfile_name(pg_current_wal_flush_lsn()) END,
  'synchronous_standby_names', current_setting('synchronous_standby_names'),
  'read_only', current_setting('default_transaction_read_only')::bool,
  'standbys', CASE WHEN NOT me.standby THEN (SELECT json_agg(json_build_object(
    'application_name', application_name, 'state', state, 'sync_state', sync_state,
    'flush', flush_lsn, 'replay', replay_lsn) ORDER BY application_name, pid) FROM pg_stat_replication) END
)::text FROM me";

/// The answer to [`LOOK`].
#[derive(Debug, Clone, Deserialize)]
pub struct Look {
    pub standby: bool,
    pub pending_restart: Option<Vec<String>>,
    pub replay: Option<Lsn>,
    pub receive: Option<Lsn>,
    pub replay_age_ms: Option<u64>,
    pub paused: Option<bool>,
    pub waits_for_wal: Option<bool>,
    pub has_target: Option<bool>,
    pub conninfo: Option<String>,
    pub receiver: Option<ReceiverRow>,
    pub flush: Option<Lsn>,
    pub walfile: Option<String>,
    pub synchronous_standby_names: String,
    pub read_only: bool,
    pub standbys: Option<Vec<SenderRow>>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ReceiverRow {
    pub pid: i32,
    pub status: Option<String>,
    pub latest_end: Option<Lsn>,
    pub timeline: Option<TimelineId>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct SenderRow {
    application_name: String,
    state: Option<String>,
    sync_state: Option<String>,
    pub flush: Option<Lsn>,
    replay: Option<Lsn>,
}

impl From<SenderRow> for StandbyConnection {
    fn from(row: SenderRow) -> StandbyConnection {
        StandbyConnection {
            application_name: row.application_name,
            streaming: row.state.as_deref() == Some("streaming"),
            sync_state: row.sync_state.unwrap_or_default(),
            flush: row.flush.unwrap_or_default(),
            replay: row.replay.unwrap_or_default(),
        }
    }
}

/// Where a `primary_conninfo` leads; `None` for an empty one.
pub fn upstream_in(conninfo: &str) -> Option<Upstream> {
    let mut pairs = parse_conninfo(conninfo);
    Some(Upstream {
        host: pairs.remove("host")?,
        port: pairs.get("port").map_or(Some(5432), |port| port.parse().ok())?,
        application_name: pairs.remove("application_name").unwrap_or_default(),
    })
}

/// The first eight digits of a WAL file's name.
pub fn timeline_of_walfile(name: &str) -> Option<TimelineId> {
    u32::from_str_radix(name.get(..8)?, 16).ok().map(TimelineId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_read_back_from_what_we_write() {
        let text = "host=10.0.0.2 port=5433 user=r passfile='/a b' application_name=n2_e5 connect_timeout=2";
        let expected = Upstream {
            host: "10.0.0.2".to_owned(),
            port: 5433,
            application_name: "n2_e5".to_owned(),
        };
        assert_eq!(upstream_in(text), Some(expected));
        assert_eq!(upstream_in(""), None);
    }

    #[test]
    fn timelines_in_file_names_are_hexadecimal() {
        assert_eq!(
            timeline_of_walfile("0000001F0000000000000001"),
            Some(TimelineId(31))
        );
        assert_eq!(timeline_of_walfile(""), None);
    }
}
