//! Starting, stopping, adopting and killing.

use crate::bench::{Node, PATIENCE, conf, on_each_version};
use agent::postgres::{PgError, StopMode};
use agent_core::ids::Epoch;
use agent_core::pg::{ControlState, TimelineId};
use agent_core::view::Server;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_new_cluster_becomes_a_primary_that_takes_a_row() {
    on_each_version(|bench| async move {
        let node = bench.node("n1");
        assert_eq!(node.pg.observe().await.server, Server::NoData);
        let system_id = node.pg.initdb().await.unwrap();
        let control = node.pg.control_file().unwrap().unwrap();
        assert_eq!(
            (control.system_id, control.state),
            (system_id, ControlState::ShutDown)
        );
        assert!(control.checksums);
        assert_eq!(node.pg.observe().await.server, Server::Down);

        node.pg.start(&conf(None)).await.unwrap();
        let standby = node.until_standby(|_| true).await;
        assert_eq!(standby.upstream, None);
        assert_eq!(standby.position.timeline, TimelineId(1));

        let position = node.pg.promote(TimelineId(2), PATIENCE).await.unwrap();
        assert_eq!(position.timeline, TimelineId(2));
        let lsn = node.pg.write_epoch_row(Epoch(7), PATIENCE).await.unwrap();
        node.pg.write_epoch_row(Epoch(7), PATIENCE).await.unwrap();
        assert!(lsn > position.lsn);
        assert_eq!(
            node.value("SELECT string_agg(epoch || node, ',') FROM pgctl.epochs")
                .await,
            "7n1"
        );
        assert!(node.pg.current_wal_flush().await.unwrap() >= lsn);
        node.pg.ensure_roles().await.unwrap();
        node.pg.ensure_roles().await.unwrap();
        assert_eq!(
            node.value("SELECT count(*) FROM pg_roles WHERE rolsuper").await,
            "1"
        );
        let primary = node
            .until_primary(|primary| primary.position.timeline == TimelineId(2))
            .await;
        assert!(!primary.read_only);
        assert_eq!(primary.history.switches.len(), 1);
    });
}

#[test]
fn a_fast_stop_tells_where_the_wal_ends() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        node.pg
            .run_sql("INSERT INTO public.t SELECT generate_series(1, 1000)")
            .await
            .unwrap();
        let before = node.pg.current_wal_flush().await.unwrap();
        let stopped = node.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
        let end = stopped.clean_end.expect("a clean shutdown");
        assert_eq!(end.timeline, TimelineId(2));
        assert!(end.lsn > before, "{end} is not after {before}");
        node.pg.wait_exit(PATIENCE).await.unwrap();
        node.until_down().await;
        // The server itself goes on from exactly there.
        node.pg.start(&conf(None)).await.unwrap();
        let standby = node.until_standby(|_| true).await;
        assert_eq!(standby.position, end);
        assert_eq!(standby.replay, end.lsn);
        let again = node.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
        assert_eq!(again.clean_end, None, "a standby's shutdown writes no checkpoint");
    });
}

#[test]
fn a_stop_that_cannot_end_in_time_names_what_is_in_the_way() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        let pid: i32 = node
            .value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
            .await
            .parse()
            .unwrap();
        signal(pid, "STOP");
        let error = node
            .pg
            .stop(StopMode::Fast, Duration::from_millis(300))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("checkpointer"), "{error}");
        signal(pid, "CONT");
        node.pg.wait_exit(PATIENCE).await.unwrap();
    });
}

#[test]
fn the_death_of_the_postmaster_is_told_at_once() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        let mut postmaster = node.pg.postmaster();
        let pid = postmaster.borrow().expect("a server");
        signal(pid, "KILL");
        tokio::time::timeout(PATIENCE, postmaster.wait_for(Option::is_none))
            .await
            .unwrap()
            .unwrap();
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "the dead postmaster was not reaped"
        );
        let seen = node.pg.observe().await;
        assert_eq!((seen.server, seen.postmaster_pid), (Server::Down, None));
        assert!(seen.trouble.is_some_and(|why| why.contains("SIGKILL")));
    });
}

