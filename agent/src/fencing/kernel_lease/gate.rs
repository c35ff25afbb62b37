//! The gate itself: what may be done to the table, and in which order.

use super::countdown::Countdown;
use super::error::KernelLeaseError;
use super::message::{self, FAMILY_HEADER, Messages, attribute};
use super::netfilter as nf;
use super::place::Place;
use super::ruleset::{COMMENT, Turn, comment_text};
use super::socket::Netlink;
use agent_core::time::ClockReading;
use nix::errno::Errno;
use std::time::Duration;

/// Reads the two clocks of the lease, now.
pub type Clock = Box<dyn Fn() -> ClockReading + Send>;

/// What lets packets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// No lease is needed: the server is a standby, or does not run.
    Unarmed,
    /// Clients are let through while the kernel's timer runs, if one is in force.
    Armed { in_force: bool },
}

/// The table in the kernel, and the socket by which it is changed. All calls return at once, unless another process is
/// changing packet rules at that moment; no disk and, after [`Gate::attach`], no allocation is involved.
pub struct Gate {
    netlink: Netlink,
    messages: Messages,
    place: Place,
    clock: Clock,
    table_flags: u32,
    armed: bool,
    in_force: Option<Turn>,
}

/// How often a renewal that took too long is begun again, with a new look at the clocks.
const TRIES: u32 = 2;

/// How long the timer of a trial is.
const TRIAL: Duration = Duration::from_secs(1);

/// Nobody else changes the table, and it outlives the process.
const PROTECTED: u32 = nf::NFT_TABLE_F_OWNER | nf::NFT_TABLE_F_PERSIST;

/// The table as it was found.
struct Found {
    ours: bool,
    flags: u32,
}

impl Gate {
    /// Finds the table that an earlier process has left, with its state, or makes it, unarmed. One with another layout is
    /// replaced by one that is armed and shut, since nothing else can be said of it.
    ///
    /// The table is in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If it cannot be had here ([`KernelLeaseError::NotPermitted`], [`KernelLeaseError::Unsupported`]), or is in the
    /// hands of another process ([`KernelLeaseError::Taken`]).
    pub fn attach(place: Place, clock: Clock) -> Result<Gate, KernelLeaseError> {
        let mut gate = Gate::new(place, clock)?;
        match gate.look()? {
            None => gate.make(false)?,
            Some(found) if found.ours => gate.take_over(found.flags)?,
            Some(_) => {
                gate.armed = true;
                gate.make(true)?;
            }
        }
        Ok(gate)
    }

    /// The gate that an earlier process has left, if there is one, whatever its layout. Nothing is made.
    ///
    /// # Errors
    /// As [`Gate::attach`].
    pub fn find(place: Place, clock: Clock) -> Result<Option<Gate>, KernelLeaseError> {
        let mut gate = Gate::new(place, clock)?;
        let Some(found) = gate.look()? else {
            return Ok(None);
        };
        gate.take_over(found.flags)?;
        Ok(Some(gate))
    }

    /// A new table that others may change too, as on kernels before 6.9.
    #[cfg(test)]
    pub(super) fn attach_unprotected(place: Place, clock: Clock) -> Result<Gate, KernelLeaseError> {
        let mut gate = Gate::new(place, clock)?;
        gate.table_flags = 0;
        gate.make(false)?;
        Ok(gate)
    }

    fn new(place: Place, clock: Clock) -> Result<Gate, KernelLeaseError> {
        Ok(Gate {
            netlink: Netlink::open().map_err(KernelLeaseError::Unsupported)?,
            messages: Messages::new(),
            place,
            clock,
            table_flags: PROTECTED,
            armed: false,
            in_force: None,
        })
    }

    /// What lets packets through.
    #[must_use]
    pub fn state(&self) -> GateState {
        if self.armed {
            GateState::Armed {
                in_force: self.in_force.is_some(),
            }
        } else {
            GateState::Unarmed
        }
    }

