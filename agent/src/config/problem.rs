use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the environment variable, that the value is from.
    pub origin: String,
    /// Such as `postgres.listen`.
    pub key: String,
    /// What was given, if anything was.
    pub value: Option<String>,
    /// What is wrong, what is allowed, and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file} cannot be read ({error}): give the configuration file's path with --config")]
    Unreadable { file: String, error: std::io::Error },
    /// It is no TOML.
    #[error("{file} is not valid TOML: {detail}")]
    Syntax { file: String, detail: String },
    /// Everything that is wrong.
    #[error("{} wrong in the configuration:\n{}", counted(problems), listed(problems))]
    Invalid { problems: Vec<Problem> },
}

impl ConfigError {
    /// The exit code of a program that cannot start for want of a valid configuration (`EX_USAGE`).
    pub const EXIT_CODE: u8 = 64;
}

fn counted(problems: &[Problem]) -> String {
    if problems.len() == 1 {
        "one thing is".to_owned()
    } else {
        format!("{} things are", problems.len())
    }
}

fn listed(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
    lines.join("\n")
}
