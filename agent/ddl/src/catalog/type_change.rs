//! What a change of a column's type costs: PostgreSQL's binary-coercible pairs and length rules, as a table.

use super::{Catalog, Domain};
use crate::model::TypeName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only the catalogue changes. `same_operators`: indexes on the column stay as they are.
    Free {
        same_operators: bool,
    },
    /// timestamp and timestamptz: free while the session's time zone is UTC; indexes are rebuilt.
    FreeInUtc,
    Rewrite,
    /// The old type is not known, and the new one is often free.
    UnknownOftenFree,
    /// The old type is not known, and the new one is hardly ever free.
    UnknownLikelyRewrite,
}

/// What the judgement of types asks a catalogue.
pub trait Domains {
    fn domain(&self, ty: &TypeName) -> Option<&Domain>;
}

impl Domains for Catalog {
    fn domain(&self, ty: &TypeName) -> Option<&Domain> {
        self.domain_of(ty)
    }
}

/// The cost of changing a column from `old` (if known) to `new`, without USING.
#[must_use]
pub fn type_change(domains: &impl Domains, old: Option<&TypeName>, new: &TypeName) -> Change {
    let Some(old) = old else {
        return unknown(new);
    };
    // A domain's values are stored as its base type's; only its constraints have to be checked.
    if let Some(domain) = domains.domain(new) {
        if domain.constrained {
            return if old.base == new.base {
                FREE
            } else {
                Change::Rewrite
            };
        }
        return type_change(domains, Some(old), &domain.base);
    }
    if let Some(domain) = domains.domain(old) {
        return type_change(domains, Some(&domain.base), new);
    }
    if old.array || new.array {
        // The server coerces an array element by element, even where the elements would be free.
        let free =
            old.array == new.array && old.base == new.base && (old.mods == new.mods || new.mods.is_empty());
        return if free { FREE } else { Change::Rewrite };
    }
    scalar(old, new)
}

const FREE: Change = Change::Free { same_operators: true };
const FREE_OTHER_OPERATORS: Change = Change::Free {
    same_operators: false,
};

fn same(old: &TypeName, new: &TypeName) -> bool {
    old.base == new.base && old.mods == new.mods
}

fn scalar(old: &TypeName, new: &TypeName) -> Change {
    if same(old, new) {
        return FREE;
    }
    let longer = match (old.mods.first(), new.mods.first()) {
        (_, None) => true,
        (Some(old), Some(new)) => new >= old,
        (None, Some(_)) => false,
    };
    match (old.base.as_str(), new.base.as_str()) {
        ("varchar", "varchar") | ("varbit", "varbit") | ("text" | "citext", "varchar") if longer => FREE,
        ("varchar", "text") => FREE,
        ("numeric", "numeric") => match (old.mods.as_slice(), new.mods.as_slice()) {
            (_, []) => FREE,
            ([precision, scale @ ..], [wider, new_scale @ ..])
                if wider >= precision && scale.first().unwrap_or(&0) == new_scale.first().unwrap_or(&0) =>
            {
                FREE
            }
            _ => Change::Rewrite,
        },
        ("timestamp", "timestamp") | ("timestamptz", "timestamptz") | ("time", "time") | ("timetz", "timetz")
        | ("interval", "interval")
            // Six digits are all that there are.
            if longer || new.mods.first() == Some(&6) =>
        {
            FREE
        }
        ("timestamp", "timestamptz") | ("timestamptz", "timestamp") if new.mods.is_empty() => Change::FreeInUtc,
        ("citext" | "xml", "text") | ("text" | "varchar", "citext") | ("citext", "varchar") if longer => {
            FREE_OTHER_OPERATORS
        }
        ("cidr", "inet") => FREE,
        ("int4", "oid") | ("oid", "int4") => FREE_OTHER_OPERATORS,
        ("regclass" | "regproc" | "regtype", "oid" | "int4") | ("oid" | "int4", "regclass" | "regproc" | "regtype") => {
            FREE_OTHER_OPERATORS
        }
        ("bit", "varbit") if longer => FREE_OTHER_OPERATORS,
        _ => Change::Rewrite,
    }
}

fn unknown(new: &TypeName) -> Change {
    if new.array {
        return Change::UnknownLikelyRewrite;
    }
    match (new.base.as_str(), new.mods.as_slice()) {
        ("text" | "varchar" | "numeric" | "varbit" | "citext" | "inet", []) => Change::UnknownOftenFree,
        _ => Change::UnknownLikelyRewrite,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Act;
    use crate::read;

    /// The type as the reader reads it.
    fn ty(written: &str) -> TypeName {
        let script = read::script(&format!("CREATE TABLE t (c {written})"));
        match &script.statements[0].act {
            Act::CreateTable { columns, .. } => columns[0].ty.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_matrix() {
        use Change::{FreeInUtc, Rewrite};
        for (old, new, expected) in [
            ("varchar(10)", "varchar(20)", FREE),
            ("varchar(10)", "character varying", FREE),
            ("varchar(10)", "text", FREE),
            ("varchar(20)", "varchar(10)", Rewrite),
            ("text", "varchar", FREE),
            ("text", "varchar(10)", Rewrite),
            ("numeric(10,2)", "numeric(12,2)", FREE),
            ("numeric(10,2)", "numeric", FREE),
            ("numeric(10,2)", "numeric(12,3)", Rewrite),
            ("numeric", "numeric(10,2)", Rewrite),
            ("int", "integer", FREE),
            ("int", "bigint", Rewrite),
            ("timestamp", "timestamptz", FreeInUtc),
            ("timestamptz", "timestamptz(3)", Rewrite),
            ("timestamp(3) with time zone", "timestamptz", FREE),
            ("char(5)", "text", Rewrite),
            ("char(5)", "char(9)", Rewrite),
            ("json", "jsonb", Rewrite),
            ("varchar(3)[]", "text[]", Rewrite),
            ("varchar(3)[]", "varchar[]", FREE),
            ("int[]", "bigint[]", Rewrite),
            ("cidr", "inet", FREE),
        ] {
            assert_eq!(
                type_change(&Catalog::default(), Some(&ty(old)), &ty(new)),
                expected,
                "{old} to {new}"
            );
        }
    }
}
