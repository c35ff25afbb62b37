//! What goes wrong, when, and how it is made.

mod clock;
mod disk;
mod fault;
mod machine;
mod make;
mod network;
mod operator;
mod process;
mod schedule;
mod whom;

pub use clock::Clocks;
pub use disk::Disks;
pub use fault::{Family, Fault, choose};
pub use machine::Machine;
pub use make::{Made, Nemesis};
pub use schedule::{Planned, Rest, Step, Whom, schedule};
