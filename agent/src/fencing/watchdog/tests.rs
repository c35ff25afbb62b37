//! The keeper over a device that only pretends: its clock is the test's, and instead of a reset it notes one.

use super::keeper::Keeper;
use super::{Device, KernelWatchdog, LeaseSight, Watchdog};
use agent_core::ids::Epoch;
use agent_core::time::ClockReading;
use agent_core::timing::{Timing, TimingProfile};
use agent_core::view::WatchdogState;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the pretended kernel knows.
#[derive(Debug, Default)]
struct Kernel {
    now_ms: u64,
    /// The timeout in force while it is armed, and when it was last petted.
    armed: Option<(u64, u64)>,
    /// When it reset the machine.
    reset_at: Option<u64>,
    pets: u64,
    closed_with_magic: u64,
    /// The shortest timeout that it takes; others are raised to it.
    shortest_s: u64,
    broken: bool,
}

impl Kernel {
    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        if let Some((timeout_s, petted)) = self.armed
            && self.now_ms >= petted + timeout_s * 1_000
        {
            self.reset_at.get_or_insert(petted + timeout_s * 1_000);
        }
    }
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Kernel>>);

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut Kernel) -> T) -> T {
        look(&mut self.0.lock().expect("no panic"))
    }
}

impl Device for Fake {
    fn look(&self) -> io::Result<()> {
        match self.with(|kernel| kernel.broken) {
            true => Err(io::Error::other("no such device")),
            false => Ok(()),
        }
    }
    fn arm(&mut self, timeout_s: u64) -> io::Result<u64> {
        self.look()?;
        self.with(|kernel| {
            let in_force = timeout_s.max(kernel.shortest_s);
            kernel.armed = Some((in_force, kernel.now_ms));
            Ok(in_force)
        })
    }
    fn pet(&mut self) -> io::Result<()> {
        self.with(|kernel| {
            let now = kernel.now_ms;
            let (_, petted) = kernel
                .armed
                .as_mut()
                .ok_or_else(|| io::Error::other("not open"))?;
            *petted = now;
            kernel.pets += 1;
            Ok(())
        })
    }
    fn close(&mut self) -> io::Result<()> {
        self.with(|kernel| {
            kernel.armed = None;
            kernel.closed_with_magic += 1;
        });
        Ok(())
    }
    fn name(&self) -> String {
        "a fake".to_owned()
    }
}

fn at(ms: u64) -> ClockReading {
    ClockReading {
        boot_ns: ms * 1_000_000,
        raw_ns: ms * 1_000_000,
    }
}

/// A keeper, its device, and a lease that the test renews or does not.
struct Rig {
    fake: Fake,
    keeper: Keeper,
    lease: LeaseSight,
}

impl Rig {
    fn new(fake: &Fake) -> Rig {
        Rig {
            fake: fake.clone(),
            keeper: Keeper::new(Box::new(fake.clone()), 1, true),
            lease: LeaseSight {
                now: at(0),
                epoch: Epoch(5),
                renewed: None,
                ended: Epoch(4),
                timing: TimingProfile::Default.timing(),
            },
        }
    }

    /// A holder whose renewals are confirmed for ten seconds; the last one was sent at the given time.
    fn renewed_for_a_while() -> (Rig, u64) {
        let mut rig = Rig::new(&Fake::default());
        let last = rig.renew_for(10_000);
        (rig, last)
    }

    fn now(&self) -> u64 {
        self.fake.with(|kernel| kernel.now_ms)
    }

    fn look(&mut self) {
        self.lease.now = at(self.now());
        self.keeper.step(&self.lease);
    }

    /// Renewals each 500 ms, confirmed 20 ms later; gives when the last one was sent.
    fn renew_for(&mut self, ms: u64) -> u64 {
        let end = self.now() + ms;
        let mut sent = 0;
        while self.now() < end {
            if self.now().is_multiple_of(500) {
                sent = self.now();
            }
            if self.now() >= sent + 20 {
                self.lease.renewed = Some(at(sent));
            }
            self.look();
            self.fake.with(|kernel| kernel.pass(10));
        }
        sent
    }

