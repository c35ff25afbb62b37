//! Cuts a script into statements the way psql does, so that a broken one does not spoil the next.

/// A part of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The line its first word is on, from 1.
    pub line: usize,
    /// Where it begins in the script, bytes.
    pub start: usize,
    /// Where it ends, behind its semicolon, bytes.
    pub end: usize,
    /// Without the semicolon.
    pub text: &'a str,
    pub kind: PieceKind,
    /// Comments before it, in it, and behind it on its last line.
    pub comments: Vec<Comment<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    Sql,
    /// A command to psql: `\i`, `\connect`, `\gexec`.
    Meta,
    /// A quotation or a comment that never ends; what it is.
    Unended(&'static str),
}

/// A comment without its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comment<'a> {
    pub line: usize,
    pub text: &'a str,
}

/// Cuts `script` into its pieces. The rows behind `COPY ... FROM STDIN` are left out.
#[must_use]
pub fn split(script: &str) -> Vec<Piece<'_>> {
    Splitter {
        script,
        at: 0,
        line: 1,
        pieces: Vec::new(),
        comments: Vec::new(),
    }
    .run()
}

struct Splitter<'a> {
    script: &'a str,
    at: usize,
    line: usize,
    pieces: Vec<Piece<'a>>,
    comments: Vec<Comment<'a>>,
}

/// What is known of the statement that is being read.
#[derive(Default)]
struct Reading {
    start: usize,
    line: usize,
    parens: usize,
    /// The first words, as psql looks at them to find `BEGIN ATOMIC` bodies.
    words: Vec<String>,
    begins: usize,
    copy_words: Vec<String>,
}

impl<'a> Splitter<'a> {
    fn byte(&self, ahead: usize) -> u8 {
        self.script.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'a str {
        self.script.get(self.at..).unwrap_or_default()
    }

    /// Goes on to `to`, counting lines.
    fn go(&mut self, to: usize) {
        let to = to.min(self.script.len());
        self.line += self.script.as_bytes()[self.at..to]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        self.at = to;
    }

    fn line_end(&self) -> usize {
        self.rest()
            .find('\n')
            .map_or(self.script.len(), |end| self.at + end)
    }

