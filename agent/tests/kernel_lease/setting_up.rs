//! From the configuration to a gate that runs on a thread of its own.

use crate::network::{Client, echo, from_now, gate, in_own_network, place};
use crate::{assert_open, assert_shut, refusal};
use agent::config::FencePolicy;
use agent::fencing::kernel_lease::{KernelLease, KernelLeaseError, KernelLeasing, Standing, Wanted, probe};
use agent::lease::clock;
use agent_core::ids::Epoch;
use agent_core::view::FenceLayerState;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;

fn started(server: SocketAddr) -> KernelLease {
    let leasing = KernelLeasing::start(FencePolicy::Required, place(server), clock::read);
    let leasing = leasing.expect("nf_tables in a namespace of its own");
    leasing.handle().expect("required, so it is on").clone()
}

fn ordered(lease: &KernelLease, epoch: u64, wanted: Wanted) -> Standing {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(lease.carried_out(lease.want(Epoch(epoch), wanted)))
}

#[test]
fn the_thread_carries_out_what_the_lease_wants() {
    in_own_network("the_thread_carries_out", || {
        let server = echo("127.0.0.1:0");
        let lease = started(server);
        assert_eq!(lease.standing().state, Wanted::Unarmed);
        assert_open(server);

        let until = Wanted::OpenUntil(from_now(60_000));
        let standing = ordered(&lease, 1, until);
        assert_eq!(
            (standing.state, standing.trouble, standing.renewals),
            (until, None, 1)
        );
        let mut client = Client::connect(server).expect("open");

        assert_eq!(ordered(&lease, 1, Wanted::Closed).state, Wanted::Closed);
        assert_eq!(refusal(client.ask("over")), ErrorKind::ConnectionReset);
        assert_shut(server);

        // A renewal that comes too late for its own deadline is given up, and nobody waits for it for ever.
        let late = ordered(&lease, 1, Wanted::OpenUntil(from_now(0)));
        assert_eq!(
            (late.state, late.trouble),
            (Wanted::Closed, Some(KernelLeaseError::TooLate))
        );
        assert_shut(server);

        assert_eq!(ordered(&lease, 1, Wanted::Unarmed).trouble, None);
        assert_open(server);

        // Granted again. The receipt of the epoch before, were it repeated, must not disarm a new primary.
        assert_eq!(ordered(&lease, 2, Wanted::Closed).state, Wanted::Closed);
        assert_eq!(ordered(&lease, 1, Wanted::Unarmed).state, Wanted::Closed);
        assert_shut(server);
    });
}

#[test]
fn switched_off_it_removes_what_an_earlier_agent_left() {
    in_own_network("switched_off", || {
        let server = echo("127.0.0.1:0");
        gate(server).close().expect("shut");
        assert_shut(server);
        let leasing = KernelLeasing::start(FencePolicy::Off, place(server), clock::read).expect("off");
        assert!(leasing.handle().is_none());
        assert_eq!(leasing.report().state, FenceLayerState::Off);
        assert_open(server);
    });
}

#[test]
fn a_trial_leaves_nothing_behind_and_touches_no_packet() {
    in_own_network("a_trial", || {
        let server = echo("127.0.0.1:0");
        let mut client = Client::connect(server).expect("no gate at all");
        probe(&place(server), Box::new(clock::read)).expect("nf_tables in a namespace of its own");
        assert_eq!(client.ask("one").expect("an answer"), "one");
        let tables = Command::new("nft")
            .args(["list", "tables"])
            .output()
            .expect("nft");
        assert_eq!(String::from_utf8_lossy(&tables.stdout), "");
    });
}

#[test]
#[ignore = "a process that another test starts"]
fn process_without_the_capability() {
    let server = SocketAddr::from(([127, 0, 0, 1], 5432));
    let start = |policy| KernelLeasing::start(policy, place(server), clock::read);
    let automatic = start(FencePolicy::Automatic).expect("it does without");
    assert!(
        matches!(automatic, KernelLeasing::Missing(KernelLeaseError::NotPermitted)),
        "{:?}",
        automatic.report()
    );
    assert_eq!(automatic.report().state, FenceLayerState::Missing);
    let required = start(FencePolicy::Required).err().expect("it must not start");
    assert!(required.to_string().contains("CAP_NET_ADMIN"), "{required}");
    assert!(matches!(start(FencePolicy::Off), Ok(KernelLeasing::Off)));
}

#[test]
fn without_the_capability_automatic_does_without_and_required_says_what_is_missing() {
    in_own_network("without_the_capability", || {
        let done = Command::new("setpriv")
            .args(["--bounding-set", "-net_admin", "--"])
            .arg(std::env::current_exe().expect("this test's program"))
            .args([
                "--exact",
                "setting_up::process_without_the_capability",
                "--ignored",
            ])
            .output()
            .expect("setpriv of util-linux");
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && text.contains("1 passed"), "{text}");
    });
}