    /// Nothing is renewed any more; the lease is over on time.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            let lease_over = self
                .lease
                .renewed
                .is_some_and(|sent| at(self.now()).any_reached(sent.plus(self.lease.timing.lease())));
            if lease_over {
                self.lease.renewed = None;
            }
            self.look();
            self.fake.with(|kernel| kernel.pass(10));
        }
    }
}

#[test]
fn it_is_petted_while_the_lease_is_renewed() {
    let (rig, _) = Rig::renewed_for_a_while();
    rig.fake.with(|kernel| {
        assert_eq!((kernel.reset_at, kernel.closed_with_magic), (None, 0));
        assert!(kernel.armed.is_some() && kernel.pets > 100, "{kernel:?}");
    });
    assert_eq!(rig.keeper.report().state, WatchdogState::Armed);
}

#[test]
fn when_renewals_stop_the_machine_is_reset_after_the_lease_and_before_the_voters_are_free() {
    let (mut rig, sent) = Rig::renewed_for_a_while();
    rig.pass(10_000);
    let timing: Timing = rig.lease.timing;
    let reset = rig.fake.with(|kernel| kernel.reset_at).expect("it is reset");
    assert!(
        reset >= sent + timing.lease_ms,
        "sent at {sent}, reset at {reset}"
    );
    assert!(
        reset + 100 <= sent + timing.promise_ms,
        "sent at {sent}, reset at {reset}"
    );
    assert_eq!(rig.fake.with(|kernel| kernel.closed_with_magic), 0);
}

#[test]
fn an_agent_that_stands_still_is_reset_before_the_voters_are_free() {
    let (rig, sent) = Rig::renewed_for_a_while();
    rig.fake.with(|kernel| kernel.pass(10_000));
    let reset = rig.fake.with(|kernel| kernel.reset_at).expect("it is reset");
    assert!(
        reset + 100 <= sent + rig.lease.timing.promise_ms,
        "sent at {sent}, reset at {reset}"
    );
}

#[test]
fn an_agent_that_crashes_does_not_close_it() {
    let (rig, _) = Rig::renewed_for_a_while();
    let fake = rig.fake.clone();
    drop(rig);
    fake.with(|kernel| {
        assert_eq!(kernel.closed_with_magic, 0);
        kernel.pass(1_000);
        assert!(kernel.reset_at.is_some(), "{kernel:?}");
    });
}

#[test]
fn a_fence_receipt_closes_it() {
    let (mut rig, _) = Rig::renewed_for_a_while();
    rig.lease.ended = Epoch(5);
    rig.pass(10_000);
    rig.fake.with(|kernel| {
        assert_eq!(
            (kernel.reset_at, kernel.closed_with_magic, kernel.armed),
            (None, 1, None)
        )
    });
    assert_eq!(rig.keeper.report().state, WatchdogState::Ready);
}

#[test]
fn the_receipt_of_an_earlier_epoch_does_not() {
    let (mut rig, _) = Rig::renewed_for_a_while();
    rig.lease.ended = Epoch(4);
    rig.pass(10_000);
    assert_eq!(rig.fake.with(|kernel| kernel.closed_with_magic), 0);
}

#[test]
fn a_longer_promise_counts_only_once_voters_have_given_it() {
    let (mut rig, sent) = Rig::renewed_for_a_while();
    rig.lease.timing = Timing {
        promise_ms: 60_000,
        ..rig.lease.timing
    };
    rig.pass(10_000);
    let reset = rig.fake.with(|kernel| kernel.reset_at).expect("it is reset");
    assert!(
        reset + 100 <= sent + 2_300,
        "sent at {sent}, reset at {reset}: the voters are bound for 2,300 ms"
    );
    let (mut rig, _) = Rig::renewed_for_a_while();
    rig.lease.timing.promise_ms = 60_000;
    let sent = rig.renew_for(2_000);
    rig.lease.timing.lease_ms = 30_000;
    rig.pass(20_000);
    assert_eq!(
        rig.fake.with(|kernel| kernel.reset_at),
        None,
        "renewed under the longer one at {sent}"
    );
}