    fn run(mut self) -> Vec<Piece<'a>> {
        let mut reading: Option<Reading> = None;
        while self.at < self.script.len() {
            let byte = self.byte(0);
            if byte.is_ascii_whitespace() {
                self.go(self.at + 1);
                continue;
            }
            if byte == b'-' && self.byte(1) == b'-' {
                let end = self.line_end();
                self.comment(self.at + 2, end, reading.is_some());
                self.go(end);
                continue;
            }
            if byte == b'/' && self.byte(1) == b'*' {
                match self.block_comment() {
                    Some(end) => {
                        self.comment(self.at + 2, end - 2, reading.is_some());
                        self.go(end);
                    }
                    None => return self.unended("a comment", reading),
                }
                continue;
            }
            if byte == b'\\' {
                if let Some(done) = reading.take() {
                    self.finish(done, self.at, self.at);
                }
                self.meta();
                continue;
            }
            if byte == b';' {
                match reading.take() {
                    Some(open) if open.parens > 0 || open.begins > 0 => {
                        self.go(self.at + 1);
                        reading = Some(open);
                    }
                    Some(done) => {
                        let end = self.at;
                        self.go(end + 1);
                        let copies = copies_from_stdin(&done.copy_words);
                        self.finish(done, end, end + 1);
                        if copies {
                            self.skip_rows();
                        }
                    }
                    None => self.go(self.at + 1),
                }
                continue;
            }
            let open = reading.get_or_insert_with(|| Reading {
                start: self.at,
                line: self.line,
                ..Reading::default()
            });
            match byte {
                b'(' => open.parens += 1,
                b')' => open.parens = open.parens.saturating_sub(1),
                _ => {}
            }
            let end = match byte {
                b'\'' => match quoted(self.rest(), b'\'', self.escapes()) {
                    Some(length) => self.at + length,
                    None => return self.unended("a string", reading),
                },
                b'"' => match quoted(self.rest(), b'"', false) {
                    Some(length) => self.at + length,
                    None => return self.unended("a quoted name", reading),
                },
                b'$' if !self.word_before() => match dollar_quoted(self.rest()) {
                    Dollar::Quotation(length) => self.at + length,
                    Dollar::Unended => return self.unended("a dollar quotation", reading),
                    Dollar::None => self.at + 1,
                },
                byte if is_word(byte) => {
                    let length = self
                        .rest()
                        .bytes()
                        .take_while(|byte| is_word(*byte) || *byte == b'$')
                        .count();
                    word(open, &self.rest()[..length]);
                    self.at + length
                }
                _ => self.at + 1,
            };
            self.go(end);
        }
        if let Some(last) = reading {
            let end = self.script.len();
            self.finish(last, end, end);
        }
        self.pieces
    }

    /// Whether the string that begins here takes backslashes: `E'...'`.
    fn escapes(&self) -> bool {
        let before = &self.script.as_bytes()[..self.at];
        matches!(before.last(), Some(b'e' | b'E'))
            && !before.len().checked_sub(2).is_some_and(|at| is_word(before[at]))
    }

    fn word_before(&self) -> bool {
        self.at > 0 && is_word(self.script.as_bytes()[self.at - 1])
    }

    fn comment(&mut self, from: usize, to: usize, inside: bool) {
        let comment = Comment {
            line: self.line,
            text: self.script.get(from..to).unwrap_or_default().trim(),
        };
        // Behind a statement on its last line, a comment is that statement's.
        if !inside
            && self.comments.is_empty()
            && let Some(last) = self.pieces.last_mut()
            && !self.script[last.end.min(self.at)..self.at].contains('\n')
        {
            last.comments.push(comment);
            return;
        }
        self.comments.push(comment);
    }

    fn block_comment(&self) -> Option<usize> {
        let bytes = self.script.as_bytes();
        let (mut at, mut depth) = (self.at, 0_usize);
        while at + 1 < bytes.len() {
            match (bytes[at], bytes[at + 1]) {
                (b'/', b'*') => {
                    depth += 1;
                    at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        return Some(at);
                    }
                }
                _ => at += 1,
            }
        }
        None
    }

    fn finish(&mut self, reading: Reading, text_end: usize, end: usize) {
        let text = self.script[reading.start..text_end].trim_end();
        self.pieces.push(Piece {
            line: reading.line,
            start: reading.start,
            end,
            text,
            kind: PieceKind::Sql,
            comments: std::mem::take(&mut self.comments),
        });
    }

    fn meta(&mut self) {
        let (start, line, end) = (self.at, self.line, self.line_end());
        self.pieces.push(Piece {
            line,
            start,
            end,
            text: self.script[start..end].trim_end(),
            kind: PieceKind::Meta,
            comments: std::mem::take(&mut self.comments),
        });
        self.go(end);
    }

    /// The rows of a COPY end with `\.` on a line of its own.
    fn skip_rows(&mut self) {
        let mut at = self.line_end();
        while at < self.script.len() {
            let begin = at + 1;
            let end = self.script[begin..]
                .find('\n')
                .map_or(self.script.len(), |end| begin + end);
            at = end;
            if self.script[begin..end].trim_end() == "\\." {
                break;
            }
        }
        self.go(at);
    }

    fn unended(mut self, what: &'static str, reading: Option<Reading>) -> Vec<Piece<'a>> {
        let line = self.line;
        let start = reading.map_or(self.at, |reading| reading.start);
        self.pieces.push(Piece {
            line,
            start,
            end: self.script.len(),
            text: self.script[start..].trim_end(),
            kind: PieceKind::Unended(what),
            comments: std::mem::take(&mut self.comments),
        });
        self.pieces
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Notes a word, for what ends a statement: psql counts `BEGIN`, `CASE` and `END` in the bodies of functions.
fn word(reading: &mut Reading, word: &str) {
    let word = word.to_ascii_lowercase();
    let makes_function = {
        let words: Vec<&str> = reading.words.iter().map(String::as_str).collect();
        matches!(
            words.as_slice(),
            ["create", "function" | "procedure", ..]
                | ["create", "or", "replace", "function" | "procedure", ..]
        )
    };
    if makes_function && reading.parens == 0 {
        match word.as_str() {
            "begin" => reading.begins += 1,
            "case" if reading.begins > 0 => reading.begins += 1,
            "end" => reading.begins = reading.begins.saturating_sub(1),
            _ => {}
        }
    }
    if reading.words.len() < 4 {
        reading.words.push(word.clone());
    }
    if reading.words.first().is_some_and(|first| first == "copy") && reading.parens == 0 {
        reading.copy_words.push(word);
    }
}

fn copies_from_stdin(words: &[String]) -> bool {
    words
        .windows(2)
        .any(|pair| pair[0] == "from" && pair[1] == "stdin")
}

/// The length of the quotation at the beginning of `text`.
fn quoted(text: &str, quote: u8, escapes: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        if escapes && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at] != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return Some(at + 1);
        }
    }
    None
}

enum Dollar {
    Quotation(usize),
    Unended,
    None,
}

fn dollar_quoted(text: &str) -> Dollar {
    let Some(tag) = text[1..].find('$').map(|end| &text[..end + 2]) else {
        return Dollar::None;
    };
    let inner = &tag[1..tag.len() - 1];
    if !inner.bytes().all(is_word) || inner.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        return Dollar::None;
    }
    match text[tag.len()..].find(tag) {
        Some(end) => Dollar::Quotation(tag.len() + end + tag.len()),
        None => Dollar::Unended,
    }
}
