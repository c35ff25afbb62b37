//! pgctl-agent: the shell around the pure core.

pub mod api;
pub mod config;
pub mod consensus;
pub mod driver;
pub mod fencing;
pub mod lease;
pub mod ports;
pub mod postgres;
