//! The kernel lease against the real kernel: what clients of a server see while its gate is unarmed, open, or shut, and
//! when its agent is frozen, dies, or comes back.

mod freezes;
mod network;
mod renewer;
mod setting_up;

use agent::fencing::kernel_lease::{Gate, GateState, KernelLeaseError};
use agent::lease::clock;
use network::{Client, PATIENCE, echo, from_now, gate, in_own_network, place};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Why a client got no answer.
#[track_caller]
fn refusal<T: std::fmt::Debug>(outcome: io::Result<T>) -> ErrorKind {
    outcome.expect_err("the gate should be shut").kind()
}

/// A new client is refused at once, not left to wait.
#[track_caller]
fn assert_shut(server: SocketAddr) {
    assert_eq!(refusal(Client::visit(server)), ErrorKind::ConnectionRefused);
}

#[track_caller]
fn assert_open(server: SocketAddr) {
    assert_eq!(Client::visit(server).expect("the gate should be open"), "hello");
}

#[test]
fn clients_pass_with_a_lease_or_where_none_is_needed_and_are_reset_otherwise() {
    in_own_network("clients_pass_with_a_lease", || {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = echo(address);
            let mut gate = gate(server);
            assert_eq!(gate.state(), GateState::Unarmed);
            let mut standby = Client::connect(server).expect("unarmed");
            assert_eq!(standby.ask("one").expect("an answer"), "one");

            gate.close().expect("armed and shut");
            assert_eq!(refusal(standby.ask("two")), ErrorKind::ConnectionReset);
            assert_shut(server);

            gate.open_until(from_now(60_000)).expect("a minute is enough");
            let mut client = Client::connect(server).expect("let through");
            assert_eq!(client.ask("three").expect("an answer"), "three");

            gate.close().expect("shut again");
            assert_eq!(refusal(client.ask("four")), ErrorKind::ConnectionReset);
            assert_shut(server);

            gate.disarm().expect("the server is a standby now");
            assert_open(server);
        }
    });
}

#[test]
fn to_arm_and_open_a_standby_before_its_promotion_disturbs_no_client() {
    in_own_network("to_arm_and_open_a_standby", || {
        let server = echo("127.0.0.1:0");
        let mut gate = gate(server);
        let mut reader = Client::connect(server).expect("unarmed");
        for _ in 0..200 {
            gate.open_until(from_now(60_000)).expect("armed and open");
            assert_eq!(reader.ask("read").expect("an answer"), "read");
            gate.disarm().expect("unarmed");
            assert_eq!(reader.ask("read").expect("an answer"), "read");
        }
    });
}

#[test]
fn a_client_that_waits_for_its_answer_when_the_timer_ends_is_reset_and_gets_no_part_of_it() {
    in_own_network("a_client_that_waits", || {
        let server = echo("0.0.0.0:0");
        let server = SocketAddr::from(([127, 0, 0, 1], server.port()));
        let mut gate = gate(SocketAddr::from(([0, 0, 0, 0], server.port())));
        // One answer in one packet, and one in many.
        for length in [10, 1_000_000] {
            gate.open_until(from_now(1_500)).expect("open");
            let mut client = Client::connect(server).expect("let through");
            client
                .send(&format!("later 2000 {}", "x".repeat(length)))
                .expect("the timer still runs");
            let asked = Instant::now();
            assert_eq!(refusal(client.answer()), ErrorKind::ConnectionReset);
            assert!(
                asked.elapsed() < PATIENCE,
                "it was told, and did not give up waiting"
            );
        }
    });
}

