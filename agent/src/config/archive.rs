//! `[archive]`: where WAL and backups go.

use super::reader::Reader;
use repository::RepositoryConfig;
use std::collections::BTreeSet;

const REPOSITORIES: &str = "archive.repositories";

pub(super) fn repositories(reader: &mut Reader) -> Vec<RepositoryConfig> {
    let mut found: Vec<RepositoryConfig> = Vec::new();
    let mut names = BTreeSet::new();
    for (index, entry) in reader.list(REPOSITORIES).into_iter().enumerate() {
        let read = entry
            .try_deserialize::<RepositoryConfig>()
            .map_err(|error| error.to_string())
            .and_then(|repository| repository.check().map(|()| repository));
        match read {
            Ok(repository) if !names.insert(repository.name.clone()) => {
                let text = format!(
                    "the name {} is there twice: names must be unique",
                    repository.name
                );
                reader.problem(REPOSITORIES, text);
            }
            Ok(repository) => found.push(repository),
            Err(what) => reader.problem(REPOSITORIES, format!("entry {}: {what}", index + 1)),
        }
    }
    found
}

/// The repositories as `--dump-config` shows them; what is secret is left out.
pub(super) fn shown(repositories: &[RepositoryConfig]) -> toml::Value {
    let entries = repositories
        .iter()
        .filter_map(|repository| toml::Value::try_from(repository).ok());
    toml::Value::Array(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, Loaded, parse};

    const REST: &str = r#"
[node]
name = "n1"
state_dir = "/var/lib/pgctl"
[cluster]
name = "demo"
members = [{ name = "n1", peer = "10.0.0.1:7432" }]
[postgres]
data_dir = "/var/lib/postgresql/demo"
listen = "10.0.0.1:5432"
"#;

    fn read(archive: &str) -> Result<Loaded, ConfigError> {
        parse("node.toml", &format!("{REST}{archive}"), [])
    }

    const TWO: &str = r#"
[[archive.repositories]]
name = "near"
path = "/srv/pgctl"
[[archive.repositories]]
name = "far"
s3 = { bucket = "b", prefix = "pg", access_key_id = "id", secret_access_key = "hunter2" }
compression = "lz4"
key_file = "/etc/pgctl/repository.key"
"#;

    #[test]
    fn repositories_are_read_and_shown_without_their_secrets() {
        let loaded = read(TWO).expect("is right");
        let names: Vec<&str> = loaded
            .config
            .repositories
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        assert_eq!(names, ["near", "far"]);
        let shown = shown(&loaded.config.repositories).to_string();
        assert!(
            shown.contains("/srv/pgctl") && shown.contains("repository.key"),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(!format!("{:?}", loaded.config).contains("hunter2"));
    }

    #[test]
    fn what_is_wrong_is_named_without_secrets() {
        for (archive, word) in [
            (TWO.replace("far", "near"), "twice"),
            (TWO.replace("path = ", "paht = "), "paht"),
            (TWO.replace("/srv/pgctl", "srv"), "absolute"),
            (TWO.replace("lz4", "zip"), "zip"),
            (TWO.replace("access_key_id = \"id\", ", ""), "both"),
        ] {
            let error = read(&archive).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
            assert!(!error.contains("hunter2"), "a secret is told: {error}");
        }
    }
}
