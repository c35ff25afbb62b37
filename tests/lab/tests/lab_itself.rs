//! The lab's own promises, with plain PostgreSQL servers and no agent: power cuts, cuts in the network, clients that
//! remember. What the lab says of a cluster is worth no more than this.

mod plain;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{DEADLINE, Lab, Program, Target, Writer, WriterOptions, sql, verify, wait_until};
use nix::sys::signal::Signal;
use plain::Plain;

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

#[tokio::test]
async fn a_power_cut_ends_every_process_and_acknowledged_rows_survive_it() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = Plain::new(&lab, "n1").await?;
    Writer::prepare(node.address).await?;
    let writer = Writer::start(Target::Hosts(vec![node.address]), WriterOptions::default());
    writer.wait_for_acks(50, DEADLINE).await?;

    let processes = node.host.processes();
    assert!(
        processes.len() > 5,
        "init, postmaster and its helpers: {processes:?}"
    );
    let postmaster = node.host.postmaster_pid(&node.data()).context("a postmaster")?;
    assert_eq!(node.server.as_ref().and_then(Program::pid), Some(postmaster));

    let cut = node.host.power_off()?;
    for process in processes {
        assert!(
            !exists(Path::new(&format!("/proc/{}", process.pid))),
            "{process:?} survived"
        );
    }
    assert!(!node.host.is_on() && node.host.processes().is_empty());
    assert!(
        exists(&node.data().join("postmaster.pid")),
        "a power cut leaves the stale file behind"
    );

    node.start().await?;
    let back = writer.wait_for_ack_after(cut, DEADLINE).await?;
    assert_eq!(back.server, node.address);
    let history = writer.stop().await;
    let gap = history.longest_gap(cut);
    assert!(
        gap.to == back.acked && gap.length() > back.acked.since(back.sent),
        "{gap:?} should end with {back:?}"
    );
    let verdict = verify(node.address, &history).await?;
    assert!(verdict.is_clean(), "{verdict:?}");
    assert!(verdict.present >= history.acked());
    assert!(history.two_writers().is_none());
    Ok(())
}

#[tokio::test]
async fn a_row_that_vanishes_is_reported_as_lost() -> Result<()> {
    let lab = Lab::new()?;
    let node = Plain::new(&lab, "n1").await?;
    Writer::prepare(node.address).await?;
    let writer = Writer::start(
        Target::One(node.address),
        WriterOptions {
            clients: 1,
            ..Default::default()
        },
    );
    writer.wait_for_acks(10, DEADLINE).await?;
    let history = writer.stop().await;
    sql::query(node.address, "DELETE FROM lab_writes WHERE seq = 7").await?;
    sql::query(node.address, "INSERT INTO lab_writes VALUES (1, 8), (77, 1)").await?;
    let verdict = verify(node.address, &history).await?;
    assert_eq!(
        (verdict.lost, verdict.duplicates, verdict.never_sent),
        (vec![(1, 7)], vec![(1, 8)], vec![(77, 1)])
    );
    Ok(())
}

