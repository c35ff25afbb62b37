//! Whether the CHECKs of a table say no less than the bound of a partition (the server then attaches it unread), or that none of its
//! rows lies within the bound (it then leaves a default partition unread).
//!
//! Only what is plain is compared: one key column, and conditions joined by AND that hold it against constants of its own
//! type. Where more is said the server may see a proof that is not seen here; never the other way round.

use crate::model::{Expr, TypeName};
use crate::read::{Word, WordKind, with_words};
use std::cmp::Ordering;

/// A constant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(i128),
    Text(String),
}

/// A partition's bound on its one key column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bound {
    /// From the first, included, to the second, excluded; `None`: without limit.
    Range(Option<Limit>, Option<Limit>),
    List(Vec<Limit>),
}

/// An end of a range, or an element of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit(Value);

/// What conditions that all hold say of the column.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Known {
    not_null: bool,
    /// It is at least this, or more than it.
    least: Option<(Value, Included)>,
    /// It is at most this, or less than it.
    most: Option<(Value, Included)>,
    one_of: Option<Vec<Value>>,
}

type Included = bool;

impl Value {
    /// `None`: it cannot be told here, for it is a matter of types or of collations.
    fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Number(one), Value::Number(other)) => Some(one.cmp(other)),
            (Value::Text(one), Value::Text(other)) if one == other => Some(Ordering::Equal),
            (Value::Text(one), Value::Text(other)) => Some(moment(one)?.cmp(&moment(other)?)),
            _ => None,
        }
    }
}

/// A date or a time of day of one, such that later ones are greater.
fn moment(text: &str) -> Option<String> {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    match shape.as_str() {
        "0000-00-00" => Some(format!("{text} 00:00:00")),
        "0000-00-00 00:00:00" => Some(text.to_owned()),
        _ => None,
    }
}

impl Bound {
    /// The bound of `FOR VALUES ...`; `None` for what is not compared: DEFAULT, hashes, several columns.
    pub(super) fn read(bound: &str) -> Option<Bound> {
        with_words("ALTER TABLE t ATTACH PARTITION p ", bound, Bound::of)?
    }

    fn of(words: &[Word<'_>]) -> Option<Bound> {
        let words = strip(words, &["for", "values"])?;
        if let Some(list) = strip(words, &["in"]) {
            let values = split(inside(list)?, ",")
                .into_iter()
                .map(|value| constant(value, None));
            return Some(Bound::List(
                values.map(|value| Some(Limit(value?))).collect::<Option<_>>()?,
            ));
        }
        let from = strip(words, &["from"])?;
        let to = from.iter().position(|word| word.is("to"))?;
        let limit = |words: &[Word<'_>], open: &str| match inside(words)? {
            [word] if word.is(open) => Some(None),
            inner => Some(Some(Limit(constant(inner, None)?))),
        };
        Some(Bound::Range(
            limit(&from[..to], "minvalue")?,
            limit(&from[to + 1..], "maxvalue")?,
        ))
    }

    /// Whether rows for which all of `checks` hold lie within it. `not_null`: the column is.
    pub(super) fn is_implied(
        &self,
        key: &str,
        of: Option<&TypeName>,
        not_null: bool,
        checks: &[&Expr],
    ) -> bool {
        let known = Known::of(key, of, checks);
        if !(not_null || known.not_null) {
            return false;
        }
        let at_least = |limit: &Value| match (&known.least, &known.one_of) {
            (Some((least, _)), _) if least.compare(limit).is_some_and(Ordering::is_ge) => true,
            (_, Some(values)) => values
                .iter()
                .all(|value| value.compare(limit).is_some_and(Ordering::is_ge)),
            _ => false,
        };
        let below = |limit: &Value| match (&known.most, &known.one_of) {
            (Some((most, included)), _)
                if most
                    .compare(limit)
                    .is_some_and(|order| order.is_lt() || order.is_eq() && !included) =>
            {
                true
            }
            (_, Some(values)) => values
                .iter()
                .all(|value| value.compare(limit).is_some_and(Ordering::is_lt)),
            _ => false,
        };
        match self {
            Bound::Range(from, to) => {
                from.as_ref().is_none_or(|from| at_least(&from.0))
                    && to.as_ref().is_none_or(|to| below(&to.0))
            }
            Bound::List(list) => known.one_of.is_some_and(|values| {
                values.iter().all(|value| {
                    list.iter()
                        .any(|one| one.0.compare(value).is_some_and(Ordering::is_eq))
                })
            }),
        }
    }

    /// Whether no row for which all of `checks` hold lies within it.
    pub(super) fn is_excluded(&self, key: &str, of: Option<&TypeName>, checks: &[&Expr]) -> bool {
        let known = Known::of(key, of, checks);
        match self {
            Bound::Range(from, to) => {
                let below = from
                    .as_ref()
                    .zip(known.most.as_ref())
                    .is_some_and(|(from, (most, included))| {
                        most.compare(&from.0)
                            .is_some_and(|order| order.is_lt() || order.is_eq() && !included)
                    });
                let above = to
                    .as_ref()
                    .zip(known.least.as_ref())
                    .is_some_and(|(to, (least, _))| least.compare(&to.0).is_some_and(Ordering::is_ge));
                below || above
            }
            Bound::List(list) => known.one_of.is_some_and(|values| {
                values.iter().all(|value| {
                    list.iter()
                        .all(|one| one.0.compare(value).is_some_and(Ordering::is_ne))
                })
            }),
        }
    }
}

impl Known {
    fn of(key: &str, of: Option<&TypeName>, checks: &[&Expr]) -> Known {
        let mut known = Known::default();
        for check in checks {
            // A condition that cannot be read says nothing.
            let _ = with_words("SELECT ", &check.sql, |words| known.all_of(words, key, of));
        }
        known
    }

