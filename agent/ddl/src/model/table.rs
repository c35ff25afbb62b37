use super::{Expr, Name, TypeName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub ty: TypeName,
    pub collation: Option<String>,
    pub default: Option<Expr>,
    pub generated: Option<Generated>,
    pub constraints: Vec<Constraint>,
}

impl Column {
    /// Whether it is declared NOT NULL, or is part of a primary key by its own clause.
    #[must_use]
    pub fn not_null(&self) -> bool {
        self.constraints.iter().any(|constraint| {
            matches!(
                constraint.kind,
                ConstraintKind::NotNull { .. } | ConstraintKind::PrimaryKey { .. }
            )
        }) || self.ty.is_serial()
            || self.generated == Some(Generated::Identity)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Generated {
    Identity,
    Stored(Expr),
    Virtual(Expr),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    pub name: Option<String>,
    pub kind: ConstraintKind,
    pub not_valid: bool,
    pub not_enforced: bool,
    /// Its text without its name and without NOT VALID.
    pub body: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintKind {
    NotNull {
        column: String,
    },
    Check(Expr),
    Unique {
        columns: Vec<String>,
        /// `USING INDEX name`.
        index: Option<String>,
    },
    PrimaryKey {
        columns: Vec<String>,
        index: Option<String>,
    },
    ForeignKey {
        columns: Vec<String>,
        parent: Name,
        parent_columns: Vec<String>,
    },
    Exclude {
        columns: Vec<String>,
    },
}

/// One action of an ALTER TABLE, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePart {
    pub sql: String,
    pub action: TableAction,
}

/// Many actions carry the column that they are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableAction {
    AddColumn {
        column: Column,
        if_not_exists: bool,
    },
    DropColumn {
        column: String,
        cascade: bool,
    },
    SetDefault(String),
    DropDefault(String),
    SetNotNull(String),
    DropNotNull(String),
    SetType {
        column: String,
        ty: TypeName,
        collation: Option<String>,
        using: Option<Expr>,
    },
    SetExpression(String),
    DropExpression(String),
    AddIdentity(String),
    DropIdentity(String),
    SetIdentity {
        column: String,
        restart: bool,
    },
    SetStatistics(String),
    SetStorage(String),
    SetCompression(String),
    SetColumnOptions(String),
    AddConstraint(Constraint),
    ValidateConstraint(String),
    DropConstraint {
        name: String,
        cascade: bool,
    },
    AlterConstraint {
        name: String,
        enforced: Option<bool>,
    },
    RenameConstraint {
        from: String,
        to: String,
    },
    RenameColumn {
        from: String,
        to: String,
    },
    Rename(String),
    SetSchema(String),
    AttachPartition {
        child: Name,
        /// `FOR VALUES ...` or `DEFAULT`.
        bound: String,
    },
    DetachPartition {
        child: Name,
        concurrently: bool,
        finalize: bool,
    },
    /// Names of storage parameters, in lower case.
    SetOptions(Vec<String>),
    SetLogged(bool),
    SetAccessMethod(String),
    SetTablespace(String),
    ReplicaIdentity(String),
    RowSecurity,
    Owner,
    ClusterOn,
    Trigger,
    Rule,
    Inherit {
        parent: Name,
        add: bool,
    },
    Other,
}
