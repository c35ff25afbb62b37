//! What is kept of a device's output.

/// The most that is kept, characters.
const KEPT: usize = 500;

/// The end of `output`, on one line, with every one of `secrets` blotted out.
pub(super) fn excerpt<'a>(output: &[u8], secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::from_utf8_lossy(output).into_owned();
    for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "***");
    }
    let line: Vec<&str> = text.split_whitespace().collect();
    let line: String = line.join(" ").chars().filter(|c| !c.is_control()).collect();
    let skip = line.chars().count().saturating_sub(KEPT);
    line.chars().skip(skip).collect()
}

/// The excerpt as the end of an error message.
pub(super) fn quoted(output: &str) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!(": {output}")
    }
}
