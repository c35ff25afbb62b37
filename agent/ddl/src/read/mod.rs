//! From text to the model. `syntax.rs` is all that knows the parser (squawk's); it says whether a statement is
//! PostgreSQL's grammar and gives its words, and the other files read the words.

mod alter;
mod column;
mod constraint;
mod create;
mod names;
mod other;
mod pieces;
mod statement;
mod syntax;
mod words;

pub use pieces::{IndexParts, UpdateParts, index_parts, update_parts};
pub(crate) use words::{Word, WordKind};

use crate::model::{Act, Statement};
use crate::text::{Comment, Piece, PieceKind, split};

/// A script, read.
#[derive(Debug, Clone)]
pub struct Script {
    pub statements: Vec<Statement>,
    /// For each statement its comments, in which suppressions are written: line and text.
    pub comments: Vec<Vec<(usize, String)>>,
}

/// Reads a script. Whatever cannot be read becomes a statement that says so.
#[must_use]
pub fn script(text: &str) -> Script {
    let mut statements = Vec::new();
    let mut comments = Vec::new();
    for piece in split(text) {
        comments.push(own(&piece.comments));
        statements.push(statement(&piece));
    }
    Script { statements, comments }
}

/// Reads the words of `text`, which makes a statement with `before` in front of it; `None` where it does not.
pub(crate) fn with_words<T>(before: &str, text: &str, read: impl FnOnce(&[Word<'_>]) -> T) -> Option<T> {
    let sql = format!("{before}{text}");
    let words = syntax::words(&sql).ok()?;
    let first = words.iter().position(|word| word.start >= before.len())?;
    Some(read(&words[first..]))
}

fn own(comments: &[Comment<'_>]) -> Vec<(usize, String)> {
    comments
        .iter()
        .map(|comment| (comment.line, comment.text.to_owned()))
        .collect()
}

fn statement(piece: &Piece<'_>) -> Statement {
    let act = match piece.kind {
        PieceKind::Meta => Act::Meta(piece.text.split_whitespace().next().unwrap_or("\\").to_owned()),
        PieceKind::Unended(what) => Act::Unread {
            line: piece.line,
            reason: format!("{what} in it never ends; everything behind it was not read"),
        },
        PieceKind::Sql => match syntax::words(piece.text) {
            Ok(words) => statement::read(piece.text, &words),
            Err(trouble) => Act::Unread {
                line: piece.line + trouble.line_offset,
                reason: trouble.reason,
            },
        },
    };
    Statement {
        line: piece.line,
        start: piece.start,
        end: piece.end,
        sql: piece.text.to_owned(),
        act,
    }
}
