//! Which server a table is about, and the table's name.

use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Where the server listens, and the name of the table that guards it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) table: String,
    pub(super) port: u16,
    /// `None`: all addresses.
    pub(super) address: Option<IpAddr>,
}

impl Place {
    /// The place of the server that listens at `listen` and whose agent keeps its state in `state_dir`. Two agents on one
    /// host have different ones; an agent that starts again has the same.
    #[must_use]
    pub fn new(listen: SocketAddr, state_dir: &Path) -> Place {
        let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
        let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Place {
            table: format!("pgctl_{}_{digest}", listen.port()),
            port: listen.port(),
            address: (!listen.ip().is_unspecified()).then(|| listen.ip()),
        }
    }

    /// A place that nobody else uses, for a trial.
    pub(super) fn beside(&self) -> Place {
        Place {
            table: format!("{}_probe", self.table),
            ..self.clone()
        }
    }

    /// The table's name, for people: `nft list table inet NAME`.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_on_one_host_have_tables_of_their_own_and_keep_them() {
        let place = |listen: &str, dir: &str| Place::new(listen.parse().expect("IP:port"), Path::new(dir));
        let first = place("10.0.0.1:5432", "/var/lib/pgctl");
        assert_eq!(first, place("10.0.0.1:5432", "/var/lib/pgctl"));
        assert_ne!(first.table, place("10.0.0.2:5432", "/var/lib/pgctl2").table);
        assert_ne!(first.table, place("10.0.0.1:5433", "/var/lib/pgctl").table);
        assert_eq!(first.address, "10.0.0.1".parse().ok());
        assert_eq!(place("0.0.0.0:5432", "/x").address, None);
        assert_eq!(place("[::]:5432", "/x").address, None);
        // NFT_NAME_MAXLEN is 256; `nft` wants a letter first.
        assert!(first.table.starts_with("pgctl_5432_") && first.table.len() == 19);
    }
}
