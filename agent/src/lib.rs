//! pgctl-agent: the shell around the pure core.

pub mod api;
pub mod app;
pub mod archive;
pub mod config;
pub mod consensus;
pub mod driver;
pub mod durable;
pub mod fencing;
pub mod guard_command;
pub mod hardening;
pub mod incarnation;
pub mod lease;
pub mod notify;
pub mod ports;
pub mod postgres;
pub mod probing;
pub mod rollout;
pub mod sealed;
pub mod telemetry;
pub mod wall_time;
