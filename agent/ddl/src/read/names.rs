//! Names, lists of names, and types.

use super::words::{Cursor, WordKind};
use crate::model::{Name, TypeName};

impl Cursor<'_, '_> {
    /// A single name, folded.
    pub fn ident(&mut self) -> Option<String> {
        let word = self.peek()?;
        if !word.is_name() {
            return None;
        }
        self.next();
        Some(word.folded.clone())
    }

    /// A name with or without its schema; a database before the schema is dropped.
    pub fn name(&mut self) -> Option<Name> {
        let mut parts = vec![self.ident()?];
        while self.at(".") {
            self.next();
            match self.ident() {
                Some(part) => parts.push(part),
                None => break,
            }
        }
        let name = parts.pop()?;
        Some(Name::new(parts.pop(), name))
    }

    /// A table: `ONLY t`, `ONLY (t)`, `t *`. Also whether it was ONLY.
    pub fn table(&mut self) -> Option<(Name, bool)> {
        let only = self.eat("only");
        let parens = only && self.eat("(");
        let name = self.name()?;
        if parens {
            self.eat(")");
        }
        self.eat("*");
        Some((name, only))
    }

    /// Names with commas between them, to the end of the cursor or the first word that fits no name.
    pub fn names(&mut self) -> Vec<Name> {
        let mut names = Vec::new();
        while let Some((name, _)) = self.table() {
            names.push(name);
            self.parens();
            if !self.eat(",") {
                break;
            }
        }
        names
    }

    /// `(a, b)`: the plain names in it.
    pub fn columns(&mut self) -> Vec<String> {
        let inner = self.parens();
        self.over(inner)
            .list()
            .into_iter()
            .filter_map(|mut part| part.ident())
            .collect()
    }

    /// A type, with modifiers and array bounds.
    pub fn type_name(&mut self) -> Option<TypeName> {
        let begin = self.rest();
        self.eat("setof");
        let mut schema = None;
        let mut words = Vec::new();
        words.push(self.ident()?);
        while self.eat(".") {
            schema = words.pop();
            words.push(self.ident()?);
        }
        let quoted = begin.first().is_some_and(|word| word.kind == WordKind::Quoted);
        match words[0].as_str() {
            _ if schema.is_some() || quoted => {}
            "double" if self.at("precision") => words.extend(self.ident()),
            "national" => {
                words.clear();
                words.extend(self.ident());
                if self.at("varying") {
                    words.extend(self.ident());
                }
            }
            "nchar" => {
                words = vec!["character".to_owned()];
                if self.at("varying") {
                    words.extend(self.ident());
                }
            }
            "character" | "char" | "bit" if self.at("varying") => words.extend(self.ident()),
            _ => {}
        }
        let mut mods = self.modifiers();
        let temporal = matches!(words[0].as_str(), "timestamp" | "time");
        if temporal && (self.at("with time zone") || self.at("without time zone")) {
            for _ in 0..3 {
                words.extend(self.ident());
            }
        }
        if words[0] == "interval" {
            while self.peek().is_some_and(|word| {
                matches!(
                    word.folded.as_str(),
                    "year" | "month" | "day" | "hour" | "minute" | "second" | "to"
                )
            }) {
                self.next();
                mods.extend(self.modifiers());
            }
        }
        let mut array = false;
        loop {
            if self.eat("array") {
                array = true;
            } else if self.at("[") {
                array = true;
                self.until(&["]"]);
                self.eat("]");
            } else {
                break;
            }
        }
        let written = words.join(" ");
        let own_schema = schema.filter(|schema| schema != "public" && schema != "pg_catalog");
        let base = match own_schema {
            Some(schema) => format!("{schema}.{written}"),
            None => TypeName::canonical(&written).to_owned(),
        };
        if matches!(base.as_str(), "bpchar" | "bit") && mods.is_empty() && written != "bpchar" {
            mods.push(1);
        }
        if base == "float8" && written == "float" {
            mods.clear();
        }
        let consumed = begin.len() - self.rest().len();
        Some(TypeName {
            base,
            mods,
            array,
            sql: self.text(&begin[..consumed]),
        })
    }

    /// `(10,2)`; words that are no numbers are left out.
    fn modifiers(&mut self) -> Vec<i64> {
        let inner = self.parens();
        let mut mods = Vec::new();
        let mut negative = false;
        for word in inner {
            match word.kind {
                WordKind::Number => {
                    if let Ok(value) = word.text.parse::<i64>() {
                        mods.push(if negative { -value } else { value });
                    }
                    negative = false;
                }
                _ => negative = word.is("-"),
            }
        }
        mods
    }

    /// Tables that a query in these words reads: what follows FROM and JOIN, without functions and its own WITH names.
    pub fn reads(&self) -> Vec<Name> {
        let words = self.rest();
        let mut own = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let begins_cte = word.is("as")
                && words
                    .get(at + 1)
                    .is_some_and(|next| next.is("(") || next.is("materialized") || next.is("not"));
            if begins_cte && at > 0 && words[at - 1].is_name() {
                own.push(words[at - 1].folded.clone());
            }
        }
        let mut found = Vec::new();
        for (at, word) in words.iter().enumerate() {
            if !(word.is("from") || word.is("join")) || at > 0 && words[at - 1].is("distinct") {
                continue;
            }
            let mut rest = self.over(&words[at + 1..]);
            loop {
                rest.eat("lateral");
                let Some((name, _)) = rest.table() else { break };
                let own_name = name.schema.is_none() && own.contains(&name.name);
                if !rest.at("(") && !own_name && !found.contains(&name) {
                    found.push(name);
                }
                if word.is("join") {
                    break;
                }
                // An alias, with or without AS and columns, then perhaps the next table.
                rest.parens();
                rest.eat("as");
                if !rest.at(",") && rest.peek().is_some_and(super::words::Word::is_name) && !stops_from(&rest)
                {
                    rest.next();
                    rest.parens();
                }
                if !rest.eat(",") {
                    break;
                }
            }
        }
        found
    }

    /// The texts of its strings, unquoted.
    pub fn strings(&self) -> Vec<String> {
        self.rest()
            .iter()
            .filter(|word| word.kind == WordKind::String)
            .map(|word| unquoted(word.text))
            .collect()
    }
}

fn stops_from(cursor: &Cursor<'_, '_>) -> bool {
    [
        "where",
        "group",
        "order",
        "having",
        "limit",
        "union",
        "join",
        "left",
        "right",
        "inner",
        "full",
        "cross",
        "natural",
        "on",
        "for",
        "fetch",
        "offset",
        "window",
        "except",
        "intersect",
        "with",
        "returning",
        "set",
        "using",
    ]
    .iter()
    .any(|word| cursor.at(word))
}

/// The text of a plain string literal.
pub fn unquoted(literal: &str) -> String {
    literal
        .trim_start_matches(['e', 'E'])
        .trim_matches('\'')
        .replace("''", "'")
}
