//! What a schema change does to a running PostgreSQL, judged from its text: no server, no files, no clock.
//!
//! [`read`] makes the [`model`] of a script, [`catalog`] keeps what is known of the schema, [`verdict`] judges one
//! statement, [`lint`] whole sets, [`report`] writes it down; [`rules`] explains. [`plan`] makes steps of scripts, [`expand`]
//! those that change a type or a name with the old and the new program side by side.

pub mod catalog;
pub mod expand;
pub mod lint;
pub mod model;
pub mod plan;
pub mod read;
pub mod report;
pub mod rules;
pub mod text;
pub mod verdict;