#[test]
fn renewals_keep_busy_connections_through_many_timers_and_without_them_the_last_one_ends_all() {
    in_own_network("renewals_keep_busy_connections", || {
        let server = echo("127.0.0.1:0");
        let mut gate = gate(server);
        let lease = 1_500;
        let mut deadline = from_now(lease);
        gate.open_until(deadline).expect("open");
        let mut client = Client::connect(server).expect("let through");
        // Far more often than in life, to find any moment in which neither timer lets through.
        let until = Instant::now() + Duration::from_millis(2 * lease);
        let (mut answers, mut timers) = (0, 0);
        while Instant::now() < until {
            let next = from_now(lease);
            match gate.open_until(next) {
                Ok(()) => deadline = next,
                // On a busy machine one may fail; the timer before it goes on.
                Err(error) => assert_eq!(error, KernelLeaseError::TooSlow),
            }
            timers += 1;
            for _ in 0..3 {
                client.ask("busy").expect("a renewed lease keeps connections");
                answers += 1;
            }
        }
        println!("{answers} answers through {timers} timers");
        let last = loop {
            let asked = clock::read();
            if let Err(error) = client.ask("after the last renewal") {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                break asked;
            }
            assert!(!clock::read().any_reached(deadline), "an answer after the lease");
        };
        assert!(
            !last.any_reached(deadline),
            "it ended by itself, before the lease"
        );
        assert_shut(server);
    });
}

#[test]
fn servers_on_one_host_do_not_disturb_each_other() {
    in_own_network("servers_on_one_host", || {
        let first = echo("127.0.0.1:0");
        let same_port = echo(&format!("127.0.0.2:{}", first.port()));
        let other_port = echo("127.0.0.1:0");
        let gate_of = |address, dir: &str| {
            Gate::attach(
                agent::fencing::kernel_lease::Place::new(address, dir.as_ref()),
                Box::new(clock::read),
            )
            .expect("a table of its own")
        };
        let mut shut = gate_of(first, "/n1");
        let mut open = gate_of(same_port, "/n2");
        let _unarmed = gate_of(other_port, "/n3");
        shut.close().expect("shut");
        open.open_until(from_now(60_000)).expect("open");
        assert_shut(first);
        assert_open(same_port);
        assert_open(other_port);
        open.close().expect("shut");
        assert_shut(same_port);
        assert_open(other_port);
        shut.remove().expect("removed");
        assert_open(first);
        assert_shut(same_port);
    });
}

#[test]
fn somebody_who_flushes_all_rules_does_not_open_the_gate() {
    in_own_network("somebody_who_flushes", || {
        let server = echo("127.0.0.1:0");
        let mut gate = gate(server);
        gate.close().expect("shut");
        if !gate.is_protected() {
            eprintln!("skipped somebody_who_flushes: the kernel is older than 6.9");
            return;
        }
        let nft = |arguments: &[&str]| {
            let done = std::process::Command::new("nft").args(arguments).output();
            done.expect("nft; scripts/install-deps installs it")
        };
        assert!(nft(&["flush", "ruleset"]).status.success());
        let table = place(server).table().to_owned();
        assert!(!nft(&["delete", "table", "inet", &table]).status.success());
        assert_shut(server);
        // An operator can read it, and remove it once its agent has ended.
        let shown = nft(&["list", "table", "inet", &table]).stdout;
        let shown = String::from_utf8_lossy(&shown);
        for part in [
            "flags owner",
            "pgctl kernel lease",
            "tcp dport vmap @lease",
            "tcp flags set rst | ack",
        ] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        drop(gate);
        assert_shut(server);
        assert!(nft(&["delete", "table", "inet", &table]).status.success());
        assert_open(server);
    });
}

#[test]
fn a_renewal_takes_so_long() {
    in_own_network("a_renewal_takes", || {
        let server = echo("127.0.0.1:0");
        let mut gate = gate(server);
        let mut took: Vec<Duration> = (0..2_000)
            .map(|_| {
                let began = Instant::now();
                gate.open_until(from_now(2_000)).expect("renewed");
                began.elapsed()
            })
            .collect();
        took.sort();
        println!(
            "one renewal: median {:?}, 99 of 100 {:?}, longest {:?}",
            took[1_000], took[1_980], took[1_999]
        );
    });
}

#[test]
fn a_deadline_that_is_here_opens_nothing() {
    in_own_network("a_deadline_that_is_here", || {
        let server = echo("127.0.0.1:0");
        let mut gate = gate(server);
        gate.close().expect("shut");
        assert_eq!(gate.open_until(from_now(0)), Err(KernelLeaseError::TooLate));
        assert_eq!(gate.open_until(from_now(5)), Err(KernelLeaseError::TooLate));
        assert_shut(server);
    });
}
