//! The agent is frozen, or dies: no answer may come later than the last deadline that it had.

use crate::network::{Client, echo, from_now, gate, in_own_network, place, wait_until};
use crate::renewer::Renewer;
use crate::{assert_open, assert_shut, refusal};
use agent::fencing::kernel_lease::{Gate, GateState, KernelLeaseError};
use agent::lease::clock;
use agent_core::time::ClockReading;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[test]
fn a_frozen_agent_s_server_stops_answering_before_the_lease_ends() {
    in_own_network("a_frozen_agent_s_server", || {
        let server = echo("127.0.0.1:0");
        let renewer = Renewer::start(server, 1_000, 50);
        wait_until("an open gate", || Client::visit(server).is_ok());
        let mut client = Client::connect(server).expect("open");
        for _ in 0..500 {
            client.ask("busy").expect("renewed");
        }
        renewer.freeze();
        let frozen = clock::read();
        let deadline = renewer.last_deadline();
        let last = loop {
            let before = clock::read();
            match client.ask("busy") {
                // The answer left the server before this moment.
                Ok(_) => assert!(
                    !before.any_reached(deadline),
                    "an answer to what was asked after the deadline"
                ),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    break before;
                }
            }
        };
        println!(
            "answers for {:?} after the agent froze, {:?} before its lease ended",
            last.since_longest(frozen),
            last.until_any(deadline)
        );
        assert!(!last.any_reached(deadline));
        wait_until("the deadline", || clock::read().all_reached(deadline));
        assert_shut(server);

        renewer.thaw();
        wait_until("the agent to see that its lease is over", || renewer.is_over());
        assert_shut(server);
    });
}

/// Wherever the process is held: between its clock and the kernel, between the two messages, inside a call. One that sets
/// a timer from "now" and opens at once lets clients in again when it wakes up.
#[test]
fn an_agent_that_wakes_up_in_the_middle_of_a_renewal_opens_nothing() {
    in_own_network("an_agent_that_wakes_up", || {
        let server = echo("127.0.0.1:0");
        for round in 0..30_u64 {
            // Renewing without a pause, so that it is nearly always in the middle of it.
            let renewer = Renewer::start(server, 80, 0);
            std::thread::sleep(Duration::from_micros(5_000 + 337 * round));
            renewer.freeze();
            // Also one that it had worked out and not told yet.
            let deadline = from_now(80);
            wait_until("the deadline", || clock::read().all_reached(deadline));
            renewer.thaw();
            while !renewer.is_over() {
                assert_eq!(
                    refusal(Client::visit(server)),
                    ErrorKind::ConnectionRefused,
                    "round {round}"
                );
            }
            for _ in 0..20 {
                assert_shut(server);
            }
        }
    });
}

/// Clocks that hold the caller up after the reading that `at` names, for longer than the lease.
fn held_up_after(at: u32) -> Box<dyn Fn() -> ClockReading + Send> {
    let readings = AtomicU32::new(0);
    Box::new(move || {
        let now = clock::read();
        if readings.fetch_add(1, Ordering::Relaxed) == at {
            std::thread::sleep(Duration::from_millis(400));
        }
        now
    })
}

#[test]
fn a_renewal_that_is_held_up_before_its_timer_is_set_is_not_put_in_force() {
    in_own_network("held_up_before_its_timer", || {
        let server = echo("127.0.0.1:0");
        let mut gate = Gate::attach(place(server), held_up_after(0)).expect("a table");
        gate.close().expect("shut");
        assert_eq!(gate.open_until(from_now(300)), Err(KernelLeaseError::TooLate));
        assert_eq!(gate.state(), GateState::Armed { in_force: false });
        assert_shut(server);
    });
}

#[test]
fn a_renewal_that_is_held_up_before_it_is_put_in_force_finds_its_timer_run_out() {
    in_own_network("held_up_before_it_is_put_in_force", || {
        let server = echo("127.0.0.1:0");
        let mut gate = Gate::attach(place(server), held_up_after(1)).expect("a table");
        gate.close().expect("shut");
        gate.open_until(from_now(300)).expect("it cannot know");
        assert_shut(server);
        // It is not broken by that.
        gate.open_until(from_now(60_000)).expect("a new lease");
        assert_open(server);
    });
}

#[test]
fn a_new_agent_takes_an_open_gate_over_without_disturbing_a_client() {
    in_own_network("a_new_agent_takes_over", || {
        let server = echo("127.0.0.1:0");
        let mut old = Renewer::start(server, 60_000, 50);
        wait_until("an open gate", || Client::visit(server).is_ok());
        let mut client = Client::connect(server).expect("open");

        let taken = Gate::attach(place(server), Box::new(clock::read)).err();

        old.end();
        assert_eq!(client.ask("no agent").expect("the timer runs"), "no agent");
        let mut new = gate(server);
        assert_eq!(new.state(), GateState::Armed { in_force: true });
        if new.is_protected() {
            assert!(matches!(taken, Some(KernelLeaseError::Taken { .. })), "{taken:?}");
        }
        for _ in 0..5 {
            new.open_until(from_now(60_000)).expect("renewed");
            assert_eq!(client.ask("a new agent").expect("undisturbed"), "a new agent");
        }
        new.close().expect("shut");
        assert_eq!(refusal(client.ask("over")), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_dead_agent_s_gate_shuts_and_stays_armed_for_the_next() {
    in_own_network("a_dead_agent_s_gate", || {
        let server = echo("127.0.0.1:0");
        let mut old = Renewer::start(server, 300, 20);
        wait_until("an open gate", || Client::visit(server).is_ok());
        old.end();
        let deadline = old.last_deadline();
        wait_until("the deadline", || clock::read().all_reached(deadline));
        assert_shut(server);
        let mut new = gate(server);
        assert_shut(server);
        new.disarm().expect("the server was started as a standby");
        assert_open(server);
    });
}
