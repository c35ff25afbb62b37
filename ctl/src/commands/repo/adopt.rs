//! `pgctl repo adopt`

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::repositories::{Which, refused};
use repository::adopt;
use serde::Serialize;

#[derive(Serialize)]
struct Adopted {
    repository: String,
    id: String,
    written: bool,
}

pub async fn run(format: Format, which: &Which, id: Option<&str>) -> Result<(), Failure> {
    let (config, _) = which.read()?;
    let (id, written) = adopt(&config, id).await.map_err(refused)?;
    let adopted = Adopted {
        repository: config.name,
        id,
        written,
    };
    match format {
        Format::Json => output::json(&adopted),
        Format::Table => output::line(if written {
            format!(
                "repository {} has the id {} from now on",
                adopted.repository, adopted.id
            )
        } else {
            format!(
                "repository {} has the id {}: nothing to do",
                adopted.repository, adopted.id
            )
        }),
    }
}