#[test]
fn nothing_commits_after_the_tree_was_killed() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        node.pg
            .run_sql("CREATE PROCEDURE public.busy() LANGUAGE plpgsql AS 'BEGIN FOR i IN 1..1000000000 LOOP INSERT INTO public.t VALUES (i); COMMIT; END LOOP; END'")
            .await
            .unwrap();
        let pg = node.pg.clone();
        let busy = tokio::spawn(async move { pg.run_sql("CALL public.busy()").await });
        while node.value("SELECT count(*) FROM public.t").await == "0" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Its postmaster goes first: the procedure alone does not notice, and goes on.
        let mut postmaster = node.pg.postmaster();
        let pid = postmaster.borrow().expect("a server");
        signal(pid, "KILL");
        tokio::time::timeout(PATIENCE, postmaster.wait_for(Option::is_none))
            .await
            .unwrap()
            .unwrap();
        let error = node.pg.wait_exit(Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("CALL"), "{error}");
        let wal = |node: &Node| wal_digest(&node.config.data_dir);
        let orphaned = wal(&node);
        let begun = Instant::now();
        while wal(&node) == orphaned {
            assert!(
                begun.elapsed() < PATIENCE,
                "the orphan does not commit, so this test shows nothing"
            );
        }
        let killer = node.pg.killer();
        let report = tokio::task::spawn_blocking(move || killer.kill(PATIENCE))
            .await
            .unwrap()
            .unwrap();
        assert!(!report.killed.is_empty());
        let after = wal(&node);
        assert!(
            busy.await.unwrap().is_err(),
            "the procedure's client was told of a success"
        );
        for pid in report.killed {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(
                stat.is_empty() || stat.contains(") Z "),
                "process {pid} is still there: {stat}"
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(wal(&node), after, "WAL was written after the kill");
    });
}

#[test]
fn a_running_tree_is_killed_whole_and_only_it() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        let other = bench.primary("n2", 2).await;
        let mut bystander = Command::new("sleep")
            .arg("1000")
            .current_dir("/")
            .spawn()
            .unwrap();
        let killer = node.pg.killer();
        let report = tokio::task::spawn_blocking(move || killer.kill(PATIENCE))
            .await
            .unwrap()
            .unwrap();
        assert!(report.killed.len() >= 5, "{report:?}");
        node.until_down().await;
        assert_eq!(other.value("SELECT 1").await, "1");
        assert!(bystander.try_wait().unwrap().is_none(), "a bystander was killed");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        let nothing = node.pg.killer().kill(PATIENCE).unwrap();
        assert!(nothing.killed.is_empty());
        // And it comes up again, with what was committed.
        node.pg.start(&conf(None)).await.unwrap();
        node.until_standby(|_| true).await;
    });
}

#[test]
fn a_server_outlives_its_agent_and_is_found_again() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        let pid = node.pg.postmaster().borrow().expect("a server");
        let config = node.config.clone();
        let second = Node::open(config.clone());
        assert_eq!(second.pg.adopt().await, Some(pid));
        assert_eq!(*second.pg.postmaster().borrow(), Some(pid));
        // Neither without nor with a wrong postmaster.pid is it lost.
        std::fs::write(config.data_dir.join("postmaster.pid.saved"), "").unwrap();
        std::fs::rename(
            config.data_dir.join("postmaster.pid"),
            config.data_dir.join("postmaster.pid.saved"),
        )
        .unwrap();
        let third = Node::open(config.clone());
        assert_eq!(third.pg.adopt().await, Some(pid));
        std::fs::rename(
            config.data_dir.join("postmaster.pid.saved"),
            config.data_dir.join("postmaster.pid"),
        )
        .unwrap();
        assert!(matches!(
            third.pg.start(&conf(None)).await,
            Err(PgError::StillRunning { .. })
        ));
        third.until_primary(|_| true).await;
        let stopped = third.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
        assert!(stopped.clean_end.is_some());
        for one in [&node, &second, &third] {
            one.pg.wait_exit(PATIENCE).await.unwrap();
        }
    });
}

