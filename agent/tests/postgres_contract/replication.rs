//! Standbys: copying, following, cutting off, promoting, slots, the synchronous set.

use crate::bench::{Node, PATIENCE, conf, on_each_version};
use agent::postgres::{PgError, ServerConf};
use agent_core::ids::Epoch;
use agent_core::pg::{Lsn, TimelineId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn with_set(names: &str) -> ServerConf {
    ServerConf {
        synchronous_standby_names: names.to_owned(),
        ..conf(None)
    }
}

#[test]
fn a_copy_streams_from_its_source() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let standby = bench.node("n2");
        let told = Arc::new(Mutex::new(Vec::new()));
        let teller = Arc::clone(&told);
        let progress = move |done, total| teller.lock().unwrap().push((done, total));
        standby
            .pg
            .base_backup(&primary.upstream("copy"), progress)
            .await
            .unwrap();
        let (done, total) = *told.lock().unwrap().last().expect("no progress was told");
        assert!(
            done > 1 << 20 && total.is_some_and(|total| total >= 1 << 20),
            "{done} of {total:?}"
        );
        let slots = [("pgctl_n2".to_owned(), None)].into();
        primary.pg.ensure_slots(&slots).await.unwrap();
        let follow = ServerConf {
            slot: Some("pgctl_n2".to_owned()),
            ..conf(Some(primary.upstream("n2_e1")))
        };
        standby.pg.start(&follow).await.unwrap();
        let view = standby.until_streaming().await;
        assert_eq!(view.upstream, Some(primary.upstream("n2_e1")));
        primary
            .pg
            .run_sql("INSERT INTO public.t VALUES (1)")
            .await
            .unwrap();
        let end = primary
            .until_primary(|view| view.standbys.len() == 1)
            .await
            .position;
        standby.until_replayed(end).await;
        assert_eq!(standby.value("SELECT count(*) FROM public.t").await, "1");
        let view = standby.until_standby(|view| view.replay_age_ms.is_some()).await;
        assert_eq!(view.position.timeline, TimelineId(2));
        let primary_view = primary.until_primary(|view| view.standbys[0].streaming).await;
        assert_eq!(primary_view.standbys[0].application_name, "n2_e1");
        assert!(primary.pg.slots().await.unwrap()[0].active);
        let again = standby
            .pg
            .base_backup(&primary.upstream("copy"), |_, _| {})
            .await
            .unwrap_err();
        assert!(matches!(again, PgError::StillRunning { .. }), "{again}");
    });
}

#[test]
fn a_standby_that_was_cut_off_acknowledges_nothing_more() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let standby = bench.standby_of(&primary, "n2_e1").await;
        assert!(primary.pg.reconfigure(&with_set("ANY 1 (n2_e1)")).await.unwrap());
        assert!(!primary.pg.reconfigure(&with_set("ANY 1 (n2_e1)")).await.unwrap());
        primary.pg.write_epoch_row(Epoch(1), PATIENCE).await.unwrap();
        let flushed = primary.pg.current_wal_flush().await.unwrap();
        standby.until_standby(|view| view.position.lsn >= flushed).await;

        let cut = standby.pg.cut_upstream(&conf(None)).await.unwrap();
        assert!(cut.lsn >= flushed, "{cut} is before {flushed}");
        assert_eq!(cut.timeline, TimelineId(2));
        let error = primary
            .pg
            .write_epoch_row(Epoch(2), Duration::from_secs(1))
            .await
            .unwrap_err();
        assert!(matches!(error, PgError::Deadline { .. }), "{error}");
        let view = standby.until_standby(|_| true).await;
        assert_eq!((view.position, view.upstream, view.receiver), (cut, None, None));
        assert!(
            standby
                .pg
                .cut_upstream(&conf(Some(primary.upstream("x"))))
                .await
                .is_err()
        );

        // A cancelled wait is no acknowledgement either, although the server calls it a success.
        let pg = primary.pg.clone();
        let waiting = tokio::spawn(async move { pg.write_epoch_row(Epoch(3), PATIENCE).await });
        let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
        while !waiting.is_finished() {
            primary.pg.run_sql(cancel).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, PgError::NotAcknowledged { .. }), "{error}");
    });
}

