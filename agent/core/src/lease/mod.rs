//! The majority lease: epochs are durable in Raft, renewals live in the memory of a majority of the voters.
//!
//! The two sides are plain state machines. The agent runs them on a thread of its own, the simulator on a clock that
//! it bends. `docs/safety.md` has the argument; in short, for every grant of epoch E + 1:
//!
//! * **L-1** a holder counts its lease from *before* it sent the renewal ([`Holder`]), a voter its promise from
//!   *after* it arrived ([`Voter`]);
//! * **L-2** a voter releases an epoch only when its promise is over, or the holder proved that its server has ended;
//! * **L-3** a voter that released an epoch never supports it again, also after a restart (the pledge is on disk);
//! * **L-4** a voter that restarted, and so forgot its promises, releases nothing for the length of a promise;
//! * **L-5** a lease that has run out is never extended: its holder needs a new epoch;
//! * **L-6** a holder counts on its lease no longer than its guard has confirmed ([`Watch`]), so that the server ends
//!   with the lease although the agent cannot end it.
//!
//! The majority lease goes back to Gray and Cheriton (1989) and PaxosLease (Trencseni et al., 2012).

mod holder;
mod voter;
mod watch;

pub use holder::{Holder, Renewal};
pub use voter::{RenewAnswer, Voter};
pub use watch::Watch;