    fn all_of(&mut self, condition: &[Word<'_>], key: &str, of: Option<&TypeName>) {
        if let Some(inner) = inside(condition) {
            return self.all_of(inner, key, of);
        }
        if let [name, between, rest @ ..] = condition
            && is_key(name, key)
            && between.is("between")
        {
            if let [low, high] = split(rest, "and")[..] {
                self.compared(">=", constant(low, of));
                self.compared("<=", constant(high, of));
            }
            return;
        }
        let parts = split(condition, "and");
        if parts.len() > 1 {
            for part in parts {
                self.all_of(part, key, of);
            }
            return;
        }
        match condition {
            [name, is, not, null] if is_key(name, key) && is.is("is") && not.is("not") && null.is("null") => {
                self.not_null = true;
            }
            [name, word, list @ ..] if is_key(name, key) && word.is("in") => {
                let values = inside(list).map(|list| split(list, ","));
                let values = values.map(|list| list.into_iter().map(|value| constant(value, of)).collect());
                self.one_of = values.unwrap_or(None).or(self.one_of.take());
            }
            [name, rest @ ..] if is_key(name, key) => {
                let symbols = rest
                    .iter()
                    .take_while(|word| word.kind == WordKind::Symbol && is_comparison(word.text));
                let symbols: Vec<&str> = symbols.map(|word| word.text).collect();
                self.compared(&symbols.concat(), constant(&rest[symbols.len()..], of));
            }
            _ => {}
        }
    }

    fn compared(&mut self, how: &str, with: Option<Value>) {
        let Some(value) = with else { return };
        match how {
            "=" => self.one_of = Some(vec![value]),
            ">" => self.least = Some((value, false)),
            ">=" => self.least = Some((value, true)),
            "<" => self.most = Some((value, false)),
            "<=" => self.most = Some((value, true)),
            _ => {}
        }
    }
}

fn is_comparison(symbol: &str) -> bool {
    symbol.chars().all(|c| matches!(c, '<' | '>' | '='))
}

fn is_key(word: &Word<'_>, key: &str) -> bool {
    word.is_name() && word.folded == key
}

/// What stands between parentheses that embrace all of it.
fn inside<'w, 'a>(words: &'w [Word<'a>]) -> Option<&'w [Word<'a>]> {
    let [open, inner @ .., close] = words else {
        return None;
    };
    let mut depth = 1_u32;
    for word in inner {
        if word.is("(") {
            depth += 1;
        } else if word.is(")") {
            depth = depth.checked_sub(1).filter(|depth| *depth > 0)?;
        }
    }
    (open.is("(") && close.is(")") && depth == 1).then_some(inner)
}

/// The parts between `by`, outside of parentheses; the AND of a BETWEEN does not count.
fn split<'w, 'a>(words: &'w [Word<'a>], by: &str) -> Vec<&'w [Word<'a>]> {
    let (mut depth, mut betweens) = (0_i32, 0_u32);
    let outside = |word: &Word<'_>| {
        if word.is("(") {
            depth += 1;
        } else if word.is(")") {
            depth -= 1;
        }
        if depth == 0 && word.is("between") {
            betweens += 1;
        }
        let separates = depth == 0 && word.is(by);
        if separates && by == "and" && betweens > 0 {
            betweens -= 1;
            return false;
        }
        separates
    };
    words.split(outside).collect()
}

fn strip<'w, 'a>(words: &'w [Word<'a>], first: &[&str]) -> Option<&'w [Word<'a>]> {
    let (head, rest) = words.split_at_checked(first.len())?;
    head.iter()
        .zip(first)
        .all(|(word, first)| word.is(first))
        .then_some(rest)
}