#[test]
fn a_paused_replay_does_not_keep_the_receiver_alive() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let standby = bench.standby_of(&primary, "n2").await;
        standby.pg.run_sql("SELECT pg_wal_replay_pause()").await.unwrap();
        primary
            .pg
            .run_sql("INSERT INTO public.t SELECT generate_series(1, 1000)")
            .await
            .unwrap();
        let flushed = primary.pg.current_wal_flush().await.unwrap();
        let view = standby
            .until_standby(|view| view.position.lsn >= flushed && view.replay_paused)
            .await;
        assert!(view.replay < view.position.lsn);
        let cut = standby.pg.cut_upstream(&conf(None)).await.unwrap();
        assert!(cut.lsn >= flushed);
    });
}

#[test]
fn a_promotion_takes_the_timeline_that_was_reserved() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let first = bench.standby_of(&primary, "n2").await;
        let second = bench.standby_of(&primary, "n3").await;
        let end = primary.pg.current_wal_flush().await.unwrap();
        second.until_standby(|view| view.position.lsn >= end).await;
        first.until_standby(|view| view.position.lsn >= end).await;
        let error = first.pg.promote(TimelineId(2), PATIENCE).await.unwrap_err();
        assert!(matches!(error, PgError::Timeline { .. }), "{error}");
        first.until_standby(|_| true).await;

        primary.pg.killer().kill(PATIENCE).unwrap();
        let position = first.pg.promote(TimelineId(6), PATIENCE).await.unwrap();
        assert_eq!(position.timeline, TimelineId(6));
        assert_eq!(
            first.pg.promote(TimelineId(6), PATIENCE).await.unwrap().timeline,
            TimelineId(6)
        );
        let view = first.until_primary(|_| true).await;
        assert_eq!(
            view.history.switches.last().map(|switch| switch.timeline),
            Some(TimelineId(2))
        );

        // The other standby finds its way over the numbers that were skipped.
        second
            .pg
            .reconfigure(&conf(Some(first.upstream("n3"))))
            .await
            .unwrap();
        first.pg.run_sql("INSERT INTO public.t VALUES (1)").await.unwrap();
        let end = first.pg.current_wal_flush().await.unwrap();
        let view = second.until_standby(|view| view.replay >= end).await;
        assert_eq!(view.position.timeline, TimelineId(6));
        // And so does a copy made from it, promoted in turn.
        let third = bench.standby_of(&first, "n4").await;
        assert_eq!(
            third.pg.promote(TimelineId(9), PATIENCE).await.unwrap().timeline,
            TimelineId(9)
        );
    });
}

#[test]
fn a_standby_alone_knows_where_its_wal_ends() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let standby = bench.standby_of(&primary, "n2").await;
        primary
            .pg
            .run_sql("INSERT INTO public.t SELECT generate_series(1, 200000)")
            .await
            .unwrap();
        let end = primary.pg.current_wal_flush().await.unwrap();
        let before = standby
            .until_standby(|view| view.position.lsn >= end)
            .await
            .position;
        standby.pg.killer().kill(PATIENCE).unwrap();
        standby.pg.start(&conf(None)).await.unwrap();
        // The very first answer must already be the whole truth.
        let view = standby.until_standby(|_| true).await;
        assert_eq!(view.position, before);
    });
}

