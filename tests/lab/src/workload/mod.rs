//! Clients that write, what they saw, and the comparison with what is there in the end.

mod history;
mod verify;
mod writer;

pub use history::{Ack, Gap, History};
pub use verify::{Verdict, verify};
pub use writer::{Target, Writer, WriterOptions};

/// The table that writers fill: one row for each transaction. No unique key, so that a row applied twice shows.
pub(crate) const TABLE: &str = "public.lab_writes";
