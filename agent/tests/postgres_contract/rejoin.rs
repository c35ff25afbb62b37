//! An old primary comes back: by a rewind, or not at all.

use crate::bench::{Node, PATIENCE, conf, on_each_version};
use agent::postgres::{Instance, PgError, StopMode};
use agent_core::pg::TimelineId;
use agent_core::view::Server;

/// Kills the primary in the middle of its work, promotes its standby, and lets both go on alone for a while.
async fn diverge(old: &Node, new: &Node) {
    old.pg.run_sql("INSERT INTO public.t VALUES (1)").await.unwrap();
    let shared = old.pg.current_wal_flush().await.unwrap();
    new.until_standby(|view| view.replay >= shared).await;
    new.pg.cut_upstream(&conf(None)).await.unwrap();
    old.pg
        .run_sql("INSERT INTO public.t SELECT generate_series(100, 2000)")
        .await
        .unwrap();
    new.pg.promote(TimelineId(5), PATIENCE).await.unwrap();
    new.pg.run_sql("INSERT INTO public.t VALUES (2)").await.unwrap();
}

async fn comes_back(old: &Node, new: &Node) {
    let report = old.pg.rewind(&new.upstream("n1")).await.unwrap();
    assert!(report.rewound);
    assert_eq!(report.fork.timeline, TimelineId(2));
    let kept = report.diverged_wal.expect("the diverged WAL");
    assert!(
        kept.starts_with(old.config.data_dir.with_file_name("data.diverged")),
        "{}",
        kept.display()
    );
    let segments = std::fs::read_dir(&kept).unwrap().flatten();
    assert!(segments.filter(|entry| entry.file_name().len() == 24).count() >= 1);
    let text = std::fs::read_to_string(old.config.data_dir.join("postgresql.conf")).unwrap();
    assert!(
        text.contains("# the operator's own line of n1"),
        "the node's own configuration was replaced"
    );

    old.pg.start(&conf(Some(new.upstream("n1")))).await.unwrap();
    let view = old.until_streaming().await;
    new.pg.run_sql("INSERT INTO public.t VALUES (3)").await.unwrap();
    let end = new.pg.current_wal_flush().await.unwrap();
    let view = if view.replay >= end {
        view
    } else {
        old.until_standby(|view| view.replay >= end).await
    };
    assert_eq!(view.position.timeline, TimelineId(5));
    assert_eq!(
        old.value("SELECT string_agg(id::text, ',' ORDER BY id) FROM public.t")
            .await,
        "1,2,3"
    );
    assert_eq!(old.value("SHOW port").await, old.config.port.to_string());
}

fn mark_as_own(node: &Node) {
    let path = node.config.data_dir.join("postgresql.conf");
    let content = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        format!(
            "# the operator's own line of {}\n{content}",
            node.config.node_name
        ),
    )
    .unwrap();
}

#[test]
fn a_killed_primary_with_extra_wal_is_rewound_and_streams() {
    on_each_version(|bench| async move {
        let old = bench.primary("n1", 2).await;
        let new = bench.standby_of(&old, "n2").await;
        mark_as_own(&old);
        diverge(&old, &new).await;
        old.pg.killer().kill(PATIENCE).unwrap();
        old.until_down().await;
        comes_back(&old, &new).await;
    });
}

#[test]
fn a_cleanly_stopped_primary_with_extra_wal_is_rewound_and_streams() {
    on_each_version(|bench| async move {
        let old = bench.primary("n1", 2).await;
        let new = bench.standby_of(&old, "n2").await;
        mark_as_own(&old);
        diverge(&old, &new).await;
        let running = old.pg.rewind(&new.upstream("n1")).await.unwrap_err();
        assert!(
            matches!(
                running,
                PgError::StillRunning { .. } | PgError::StartFailed { .. }
            ),
            "{running}"
        );
        old.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
        old.pg.wait_exit(PATIENCE).await.unwrap();
        comes_back(&old, &new).await;
    });
}

#[test]
fn a_primary_without_extra_wal_needs_no_rewind() {
    on_each_version(|bench| async move {
        let old = bench.primary("n1", 2).await;
        let new = bench.standby_of(&old, "n2").await;
        let end = old
            .pg
            .stop(StopMode::Fast, PATIENCE)
            .await
            .unwrap()
            .clean_end
            .expect("a clean shutdown");
        new.until_standby(|view| view.position.lsn >= end.lsn).await;
        old.pg.wait_exit(PATIENCE).await.unwrap();
        new.pg.promote(TimelineId(3), PATIENCE).await.unwrap();
        let report = old.pg.rewind(&new.upstream("n1")).await.unwrap();
        assert!(!report.rewound && report.diverged_wal.is_none(), "{report:?}");
        assert_eq!(report.fork, end, "the fork is not where the old primary ended");
        old.pg.start(&conf(Some(new.upstream("n1")))).await.unwrap();
        old.until_streaming().await;
    });
}

#[test]
fn a_rewind_is_refused_where_it_cannot_work() {
    on_each_version(|bench| async move {
        let old = bench.primary("n1", 2).await;
        let stranger = bench.primary("n2", 2).await;
        old.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
        old.pg.wait_exit(PATIENCE).await.unwrap();
        let error = old.pg.rewind(&stranger.upstream("n1")).await.unwrap_err();
        assert!(error.to_string().contains("database cluster"), "{error}");

        let mut nobody = stranger.upstream("n1");
        nobody.port = 1;
        let error = old.pg.rewind(&nobody).await.unwrap_err();
        assert!(matches!(error, PgError::Connect { .. }), "{error}");
        assert!(old.pg.observe().await.trouble.is_some());

        let mut wrong = crate::bench::credentials();
        wrong.rewind_password = "wrong".to_owned();
        let imposter = Instance::open(old.config.clone(), wrong).unwrap();
        let error = imposter.rewind(&stranger.upstream("n1")).await.unwrap_err();
        assert!(error.to_string().contains("password"), "{error}");
        // Nothing was touched.
        assert_eq!(old.pg.observe().await.server, Server::Down);
        old.pg.start(&conf(None)).await.unwrap();
        old.until_standby(|_| true).await;
    });
}

#[test]
fn a_half_changed_data_directory_is_never_started() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        node.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
        node.pg.wait_exit(PATIENCE).await.unwrap();
        std::fs::write(node.config.state_dir.join("rewind.unfinished"), "data\n").unwrap();
        assert_eq!(node.pg.observe().await.server, Server::Down);
        assert!(node.pg.half_rewound());
        let refused = node.pg.start(&conf(None)).await.unwrap_err().to_string();
        assert!(refused.contains("interrupted"), "{refused}");
        let aside = node.pg.set_data_aside("a rewind was interrupted").unwrap();
        assert!(aside.join("PG_VERSION").exists());
        assert!(
            std::fs::read_to_string(aside.join("pgctl-set-aside.txt"))
                .unwrap()
                .contains("interrupted")
        );
        assert_eq!(node.pg.observe().await.server, Server::NoData);
        assert!(!node.pg.half_rewound());
        node.pg.initdb().await.unwrap();
        assert_eq!(node.pg.observe().await.server, Server::Down);
    });
}
