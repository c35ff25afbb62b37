//! Data directories: ours, nobody's, somebody else's.

use crate::bench::{Node, PATIENCE, conf, on_each_version, open_to_all};
use agent::postgres::{PgError, StopMode};
use agent_core::pg::{ControlState, Lsn, TimelineId};
use agent_core::view::Server;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn our_reading_of_the_control_file_is_pg_controldatas() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        compare(&node);
        let standby = bench.standby_of(&node, "n2").await;
        standby.pg.run_sql("CHECKPOINT").await.unwrap();
        for one in [&node, &standby] {
            one.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
            one.pg.wait_exit(PATIENCE).await.unwrap();
            compare(one);
        }
    });
}

fn compare(node: &Node) {
    let program = node.config.bin_dir.as_ref().unwrap().join("pg_controldata");
    let mut ours = node.pg.control_file().unwrap().expect("a control file");
    // Between the two reads a running server may write: read again until nothing changed meanwhile.
    let theirs = loop {
        let output = Command::new(&program)
            .arg(&node.config.data_dir)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let again = node.pg.control_file().unwrap().expect("a control file");
        if again == ours {
            break String::from_utf8(output.stdout).unwrap();
        }
        ours = again;
    };
    let theirs: BTreeMap<&str, &str> = theirs
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    let lsn = |name: &str| theirs[name].parse::<Lsn>().unwrap();
    let state = match theirs["Database cluster state"] {
        "shut down" => ControlState::ShutDown,
        "shut down in recovery" => ControlState::ShutDownInRecovery,
        "in archive recovery" => ControlState::InArchiveRecovery,
        "in production" => ControlState::InProduction,
        other => panic!("{other}"),
    };
    assert_eq!(ours.state, state);
    assert_eq!(ours.system_id.to_string(), theirs["Database system identifier"]);
    assert_eq!(ours.checkpoint, lsn("Latest checkpoint location"));
    assert_eq!(ours.redo, lsn("Latest checkpoint's REDO location"));
    assert_eq!(
        ours.timeline.to_string(),
        theirs["Latest checkpoint's TimeLineID"]
    );
    assert_eq!(ours.min_recovery, lsn("Minimum recovery ending location"));
    assert_eq!(ours.checksums, theirs["Data page checksum version"] != "0");
}

#[test]
fn what_is_not_ours_is_refused_with_the_command_that_helps() {
    on_each_version(|bench| async move {
        let node = bench.node("n1");
        let data = &node.config.data_dir;
        let why = async || match node.pg.observe().await.server {
            Server::Unusable { why } => why,
            other => panic!("it was taken for {other:?}"),
        };
        std::fs::create_dir(data).unwrap();
        assert_eq!(node.pg.observe().await.server, Server::NoData);
        std::fs::write(data.join("letters.txt"), "dear").unwrap();
        assert!(why().await.contains("not a PostgreSQL data directory"));
        let error = node.pg.initdb().await.unwrap_err();
        assert!(matches!(error, PgError::Unusable { .. }), "{error}");
        assert!(node.pg.base_backup(&node.upstream("x"), |_, _| {}).await.is_err());
        assert_eq!(std::fs::read_to_string(data.join("letters.txt")).unwrap(), "dear");
        std::fs::remove_file(data.join("letters.txt")).unwrap();
        node.pg.initdb().await.unwrap();

        let version = std::fs::read_to_string(data.join("PG_VERSION")).unwrap();
        std::fs::write(data.join("PG_VERSION"), "9\n").unwrap();
        assert!(why().await.contains("was made by PostgreSQL 9"));
        std::fs::write(data.join("PG_VERSION"), version).unwrap();

        open_to_all(data);
        assert!(why().await.contains("chmod 0700"));
        std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700)).unwrap();
        if nix::unistd::Uid::effective().is_root() {
            let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(data).unwrap());
            std::os::unix::fs::chown(data, Some(0), None).unwrap();
            assert!(why().await.contains("chown -R"));
            std::os::unix::fs::chown(data, Some(owner), None).unwrap();
            let parent = data.parent().unwrap();
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o700)).unwrap();
            assert!(why().await.contains("chmod o+x"));
            open_to_all(parent);
        }

        let control = data.join("global/pg_control");
        let sound = std::fs::read(&control).unwrap();
        let mut damaged = sound.clone();
        damaged[40] ^= 1;
        std::fs::write(&control, damaged).unwrap();
        assert!(why().await.contains("checksum"));
        assert!(node.pg.start(&conf(None)).await.is_err());
        std::fs::write(&control, sound).unwrap();
        assert_eq!(node.pg.observe().await.server, Server::Down);
    });
}

#[test]
fn an_interrupted_copy_or_initdb_leaves_nothing_in_the_way() {
    on_each_version(|bench| async move {
        let primary = bench.primary("n1", 2).await;
        let node = bench.node("n2");
        let leftover = node.config.data_dir.with_file_name("data.pgctl-new");
        std::fs::create_dir(&leftover).unwrap();
        std::fs::write(leftover.join("PG_VERSION"), "15").unwrap();
        assert_eq!(node.pg.observe().await.server, Server::NoData);
        // Dropped in the middle: the program dies with it and nothing takes the place.
        let from = primary.upstream("copy");
        let copying = node.pg.base_backup(&from, |_, _| {});
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(1), copying)
                .await
                .is_err()
        );
        assert_eq!(node.pg.observe().await.server, Server::NoData);
        let mut wrong = crate::bench::credentials();
        wrong.replication_password = "wrong".to_owned();
        node.pg.set_credentials(wrong);
        let error = node.pg.base_backup(&from, |_, _| {}).await.unwrap_err();
        assert!(error.to_string().contains("password"), "{error}");
        let seen = node.pg.observe().await;
        assert_eq!(seen.server, Server::NoData);
        assert!(seen.trouble.is_some());
        node.pg.set_credentials(crate::bench::credentials());
        node.pg.base_backup(&from, |_, _| {}).await.unwrap();
        assert!(!leftover.exists());
        let seen = node.pg.observe().await;
        assert_eq!((seen.server, seen.trouble), (Server::Down, None));
    });
}

#[test]
fn a_job_shows_while_it_is_at_work() {
    on_each_version(|bench| async move {
        let node = bench.node("n1");
        let pg = node.pg.clone();
        let making = tokio::spawn(async move { pg.initdb().await });
        node.until(
            "busy",
            |seen| matches!(&seen.server, Server::Busy { job } if job == "initdb"),
        )
        .await;
        assert!(matches!(node.pg.initdb().await, Err(PgError::Busy { .. })));
        assert!(matches!(
            node.pg.start(&conf(None)).await,
            Err(PgError::Busy { .. } | PgError::Unusable { .. })
        ));
        making.await.unwrap().unwrap();
        node.pg.start(&conf(None)).await.unwrap();
        node.until_standby(|_| true).await;
        assert_eq!(
            node.pg.promote(TimelineId(4), PATIENCE).await.unwrap().timeline,
            TimelineId(4)
        );
        assert!(matches!(
            node.pg.set_data_aside("no"),
            Err(PgError::StillRunning { .. })
        ));
    });
}
