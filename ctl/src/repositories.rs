//! Reading repositories without any agent: a restore must work when none is left.

use crate::failure::Failure;
use repository::{Line, Repository, RepositoryConfig};
use serde::Deserialize;
use std::path::PathBuf;

/// Which repository, and whose backups.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// A file with [[archive.repositories]]: a node's configuration, or a copy of those entries
    #[arg(
        long,
        value_name = "FILE",
        env = "PGCTL_NODE_CONFIG",
        default_value = "/etc/pgctl/node.toml"
    )]
    pub config: PathBuf,
    /// The repository's name, if the file has several
    #[arg(long, value_name = "NAME")]
    pub repository: Option<String>,
    /// The cluster's name, if the file does not have it
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Which of several databases of that name: see the error that lists them
    #[arg(long, value_name = "ID")]
    pub incarnation: Option<String>,
}

/// What of a node's configuration counts here.
#[derive(Deserialize)]
struct NodeFile {
    archive: Option<ArchiveSection>,
    cluster: Option<ClusterSection>,
}

#[derive(Deserialize)]
struct ArchiveSection {
    #[serde(default)]
    repositories: Vec<RepositoryConfig>,
}

#[derive(Deserialize)]
struct ClusterSection {
    name: String,
}

/// A repository and the line in it.
pub struct Opened {
    pub repository: Repository,
    pub line: Line,
    pub config: RepositoryConfig,
}

impl Which {
    /// The repository's configuration, and the cluster's name where the file has it.
    ///
    /// # Errors
    /// The file cannot be read, or it does not say which repository.
    pub fn read(&self) -> Result<(RepositoryConfig, Option<String>), Failure> {
        let (chosen, cluster) = self.read_each()?;
        let first = chosen.into_iter().next();
        let first = first.ok_or_else(|| {
            Failure::usage(format!(
                "{} has no [[archive.repositories]]",
                self.config.display()
            ))
        })?;
        Ok((first, cluster))
    }

    /// Every repository of the file, or the one that was named.
    ///
    /// # Errors
    /// The file cannot be read, or has none of that name.
    pub fn read_each(&self) -> Result<(Vec<RepositoryConfig>, Option<String>), Failure> {
        let shown = self.config.display();
        let text = std::fs::read_to_string(&self.config).map_err(|error| {
            Failure::usage(format!(
                "{shown} cannot be read ({error}): name a file with --config"
            ))
        })?;
        let file: NodeFile = toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{shown} cannot be read: {}", error.message())))?;
        let mut repositories = file
            .archive
            .map(|archive| archive.repositories)
            .unwrap_or_default();
        if let Some(name) = &self.repository {
            let names: Vec<&str> = repositories.iter().map(|it| it.name.as_str()).collect();
            let listed = names.join(", ");
            repositories.retain(|it| it.name == *name);
            if repositories.is_empty() {
                let message = format!("{shown} has no repository {name}; it has: {listed}");
                return Err(Failure::usage(message));
            }
        }
        let cluster = self.cluster.clone().or(file.cluster.map(|cluster| cluster.name));
        Ok((repositories, cluster))
    }

    /// Opens it.
    ///
    /// # Errors
    /// It cannot be read, or it is not clear whose backups are meant.
    pub async fn open(&self) -> Result<Opened, Failure> {
        let (config, cluster) = self.read()?;
        self.open_one(config, cluster).await
    }

    /// Opens every repository of the file, or the one that was named.
    ///
    /// # Errors
    /// As [`Which::open`], of the first one that cannot be opened.
    pub async fn open_each(&self) -> Result<Vec<Opened>, Failure> {
        let (configs, cluster) = self.read_each()?;
        let mut opened = Vec::new();
        for config in configs {
            opened.push(self.open_one(config, cluster.clone()).await?);
        }
        if opened.is_empty() {
            let message = format!("{} has no [[archive.repositories]]", self.config.display());
            return Err(Failure::usage(message));
        }
        Ok(opened)
    }

    async fn open_one(&self, config: RepositoryConfig, cluster: Option<String>) -> Result<Opened, Failure> {
        let repository = Repository::open(&config).await.map_err(refused)?;
        let cluster = cluster.ok_or_else(|| {
            Failure::usage(format!(
                "{} does not name the cluster: name it with --cluster",
                self.config.display()
            ))
        })?;
        let lines = repository.lines(&cluster).await.map_err(refused)?;
        let line = match (&self.incarnation, lines.as_slice()) {
            (Some(id), lines) => lines.iter().find(|line| line.incarnation() == id).cloned(),
            (None, [only]) => Some(only.clone()),
            (None, []) => None,
            (None, several) => {
                let ids: Vec<&str> = several.iter().map(Line::incarnation).collect();
                return Err(Failure::usage(format!(
                    "{cluster} has several databases in this repository: choose one with --incarnation: {}",
                    ids.join(", ")
                )));
            }
        };
        let line = line.ok_or_else(|| {
            Failure::refused(
                "nothing-archived",
                format!("repository {} has nothing of cluster {cluster}", config.name),
            )
        })?;
        Ok(Opened {
            repository,
            line,
            config,
        })
    }
}

/// An error of the repository's, for a person.
pub fn refused(error: repository::Error) -> Failure {
    Failure::refused("repository", error.to_string())
}
