//! Physical replication slots for the members, on every node, so that none has to be copied anew after a failover.

use super::conf_text::sql_literal;
use super::session::Session;
use super::{Instance, PgError, SlotView};
use agent_core::pg::Lsn;
use std::collections::BTreeMap;
use std::time::Duration;

/// Slots with this prefix are the agent's; no other is ever touched.
pub const SLOT_PREFIX: &str = "pgctl_";
/// The longest name that PostgreSQL keeps, bytes.
const NAME_MAX: usize = 63;
const DOING: &str = "bring the replication slots in line";
const WITHIN: Duration = Duration::from_secs(5);

impl Instance {
    /// The physical slots of the server, whoever made them.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn slots(&self) -> Result<Vec<SlotView>, PgError> {
        let session = self.session(&[], WITHIN).await?;
        read(&session).await
    }

    /// Creates the wanted slots that are missing, makes lost ones anew, drops unused ones with our prefix that are not
    /// wanted, and moves a wanted one up to the position given with it: on a standby, where no walsender does that. A
    /// slot is never moved back, nor beyond what is replayed here.
    ///
    /// # Errors
    /// For a name that has not our prefix or is no slot name, and when the server refuses, as it does when
    /// `max_replication_slots` are in use.
    pub async fn ensure_slots(&self, wanted: &BTreeMap<String, Option<Lsn>>) -> Result<(), PgError> {
        for name in wanted.keys() {
            check_name(name)?;
        }
        let session = self.session(&[], WITHIN).await?;
        let replayed: Option<Lsn> = session
            .text(
                DOING,
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END",
                WITHIN,
            )
            .await?
            .and_then(|text| text.parse().ok());
        let mut present = read(&session).await?;
        for slot in present
            .iter()
            .filter(|slot| slot.name.starts_with(SLOT_PREFIX) && !slot.active)
        {
            if slot.lost || !wanted.contains_key(&slot.name) {
                call(&session, "pg_drop_replication_slot", &[&slot.name], "").await?;
            }
        }
        present.retain(|slot| slot.active || !slot.lost);
        for (name, position) in wanted {
            match present.iter().find(|slot| slot.name == *name) {
                None => call(&session, "pg_create_physical_replication_slot", &[name], ", true").await?,
                Some(slot) => {
                    let target = (*position)
                        .min(replayed)
                        .filter(|target| slot.restart_lsn < Some(*target));
                    if let Some(target) = target.filter(|_| !slot.active && slot.restart_lsn.is_some()) {
                        call(
                            &session,
                            "pg_replication_slot_advance",
                            &[name, &target.to_string()],
                            "",
                        )
                        .await?;
                    }
                }
            }
        }
        Ok(())
    }
}

async fn call(session: &Session, function: &str, arguments: &[&str], more: &str) -> Result<(), PgError> {
    let literals: Vec<String> = arguments.iter().map(|argument| sql_literal(argument)).collect();
    let sql = format!("SELECT {function}({}{more})", literals.join(", "));
    session.execute(DOING, &sql, WITHIN).await
}

async fn read(session: &Session) -> Result<Vec<SlotView>, PgError> {
    let sql = "SELECT slot_name, active, restart_lsn, coalesce(wal_status = 'lost', false) \
               FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY slot_name";
    let rows = session.rows("read the replication slots", sql, WITHIN).await?;
    let views = rows.into_iter().filter_map(|row| {
        let [name, active, restart_lsn, lost] = <[Option<String>; 4]>::try_from(row).ok()?;
        Some(SlotView {
            name: name?,
            active: active.as_deref() == Some("t"),
            restart_lsn: restart_lsn.and_then(|text| text.parse().ok()),
            lost: lost.as_deref() == Some("t"),
        })
    });
    Ok(views.collect())
}

fn check_name(name: &str) -> Result<(), PgError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.starts_with(SLOT_PREFIX) && name.len() <= NAME_MAX && name.chars().all(plain) {
        return Ok(());
    }
    Err(PgError::Setting {
        name: "slot".to_owned(),
        why: format!(
            "\"{name}\" must begin with {SLOT_PREFIX} and have at most {NAME_MAX} lower-case letters, digits and `_`"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn only_our_own_well_formed_names_are_taken() {
        assert!(check_name("pgctl_n2").is_ok());
        for wrong in [
            "n2",
            "pgctl_N2",
            "pgctl_n-2",
            "pgctl_'; DROP",
            &format!("pgctl_{}", "x".repeat(60)),
        ] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
