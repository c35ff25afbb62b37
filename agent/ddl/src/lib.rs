//! What a schema change does to a running PostgreSQL, judged from its text.

pub mod catalog;
pub mod model;
pub mod read;
pub mod text;
pub mod verdict;
