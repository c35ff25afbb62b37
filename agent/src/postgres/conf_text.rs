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

/// Reads up to the closing quote; a doubled quote and a backslash stand for the character itself, except where the
/// backslash begins one of the server's escapes.
fn unquote(text: &str) -> String {
    let mut value = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' if rest.as_str().starts_with('\'') => value.extend(rest.next()),
            '\'' => break,
            '\\' => value.extend(escaped(&mut rest)),
            other => value.push(other),
        }
    }
    value
}

/// What is meant by a backslash and that which follows it.
fn escaped(rest: &mut std::str::Chars<'_>) -> Option<char> {
    let digits = rest
        .as_str()
        .bytes()
        .take(3)
        .take_while(|byte| matches!(byte, b'0'..=b'7'))
        .count();
    if digits > 0 {
        let (octal, after) = rest.as_str().split_at(digits);
        *rest = after.chars();
        // As in the server, which keeps the lower eight bits.
        return u16::from_str_radix(octal, 8)
            .ok()
            .map(|code| char::from((code & 0xff) as u8));
    }
    Some(match rest.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        other => other,
    })
}

/// A value as it must stand in `postgresql.conf`, where a line break would end it.
pub fn quote_setting(value: &str) -> String {
    let escaped = value
        .replace('\\', "\\\\")
        .replace('\'', "''")
        .replace('\n', "\\n")
        .replace('\r', "\\r");
    format!("'{escaped}'")
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
    use proptest::prelude::*;

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

    #[test]
    fn a_line_break_in_a_value_does_not_begin_a_setting() {
        let content = format!("a = {}\n", quote_setting("x\nfsync = off\r\n"));
        let settings = parse_settings(&content);
        assert_eq!(settings.len(), 1, "{content}");
        assert_eq!(settings["a"], "x\nfsync = off\r\n");
    }

    #[test]
    fn escapes_are_read_as_the_server_reads_them() {
        let line = r"a = 'x\ty\101\1\\z\q'";
        assert_eq!(parse_setting(line).expect("a setting").1, "x\ty\u{41}\u{1}\\zq");
    }

    /// A text that a server can hold: without the character zero.
    fn value() -> impl Strategy<Value = String> {
        mangled::any_text(0..40).prop_map(|text| text.replace('\0', ""))
    }

    proptest! {
        #[test]
        fn every_setting_is_read_back_and_makes_no_other(
            values in proptest::collection::vec(value(), 0..5),
        ) {
            let lines = values.iter().enumerate().map(|(n, value)| format!("k{n} = {}\n", quote_setting(value)));
            let content: String = lines.collect();
            prop_assert_eq!(content.lines().count(), values.len());
            let read: Vec<String> = parse_settings(&content).into_values().collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn every_connection_string_is_read_back(values in proptest::collection::vec(value(), 0..5)) {
            let keys: Vec<String> = (0..values.len()).map(|n| format!("k{n}")).collect();
            let pairs: Vec<(&str, &str)> = keys
                .iter()
                .zip(&values)
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            let read: Vec<String> = parse_conninfo(&write_conninfo(&pairs)).into_values().collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn a_connection_string_survives_a_setting(host in value(), password in value()) {
            let conninfo = write_conninfo(&[("host", &host), ("password", &password)]);
            let line = format!("primary_conninfo = {}", quote_setting(&conninfo));
            let (_, read) = parse_setting(&line).expect("a setting");
            let pairs = parse_conninfo(&read);
            prop_assert_eq!((&pairs["host"], &pairs["password"]), (&host, &password));
        }

        #[test]
        fn a_literal_ends_where_it_should(value in value()) {
            let literal = sql_literal(&value);
            let escapes = literal.starts_with('E');
            let inner = literal.trim_start_matches('E').strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            let mut chars = inner.expect("quotes at both ends").chars();
            let mut read = String::new();
            while let Some(c) = chars.next() {
                match c {
                    '\'' => prop_assert_eq!(chars.next(), Some('\''), "it ends too early: {}", literal),
                    '\\' if escapes => prop_assert_eq!(chars.next(), Some('\\')),
                    // With standard_conforming_strings off it would be an escape.
                    '\\' => prop_assert!(false, "{}", literal),
                    _ => {}
                }
                read.push(c);
            }
            prop_assert_eq!(read, value);
        }

        #[test]
        fn any_file_is_read_without_a_panic_and_names_are_names(
            content in prop_oneof![
                mangled::any_text(0..200),
                mangled::text("port = 5432\n Shared_Buffers 128MB # note\nname = 'it''s \\'x\\''\n"),
            ],
        ) {
            for name in parse_settings(&content).keys() {
                prop_assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_graphic()));
            }
            for (key, value) in parse_conninfo(&content) {
                prop_assert!(content.contains(key.as_str()) && value.len() <= content.len());
            }
        }
    }
}
