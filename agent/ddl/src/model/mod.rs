//! What a statement does, in our own words: nothing outside the reading room sees a parser's tree.

mod act;
mod expr;
mod name;
mod table;
mod type_name;

pub use act::{Act, AlteredKind, DomainAct, DroppedKind, IndexAct, ReindexTarget, SequenceAct, TypeAct};
pub use expr::Expr;
pub use name::{Name, quote};
pub use table::{Column, Constraint, ConstraintKind, Generated, TableAction, TablePart};
pub use type_name::TypeName;

/// One statement of a script.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The line of its first word, from 1.
    pub line: usize,
    /// Where it begins and ends (behind its semicolon) in the script, bytes.
    pub start: usize,
    pub end: usize,
    /// Its text without the semicolon.
    pub sql: String,
    pub act: Act,
}
