//! Columns: added, and made NOT NULL.

use super::alter::Effect;
use super::lock::LockMode::{AccessExclusive, ShareRowExclusive};
use super::{Judge, Severity};
use crate::catalog::Table;
use crate::model::{Column, ConstraintKind, Expr, Generated, Name, TypeName};

/// Functions of PostgreSQL and its usual extensions that give another value for each row.
const VOLATILE: &[&str] = &[
    "random",
    "random_normal",
    "gen_random_uuid",
    "gen_random_bytes",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
    "clock_timestamp",
    "timeofday",
    "nextval",
    "setval",
    "currval",
    "lastval",
    "pg_sleep",
    "gen_salt",
];

/// Functions that do not, and what looks like a function and is none.
const STEADY: &[&str] = &[
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "current_date",
    "current_timestamp",
    "current_time",
    "localtimestamp",
    "localtime",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "lower",
    "upper",
    "length",
    "trim",
    "btrim",
    "md5",
    "date_trunc",
    "extract",
    "date_part",
    "make_date",
    "make_interval",
    "make_timestamp",
    "make_timestamptz",
    "to_timestamp",
    "to_date",
    "to_char",
    "to_number",
    "timezone",
    "age",
    "concat",
    "concat_ws",
    "format",
    "replace",
    "substring",
    "substr",
    "left",
    "right",
    "lpad",
    "rpad",
    "abs",
    "floor",
    "ceil",
    "round",
    "trunc",
    "jsonb_build_object",
    "jsonb_build_array",
    "json_build_object",
    "json_build_array",
    "to_json",
    "to_jsonb",
    "array",
    "cast",
    "row",
    "decode",
    "encode",
    "current_setting",
    "current_user",
    "session_user",
    "current_schema",
    "current_database",
    "to_tsvector",
    "int4range",
    "int8range",
    "numrange",
    "daterange",
    "tsrange",
    "tstzrange",
    "point",
    "box",
    "any",
    "in",
    "and",
    "or",
    "not",
    "interval",
    "varchar",
    "char",
    "character",
    "numeric",
    "decimal",
    "bit",
    "timestamp",
    "time",
    "txid_current",
    "sha256",
];

enum Default {
    Steady,
    Volatile,
    Unknown(String),
}