    /// Whether other processes are kept from changing the table, `nft flush ruleset` included (Linux 6.9 and later).
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.table_flags & nf::NFT_TABLE_F_OWNER != 0
    }

    /// Lets clients through until a little before `deadline`, and arms the gate if it is not: packets in between see the
    /// state before or after, nothing else.
    ///
    /// The timer is set where it has no effect, and put in force by a second call only when the clocks, read in between,
    /// show that it ends before the deadline. Whatever this process is held up by, and where: it opens for nothing
    /// that lasts longer. A timer that was put in force earlier goes on as it is if this fails.
    ///
    /// # Errors
    /// [`KernelLeaseError::TooLate`], [`KernelLeaseError::TooSlow`], or what the kernel says. After
    /// [`KernelLeaseError::Disturbed`] call [`Gate::mend`].
    pub fn open_until(&mut self, deadline: ClockReading) -> Result<(), KernelLeaseError> {
        for _ in 0..TRIES {
            let Some(countdown) = Countdown::until(deadline, (self.clock)()) else {
                return Err(KernelLeaseError::TooLate);
            };
            let turn = self.next_turn();
            self.change(|place, m| place.set_timer(m, turn, countdown))?;
            if !countdown.ends_before(deadline, (self.clock)()) {
                continue;
            }
            let (armed, was_in_force) = (self.armed, self.in_force.is_some());
            self.change(|place, m| {
                place.put_in_force(m, turn, was_in_force);
                if !armed {
                    place.arm(m);
                }
            })?;
            self.in_force = Some(turn);
            self.armed = true;
            return Ok(());
        }
        Err(KernelLeaseError::TooSlow)
    }

    /// Does all that opening does to the kernel, without arming.
    pub(super) fn try_timer(&mut self) -> Result<(), KernelLeaseError> {
        // A trial that was cut short may have left one behind.
        let (turn, was_in_force) = (self.next_turn(), self.in_force.is_some());
        let deadline = (self.clock)().plus(TRIAL);
        if let Some(countdown) = Countdown::until(deadline, (self.clock)()) {
            self.batch(|place, m| place.set_timer(m, turn, countdown))
                .map_err(KernelLeaseError::Unsupported)?;
        }
        self.batch(|place, m| place.put_in_force(m, turn, was_in_force))
            .map_err(KernelLeaseError::Unsupported)
    }

    /// Refuses clients from now on, and arms the gate if it is not.
    ///
    /// # Errors
    /// What the kernel says; a timer that is in force still ends by itself.
    pub fn close(&mut self) -> Result<(), KernelLeaseError> {
        let was_in_force = self.in_force.is_some();
        self.change(|place, m| {
            // Also if it is so already: the table may have been removed.
            place.arm(m);
            if was_in_force {
                place.put_out_of_force(m);
            }
        })?;
        self.armed = true;
        self.in_force = None;
        Ok(())
    }

    /// Lets everybody through from now on, lease or not. Only for a server that is a standby, or that has ended and will
    /// be started as one.
    ///
    /// # Errors
    /// What the kernel says; the gate then still asks for a lease.
    pub fn disarm(&mut self) -> Result<(), KernelLeaseError> {
        let was_in_force = self.in_force.is_some();
        if !self.armed {
            return Ok(());
        }
        self.change(|place, m| {
            place.disarm(m);
            if was_in_force {
                place.put_out_of_force(m);
            }
        })?;
        self.armed = false;
        self.in_force = None;
        Ok(())
    }

    /// Makes the table anew after somebody else has removed or changed it. If the gate was armed, so is the new one, and
    /// it is shut.
    ///
    /// # Errors
    /// As [`Gate::attach`].
    pub fn mend(&mut self) -> Result<(), KernelLeaseError> {
        self.in_force = None;
        let exists = self.look()?.is_some();
        self.make(exists)
    }

    /// Removes the table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(mut self) -> Result<(), KernelLeaseError> {
        self.change(Place::remove)
    }

    /// Makes the table, in place of another one if that `exists`. Tried with the protection that newer kernels give,
    /// then without.
    fn make(&mut self, exists: bool) -> Result<(), KernelLeaseError> {
        let armed = self.armed;
        loop {
            let flags = self.table_flags;
            let made = self.batch(|place, m| {
                if exists {
                    place.remove(m);
                }
                place.create(m, flags);
                if armed {
                    place.arm(m);
                }
            });
            match made {
                Err(Errno::EINVAL | Errno::EOPNOTSUPP) if self.table_flags != 0 => self.table_flags = 0,
                Err(Errno::EPERM) => return Err(self.taken()),
                Err(cause) => return Err(KernelLeaseError::Unsupported(cause)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// The timer that is not in force.
    fn next_turn(&self) -> Turn {
        self.in_force.map_or(Turn::A, Turn::other)
    }

    fn take_over(&mut self, flags: u32) -> Result<(), KernelLeaseError> {
        self.table_flags = if flags & nf::NFT_TABLE_F_PERSIST != 0 {
            PROTECTED
        } else {
            0
        };
        let flags = self.table_flags;
        match self.batch(|place, m| place.take_over(m, flags)) {
            Err(Errno::EPERM | Errno::EOPNOTSUPP) => return Err(self.taken()),
            other => other.map_err(|cause| self.refused(cause))?,
        }
        let mut armed = false;
        self.place.ask_armed(&mut self.messages);
        match self.netlink.ask(&self.messages, |_| armed = true) {
            Ok(()) | Err(Errno::ENOENT) => self.armed = armed,
            Err(cause) => return Err(self.refused(cause)),
        }
        let mut in_force = None;
        self.place.ask_in_force(&mut self.messages);
        let asked = self.netlink.ask(&self.messages, |answer| {
            in_force = answer.body.get(FAMILY_HEADER..).and_then(timer_in_force);
        });
        match asked {
            Ok(()) | Err(Errno::ENOENT) => self.in_force = in_force,
            Err(cause) => return Err(self.refused(cause)),
        }
        Ok(())
    }

    fn look(&mut self) -> Result<Option<Found>, KernelLeaseError> {
        let mut found = None;
        self.place.ask_table(&mut self.messages);
        let asked = self.netlink.ask(&self.messages, |answer| {
            let attributes = answer.body.get(FAMILY_HEADER..).unwrap_or_default();
            let comment = attribute(attributes, nf::NFTA_TABLE_USERDATA).and_then(comment_text);
            let flags = attribute(attributes, nf::NFTA_TABLE_FLAGS).and_then(<[u8]>::first_chunk);
            found = Some(Found {
                ours: comment == Some(COMMENT),
                flags: flags.map_or(0, |bytes| u32::from_be_bytes(*bytes)),
            });
        });
        match asked {
            Ok(()) => Ok(found),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::EPERM) => Err(KernelLeaseError::NotPermitted),
            Err(cause) => Err(KernelLeaseError::Unsupported(cause)),
        }
    }

    fn change(&mut self, fill: impl FnOnce(&Place, &mut Messages)) -> Result<(), KernelLeaseError> {
        self.batch(fill).map_err(|cause| self.refused(cause))
    }

    fn batch(&mut self, fill: impl FnOnce(&Place, &mut Messages)) -> Result<(), Errno> {
        let place = &self.place;
        self.messages.batch(|m| fill(place, m));
        self.netlink.ask(&self.messages, |_| {})
    }

    fn taken(&self) -> KernelLeaseError {
        KernelLeaseError::Taken {
            table: self.place.table.clone(),
        }
    }

    fn refused(&self, cause: Errno) -> KernelLeaseError {
        let table = self.place.table.clone();
        match cause {
            // What was there is not, or what was not there is.
            Errno::ENOENT | Errno::EEXIST => KernelLeaseError::Disturbed { table, cause },
            _ => KernelLeaseError::Refused { table, cause },
        }
    }
}

/// Which timer an element of the map names.
fn timer_in_force(attributes: &[u8]) -> Option<Turn> {
    let element = attribute(attributes, nf::NFTA_SET_ELEM_LIST_ELEMENTS)
        .and_then(|list| attribute(list, nf::NFTA_LIST_ELEM))?;
    let verdict =
        attribute(element, nf::NFTA_SET_ELEM_DATA).and_then(|data| attribute(data, nf::NFTA_DATA_VERDICT))?;
    let chain = attribute(verdict, nf::NFTA_VERDICT_CHAIN).and_then(message::text)?;
    [Turn::A, Turn::B].into_iter().find(|turn| turn.chain() == chain)
}
