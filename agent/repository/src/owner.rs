//! Whose line it is. A copy of a database that was restored beside its source has the same number and, founded as a cluster
//! of its own, could have the same name: it must not archive into what the source archives.

use crate::envelope::Kind;
use crate::error::Error;
use crate::layout::Line;
use crate::repository::Repository;
use crate::store::Created;
use serde::{Deserialize, Serialize};

/// A cluster of agents that writes into a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The cluster's own id, which it got when it was founded.
    pub cluster_id: String,
    /// Since when, ms since 1970.
    pub at_ms: i64,
}

/// The newest owner of a line, and its number.
///
/// # Errors
/// The store does not list, or the entry is damaged.
pub async fn owner(repository: &Repository, line: &Line) -> Result<Option<(u64, Owner)>, Error> {
    let found = repository.read_all::<Owner>(&line.owners()).await?;
    let numbered = found.into_iter().filter_map(|(key, owner)| {
        let number = key.rsplit('/').next()?.parse().ok()?;
        Some((number, owner))
    });
    Ok(numbered.max_by_key(|(number, _)| *number))
}

/// Makes sure that the line is `owner`'s: the first one that asks has it.
///
/// # Errors
/// It is another cluster's, or the store cannot be read or written.
pub async fn claim(repository: &Repository, line: &Line, claims: &Owner) -> Result<(), Error> {
    if let Some((_, found)) = owner(repository, line).await? {
        return judge(repository, line, claims, &found);
    }
    if write(repository, line, 1, claims).await? == Created::Made {
        return Ok(());
    }
    match owner(repository, line).await? {
        Some((_, found)) => judge(repository, line, claims, &found),
        None => Err(repository.damaged(&line.owner(1), "it was written and is not there")),
    }
}

/// Gives the line to another cluster: its owner until now is gone for good. False if it has it already.
///
/// # Errors
/// The line is not there, somebody else takes it at the same moment, or the store cannot be read or written.
pub async fn take_over(repository: &Repository, line: &Line, by: &Owner) -> Result<bool, Error> {
    let last = owner(repository, line).await?;
    if last
        .as_ref()
        .is_some_and(|(_, last)| last.cluster_id == by.cluster_id)
    {
        return Ok(false);
    }
    let number = last.map_or(0, |(number, _)| number) + 1;
    match write(repository, line, number, by).await? {
        Created::Made => Ok(true),
        Created::Exists => Err(Error::Refused {
            name: line.to_string(),
            why: "somebody else has taken it over at the same moment: look who, and try again".to_owned(),
        }),
    }
}

fn judge(repository: &Repository, line: &Line, claims: &Owner, found: &Owner) -> Result<(), Error> {
    if found.cluster_id == claims.cluster_id {
        return Ok(());
    }
    Err(Error::NotThisOne {
        repository: repository.name().to_owned(),
        why: format!(
            "{line} is what cluster {} archives into, and this is cluster {}, with a copy of its data: give this one \
             another cluster.name. If the other one is gone for good: pgctl repo take-over --cluster {} --incarnation {} --by {}",
            found.cluster_id,
            claims.cluster_id,
            line.cluster(),
            line.incarnation(),
            claims.cluster_id
        ),
    })
}

async fn write(repository: &Repository, line: &Line, number: u64, owner: &Owner) -> Result<Created, Error> {
    let name = format!("owner {number}");
    repository
        .create_json(line.owner(number), Kind::Mark, &name, owner)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::pg::SystemId;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    fn of(cluster_id: &str) -> Owner {
        Owner {
            cluster_id: cluster_id.to_owned(),
            at_ms: 1,
        }
    }

    #[tokio::test]
    async fn a_line_has_one_owner_until_another_takes_it_over() {
        let repository = Repository::over(Arc::new(InMemory::new()))
            .await
            .expect("a repository");
        let line = Line::new("prod", SystemId(7));
        let other_line = Line::new("copy", SystemId(7));
        claim(&repository, &line, &of("a")).await.expect("nobody has it");
        claim(&repository, &line, &of("a")).await.expect("it is its own");
        let refused = claim(&repository, &line, &of("b"))
            .await
            .expect_err("it is another's");
        let said = refused.to_string();
        assert!(
            said.contains("cluster.name") && said.contains("take-over"),
            "{said}"
        );
        claim(&repository, &other_line, &of("b"))
            .await
            .expect("under another name it may");
        assert!(take_over(&repository, &line, &of("b")).await.expect("taken"));
        assert!(
            !take_over(&repository, &line, &of("b"))
                .await
                .expect("it has it already")
        );
        claim(&repository, &line, &of("b"))
            .await
            .expect("it is its own now");
        claim(&repository, &line, &of("a"))
            .await
            .expect_err("the old owner is back");
        assert_eq!(
            owner(&repository, &line)
                .await
                .expect("read")
                .map(|(number, _)| number),
            Some(2)
        );
    }
}
