//! The kernel lease against the real kernel: what clients of a server see while it is unarmed, open, over, disturbed,
//! and while its agent is frozen at the worst moments.

mod network;

use agent::fencing::kernel_lease::GateState;
use network::{Client, echo, from_now, gate, in_own_network};
use std::io::ErrorKind;

#[test]
fn an_unarmed_gate_lets_everybody_through() {
    in_own_network("an_unarmed_gate", || {
        let server = echo("127.0.0.1:0");
        let gate = gate(server);
        assert_eq!(gate.state(), GateState::Unarmed);
        let mut client = Client::connect(server).expect("let through");
        assert_eq!(client.ask("one").expect("an answer"), "one");
    });
}

#[test]
fn without_a_lease_clients_are_reset_and_with_one_they_pass() {
    in_own_network("without_a_lease", || {
        let server = echo("127.0.0.1:0");
        let mut gate = gate(server);
        let mut before = Client::connect(server).expect("unarmed");
        assert_eq!(before.ask("one").expect("an answer"), "one");

        gate.close().expect("armed and shut");
        assert_eq!(refusal(before.ask("two")), ErrorKind::ConnectionReset);
        assert_eq!(
            Client::connect(server).map(drop).expect_err("shut").kind(),
            ErrorKind::ConnectionRefused
        );

        gate.open_until(from_now(60_000)).expect("a minute is enough");
        let mut client = Client::connect(server).expect("let through");
        assert_eq!(client.ask("three").expect("an answer"), "three");

        gate.close().expect("shut again");
        assert_eq!(refusal(client.ask("four")), ErrorKind::ConnectionReset);

        gate.disarm().expect("the server is a standby now");
        assert_eq!(
            Client::connect(server)
                .and_then(|mut c| c.ask("five"))
                .expect("unarmed"),
            "five"
        );
    });
}

fn refusal<T: std::fmt::Debug>(outcome: std::io::Result<T>) -> ErrorKind {
    outcome.expect_err("the gate is shut").kind()
}