#[test]
fn slots_are_made_moved_and_dropped_and_foreign_ones_left_alone() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let standby = bench.standby_of(&primary, "n2").await;
        standby
            .pg
            .run_sql("SELECT pg_create_physical_replication_slot('somebody_else')")
            .await
            .unwrap();
        let mut wanted: BTreeMap<String, Option<Lsn>> =
            [("pgctl_a".to_owned(), None), ("pgctl_b".to_owned(), None)].into();
        standby.pg.ensure_slots(&wanted).await.unwrap();
        standby.pg.ensure_slots(&wanted).await.unwrap();
        let at = |slots: &[agent::postgres::SlotView], name: &str| {
            slots
                .iter()
                .find(|slot| slot.name == name)
                .map(|slot| slot.restart_lsn)
        };
        let before = standby.pg.slots().await.unwrap();
        assert_eq!(before.len(), 3);
        primary
            .pg
            .run_sql("INSERT INTO public.t VALUES (1)")
            .await
            .unwrap();
        let target = primary.pg.current_wal_flush().await.unwrap();
        standby.until_standby(|view| view.replay >= target).await;
        let far = Lsn(target.0 + (1 << 40));
        wanted.insert("pgctl_a".to_owned(), Some(target));
        wanted.insert("pgctl_b".to_owned(), Some(far));
        standby.pg.ensure_slots(&wanted).await.unwrap();
        let moved = standby.pg.slots().await.unwrap();
        assert_eq!(at(&moved, "pgctl_a"), Some(Some(target)));
        let b = at(&moved, "pgctl_b").flatten().unwrap();
        assert!(b >= target && b < far, "{b} was moved beyond what is replayed");
        // Never back.
        wanted.insert("pgctl_a".to_owned(), Some(Lsn(1)));
        wanted.remove("pgctl_b");
        standby.pg.ensure_slots(&wanted).await.unwrap();
        let after = standby.pg.slots().await.unwrap();
        assert_eq!(at(&after, "pgctl_a"), Some(Some(target)));
        assert_eq!(at(&after, "pgctl_b"), None);
        assert!(at(&after, "somebody_else").is_some());
        assert!(
            standby
                .pg
                .ensure_slots(&[("mine".to_owned(), None)].into())
                .await
                .is_err()
        );
    });
}

#[test]
fn a_lost_slot_is_made_anew() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let wanted = [("pgctl_a".to_owned(), None)].into();
        primary.pg.ensure_slots(&wanted).await.unwrap();
        let small = ServerConf {
            slot_budget_bytes: 1 << 20,
            ..conf(None)
        };
        primary.pg.reconfigure(&small).await.unwrap();
        let lost = async |node: &Node| node.pg.slots().await.unwrap()[0].lost;
        // Beyond what wal_keep_size keeps for everybody.
        for _ in 0..40 {
            if lost(&primary).await {
                break;
            }
            let fill = "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 8000000)), pg_switch_wal()";
            for _ in 0..4 {
                primary.pg.run_sql(fill).await.unwrap();
            }
            primary.pg.checkpoint().await.unwrap();
        }
        assert!(lost(&primary).await, "the slot was kept beyond its budget");
        primary.pg.ensure_slots(&wanted).await.unwrap();
        let slots = primary.pg.slots().await.unwrap();
        assert!(!slots[0].lost && slots[0].restart_lsn.is_some(), "{slots:?}");
    });
}

#[test]
fn a_change_of_the_synchronous_set_does_not_wait_for_a_hung_standby() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let first = bench.standby_of(&primary, "a").await;
        let second = bench.standby_of(&primary, "b").await;
        primary.pg.reconfigure(&with_set("ANY 2 (a, b)")).await.unwrap();
        let view = primary.until_primary(|view| view.standbys.len() == 2).await;
        assert!(
            view.standbys.iter().all(|standby| standby.sync_state == "quorum"),
            "{view:?}"
        );
        let receiver: i32 = second
            .value("SELECT pid FROM pg_stat_wal_receiver")
            .await
            .parse()
            .unwrap();
        let receiver = nix::unistd::Pid::from_raw(receiver);
        nix::sys::signal::kill(receiver, nix::sys::signal::Signal::SIGSTOP).unwrap();
        primary.pg.reconfigure(&with_set("ANY 1 (a)")).await.unwrap();
        primary.pg.write_epoch_row(Epoch(1), PATIENCE).await.unwrap();
        nix::sys::signal::kill(receiver, nix::sys::signal::Signal::SIGCONT).unwrap();
        let in_set = |name: &str, state: &str, view: &agent_core::view::PrimaryView| {
            view.standbys
                .iter()
                .any(|standby| standby.application_name == name && standby.sync_state == state)
        };
        primary
            .until_primary(|view| in_set("a", "quorum", view) && in_set("b", "async", view))
            .await;
        drop(first);
    });
}