/// A constant of that type; `None` where it is none, or of another type, or where its own type is not known to be the column's.
fn constant(words: &[Word<'_>], of: Option<&TypeName>) -> Option<Value> {
    if let Some(inner) = inside(words) {
        return constant(inner, of);
    }
    let colons = words.iter().position(|word| word.text.starts_with(':'));
    let (value, cast) = words.split_at(colons.unwrap_or(words.len()));
    let cast: Vec<&str> = cast
        .iter()
        .map(|word| word.text.trim_matches(':'))
        .filter(|text| !text.is_empty())
        .collect();
    let (value, cast) = match value {
        [ty, value] if ty.is_name() && value.kind == WordKind::String => {
            (std::slice::from_ref(value), ty.text.to_owned())
        }
        value => (value, cast.join(" ")),
    };
    if let Some(of) = of.filter(|_| !cast.is_empty())
        && TypeName::canonical(&cast.to_ascii_lowercase()) != of.base
    {
        return None;
    }
    match value {
        [one] if one.kind == WordKind::Number => one.text.parse().ok().map(Value::Number),
        [minus, one] if minus.is("-") && one.kind == WordKind::Number => {
            one.text.parse::<i128>().ok().map(|number| Value::Number(-number))
        }
        [one] if one.kind == WordKind::String => {
            let inner = one.text.strip_prefix('\'')?.strip_suffix('\'')?;
            Some(Value::Text(inner.to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expr(sql: &str) -> Expr {
        Expr {
            sql: sql.to_owned(),
            ..Expr::default()
        }
    }

    #[test]
    fn what_lies_within_a_bound_is_told_from_what_may_not() {
        let tens = "FOR VALUES FROM (0) TO (10)";
        let may = "FOR VALUES FROM ('2024-05-01') TO ('2024-06-01')";
        let list = "FOR VALUES IN ('a', 'b')";
        for (bound, check, implied, excluded) in [
            (tens, "k IS NOT NULL AND k >= 0 AND k < 10", true, false),
            (tens, "((k IS NOT NULL) AND ((k >= 3) AND (k <= 9)))", true, false),
            (tens, "k IS NOT NULL AND k BETWEEN 0 AND 9", true, false),
            (tens, "k IS NOT NULL AND k IN (0, 9)", true, false),
            (tens, "k >= 0 AND k < 10", false, false),
            (tens, "k IS NOT NULL AND k >= 0 AND k <= 10", false, false),
            (tens, "k IS NOT NULL AND k > 0", false, false),
            (tens, "k IS NOT NULL AND (k >= 0 OR k < 10)", false, false),
            (tens, "k IS NOT NULL AND k + 0 >= 0 AND k < 10", false, false),
            (tens, "k < 0", false, true),
            (tens, "k >= 10", false, true),
            (tens, "k <= 0", false, false),
            (tens, "k = 10", false, false),
            (
                may,
                "k IS NOT NULL AND k >= '2024-05-01'::date AND k < '2024-06-01'::date",
                true,
                false,
            ),
            (
                may,
                "k IS NOT NULL AND k >= DATE '2024-05-02' AND k < '2024-05-09'",
                true,
                false,
            ),
            (
                may,
                "k IS NOT NULL AND k >= '2024-05-01'::timestamptz AND k < '2024-06-01'::timestamptz",
                false,
                false,
            ),
            (may, "k >= '2024-06-01'", false, true),
            (may, "k < 'may'", false, false),
            (list, "k IS NOT NULL AND k = 'a'", true, false),
            (list, "k IS NOT NULL AND k IN ('b', 'a')", true, false),
            (list, "k IS NOT NULL AND k IN ('b', 'c')", false, false),
            (
                "FOR VALUES FROM (MINVALUE) TO (10)",
                "k IS NOT NULL AND k < 10",
                true,
                false,
            ),
            (
                "FOR VALUES FROM (-5) TO (MAXVALUE)",
                "k IS NOT NULL AND k > -5",
                true,
                false,
            ),
        ] {
            let read = Bound::read(bound).expect(bound);
            let ty = TypeName {
                base: if bound == may {
                    "date"
                } else if bound == list {
                    "text"
                } else {
                    "int4"
                }
                .to_owned(),
                mods: Vec::new(),
                array: false,
                sql: String::new(),
            };
            let checks = [&expr(check)];
            assert_eq!(
                read.is_implied("k", Some(&ty), false, &checks),
                implied,
                "{bound}: {check}"
            );
            assert_eq!(
                read.is_excluded("k", Some(&ty), &checks),
                excluded,
                "{bound}: {check}"
            );
        }
        for bound in [
            "DEFAULT",
            "FOR VALUES WITH (MODULUS 4, REMAINDER 1)",
            "FOR VALUES FROM (1, 2) TO (3, 4)",
            "FOR VALUES IN (lower('A'))",
        ] {
            assert_eq!(Bound::read(bound), None, "{bound}");
        }
    }
}
