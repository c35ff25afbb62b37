//! The words of a statement, and a cursor over them.

use crate::model::Expr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordKind {
    /// A keyword or a plain name.
    Plain,
    /// `"Name"`.
    Quoted,
    String,
    Number,
    Symbol,
}

#[derive(Debug, Clone)]
pub struct Word<'a> {
    pub text: &'a str,
    /// Folded: what PostgreSQL takes a name to be; for keywords, in lower case.
    pub folded: String,
    pub kind: WordKind,
    /// Where it begins in the statement, bytes.
    pub start: usize,
}

impl<'a> Word<'a> {
    pub fn new(text: &'a str, start: usize) -> Word<'a> {
        let first = text.chars().next().unwrap_or(' ');
        let kind = match first {
            '"' => WordKind::Quoted,
            '\'' | '$' => WordKind::String,
            'e' | 'E' | 'b' | 'B' | 'x' | 'X' | 'n' | 'N' if text[1..].starts_with('\'') => WordKind::String,
            'u' | 'U' if text[1..].starts_with("&'") => WordKind::String,
            'u' | 'U' if text[1..].starts_with("&\"") => WordKind::Quoted,
            c if c.is_ascii_digit() => WordKind::Number,
            c if c.is_alphabetic() || c == '_' => WordKind::Plain,
            _ => WordKind::Symbol,
        };
        let folded = match kind {
            WordKind::Quoted => text
                .trim_start_matches(['u', 'U', '&'])
                .trim_matches('"')
                .replace("\"\"", "\""),
            _ => text.to_ascii_lowercase(),
        };
        Word {
            text,
            folded,
            kind,
            start,
        }
    }

    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    pub fn is(&self, what: &str) -> bool {
        matches!(self.kind, WordKind::Plain | WordKind::Symbol) && self.folded == what
    }

    pub fn is_name(&self) -> bool {
        matches!(self.kind, WordKind::Plain | WordKind::Quoted)
    }
}

/// A place in the words of a statement, and the words up to an end.
#[derive(Clone, Copy)]
pub struct Cursor<'w, 'a> {
    sql: &'a str,
    words: &'w [Word<'a>],
    at: usize,
}

impl<'w, 'a> Cursor<'w, 'a> {
    pub fn new(sql: &'a str, words: &'w [Word<'a>]) -> Cursor<'w, 'a> {
        Cursor { sql, words, at: 0 }
    }

    /// A cursor of its own over some of the words.
    pub fn over(&self, words: &'w [Word<'a>]) -> Cursor<'w, 'a> {
        Cursor {
            sql: self.sql,
            words,
            at: 0,
        }
    }

    pub fn done(&self) -> bool {
        self.at >= self.words.len()
    }

    pub fn peek(&self) -> Option<&'w Word<'a>> {
        self.words.get(self.at)
    }

    pub fn rest(&self) -> &'w [Word<'a>] {
        self.words.get(self.at..).unwrap_or_default()
    }

    pub fn next(&mut self) -> Option<&'w Word<'a>> {
        let word = self.words.get(self.at);
        self.at += usize::from(word.is_some());
        word
    }

    /// Whether the next words are these, separated by spaces.
    pub fn at(&self, words: &str) -> bool {
        words
            .split(' ')
            .enumerate()
            .all(|(ahead, word)| self.words.get(self.at + ahead).is_some_and(|next| next.is(word)))
    }

    /// Goes past these words if they are next.
    pub fn eat(&mut self, words: &str) -> bool {
        let found = self.at(words);
        if found {
            self.at += words.split(' ').count();
        }
        found
    }

    /// Goes past the first of these alternatives that is next.
    pub fn eat_any(&mut self, alternatives: &[&str]) -> bool {
        alternatives.iter().any(|words| self.eat(words))
    }

    /// Goes past words until one of these is next, outside of parentheses; the words passed.
    pub fn until(&mut self, stops: &[&str]) -> &'w [Word<'a>] {
        let begin = self.at;
        while !self.done() && !stops.iter().any(|stop| self.at(stop)) {
            self.step_over();
        }
        &self.words[begin..self.at]
    }

    /// Goes past one word, or past a whole pair of parentheses.
    pub fn step_over(&mut self) {
        if self.at("(") {
            self.parens();
        } else {
            self.next();
        }
    }

    /// What is inside the parentheses that begin here; empty if none do.
    pub fn parens(&mut self) -> &'w [Word<'a>] {
        if !self.at("(") {
            return &[];
        }
        let begin = self.at + 1;
        let mut depth = 0_usize;
        while let Some(word) = self.next() {
            if word.is("(") {
                depth += 1;
            } else if word.is(")") {
                depth -= 1;
                if depth == 0 {
                    return &self.words[begin..self.at - 1];
                }
            }
        }
        &self.words[begin.min(self.at)..self.at]
    }

    /// The rest, cut at commas outside of parentheses.
    pub fn list(&self) -> Vec<Cursor<'w, 'a>> {
        let mut parts = Vec::new();
        let mut rest = *self;
        while !rest.done() {
            let part = rest.until(&[","]);
            rest.eat(",");
            parts.push(self.over(part));
        }
        parts
    }

    /// The text of some words of this statement.
    pub fn text(&self, words: &[Word<'a>]) -> String {
        match (words.first(), words.last()) {
            (Some(first), Some(last)) => self
                .sql
                .get(first.start..last.end())
                .unwrap_or_default()
                .to_owned(),
            _ => String::new(),
        }
    }

    /// Some words as an expression.
    pub fn expr(&self, words: &[Word<'a>]) -> Expr {
        let mut expr = Expr {
            sql: self.text(words),
            ..Expr::default()
        };
        for (at, word) in words.iter().enumerate() {
            if !word.is_name() {
                continue;
            }
            if words.get(at + 1).is_some_and(|next| next.is("(")) {
                expr.calls.push(word.folded.clone());
            } else {
                expr.names.push(word.folded.clone());
            }
        }
        expr
    }
}
