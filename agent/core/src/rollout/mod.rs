//! What to do next for a rollout, without a clock and without a server.
//!
//! | file | answers |
//! |---|---|
//! | `course` | which move comes next, from the replicated state |
//! | `patience` | how long to wait for a lock, and when to try again |
//! | `pace` | how large the next batch of a backfill is, and what it waits for |

mod course;
mod pace;
mod patience;

pub use course::{Move, next_move};
pub use pace::{BATCH_SMALLEST, Pressure, next_batch, too_much};
pub use patience::{Trouble, conflicting, lock_timeout_ms, pause_ms, strength, trouble};
