use super::{Column, Constraint, Expr, Name, TablePart, TypeName};

/// What a statement does.
#[derive(Debug, Clone)]
pub enum Act {
    CreateTable {
        table: Name,
        if_not_exists: bool,
        temporary: bool,
        columns: Vec<Column>,
        constraints: Vec<Constraint>,
        like: Vec<Name>,
        inherits: Vec<Name>,
        partition_of: Option<Name>,
        /// `FOR VALUES ...` or `DEFAULT`, of a partition.
        bound: String,
        partition_by: Option<String>,
        /// Tables that its query reads, for CREATE TABLE AS.
        reads: Vec<Name>,
        from_query: bool,
    },
    AlterTable {
        kind: AlteredKind,
        table: Name,
        only: bool,
        if_exists: bool,
        parts: Vec<TablePart>,
    },
    Drop {
        kind: DroppedKind,
        names: Vec<Name>,
        cascade: bool,
        if_exists: bool,
        concurrently: bool,
    },
    CreateIndex {
        index: Option<String>,
        table: Name,
        only: bool,
        unique: bool,
        concurrently: bool,
        if_not_exists: bool,
        method: String,
        /// Plain key columns; an expression is `None`.
        keys: Vec<Option<String>>,
        /// The expressions among the keys.
        expressions: Vec<Expr>,
        predicate: Option<Expr>,
    },
    AlterIndex {
        index: Name,
        what: IndexAct,
    },
    Reindex {
        target: ReindexTarget,
        name: Option<Name>,
        concurrently: bool,
    },
    /// CLUSTER, VACUUM FULL and plain REPACK: `command` says which.
    Repack {
        command: &'static str,
        tables: Vec<Name>,
        concurrently: bool,
    },
    Truncate {
        tables: Vec<Name>,
        cascade: bool,
    },
    RefreshView {
        view: Name,
        concurrently: bool,
        with_data: bool,
    },
    CreateView {
        view: Name,
        or_replace: bool,
        materialized: bool,
        reads: Vec<Name>,
    },
    CreateSequence {
        sequence: Name,
        owned_by: Option<Name>,
    },
    AlterSequence {
        sequence: Name,
        what: SequenceAct,
    },
    CreateTrigger {
        table: Name,
    },
    /// DROP TRIGGER, POLICY or RULE, and ALTER or CREATE POLICY and RULE: what it is, and on which table.
    TableProperty {
        what: &'static str,
        name: String,
        table: Name,
    },
    CreateDomain {
        domain: Name,
        ty: TypeName,
        constrained: bool,
    },
    AlterDomain {
        domain: Name,
        what: DomainAct,
    },
    CreateType {
        name: Name,
        enumeration: bool,
    },
    AlterType {
        name: Name,
        what: TypeAct,
    },
    CreateFunction {
        name: Name,
        /// Not declared IMMUTABLE or STABLE.
        volatile: bool,
    },
    Publication {
        /// CREATE, ALTER or DROP, and its name.
        name: String,
        tables: Vec<Name>,
        all_tables: bool,
        alter: bool,
    },
    CreateStatistics {
        table: Option<Name>,
    },
    Analyze {
        tables: Vec<Name>,
    },
    Vacuum {
        tables: Vec<Name>,
    },
    Comment {
        table: Option<Name>,
    },
    Grant {
        tables: Vec<Name>,
    },
    LockTable {
        tables: Vec<Name>,
        /// As written, in lower case: `access exclusive`.
        mode: String,
    },
    Insert {
        table: Name,
        reads: Vec<Name>,
        from_query: bool,
        strings: Vec<String>,
    },
    Update {
        table: Name,
        filtered: bool,
        strings: Vec<String>,
    },
    Delete {
        table: Name,
        filtered: bool,
    },
    Query {
        reads: Vec<Name>,
        locking: bool,
        strings: Vec<String>,
    },
    Copy {
        table: Option<Name>,
        into: bool,
    },
    /// SET or RESET of a setting.
    Set {
        name: String,
        value: String,
        local: bool,
    },
    Begin,
    Commit,
    Rollback,
    Savepoint,
    /// DO, CALL, EXECUTE: what runs is not in the text.
    Opaque {
        what: &'static str,
    },
    /// A command to psql: its first word.
    Meta(String),
    /// Nothing that touches a relation, in our knowledge; its first words.
    Other(String),
    /// It could not be read; where (line, from 1) and why.
    Unread {
        line: usize,
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlteredKind {
    Table,
    ForeignTable,
    View,
    MaterializedView,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DroppedKind {
    Table,
    ForeignTable,
    View,
    MaterializedView,
    Index,
    Sequence,
    Type,
    Domain,
    Function,
    Schema,
    Publication,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexAct {
    Rename(String),
    Attach(Name),
    SetTablespace,
    SetOptions,
    SetStatistics,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReindexTarget {
    Index,
    Table,
    Schema,
    Database,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SequenceAct {
    Rename(String),
    OwnedBy(Option<Name>),
    Options,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainAct {
    AddConstraint {
        not_valid: bool,
        name: Option<String>,
        body: String,
    },
    ValidateConstraint(String),
    SetNotNull,
    DropConstraint,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeAct {
    AddValue(String),
    RenameValue,
    Rename(String),
    /// ADD, DROP, ALTER ATTRIBUTE of a composite type.
    Attribute,
    Other,
}
