//! The two roles that the nodes use with each other.

use super::conf_text::{quote_name, sql_literal};
use super::hba::AGENT_ROLE;
use super::session::Session;
use super::{Instance, PgError};
use std::time::Duration;

const DOING: &str = "create the roles for replication and rewind";
const WITHIN: Duration = Duration::from_secs(5);
/// What `pg_rewind` calls on its source.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

impl Instance {
    /// On a primary: sees to it that both roles exist with their passwords and rights, and are no superusers. May be
    /// repeated. The passwords never reach the server or its log: only their SCRAM verifiers do.
    ///
    /// # Errors
    /// [`PgError::RoleIsSuperuser`] if a superuser of one of the names exists; otherwise when the server refuses.
    pub async fn ensure_roles(&self) -> Result<(), PgError> {
        let credentials = self.credentials();
        // Not waiting for standbys: none may be able to connect before its role is there.
        let settings = ["synchronous_commit=local", "default_transaction_read_only=off"];
        let session = self.session(&settings, WITHIN).await?;
        let (replication, rewind) = (&credentials.replication_user, &credentials.rewind_user);
        ensure_role(
            &session,
            replication,
            "REPLICATION",
            &credentials.replication_password,
        )
        .await?;
        if rewind != replication {
            ensure_role(&session, rewind, "", &credentials.rewind_password).await?;
        }
        let mut grants: Vec<String> = REWIND_FUNCTIONS
            .iter()
            .map(|function| format!("GRANT EXECUTE ON FUNCTION {function} TO {}", quote_name(rewind)))
            .collect();
        if self.major() >= 15 {
            grants.push(format!("GRANT pg_checkpoint TO {}", quote_name(rewind)));
        }
        session.execute(DOING, &grants.join("; "), WITHIN).await
    }
}

async fn ensure_role(session: &Session, name: &str, rights: &str, password: &str) -> Result<(), PgError> {
    let find = format!(
        "SELECT rolsuper FROM pg_roles WHERE rolname = {}",
        sql_literal(name)
    );
    let found = session.text(DOING, &find, WITHIN).await?;
    if found.as_deref() == Some("t") || name == AGENT_ROLE {
        return Err(PgError::RoleIsSuperuser {
            role: name.to_owned(),
        });
    }
    let verb = if found.is_some() { "ALTER" } else { "CREATE" };
    let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
    let (role, verifier) = (quote_name(name), sql_literal(&verifier));
    let sql = format!("{verb} ROLE {role} WITH LOGIN {rights} PASSWORD {verifier}");
    session.execute(DOING, &sql, WITHIN).await
}
