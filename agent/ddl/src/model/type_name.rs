use std::fmt;

/// A type with its modifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeName {
    /// PostgreSQL's internal name for built-in types (`int4`, `varchar`, `bpchar`, `timestamptz`), else the name as
    /// written, folded, with its schema unless that is `public` or `pg_catalog`.
    pub base: String,
    /// The numbers in parentheses: `numeric(10,2)` has two.
    pub mods: Vec<i64>,
    pub array: bool,
    /// As it is written.
    pub sql: String,
}

impl TypeName {
    /// The type named `written`, a single word or one of the multi-word built-in names, in lower case.
    #[must_use]
    pub fn canonical(written: &str) -> &str {
        match written {
            "int" | "integer" | "int4" => "int4",
            "bigint" | "int8" => "int8",
            "smallint" | "int2" => "int2",
            "serial" | "serial4" => "serial",
            "bigserial" | "serial8" => "bigserial",
            "smallserial" | "serial2" => "smallserial",
            "real" | "float4" => "float4",
            "float" | "double precision" | "float8" => "float8",
            "decimal" | "dec" | "numeric" => "numeric",
            "boolean" | "bool" => "bool",
            "character varying" | "char varying" | "varchar" => "varchar",
            "character" | "char" | "bpchar" => "bpchar",
            "bit varying" | "varbit" => "varbit",
            "timestamp" | "timestamp without time zone" => "timestamp",
            "timestamp with time zone" | "timestamptz" => "timestamptz",
            "time" | "time without time zone" => "time",
            "time with time zone" | "timetz" => "timetz",
            other => other,
        }
    }

    /// `serial`, `bigserial`, `smallserial`.
    #[must_use]
    pub fn is_serial(&self) -> bool {
        matches!(self.base.as_str(), "serial" | "bigserial" | "smallserial")
    }

    /// The type that a serial column has in the end, as SQL.
    #[must_use]
    pub fn without_serial(&self) -> &str {
        match self.base.as_str() {
            "serial" => "integer",
            "bigserial" => "bigint",
            "smallserial" => "smallint",
            _ => &self.sql,
        }
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql)
    }
}
