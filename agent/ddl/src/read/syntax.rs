//! The parser behind a wall: squawk's, pinned to the letter, for its grammar of PostgreSQL 19 and its tolerance.

use super::words::{Word, WordKind};
use squawk_syntax::{SourceFile, SyntaxKind};

/// The most words of a statement that are given to the parser: it calls itself once for each level of nesting, and
/// each word might be a level.
const WORDS_MAX: usize = 20_000;
/// The longest statement that is given to the parser, bytes.
const BYTES_MAX: usize = 1 << 20;

/// Why a statement is not read, and on which of its lines (from 0).
pub struct Trouble {
    pub line_offset: usize,
    pub reason: String,
}

/// The words of a statement, if it is one.
pub fn words(sql: &str) -> Result<Vec<Word<'_>>, Trouble> {
    if sql.len() > BYTES_MAX || rough_words(sql) > WORDS_MAX {
        return Err(Trouble {
            line_offset: 0,
            reason: format!(
                "it has more than {WORDS_MAX} words or {BYTES_MAX} bytes: too much for a change of a schema; it was not read"
            ),
        });
    }
    let parse = SourceFile::parse(sql);
    if let Some(error) = parse.errors().first() {
        let at = usize::from(error.range().start()).min(sql.len());
        let line_offset = sql.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        let near: String = sql
            .get(at..)
            .unwrap_or_default()
            .trim_start()
            .chars()
            .take_while(|c| !c.is_whitespace())
            .take(40)
            .collect();
        let mut reason = error.message().to_owned();
        if !near.is_empty() {
            reason.push_str(&format!(" (near {near})"));
        }
        if has_psql_variable(sql) {
            reason.push_str("; psql's :variables are not filled in here: lint what psql would send");
        }
        return Err(Trouble { line_offset, reason });
    }
    let mut words = Vec::new();
    for token in parse
        .syntax_node()
        .descendants_with_tokens()
        .filter_map(squawk_syntax::SyntaxElement::into_token)
    {
        if matches!(token.kind(), SyntaxKind::WHITESPACE | SyntaxKind::COMMENT) {
            continue;
        }
        let start = usize::from(token.text_range().start());
        let end = usize::from(token.text_range().end());
        if let Some(text) = sql.get(start..end) {
            words.push(Word::new(text, start));
        }
    }
    if words.iter().all(|word| word.kind == WordKind::Symbol) {
        return Err(Trouble {
            line_offset: 0,
            reason: "no SQL statement".to_owned(),
        });
    }
    Ok(words)
}

fn rough_words(sql: &str) -> usize {
    let mut count = 0;
    let mut inside = false;
    for byte in sql.bytes() {
        let word = byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        if (word && !inside) || (!word && !byte.is_ascii_whitespace()) {
            count += 1;
        }
        inside = word;
    }
    count
}

/// `:name`, `:'name'` or `:"name"`, and not a `::cast`.
fn has_psql_variable(sql: &str) -> bool {
    let bytes = sql.as_bytes();
    bytes.windows(2).enumerate().any(|(at, pair)| {
        pair[0] == b':'
            && (pair[1].is_ascii_alphabetic() || matches!(pair[1], b'\'' | b'"' | b'{'))
            && (at == 0 || bytes[at - 1] != b':')
    })
}
