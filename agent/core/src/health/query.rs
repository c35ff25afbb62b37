use std::collections::BTreeMap;

/// The parameters of a request, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// `lag`: the most bytes that a standby may be behind the primary.
    pub lag_bytes: Option<u64>,
    /// `replication_state=streaming`: a standby must be connected to its upstream.
    pub streaming: bool,
    /// `tag_NAME=VALUE`: a tag that this node must carry.
    pub tags: BTreeMap<String, String>,
    /// `mode=write`: `/readiness` counts a standby's lag by what it has on disk, not by what it has replayed.
    pub by_received: bool,
}

/// A parameter that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the parameter {parameter} = \"{value}\" is not understood: {allowed}")]
pub struct BadParameter {
    /// Its name.
    pub parameter: String,
    /// What was given.
    pub value: String,
    /// What may be given.
    pub allowed: &'static str,
}

impl Query {
    /// Reads a query string, without its question mark.
    ///
    /// # Errors
    /// The first parameter that is unknown or has no sensible value. A misspelt limit that was silently ignored would
    /// send readers to a standby that lags.
    pub fn parse(text: &str) -> Result<Query, BadParameter> {
        let mut query = Query::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (percent_decoded(name), percent_decoded(value));
            let bad = |allowed| BadParameter {
                parameter: name.clone(),
                value: value.clone(),
                allowed,
            };
            match name.as_str() {
                "lag" => {
                    query.lag_bytes = Some(
                        bytes(&value)
                            .ok_or_else(|| bad("a number of bytes, or of kB, MB, GB or TB, such as 16MB"))?,
                    );
                }
                "replication_state" => match value.as_str() {
                    "streaming" => query.streaming = true,
                    _ => return Err(bad("the only value is streaming")),
                },
                "mode" => match value.as_str() {
                    "apply" => query.by_received = false,
                    "write" => query.by_received = true,
                    _ => return Err(bad("apply or write")),
                },
                _ => match name.strip_prefix("tag_") {
                    Some(tag) if !tag.is_empty() => {
                        query.tags.insert(tag.to_owned(), value.clone());
                    }
                    _ => {
                        return Err(bad(
                            "the parameters are lag, replication_state, mode and tag_NAME",
                        ));
                    }
                },
            }
        }
        Ok(query)
    }
}

/// `16MB` and the like in bytes, 1 kB being 1024. `None` for anything else, and for what 64 bits do not hold.
fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" => 10,
        "mb" => 20,
        "gb" => 30,
        "tb" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Undoes `%41` and `+`. What is no valid escape stands for itself; bytes that are not UTF-8 become U+FFFD.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match tail {
                [high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    let digit = |c: u8| {
                        char::from(c)
                            .to_digit(16)
                            .and_then(|d| u8::try_from(d).ok())
                            .unwrap_or(0)
                    };
                    bytes.push(digit(*high) * 16 + digit(*low));
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lag(text: &str) -> Option<u64> {
        Query::parse(&format!("lag={text}"))
            .ok()
            .and_then(|query| query.lag_bytes)
    }

    #[test]
    fn lag_is_read_with_and_without_a_unit() {
        assert_eq!(lag("0"), Some(0));
        assert_eq!(lag("1048576"), Some(1 << 20));
        assert_eq!(lag("100kB"), Some(100 << 10));
        assert_eq!(lag("16MB"), Some(16 << 20));
        assert_eq!(lag("2gb"), Some(2 << 30));
        assert_eq!(lag("1%20MB"), Some(1 << 20));
    }

    #[test]
    fn what_is_no_lag_is_refused_by_name() {
        for text in [
            "",
            "MB",
            "-1",
            "1.5MB",
            "16XB",
            "99999999999999999999",
            "99999999999TB",
        ] {
            let bad = Query::parse(&format!("lag={text}")).expect_err(text);
            assert_eq!(bad.parameter, "lag");
        }
    }

    #[test]
    fn tags_are_decoded() {
        let query =
            Query::parse("tag_zone=eu%2Dwest&tag_note=a+b&&replication_state=streaming").expect("valid");
        assert_eq!(query.tags["zone"], "eu-west");
        assert_eq!(query.tags["note"], "a b");
        assert!(query.streaming);
    }

    #[test]
    fn a_misspelt_parameter_is_not_ignored() {
        assert_eq!(Query::parse("lga=1MB").expect_err("misspelt").parameter, "lga");
        assert_eq!(Query::parse("tag_=1").expect_err("no tag").parameter, "tag_");
        assert_eq!(Query::parse("mode=fast").expect_err("no such mode").value, "fast");
    }

    #[test]
    fn broken_escapes_stand_for_themselves() {
        for text in ["%", "%4", "%zz", "%ff"] {
            assert!(!percent_decoded(text).is_empty(), "{text}");
        }
    }

    const VALID: &str = "lag=16MB&replication_state=streaming&mode=write&tag_zone=eu%2Dwest&tag_a=b+c";

    proptest! {
        #[test]
        fn any_query_is_read_or_refused_by_the_name_that_is_in_it(
            text in prop_oneof![mangled::any_text(0..60), mangled::text(VALID)],
        ) {
            let asked: Vec<(String, String)> = text
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (percent_decoded(name), percent_decoded(value)))
                .collect();
            match Query::parse(&text) {
                // Nothing was ignored: a limit that is not seen would send readers to a standby that lags.
                Ok(query) => for (name, value) in asked {
                    let taken = match name.as_str() {
                        "lag" => query.lag_bytes.is_some(),
                        "replication_state" => query.streaming,
                        "mode" => matches!(value.as_str(), "apply" | "write"),
                        tag => query.tags.contains_key(tag.strip_prefix("tag_").unwrap_or_default()),
                    };
                    prop_assert!(taken, "{} is ignored in {:?}", name, text);
                },
                Err(bad) => prop_assert!(asked.contains(&(bad.parameter, bad.value))),
            }
        }

        #[test]
        fn what_was_escaped_is_read_as_it_was(value in mangled::any_text(0..40)) {
            let escaped: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let query = Query::parse(&format!("tag_x={escaped}")).expect("a tag");
            prop_assert_eq!(&query.tags["x"], &value);
        }

        #[test]
        fn a_lag_is_never_read_as_another_number(count in any::<u64>(), unit in 0..5_usize) {
            let unit = ["", "kB", "MB", "GB", "TB"][unit];
            let wide = u128::from(count) << (10 * ["", "kB", "MB", "GB", "TB"].iter().position(|u| *u == unit).unwrap_or(0));
            prop_assert_eq!(lag(&format!("{count}{unit}")), u64::try_from(wide).ok());
        }
    }
}
