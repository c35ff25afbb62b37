//! The grammar of PostgreSQL's own text files: settings, connection strings, SQL literals.

use std::collections::BTreeMap;

/// The settings in a file of the form of `postgresql.conf`: name (in lower case) to value, the last line winning as it
/// does in the server. Include directives are not followed.
pub fn parse_settings(content: &str) -> BTreeMap<String, String> {
    content.lines().filter_map(parse_setting).collect()
}

/// One line `name = value`, `name value` or `name = 'it''s' # comment`; `None` for blank lines and comments.
pub fn parse_setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '-')))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted),
        None => rest
            .split(|c: char| c.is_whitespace() || c == '#')
            .next()?
            .to_owned(),
    };
    Some((name.to_ascii_lowercase(), value))
}

/// Reads up to the closing quote; a doubled quote and a backslash stand for the character itself.
fn unquote(text: &str) -> String {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => value.extend(chars.next()),
            '\'' => break,
            '\\' => value.extend(chars.next()),
            other => value.push(other),
        }
    }
    value
}

/// A value as it must stand in `postgresql.conf`.
pub fn quote_setting(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// A string as it must stand in SQL, whatever `standard_conforming_strings` says.
pub fn sql_literal(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A name as it must stand in SQL and in `pg_hba.conf`, where quotes also take its special meaning from a keyword.
pub fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A libpq connection string of these keywords.
pub fn write_conninfo(pairs: &[(&str, &str)]) -> String {
    let written: Vec<String> = pairs
        .iter()
        .map(|(key, value)| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
            if !value.is_empty() && value.chars().all(plain) {
                format!("{key}={value}")
            } else {
                format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
            }
        })
        .collect();
    written.join(" ")
}

/// The keywords of a libpq connection string of the `key=value` form; empty where it has another form.
pub fn parse_conninfo(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, used) = conninfo_value(after);
        pairs.insert(key.trim().to_owned(), value);
        rest = after[used..].trim_start();
    }
    pairs
}

/// The value at the start of `text` and how many bytes it takes up there.
fn conninfo_value(text: &str) -> (String, usize) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return (value, at + 1),
            c if !quoted && c.is_whitespace() => return (value, at),
            c => value.push(c),
        }
    }
    (value, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_settings_in_every_form_the_server_takes() {
        let content = "port = 5432\n Shared_Buffers 128MB # note\n#port = 1\n\nname = 'it''s \\'quoted\\''\nport=5433\n";
        let settings = parse_settings(content);
        assert_eq!(
            settings.get("port").map(String::as_str),
            Some("5433"),
            "the last line wins"
        );
        assert_eq!(settings.get("shared_buffers").map(String::as_str), Some("128MB"));
        assert_eq!(settings.get("name").map(String::as_str), Some("it's 'quoted'"));
        assert_eq!(settings.len(), 3);
    }

    #[test]
    fn what_is_quoted_reads_back() {
        for value in ["", "plain", "it's", "back\\slash", "'", "a # b"] {
            let line = format!("x = {}", quote_setting(value));
            assert_eq!(parse_setting(&line), Some(("x".to_owned(), value.to_owned())));
            let conninfo = write_conninfo(&[("a", value), ("host", "10.0.0.1"), ("b", value)]);
            let pairs = parse_conninfo(&conninfo);
            assert_eq!(pairs.get("a").map(String::as_str), Some(value), "{conninfo}");
            assert_eq!(pairs.get("b").map(String::as_str), Some(value), "{conninfo}");
            assert_eq!(
                pairs.get("host").map(String::as_str),
                Some("10.0.0.1"),
                "{conninfo}"
            );
        }
    }

    #[test]
    fn sql_literals_cannot_be_broken_out_of() {
        assert_eq!(sql_literal("it's"), "'it''s'");
        assert_eq!(sql_literal("\\'"), "E'\\\\'''");
        assert_eq!(quote_name("we\"ird"), "\"we\"\"ird\"");
    }
}
