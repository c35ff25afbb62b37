/// An expression: its text, and the names that appear in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expr {
    pub sql: String,
    /// Functions that it calls, in lower case, without their schema; `nextval('s')` is `nextval`.
    pub calls: Vec<String>,
    /// Every name in it, folded as PostgreSQL folds names.
    pub names: Vec<String>,
}

impl Expr {
    /// Whether it may use `column`. A name that merely looks like it counts too.
    #[must_use]
    pub fn mentions(&self, column: &str) -> bool {
        self.names.iter().any(|name| name == column)
    }

    /// Whether it is NULL, with or without a cast.
    #[must_use]
    pub fn is_null(&self) -> bool {
        let lower = self.sql.trim().to_ascii_lowercase();
        lower == "null" || lower.starts_with("null::") || lower.starts_with("null ::")
    }

    /// Whether it is `column IS NOT NULL`.
    #[must_use]
    pub fn is_not_null_test_of(&self, column: &str) -> bool {
        let bare: String = self
            .sql
            .chars()
            .filter(|c| !matches!(c, '(' | ')' | '"'))
            .collect::<String>();
        let words: Vec<&str> = bare.split_whitespace().collect();
        matches!(words.as_slice(), [name, is, not, null]
            if (*name == column || name.to_lowercase() == column)
                && is.eq_ignore_ascii_case("is")
                && not.eq_ignore_ascii_case("not")
                && null.eq_ignore_ascii_case("null"))
    }
}