impl Judge<'_> {
    fn volatility(&self, expr: &Expr) -> Default {
        let mut unknown = None;
        for call in &expr.calls {
            match self.catalog.functions.get(call) {
                Some(true) => return Default::Volatile,
                Some(false) => continue,
                None => {}
            }
            if VOLATILE.contains(&call.as_str()) {
                return Default::Volatile;
            }
            if !STEADY.contains(&call.as_str()) {
                unknown = Some(call.clone());
            }
        }
        unknown.map_or(Default::Steady, Default::Unknown)
    }

    pub(super) fn add_column(&mut self, table: &Name, column: &Column) -> Effect {
        let mut effect = Effect::brief(AccessExclusive);
        let name = &column.name;
        let ty = &column.ty;
        let backfill = |value: &str| {
            format!(
                "ALTER TABLE {table} ADD COLUMN {name} {ty};\nALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT \
                 {value};\n-- in batches, each committed:\nUPDATE {table} SET {name} = {value} WHERE {name} IS NULL;"
            )
        };
        let mut fills = column.default.as_ref().is_some_and(|default| !default.is_null());
        if let Some(default) = &column.default {
            let rewrite = match self.volatility(default) {
                Default::Steady => None,
                Default::Volatile => Some(format!(
                    "{} gives every row its own value, so the whole table and all its indexes are written anew while \
                     nobody can read or write it.",
                    default.sql
                )),
                Default::Unknown(function) => Some(format!(
                    "Whether {function}() is volatile is not known here. If it is (the default for functions), the \
                     whole table is written anew while nobody can read or write it."
                )),
            };
            if let Some(message) = rewrite {
                self.danger(table, "H03", message, backfill(&default.sql));
                effect = Effect::rewriting();
            }
        }
        match &column.generated {
            _ if ty.is_serial() || column.generated == Some(Generated::Identity) => {
                fills = true;
                let kind = ty.without_serial();
                let sequence = table.beside(format!("{}_{name}_seq", table.name));
                let message = "Every row gets its number from a sequence, so the whole table is written anew while nobody can \
                     read or write it. A plain column with a default afterwards costs nothing.".to_string();
                let safe = format!(
                    "CREATE SEQUENCE {sequence};\nALTER TABLE {table} ADD COLUMN {name} {kind};\nALTER SEQUENCE \
                     {sequence} OWNED BY {table}.{name};\nALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT \
                     nextval('{sequence}');\n-- in batches, each committed:\nUPDATE {table} SET {name} = \
                     nextval('{sequence}') WHERE {name} IS NULL;"
                );
                self.danger(table, "H04", message, safe);
                effect = Effect::rewriting();
            }
            Some(Generated::Stored(expr)) => {
                fills = true;
                let message = format!(
                    "The value of {name} is computed and stored for every row: the whole table is written anew while \
                     nobody can read or write it."
                );
                let safe = format!(
                    "ALTER TABLE {table} ADD COLUMN {name} {ty};\n-- a BEFORE INSERT OR UPDATE trigger sets it; then, \
                     in batches, each committed:\nUPDATE {table} SET {name} = {} WHERE {name} IS NULL;",
                    expr.sql
                );
                self.danger(table, "H05", message, safe);
                effect = Effect::rewriting();
            }
            Some(Generated::Virtual(_)) => fills = true,
            _ => {}
        }
        if let Some(domain) = self.catalog.domain_of(ty) {
            if domain.constrained {
                let message = format!(
                    "{ty} is a domain with constraints: PostgreSQL writes the whole table anew to check them, while \
                     nobody can read or write it."
                );
                let base = &domain.base;
                let safe = format!(
                    "ALTER TABLE {table} ADD COLUMN {name} {base}; -- and its rule as a CHECK, NOT VALID, then VALIDATE"
                );
                self.danger(table, "H11", message, safe);
                effect = Effect::rewriting();
            }
        } else if !self.catalog.complete && !is_built_in(ty) && !ty.array {
            let message = format!(
                "{ty} is not known here. If it is a domain with a constraint, the whole table is written anew: --schema \
                 would tell."
            );
            self.find(table, "H11", Severity::Advice, message, String::new());
        }
        if ty.base == "json" {
            let message = "json has no equality: SELECT DISTINCT, GROUP BY and UNION over this table will fail. jsonb has."
                .to_owned();
            let safe = format!("ALTER TABLE {table} ADD COLUMN {name} jsonb;");
            self.find(table, "H12", Severity::Warning, message, safe);
        }
        let bare = format!("ALTER TABLE {table} ADD COLUMN {name} {ty};");
        for constraint in &column.constraints {
            let own_name = |suffix: &str| {
                constraint
                    .name
                    .clone()
                    .unwrap_or_else(|| format!("{}_{name}_{suffix}", table.name))
            };
            match &constraint.kind {
                ConstraintKind::NotNull { .. }
                    if !fills || matches!(column.generated, Some(Generated::Virtual(_))) =>
                {
                    let message = format!(
                        "Every row is looked at under a lock that stops reads and writes, and the first one makes it \
                         fail: {name} has no default."
                    );
                    let safe = format!(
                        "{bare}\n-- fill it in batches, then:\n{}",
                        self.not_null_recipe(table, name)
                    );
                    self.danger(table, "H02", message, safe);
                    effect.scan = true;
                }
                ConstraintKind::Check(expr) => {
                    let message =
                        "The CHECK is tested on every row while nobody can read or write the table."
                            .to_owned();
                    let check = own_name("check");
                    let safe = format!(
                        "{bare}\nALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({}) NOT VALID;\nALTER TABLE {table} \
                         VALIDATE CONSTRAINT {check};",
                        expr.sql
                    );
                    self.danger(table, "H07", message, safe);
                    effect.scan = true;
                }
                ConstraintKind::Unique { .. } | ConstraintKind::PrimaryKey { .. } => {
                    let primary = matches!(constraint.kind, ConstraintKind::PrimaryKey { .. });
                    let index = own_name(if primary { "pkey" } else { "key" });
                    let what = if primary { "PRIMARY KEY" } else { "UNIQUE" };
                    let message = "Its index is built while nobody can read or write the table.".to_owned();
                    let safe = format!(
                        "{bare}\nCREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} ({name});\nALTER TABLE {table} ADD \
                         CONSTRAINT {index} {what} USING INDEX {index};"
                    );
                    self.danger(table, "H08", message, safe);
                    effect.scan = true;
                }
                ConstraintKind::ForeignKey { parent, .. } => {
                    let parent = self.catalog.resolve(parent);
                    self.lock(&parent, ShareRowExclusive);
                    if fills {
                        let key = own_name("fkey");
                        let message = format!(
                            "Every row refers to {parent} at once: both tables are checked while nobody can read or \
                             write {table} or write {parent}."
                        );
                        let safe = format!(
                            "{bare}\nALTER TABLE {table} ADD CONSTRAINT {key} FOREIGN KEY ({name}) {} NOT \
                             VALID;\nALTER TABLE {table} VALIDATE CONSTRAINT {key};",
                            constraint.body
                        );
                        self.danger(table, "H10", message, safe);
                        effect.scan = true;
                        self.scan(&parent);
                    } else {
                        let message = format!(
                            "It locks two tables, {table} and {parent}, and waits for the second while holding the \
                             first. Two changes that lock them in different orders deadlock."
                        );
                        self.find(table, "H09", Severity::Warning, message, String::new());
                    }
                    self.unindexed_key(table, std::slice::from_ref(name));
                }
                _ => {}
            }
        }
        if let Some(publication) = self.catalog.publication_of(table).map(str::to_owned) {
            let message = format!(
                "{table} is published by {publication}: until the subscriber has {name} too, its replication stops. Add \
                 the column there first."
            );
            self.find(table, "H79", Severity::Warning, message, String::new());
        }
        effect
    }

    /// H20: NOT NULL without a scan under a lock that anybody feels.
    pub(super) fn not_null_recipe(&self, table: &Name, column: &str) -> String {
        let name = format!("{}_{column}_not_null", table.name);
        if self.at.version >= 18 {
            format!(
                "ALTER TABLE {table} ADD CONSTRAINT {name} NOT NULL {column} NOT VALID;\nALTER TABLE {table} VALIDATE \
                 CONSTRAINT {name};"
            )
        } else {
            format!(
                "ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({column} IS NOT NULL) NOT VALID;\nALTER TABLE {table} \
                 VALIDATE CONSTRAINT {name};\nALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL;\nALTER TABLE \
                 {table} DROP CONSTRAINT {name};"
            )
        }
    }

    pub(super) fn set_not_null(&mut self, table: &Name, column: &str) -> Effect {
        let known = self.catalog.table(table);
        let not_valid = known.is_some_and(|known| {
            known.constraints.iter().any(|constraint| {
                constraint.not_valid
                    && matches!(&constraint.kind, ConstraintKind::NotNull { column: named } if named == column)
            })
        });
        if known.is_some_and(|known| proves_not_null(known, column)) {
            return Effect::brief(AccessExclusive);
        }
        let mut effect = Effect::scanning(AccessExclusive);
        let recipe = self.not_null_recipe(table, column);
        if not_valid && self.at.version >= 18 {
            let message = format!(
                "{column} has a NOT NULL that is not valid yet, and this validates it under a lock that stops reads \
                 and writes. VALIDATE does it under one that does not."
            );
            let name = known
                .and_then(|known| {
                    known
                        .constraints
                        .iter()
                        .find(|other| matches!(&other.kind, ConstraintKind::NotNull { column: named } if named == column))
                })
                .and_then(|constraint| constraint.name.clone())
                .unwrap_or_else(|| format!("{}_{column}_not_null", table.name));
            self.danger(
                table,
                "H19",
                message,
                format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name};"),
            );
        } else {
            let message = format!(
                "Every row of {table} is read while nobody can read or write it, to see that {column} has no NULL."
            );
            effect.instead = Some(recipe.lines().map(str::to_owned).collect());
            self.danger(table, "H17", message, recipe);
        }
        effect
    }
}

