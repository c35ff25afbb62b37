//! Telling a hung server from one that is busy, full or locked.

use crate::bench::{Node, PATIENCE, conf, on_each_version};
use agent::postgres::{Beat, CommitPulse, KeptPulse, ServerConf};
use agent_core::view::Server;
use std::time::Duration;

/// Long enough that only a server that does not answer at all is silent.
const LONG: Duration = Duration::from_secs(30);
/// What a stopped server is given.
const SHORT: Duration = Duration::from_millis(300);

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

fn postmaster(node: &Node) -> i32 {
    node.pg.postmaster().borrow().expect("a server")
}

#[test]
fn a_stopped_postmaster_serves_old_sessions_and_no_new_ones() {
    on_each_version(|bench| async move {
        let node = bench.node("n1");
        let mut kept = KeptPulse::default();
        assert_eq!(
            kept.beat(&node.pg, LONG).await,
            Beat::Nothing,
            "there is no server"
        );
        let node = bench.primary("n2", 2).await;
        let mut commit = CommitPulse::default();
        assert_eq!(kept.beat(&node.pg, LONG).await, Beat::Answered);
        let seen = kept.connections.expect("counted");
        assert!(
            seen.used >= 1 && seen.limit < 40 && !seen.are_exhausted(),
            "{seen:?}"
        );
        assert_eq!(node.pg.fresh_beat(LONG).await, Beat::Answered);
        assert_eq!(commit.beat(&node.pg, LONG).await, Beat::Answered);
        signal(postmaster(&node), nix::sys::signal::Signal::SIGSTOP);
        assert!(matches!(node.pg.fresh_beat(SHORT).await, Beat::Silent(_)));
        assert_eq!(kept.beat(&node.pg, LONG).await, Beat::Answered);
        assert_eq!(commit.beat(&node.pg, LONG).await, Beat::Answered);
        signal(postmaster(&node), nix::sys::signal::Signal::SIGCONT);
        assert_eq!(node.pg.fresh_beat(LONG).await, Beat::Answered);
    });
}

#[test]
fn a_commit_waits_for_no_standby_and_for_no_lock() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        let strict = ServerConf {
            synchronous_standby_names: "ANY 1 (\"nobody\")".to_owned(),
            ..conf(None)
        };
        node.pg.reconfigure(&strict).await.unwrap();
        let mut commit = CommitPulse::default();
        for _ in 0..3 {
            assert_eq!(commit.beat(&node.pg, LONG).await, Beat::Answered);
        }
        assert_eq!(node.value("SELECT count(*) FROM pgctl.pulse").await, "1");
        // A commit that is stuck holds its row; a new session writes another.
        let pg = node.pg.clone();
        let stuck = tokio::spawn(async move {
            let _ = pg
                .run_sql("BEGIN; UPDATE pgctl.pulse SET at = at; SELECT pg_sleep(20); ROLLBACK")
                .await;
        });
        until_locked(&node, "RowExclusiveLock").await;
        assert_eq!(CommitPulse::default().beat(&node.pg, LONG).await, Beat::Answered);
        assert_eq!(node.value("SELECT count(*) FROM pgctl.pulse").await, "2");
        end_sleepers(&node).await;
        stuck.await.unwrap();
        let pg = node.pg.clone();
        let locked = tokio::spawn(async move {
            let _ = pg
                .run_sql("BEGIN; LOCK TABLE pgctl.pulse; SELECT pg_sleep(20); ROLLBACK")
                .await;
        });
        until_locked(&node, "AccessExclusiveLock").await;
        // Refused for the lock, which is an answer.
        assert_eq!(commit.beat(&node.pg, LONG).await, Beat::Answered);
        end_sleepers(&node).await;
        locked.await.unwrap();
    });
}

async fn end_sleepers(node: &Node) {
    let sql = "SELECT bool_and(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    assert_eq!(node.value(sql).await, "t");
}

/// Waits until a sleeping session holds such a lock on the table of the pulse.
async fn until_locked(node: &Node, mode: &str) {
    let begun = std::time::Instant::now();
    let sql = format!(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.granted AND l.mode = '{mode}' \
         AND l.relation = to_regclass('pgctl.pulse') AND a.wait_event = 'PgSleep'"
    );
    while node.value(&sql).await == "0" {
        assert!(begun.elapsed() < PATIENCE, "nobody holds {mode}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_standby_commits_nothing_and_is_alive() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let standby = bench.standby_of(&primary, "n2").await;
        assert_eq!(
            CommitPulse::default().beat(&standby.pg, LONG).await,
            Beat::Nothing
        );
        assert_eq!(KeptPulse::default().beat(&standby.pg, LONG).await, Beat::Answered);
        assert_eq!(standby.pg.fresh_beat(LONG).await, Beat::Answered);
    });
}

#[test]
fn only_starts_that_end_by_themselves_count_as_crashes() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        node.pg.killer().kill(PATIENCE).unwrap();
        node.until_down().await;
        assert_eq!(node.pg.crashes(), 0, "we ended it ourselves");
        node.pg.start(&conf(None)).await.unwrap();
        node.until_standby(|_| true).await;
        signal(postmaster(&node), nix::sys::signal::Signal::SIGKILL);
        node.until("down", |seen| seen.server == Server::Down).await;
        assert_eq!(node.pg.crashes(), 1);
    });
}
