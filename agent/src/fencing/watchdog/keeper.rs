//! What the thread does at each look: the decision is the core's, the device's moods are dealt with here.

use super::{Device, LeaseSight};
use agent_core::ids::Epoch;
use agent_core::time::ClockReading;
use agent_core::timing::Timing;
use agent_core::view::{WatchdogReport, WatchdogState};
use agent_core::watchdog::{Order, Sight, decide};
use std::time::Duration;

/// How long after a failure the device is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

pub(super) struct Keeper {
    device: Box<dyn Device>,
    /// The timeout that is asked for, and in force once it is armed (`W`), seconds.
    timeout_s: u64,
    required: bool,
    armed: Option<Epoch>,
    terms: Option<Terms>,
    /// Why the device was of no use the last time, and until when it is left alone.
    failure: Option<(String, ClockReading)>,
}

/// For how long after a renewal the device may be petted.
#[derive(Clone, Copy)]
struct Terms {
    timing: Timing,
    patience: Option<Duration>,
    /// New terms count for renewals that were sent after they were seen; until one of those is confirmed, the
    /// voters may be bound by the old ones alone.
    before: Option<(ClockReading, Option<Duration>)>,
}

impl Keeper {
    pub(super) fn new(device: Box<dyn Device>, timeout_s: u64, required: bool) -> Keeper {
        // It may come later: each attempt to arm it tries again.
        let missing = device.look().err();
        let failure = missing.map(|error| (unusable(&device.name(), &error), ClockReading::default()));
        Keeper {
            device,
            timeout_s,
            required,
            armed: None,
            terms: None,
            failure,
        }
    }

    pub(super) fn step(&mut self, lease: &LeaseSight) {
        let patience = self.patience(lease);
        let sight = Sight {
            now: lease.now,
            renewed: lease.renewed.map(|sent| (lease.epoch, sent)),
            ended: lease.ended,
            patience,
        };
        match decide(self.armed, &sight) {
            Order::Rest => {}
            Order::Arm(epoch) => self.arm(epoch, lease),
            Order::Pet(epoch) => match self.device.pet() {
                Ok(()) => self.armed = Some(epoch),
                Err(error) => {
                    tracing::error!(device = self.device.name(), %error, "the watchdog cannot be petted: this machine will be reset");
                }
            },
            Order::Close => self.close("it is not needed any more"),
        }
    }

    /// The agent is stopped on purpose.
    pub(super) fn stop(&mut self) {
        if self.armed.is_some() {
            self.close("the agent was told to stop");
        }
    }

    pub(super) fn report(&self) -> WatchdogReport {
        let name = self.device.name();
        let no_room = self
            .terms
            .filter(|terms| terms.patience.is_none())
            .map(|terms| no_room(&terms.timing, self.timeout_s));
        let (state, detail) = match (self.armed, &self.failure, no_room) {
            (Some(_), ..) => (WatchdogState::Armed, name),
            (None, Some((failure, _)), _) => (WatchdogState::Absent, failure.clone()),
            (None, None, Some(why)) => (WatchdogState::Absent, why),
            (None, None, None) => (WatchdogState::Ready, name),
        };
        WatchdogReport {
            required: self.required,
            timeout_s: self.timeout_s,
            state,
            detail,
        }
    }

    fn patience(&mut self, lease: &LeaseSight) -> Option<Duration> {
        let timeout_s = self.timeout_s;
        let terms = self.terms.get_or_insert_with(|| Terms {
            timing: lease.timing,
            patience: lease.timing.watchdog_patience(timeout_s),
            before: None,
        });
        if terms.timing != lease.timing {
            let before = terms.effective();
            *terms = Terms {
                timing: lease.timing,
                patience: lease.timing.watchdog_patience(timeout_s),
                before: Some((lease.now, before)),
            };
        }
        let sent_since = |since: ClockReading| lease.renewed.is_some_and(|sent| sent.all_reached(since));
        if terms.before.is_some_and(|(since, _)| sent_since(since)) {
            terms.before = None;
        }
        terms.effective()
    }

    fn arm(&mut self, epoch: Epoch, lease: &LeaseSight) {
        if self
            .failure
            .as_ref()
            .is_some_and(|(_, until)| !lease.now.any_reached(*until))
        {
            return;
        }
        let name = self.device.name();
        let failed = match self.device.arm(self.timeout_s) {
            Err(error) => unusable(&name, &error),
            Ok(in_force) => {
                self.armed = Some(epoch);
                if in_force != self.timeout_s {
                    self.timeout_s = in_force;
                    self.terms = None;
                    if lease.timing.watchdog_patience(in_force).is_none() {
                        self.close("its timeout is too long");
                    }
                }
                if self.armed.is_some() {
                    tracing::info!(device = name, timeout_s = in_force, %epoch, "the watchdog is armed");
                    self.failure = None;
                    return;
                }
                format!("{name}: {}", no_room(&lease.timing, in_force))
            }
        };
        tracing::error!(failed, "the watchdog could not be armed");
        self.failure = Some((failed, lease.now.plus(TRY_AGAIN)));
    }

    fn close(&mut self, why: &str) {
        match self.device.close() {
            Ok(()) => {
                tracing::info!(device = self.device.name(), why, "the watchdog is closed");
                self.armed = None;
            }
            Err(error) => {
                tracing::error!(device = self.device.name(), %error, "the watchdog cannot be closed: this machine will be reset");
            }
        }
    }
}

impl Terms {
    fn effective(&self) -> Option<Duration> {
        match self.before {
            Some((_, before)) => self.patience.zip(before).map(|(now, before)| now.min(before)),
            None => self.patience,
        }
    }
}

fn unusable(name: &str, error: &std::io::Error) -> String {
    format!("{name}: {error}; check fencing.watchdog_device and fencing.watchdog_timeout_s")
}

fn no_room(timing: &Timing, timeout_s: u64) -> String {
    let broken: Vec<String> = timing
        .watchdog_check(timeout_s)
        .into_iter()
        .filter(|check| !check.holds)
        .map(|check| format!("{}: {}", check.rule, check.arithmetic))
        .collect();
    format!(
        "the terms of the lease leave no room for it: {}",
        broken.join("; ")
    )
}