fn proves_not_null(table: &Table, column: &str) -> bool {
    table.is_not_null(column)
        || table.constraints.iter().any(|constraint| {
            !constraint.not_valid
                && !constraint.not_enforced
                && matches!(&constraint.kind, ConstraintKind::Check(expr) if expr.is_not_null_test_of(column))
        })
}

fn is_built_in(ty: &TypeName) -> bool {
    const KNOWN: &[&str] = &[
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "numeric",
        "bool",
        "text",
        "varchar",
        "bpchar",
        "bit",
        "varbit",
        "timestamp",
        "timestamptz",
        "time",
        "timetz",
        "date",
        "interval",
        "json",
        "jsonb",
        "uuid",
        "bytea",
        "inet",
        "cidr",
        "macaddr",
        "macaddr8",
        "money",
        "xml",
        "tsvector",
        "tsquery",
        "point",
        "line",
        "lseg",
        "box",
        "path",
        "polygon",
        "circle",
        "oid",
        "name",
        "citext",
        "hstore",
        "int4range",
        "int8range",
        "numrange",
        "tsrange",
        "tstzrange",
        "daterange",
        "serial",
        "bigserial",
        "smallserial",
        "pg_lsn",
        "regclass",
        "",
    ];
    KNOWN.contains(&ty.base.as_str())
}
