//! Backups and archived WAL in an object store.
//!
//! A repository is a directory or a bucket. Everything that a restore needs lies in it, in the open layout of
//! `docs/repository.md`, so that it can be read when no agent is left. This crate links neither the agent nor `pgctl`; both
//! use it.
//!
//! | file | does |
//! |---|---|
//! | `config`, `bucket` | what an operator says of a repository |
//! | `store`, `cloud`, `patience` | the object store behind deadlines: create if absent, read, list; stores that are reached by HTTP; directories that hang |
//! | `envelope`, `codec`, `cipher`, `keys` | one object: header, compression, encryption |
//! | `layout` | the names of objects |
//! | `repository` | one repository opened: objects by name, whole or not at all |
//! | `wal_name`, `page_header` | what a file in `pg_wal` is, and whether it is what its name says |
//! | `wal` | archived WAL: put and get |
//! | `inventory`, `given_up` | which segments are there, which are missing, and which belong to a line; which were let go of |
//! | `tar`, `backup`, `catalogue`, `take_up` | base backups; one whose writer died between the repositories |
//! | `dump` | logical dumps |
//! | `evidence` | what drills found |
//! | `plan`, `unpack`, `over`, `increment` | what a restore would do, and doing it |
//! | `retention`, `marks`, `expiry` | what is kept and what goes: the decision, what a person says about it, carrying it out |
//! | `owner` | which cluster archives into a line |
//! | `verify` | reading it all, and mending it from another repository |
//! | `survey` | what lies there, a lost marker, a change of keys |
//! | `recovery` | what a restored server may fetch, and what it must find |
//!
//! *Invariant:* an object is created once and never overwritten; only `expiry` deletes.
//! *Invariant:* content is given out only after its hash was verified.
//! *Invariant:* "it is not there" is said only by a store that was reached and is known to be the right one.

#![forbid(unsafe_code)]

mod backup;
mod bucket;
mod catalogue;
mod cipher;
mod cloud;
mod codec;
mod config;
mod dump;
mod envelope;
mod error;
mod evidence;
mod expiry;
#[cfg(test)]
mod faulty_store;
mod given_up;
mod increment;
mod inventory;
mod keys;
mod layout;
mod marks;
mod over;
mod owner;
mod page_header;
mod patience;
mod plan;
mod recovery;
mod repository;
mod retention;
mod store;
mod survey;
mod take_up;
mod tar;
mod timestamp;
mod unpack;
mod verify;
mod wal;
mod wal_name;

pub use backup::{BackupFacts, BackupWriter, Progress};
pub use bucket::{Azure, Gcs, S3};
pub use catalogue::{Catalogue, Part, backups, chain, complete, manifest_of};
pub use cipher::Secret;
pub use codec::Codec;
pub use config::{Place, RepositoryConfig};
pub use dump::{Dump, DumpWriter, dumps, forget_dumps, read_dump};
pub use envelope::{Header, Kind};
pub use error::Error;
pub use expiry::{Deleted, Expiry, Going, expire, marked};
pub use given_up::{GivenUp, given_up, note_given_up, still_missing};
pub use inventory::{Hole, Inventory, Span, inventory};
pub use layout::Line;
pub use marks::{Pin, Proof, pin, pins, proofs, unpin};
pub use owner::{Owner, claim, owner, take_over};
pub use page_header::{SegmentFacts, check_segment};
pub use plan::{Plan, Target, Unplannable, plan};
pub use recovery::RecoveryOrder;
pub use repository::Repository;
pub use retention::{Age, Doomed, Expired, Facts, Kept, Policy, Reason, Verdict, Window, decide, windows};
pub use store::Listed;
pub use survey::{Heap, LineSurvey, Rekeyed, Survey, adopt, rekey, survey};
pub use take_up::take_up;
pub use timestamp::{parse as parse_time, show as show_time};
pub use unpack::{Unpacked, restore_into, restore_over};
pub use verify::{Finding, Share, Verified, Wrong, mend, mend_segment, verify};
pub use wal::{Fetched, Source, Stored, WalFileContent};
pub use wal_name::{Segment, WalName};
