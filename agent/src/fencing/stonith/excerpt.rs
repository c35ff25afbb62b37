//! What is kept of a device's output.

/// The most that is kept, characters.
const KEPT: usize = 500;

/// The end of `output`, on one line, with every one of `secrets` blotted out.
pub(super) fn excerpt<'a>(output: &[u8], secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = on_one_line(&String::from_utf8_lossy(output));
    // Behind that: blanks and control characters in the middle of a secret do not hide it.
    for secret in secrets {
        let secret = on_one_line(secret);
        if !secret.is_empty() {
            text = text.replace(&secret, "***");
        }
    }
    let skip = text.chars().count().saturating_sub(KEPT);
    text.chars().skip(skip).collect()
}

fn on_one_line(text: &str) -> String {
    let shown: String = text
        .chars()
        .filter(|c| c.is_whitespace() || !c.is_control())
        .collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The excerpt as the end of an error message.
pub(super) fn quoted(output: &str) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!(": {output}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_control_character_inside_of_a_secret_does_not_uncover_it() {
        assert_eq!(excerpt(b"login with hun\x07ter2", ["hunter2"]), "login with ***");
        assert_eq!(
            excerpt(b"login with two\n  words", ["two words"]),
            "login with ***"
        );
    }

    proptest! {
        #[test]
        fn an_excerpt_is_one_short_line_without_secrets(
            output in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..900),
                mangled::bytes("login as root with hunter2 refused\nhunter2\r\n\x1b[1m".repeat(12).as_bytes()),
            ],
        ) {
            let kept = excerpt(&output, ["hunter2", "", "two words"]);
            prop_assert!(!kept.contains("hunter2") && !kept.contains("two words"), "{}", kept);
            prop_assert!(kept.chars().count() <= KEPT && !kept.chars().any(char::is_control));
        }
    }
}