#[test]
fn a_stale_or_foreign_pid_file_deceives_nobody() {
    on_each_version(|bench| async move {
        let node = bench.node("n1");
        node.pg.initdb().await.unwrap();
        let other = bench.primary("n2", 2).await;
        let foreign = other.pg.postmaster().borrow().expect("a server");
        let mut zombie = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let zombie_pid = i32::try_from(zombie.id()).unwrap();
        until_zombie(zombie_pid);
        let data = node.config.data_dir.display().to_string();
        let file = node.config.data_dir.join("postmaster.pid");
        for pid in [
            foreign,
            zombie_pid,
            std::process::id().cast_signed(),
            1,
            i32::MAX - 1,
        ] {
            std::fs::write(&file, format!("{pid}\n{data}\n1700000000\n5432\n\n*\n")).unwrap();
            assert_eq!(
                node.pg.adopt().await,
                None,
                "process {pid} was taken for the server"
            );
            assert_eq!(node.pg.observe().await.server, Server::Down);
            node.pg
                .start(&conf(None))
                .await
                .unwrap_or_else(|error| panic!("with process {pid} in the file: {error}"));
            node.until_standby(|_| true).await;
            node.pg.stop(StopMode::Fast, PATIENCE).await.unwrap();
            node.pg.wait_exit(PATIENCE).await.unwrap();
        }
        zombie.wait().unwrap();
    });
}

#[test]
fn a_hung_postmaster_is_noticed_though_old_sessions_work() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        node.until_primary(|_| true).await;
        let pid = node.pg.postmaster().borrow().expect("a server");
        signal(pid, "STOP");
        node.until("unresponsive", |seen| {
            matches!(seen.server, Server::Unresponsive { .. })
        })
        .await;
        signal(pid, "CONT");
        node.until_primary(|_| true).await;
    });
}

#[test]
fn a_look_is_never_long_even_if_the_whole_server_hangs() {
    on_each_version(|bench| async move {
        let node = bench.primary("n1", 2).await;
        node.until_primary(|_| true).await;
        let pids = server_pids(&node);
        pids.iter().for_each(|pid| signal(*pid, "STOP"));
        for _ in 0..3 {
            // Twenty times the promise: this is no benchmark, but a look without deadlines would never end.
            let seen = tokio::time::timeout(Duration::from_secs(20), node.pg.observe())
                .await
                .expect("a look that ends");
            assert!(matches!(seen.server, Server::Unresponsive { .. }), "{seen:?}");
            assert!(seen.control.is_some());
        }
        let killer = node.pg.killer();
        tokio::task::spawn_blocking(move || killer.kill(PATIENCE))
            .await
            .unwrap()
            .unwrap();
        node.until_down().await;
    });
}

#[test]
fn a_server_that_cannot_start_says_why() {
    on_each_version(|bench| async move {
        let mut config = bench.config("n1");
        config
            .parameters
            .insert("shared_buffers".to_owned(), "1 parsec".to_owned());
        let node = Node::open(config);
        node.pg.initdb().await.unwrap();
        let error = node.pg.start(&conf(None)).await.unwrap_err();
        assert!(error.to_string().contains("shared_buffers"), "{error}");
        let seen = node.pg.observe().await;
        assert_eq!(seen.server, Server::Down);
        assert!(seen.trouble.is_some_and(|why| why.contains("shared_buffers")));
    });
}

/// A fingerprint of all WAL that a server has written.
fn wal_digest(data_dir: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut names: Vec<_> = std::fs::read_dir(data_dir.join("pg_wal"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    names.sort();
    let mut hasher = DefaultHasher::new();
    for name in names.iter().filter(|name| name.is_file()) {
        hasher.write(&std::fs::read(name).unwrap());
    }
    hasher.finish()
}

fn server_pids(node: &Node) -> Vec<i32> {
    let postmaster = node.pg.postmaster().borrow().expect("a server");
    let children = Command::new("ps")
        .args(["-o", "pid=", "--ppid", &postmaster.to_string()])
        .output()
        .unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    let mut pids: Vec<i32> = children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    pids.push(postmaster);
    pids
}

fn until_zombie(pid: i32) {
    let begun = Instant::now();
    while !std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .unwrap_or_default()
        .contains(") Z ")
    {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

fn signal(pid: i32, name: &str) {
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}
