//! When the machine's watchdog is armed, petted and closed.
//!
//! A watchdog that expires resets the machine, and with it every server that could still write. It is petted only while
//! the newest renewal that a majority acknowledged is fresh, so that it expires before that majority is free
//! ([`Timing::watchdog_patience`](crate::timing::Timing::watchdog_patience)), and it is closed only when there is nothing
//! left to guard against.

use crate::ids::Epoch;
use crate::time::ClockReading;
use std::time::Duration;

/// What can be seen of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    pub now: ClockReading,
    /// The epoch whose lease is held, and when the newest renewal that a majority acknowledged was about to be sent.
    pub renewed: Option<(Epoch, ClockReading)>,
    /// The newest epoch whose server has ended for certain.
    pub ended: Epoch,
    /// For how long after a renewal the watchdog may be petted (`P`); `None` if the terms leave no room for one.
    pub patience: Option<Duration>,
}

/// What is to be done with the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Rest,
    /// Open it: from now on the machine is reset unless it is petted.
    Arm(Epoch),
    Pet(Epoch),
    /// Close it with the magic character: the machine is not reset.
    Close,
}

/// Decides; `armed` is the epoch for which the device was armed or last petted.
///
/// Where the terms leave no room any more, an armed device is closed as well: a machine is not to be reset for a change
/// of settings, and what the watchdog was to prove it does not prove.
#[must_use]
pub fn decide(armed: Option<Epoch>, sight: &Sight) -> Order {
    let fresh = sight
        .renewed
        .filter(|(epoch, _)| *epoch > sight.ended)
        .zip(sight.patience)
        .filter(|((_, sent), patience)| !sight.now.any_reached(sent.plus(*patience)))
        .map(|((epoch, _), _)| epoch);
    match (armed, fresh) {
        (None, Some(epoch)) => Order::Arm(epoch),
        (Some(_), Some(epoch)) => Order::Pet(epoch),
        (Some(armed), None) if armed <= sight.ended || sight.patience.is_none() => Order::Close,
        (Some(_) | None, None) => Order::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> ClockReading {
        ClockReading {
            boot_ns: ms * 1_000_000,
            raw_ns: ms * 1_000_000,
        }
    }

    /// At 1,000 ms, with the renewal of epoch 5 sent at 900 ms and a patience of 500 ms.
    fn sight() -> Sight {
        Sight {
            now: at(1_000),
            renewed: Some((Epoch(5), at(900))),
            ended: Epoch(4),
            patience: Some(Duration::from_millis(500)),
        }
    }

    #[test]
    fn it_is_armed_with_the_first_confirmed_renewal_and_not_before() {
        assert_eq!(decide(None, &sight()), Order::Arm(Epoch(5)));
        let unconfirmed = Sight {
            renewed: None,
            ..sight()
        };
        assert_eq!(decide(None, &unconfirmed), Order::Rest);
    }

    #[test]
    fn it_is_petted_while_the_renewal_is_fresh_and_not_a_moment_longer() {
        let armed = Some(Epoch(5));
        assert_eq!(decide(armed, &sight()), Order::Pet(Epoch(5)));
        let last = Sight {
            now: at(1_399),
            ..sight()
        };
        assert_eq!(decide(armed, &last), Order::Pet(Epoch(5)));
        let late = Sight {
            now: at(1_400),
            ..sight()
        };
        assert_eq!(decide(armed, &late), Order::Rest, "neither petted nor closed");
    }

    #[test]
    fn the_clock_that_runs_ahead_counts() {
        for now in [
            ClockReading {
                boot_ns: 1_400_000_000,
                ..at(1_000)
            },
            ClockReading {
                raw_ns: 1_400_000_000,
                ..at(1_000)
            },
        ] {
            let suspended = Sight { now, ..sight() };
            assert_eq!(decide(Some(Epoch(5)), &suspended), Order::Rest);
        }
    }

    #[test]
    fn it_is_closed_only_when_the_server_has_ended() {
        let over = Sight {
            renewed: None,
            ..sight()
        };
        assert_eq!(
            decide(Some(Epoch(5)), &over),
            Order::Rest,
            "the lease is over, the server may live"
        );
        let receipt = Sight {
            ended: Epoch(5),
            ..sight()
        };
        assert_eq!(decide(Some(Epoch(5)), &receipt), Order::Close);
        assert_eq!(
            decide(None, &receipt),
            Order::Rest,
            "an epoch that has ended arms nothing"
        );
    }

    #[test]
    fn an_epoch_that_goes_on_into_the_next_keeps_it_armed() {
        let next = Sight {
            renewed: Some((Epoch(6), at(900))),
            ..sight()
        };
        assert_eq!(decide(Some(Epoch(5)), &next), Order::Pet(Epoch(6)));
    }

    #[test]
    fn terms_that_leave_no_room_end_its_use() {
        let no_room = Sight {
            patience: None,
            ..sight()
        };
        assert_eq!(decide(None, &no_room), Order::Rest);
        assert_eq!(decide(Some(Epoch(5)), &no_room), Order::Close);
    }
}