#[test]
fn terms_without_room_close_it_and_are_told() {
    let (mut rig, _) = Rig::renewed_for_a_while();
    rig.lease.timing = TimingProfile::LanFast.timing();
    rig.renew_for(3_000);
    let report = rig.keeper.report();
    assert_eq!(report.state, WatchdogState::Absent);
    assert!(report.detail.contains("P + W"), "{report:?}");
    rig.fake
        .with(|kernel| assert_eq!((kernel.reset_at, kernel.armed), (None, None)));
}

#[test]
fn a_device_that_raises_the_timeout_beyond_the_terms_is_not_used() {
    let fake = Fake::default();
    fake.with(|kernel| kernel.shortest_s = 5);
    let mut rig = Rig::new(&fake);
    rig.renew_for(3_000);
    rig.fake
        .with(|kernel| assert_eq!((kernel.reset_at, kernel.armed), (None, None)));
    let report = rig.keeper.report();
    assert_eq!((report.state, report.timeout_s), (WatchdogState::Absent, 5));
}

#[test]
fn a_device_that_fails_is_told_and_tried_again() {
    let fake = Fake::default();
    fake.with(|kernel| kernel.broken = true);
    let mut rig = Rig::new(&fake);
    assert_eq!(
        rig.keeper.report().state,
        WatchdogState::Absent,
        "told before it is needed"
    );
    rig.renew_for(1_000);
    let report = rig.keeper.report();
    assert_eq!(report.state, WatchdogState::Absent);
    assert!(report.detail.contains("no such device"), "{report:?}");
    fake.with(|kernel| kernel.broken = false);
    rig.renew_for(3_000);
    assert_eq!(rig.keeper.report().state, WatchdogState::Armed);
}

#[test]
fn a_clean_stop_of_the_agent_closes_it() {
    let fake = Fake::default();
    let sight = LeaseSight {
        now: at(100),
        renewed: Some(at(100)),
        ..Rig::new(&fake).lease
    };
    let watchdog = Watchdog::start(Box::new(fake.clone()), 1, false, move || sight).expect("a thread");
    let began = Instant::now();
    while watchdog.report().state != WatchdogState::Armed {
        assert!(began.elapsed() < Duration::from_secs(60), "it is not armed");
        std::thread::sleep(Duration::from_millis(5));
    }
    watchdog.stop();
    fake.with(|kernel| assert_eq!((kernel.closed_with_magic, kernel.armed), (1, None)));
}

#[test]
fn what_is_no_device_is_refused_before_it_is_opened() {
    assert!(KernelWatchdog::at(Path::new("/nowhere/watchdog")).arm(1).is_err());
    let file = tempfile::NamedTempFile::new().expect("a file");
    assert!(
        KernelWatchdog::at(file.path()).arm(1).is_err(),
        "a plain file resets nothing"
    );
}

/// Arms the machine's own watchdog for a moment, and closes it. Where there is none, or where a mistake would reset the
/// machine unasked, it says so and passes.
#[test]
fn real_device_is_armed_petted_and_closed() {
    let path = Path::new("/dev/watchdog");
    if std::env::var_os("PGCTL_TEST_WATCHDOG").is_none() {
        eprintln!("skipped: real_device_is_armed_petted_and_closed needs PGCTL_TEST_WATCHDOG=1 and {path:?}");
        return;
    }
    let mut device = KernelWatchdog::at(path);
    let in_force = device.arm(30).expect("armed");
    eprintln!("armed with {in_force} s");
    device.pet().expect("petted");
    device.close().expect("closed");
}