#[tokio::test]
async fn a_frozen_host_is_silent_until_thawed() -> Result<()> {
    let lab = Lab::new()?;
    let node = Plain::new(&lab, "n1").await?;
    Writer::prepare(node.address).await?;
    let writer = Writer::start(Target::Hosts(vec![node.address]), WriterOptions::default());
    writer.wait_for_acks(10, DEADLINE).await?;
    node.host.freeze()?;
    wait_until("every process is stopped", DEADLINE, || async {
        let processes = node.host.processes();
        let awake: Vec<_> = processes
            .iter()
            .filter(|p| p.state != 'T' && p.inner_pid != 1)
            .collect();
        // Init's own helper is stopped too: only init itself stays awake, to be killed at a power cut.
        if awake.is_empty() {
            Ok(())
        } else {
            bail!("{awake:?}")
        }
    })
    .await?;
    assert!(sql::value(node.address, "SELECT 1").await.is_err());
    node.host.thaw()?;
    let thawed = lab::Mono::now();
    writer.wait_for_ack_after(thawed, DEADLINE).await?;
    writer.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_warning_with_a_success_is_not_an_acknowledgement() -> Result<()> {
    let lab = Lab::new()?;
    let node = Plain::new(&lab, "n1").await?;
    Writer::prepare(node.address).await?;
    // Nobody is there to acknowledge: every commit waits, until the wait is cancelled, which "succeeds".
    sql::query(
        node.address,
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
    )
    .await?;
    sql::query(node.address, "SELECT pg_reload_conf()").await?;
    wait_until("the setting is in force", DEADLINE, || async {
        match sql::value(node.address, "SHOW synchronous_standby_names")
            .await?
            .as_str()
        {
            "nobody" => Ok(()),
            other => bail!("{other}"),
        }
    })
    .await?;
    let patient = WriterOptions {
        clients: 1,
        statement: DEADLINE,
        ..Default::default()
    };
    let writer = Writer::start(Target::One(node.address), patient);
    wait_until("a commit was waiting and was cancelled", DEADLINE, || async {
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        if sql::query(node.address, cancel).await?.is_empty() {
            bail!("none")
        } else {
            Ok(())
        }
    })
    .await?;
    sql::query(node.address, "ALTER SYSTEM RESET synchronous_standby_names").await?;
    sql::query(node.address, "SELECT pg_reload_conf()").await?;
    writer.wait_for_acks(1, DEADLINE).await?;
    let history = writer.stop().await;
    let warned = history.failures.keys().any(|why| why.contains("warning"));
    assert!(warned && !history.unknown.is_empty(), "{:?}", history.failures);
    Ok(())
}

#[tokio::test]
async fn signals_reach_the_program_itself() -> Result<()> {
    let lab = Lab::new()?;
    let mut host = lab.host("n1")?;
    host.power_on().await?;
    let log = lab.dir().join("sleep.log");
    let mut program = host.run(
        &lab::OsUser::current()?,
        &log,
        Path::new("/bin/sleep"),
        &["infinity"],
    )?;
    let pid = wait_until("it runs", DEADLINE, || async { program.pid().context("no pid") }).await?;
    program.signal(Signal::SIGSTOP)?;
    let state = || lab::processes::ProcessInfo::read(pid).map(|process| process.state);
    wait_until("it is stopped", DEADLINE, || async {
        (state() == Some('T')).then_some(()).context("awake")
    })
    .await?;
    program.signal(Signal::SIGCONT)?;
    wait_until("it goes on", DEADLINE, || async {
        (state() == Some('S')).then_some(()).context("asleep")
    })
    .await?;
    program.signal(Signal::SIGSTOP)?;
    wait_until("it is stopped", DEADLINE, || async {
        (state() == Some('T')).then_some(()).context("awake")
    })
    .await?;
    program.signal(Signal::SIGKILL)?;
    assert!(!program.wait().await?.success());
    assert!(host.is_on(), "the host outlives its programs");
    Ok(())
}

#[tokio::test]
async fn cuts_drop_what_they_say_and_heal() -> Result<()> {
    let lab = Lab::with_hosts()?;
    let a = Plain::new(&lab, "a").await?;
    let b = Plain::new(&lab, "b").await?;
    let network = lab.network()?;
    let ends = || Ok::<_, anyhow::Error>((a.host.end()?, b.host.end()?));
    let reaches = |from: &Plain, to: &Plain| {
        let at = (to.address.ip().to_string(), to.address.port().to_string());
        let args = ["-h", &at.0, "-p", &at.1, "-t", "2"];
        from.run("pg_isready", &args).is_ok()
    };
    let (end_a, end_b) = ends()?;
    assert!(reaches(&a, &b) && reaches(&b, &a));

    network.cut(end_a.clone(), end_b.clone())?;
    assert!(!reaches(&a, &b) && !reaches(&b, &a));
    assert_eq!(
        sql::value(a.address, "SELECT 1").await?,
        "1",
        "clients still reach both"
    );
    assert_eq!(sql::value(b.address, "SELECT 1").await?, "1");
    network.heal()?;
    assert!(reaches(&a, &b) && reaches(&b, &a));

    network.cut(end_a.clone(), lab::End::Any)?;
    assert!(!reaches(&a, &b));
    assert!(
        sql::value(a.address, "SELECT 1").await.is_err(),
        "clients are cut off too"
    );
    assert_eq!(sql::value(b.address, "SELECT 1").await?, "1");
    network.heal()?;

    // One way: what b sends to a is dropped, so no TCP connection can be made either way, but one-way traffic flows.
    let listener = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    listener.set_nonblocking(true)?;
    network.cut_one_way(lab::End::Clients, end_a.clone())?;
    let here = lab.our_address();
    let to = format!(
        "echo -n heard > /dev/udp/{here}/{}",
        listener.local_addr()?.port()
    );
    a.host
        .output(&lab::OsUser::current()?, Path::new("/bin/bash"), &["-c", &to])?;
    let mut buffer = [0; 16];
    let heard = wait_until("a is heard", DEADLINE, || {
        let heard = listener.recv(&mut buffer).context("nothing yet");
        async move { heard }
    })
    .await?;
    assert_eq!(heard, "heard".len());
    assert!(
        sql::value(a.address, "SELECT 1").await.is_err(),
        "a cannot hear us"
    );
    network.heal()?;
    assert_eq!(sql::value(a.address, "SELECT 1").await?, "1");
    Ok(())
}

#[tokio::test]
async fn a_lossy_link_loses_a_part_and_a_slow_one_is_slow_until_healed() -> Result<()> {
    // Fewer than fit into the buffer of a socket that nobody reads meanwhile.
    const SENT: usize = 200;
    let lab = Lab::with_hosts()?;
    let a = Plain::new(&lab, "a").await?;
    let network = lab.network()?;
    let listener = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    listener.set_nonblocking(true)?;
    let to = format!("/dev/udp/{}/{}", lab.our_address(), listener.local_addr()?.port());
    let heard = |last: &str| -> Result<usize> {
        let script = format!("for i in $(seq {SENT}); do echo -n x > {to}; done");
        let bash = Path::new("/bin/bash");
        a.host.output(&lab::OsUser::current()?, bash, &["-c", &script])?;
        let mut buffer = [0; 16];
        let mut count = 0;
        while listener.recv(&mut buffer).is_ok() {
            count += 1;
        }
        eprintln!("{last}: {count} of {SENT}");
        Ok(count)
    };
    network.lose(a.host.end()?, lab::End::Any, 50)?;
    let with_loss = heard("50 % loss")?;
    assert!((SENT / 4..SENT * 3 / 4).contains(&with_loss), "{with_loss}");
    network.heal()?;
    assert!(heard("healed")? > SENT * 3 / 4);

    let long = format!("SELECT length('{}')", "x".repeat(1 << 20));
    let answer = || tokio::time::timeout(Duration::from_secs(2), sql::value(a.address, &long));
    network.shape(&a.host.end()?, lab::Shape::Rate { kbit: 50 })?;
    assert!(answer().await.is_err(), "a megabyte takes minutes at this rate");
    network.heal()?;
    assert_eq!(sql::value(a.address, &long).await?, "1048576");
    assert!(
        network
            .shape(&lab::End::Any, lab::Shape::Delay { ms: 1 })
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn a_host_that_loses_power_is_silent_and_comes_back_at_its_address() -> Result<()> {
    let lab = Lab::with_hosts()?;
    let mut node = Plain::new(&lab, "n1").await?;
    let hardware = |node: &Plain| -> Result<String> {
        let user = lab::OsUser::current()?;
        let shown = node
            .host
            .output(&user, Path::new("ip"), &["-o", "link", "show", "eth0"])?;
        let address = shown.split("link/ether ").nth(1).context("an address")?;
        Ok(address.split(' ').next().unwrap_or_default().to_owned())
    };
    let before = hardware(&node)?;
    node.host.power_off()?;
    assert!(sql::value(node.address, "SELECT 1").await.is_err());
    node.start().await?;
    assert_eq!(sql::value(node.address, "SELECT 1").await?, "1");
    // Or those who knew it would look for it in vain for half a minute.
    assert_eq!(hardware(&node)?, before);
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_behind() -> Result<()> {
    let lab = Lab::with_hosts()?;
    let dir = lab.dir().to_owned();
    let node = Plain::new(&lab, "n1").await?;
    let processes = node.host.processes();
    let interface = lab.network()?.uplink().to_owned();
    assert!(exists(&PathBuf::from("/sys/class/net").join(&interface)));
    drop(node);
    drop(lab);
    assert!(!exists(&dir));
    for process in processes {
        assert!(
            !exists(Path::new(&format!("/proc/{}", process.pid))),
            "{process:?}"
        );
    }
    assert!(!exists(&PathBuf::from("/sys/class/net").join(&interface)));
    Ok(())
}
