//! Writing to standard output: a table for people, JSON for programs.

use crate::failure::Failure;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: the names of the fields are stable
    Json,
}

/// Writes `text` and a line break to standard output, without what a terminal would take for an order.
pub fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    write(&plain(text.as_ref()))
}

/// Clears the terminal, to write on it anew.
pub fn clear_screen() -> Result<(), Failure> {
    // Home, and clear to the end of the screen.
    write("\x1b[H\x1b[J")
}

/// `text` with control characters as `\u001b` and the like: names, reasons and output of devices come from elsewhere. In
/// JSON they mean the same so.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            plain.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            plain.push(c);
        }
    }
    plain
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(error) => Err(Failure::local(format!(
            "standard output cannot be written: {error}"
        ))),
    }
}

/// Prints `value` as JSON over several lines.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(value).map_err(not_json)?)
}

/// Prints `value` as JSON on one line, for streams.
pub fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string(value).map_err(not_json)?)
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::local(format!("the answer cannot be written as JSON: {error}"))
}

/// Prints rows under their headings.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(headings.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    // The left padding of the first column, and what pads the last one, are noise.
    let text = table.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect();
    line(lines.join("\n"))
}

/// A value that may be unknown.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A text that may be empty.
pub fn text_or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// Bytes in the unit that fits them, 1 kB being 1024.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1 << 10 {
        return format!("{count} B");
    }
    let step = usize::try_from((count.ilog2() - 10) / 10)
        .unwrap_or(0)
        .min(UNITS.len() - 1);
    let unit = 1_u64 << (10 * (step + 1));
    format!("{}.{} {}", count / unit, count % unit * 10 / unit, UNITS[step])
}

/// Asks on standard error whether to go on; only where a person can answer.
///
/// # Errors
/// The answer is no, or there is nobody to ask.
pub fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{question} Nobody can be asked here: repeat with --yes"
        )));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    match std::io::stdin().read_line(&mut answer) {
        Ok(_) if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") => Ok(()),
        Ok(_) | Err(_) => Err(Failure::Declined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 kB"),
            (1_600_000, "1.5 MB"),
            (16 << 30, "16.0 GB"),
            (u64::MAX, "16383.9 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_gives_a_terminal_orders(text in mangled::any_text(0..60)) {
            let shown = plain(&text);
            prop_assert!(!shown.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')));
            let json = serde_json::to_string(&text).expect("a text");
            prop_assert_eq!(serde_json::from_str::<String>(&plain(&json)).expect("still JSON"), text);
        }

        #[test]
        fn any_number_of_bytes_has_a_unit(count in any::<u64>()) {
            prop_assert!(bytes(count).ends_with('B'));
        }
    }
}
