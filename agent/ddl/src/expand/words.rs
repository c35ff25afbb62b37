//! An expression, as the server writes it, with other names for its columns.

use crate::model::quote;

/// `sql` with each column that `other` knows under its other name. Strings, functions, types behind `::`, collations, and names
/// behind a dot stay; so does what is written in a way that the server does not write.
pub fn renamed(sql: &str, mut other: impl FnMut(&str) -> Option<String>) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut rest = sql;
    let mut before = String::new();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' => string(rest),
            '"' => quoted(rest),
            c if c.is_alphabetic() || c == '_' => {
                let word = name(rest);
                if word == 1 && matches!(first, 'e' | 'E') && rest[1..].starts_with('\'') {
                    1 + escaped(&rest[1..])
                } else {
                    word
                }
            }
            c if c.is_ascii_digit() => number(rest),
            c => c.len_utf8(),
        };
        let (word, behind) = rest.split_at(length);
        let folded = match first {
            '"' if length > 1 && word.ends_with('"') => Some(word[1..length - 1].replace("\"\"", "\"")),
            c if (c.is_alphabetic() || c == '_') && !word.ends_with('\'') => Some(word.to_lowercase()),
            _ => None,
        };
        let free = !before.ends_with('.')
            && !before.ends_with("::")
            && !before.to_ascii_lowercase().ends_with("collate ")
            && !behind.trim_start().starts_with('(')
            && !behind.starts_with('.');
        match folded.filter(|_| free).and_then(|folded| other(&folded)) {
            Some(instead) => text.push_str(&quote(&instead)),
            None => text.push_str(word),
        }
        before.push_str(word);
        if before.len() > 64 {
            let keep = before.len() - 32;
            let at = (keep..before.len())
                .find(|at| before.is_char_boundary(*at))
                .unwrap_or(keep);
            before.drain(..at);
        }
        rest = behind;
    }
    text
}

/// The length of a string that ends at its second quotation mark; doubled ones are two strings, which comes to the same.
fn string(text: &str) -> usize {
    text[1..].find('\'').map_or(text.len(), |at| at + 2)
}

fn escaped(text: &str) -> usize {
    let mut skip = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if skip => skip = false,
            b'\\' => skip = true,
            b'\'' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn quoted(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        if bytes[at] == b'"' {
            if bytes.get(at + 1) == Some(&b'"') {
                at += 1;
            } else {
                return at + 1;
            }
        }
        at += 1;
    }
    text.len()
}

fn name(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
        .unwrap_or(text.len())
}

fn number(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_renamed_and_nothing_else_is() {
        let cases = [
            ("(a > 0)", "(n > 0)"),
            (
                "USING btree (a, lower(b)) INCLUDE (a) WHERE (a > 10)",
                "USING btree (n, lower(b)) INCLUDE (n) WHERE (n > 10)",
            ),
            ("((a)::text = 'a'::text)", "((n)::text = 'a'::text)"),
            (
                "a(a) + x.a + \"a\" + \"A\" + (1)::a",
                "a(n) + x.a + n + \"A\" + (1)::a",
            ),
            ("(E'it\\'s a' || a)", "(E'it\\'s a' || n)"),
            ("('it''s a' || a)", "('it''s a' || n)"),
            ("(b COLLATE a) || a1 || 1e5", "(b COLLATE a) || a1 || 1e5"),
            ("CHECK ((a IS NOT NULL))", "CHECK ((n IS NOT NULL))"),
        ];
        for (before, after) in cases {
            let found = renamed(before, |name| (name == "a").then(|| "n".to_owned()));
            assert_eq!(found, after, "{before}");
        }
        assert_eq!(renamed("'open", |_| Some("x".to_owned())), "'open");
        assert_eq!(renamed("\"open", |_| Some("x".to_owned())), "\"open");
    }
}
