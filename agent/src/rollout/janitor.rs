//! What earlier changes have left behind: broken off builds, halves of detachments, checks that never were.

use super::look;
use super::sql::{Db, field};
use crate::ports::SqlError;
use agent_core::rollout::{Trouble, lock_timeout_ms, pause_ms, trouble};
use proto::rollout::Leftover;
use std::time::Duration;

/// How often a repair asks for its locks.
const TRIES: u32 = 8;

const OURS: &str = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgctl')";

/// Looks for leftovers.
pub(super) async fn look(agent: &Db) -> Result<Vec<Leftover>, SqlError> {
    let mut found = Vec::new();
    let building = "EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid OR p.relid = i.indrelid)";
    let indexes = format!(
        "SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, c.relname ~ '_cc(new|old)[0-9]*$', \
         pg_size_pretty(pg_relation_size(i.indexrelid)), EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT i.indisvalid AND c.relkind = 'i' AND {OURS} AND NOT {building} ORDER BY 1"
    );
    for row in agent.rows(&indexes).await? {
        let (index, table) = (field(&row, 0), field(&row, 1));
        let of_rebuild = field(&row, 2) == "t";
        let drop = format!("DROP INDEX CONCURRENTLY {index}");
        found.push(Leftover {
            kind: if of_rebuild {
                "leftover-index"
            } else {
                "invalid-index"
            }
            .to_owned(),
            object: index.to_owned(),
            detail: format!(
                "on {table}, {}: every write keeps it up and no query uses it",
                field(&row, 3)
            ),
            // An invalid index of a person's may be wanted: building it again makes it what it was meant to be.
            repair: match (of_rebuild, field(&row, 4) == "t") {
                (_, true) => String::new(),
                (true, false) => drop,
                (false, false) => format!("REINDEX INDEX CONCURRENTLY {index}"),
            },
            outcome: String::new(),
        });
    }
    let constraints = format!(
        "SELECT CASE WHEN k.conrelid <> 0 THEN k.conrelid::regclass::text ELSE k.contypid::regtype::text END, \
         quote_ident(k.conname), pg_get_constraintdef(k.oid), k.conrelid <> 0, \
         pg_get_constraintdef(k.oid) LIKE '%NOT ENFORCED%' FROM pg_constraint k \
         JOIN pg_namespace n ON n.oid = k.connamespace WHERE NOT k.convalidated AND k.conparentid = 0 AND {OURS} ORDER BY 1, 2"
    );
    for row in agent.rows(&constraints).await? {
        if field(&row, 4) == "t" {
            continue;
        }
        let kind = if field(&row, 3) == "t" { "TABLE" } else { "DOMAIN" };
        let (on, name) = (field(&row, 0), field(&row, 1));
        found.push(Leftover {
            kind: "not-validated".to_owned(),
            object: format!("{name} on {on}"),
            detail: format!("new rows are checked, old ones never were: {}", field(&row, 2)),
            repair: format!("ALTER {kind} {on} VALIDATE CONSTRAINT {name}"),
            outcome: String::new(),
        });
    }
    found.extend(pending(agent).await?);
    found.extend(shadows(agent).await?);
    Ok(found)
}

async fn pending(agent: &Db) -> Result<Vec<Leftover>, SqlError> {
    if !agent
        .truth("SELECT current_setting('server_version_num')::int >= 140000")
        .await?
    {
        return Ok(Vec::new());
    }
    let sql = "SELECT inhparent::regclass::text, inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending ORDER BY 1, 2";
    let rows = agent.rows(sql).await?;
    let found = rows.iter().map(|row| {
        let (parent, child) = (field(row, 0), field(row, 1));
        Leftover {
            kind: "pending-detach".to_owned(),
            object: child.to_owned(),
            detail: format!("half detached from {parent}: queries see it or not, as they began"),
            repair: format!("ALTER TABLE {parent} DETACH PARTITION {child} FINALIZE"),
            outcome: String::new(),
        }
    });
    Ok(found.collect())
}

/// Triggers that are off, and columns and triggers whose names say that a change of a type or a name made them: whether they are
/// still needed, only a person knows.
async fn shadows(agent: &Db) -> Result<Vec<Leftover>, SqlError> {
    // What a version of the schema that is still open needs is no leftover.
    let known = "SELECT to_regclass('pgctl.versions') IS NOT NULL";
    let needed = if agent.truth(known).await? {
        "EXISTS (SELECT FROM pgctl.versions v CROSS JOIN LATERAL jsonb_array_elements(v.expansion->'tables') e \
         WHERE v.state <> 'contracted' AND e->>'schema' = n.nspname AND e->>'name' = c.relname)"
    } else {
        "false"
    };
    let triggers = format!(
        "SELECT quote_ident(t.tgname), t.tgrelid::regclass::text, t.tgenabled = 'D', p.proname FROM pg_trigger t \
         JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc p ON p.oid = t.tgfoid \
         WHERE NOT t.tgisinternal AND {OURS} AND (t.tgenabled = 'D' OR NOT {needed} \
         AND t.tgname ~ '^(_?pgroll_|[!~]?pgctl_|repack_|pg_osc_|reshape_)') \
         ORDER BY 2, 1"
    );
    let mut found = Vec::new();
    for row in agent.rows(&triggers).await? {
        let (trigger, table) = (field(&row, 0), field(&row, 1));
        let off = field(&row, 2) == "t";
        found.push(Leftover {
            kind: if off {
                "disabled-trigger"
            } else {
                "orphaned-trigger"
            }
            .to_owned(),
            object: format!("{trigger} on {table}"),
            detail: if off {
                "it is off: what it kept true is not kept".to_owned()
            } else {
                format!(
                    "named as tools for schema changes name theirs; it calls {}",
                    field(&row, 3)
                )
            },
            repair: String::new(),
            outcome: String::new(),
        });
    }
    let columns = format!(
        "SELECT a.attrelid::regclass::text, quote_ident(a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') \
         AND {OURS} AND NOT {needed} AND a.attname ~ '^(_pgroll_|pgctl_new_|__reshape_)' ORDER BY 1, 2"
    );
    for row in agent.rows(&columns).await? {
        found.push(Leftover {
            kind: "shadow-column".to_owned(),
            object: format!("{}.{}", field(&row, 0), field(&row, 1)),
            detail: "named as tools for schema changes name theirs; nothing shows that it is still used"
                .to_owned(),
            repair: String::new(),
            outcome: String::new(),
        });
    }
    Ok(found)
}

/// Repairs what can be repaired without judgement.
pub(super) async fn repair(worker: &Db, agent: &Db, found: &mut [Leftover]) -> Result<(), SqlError> {
    for leftover in found.iter_mut().filter(|leftover| !leftover.repair.is_empty()) {
        leftover.outcome = match mend(worker, agent, &leftover.repair).await {
            Ok(stall) => format!("repaired; others waited {stall} ms at most"),
            Err(error) if trouble(error.code.as_deref()) == Trouble::Lost => return Err(error),
            Err(error) => format!("not repaired: {}", error.message),
        };
    }
    Ok(())
}

async fn mend(worker: &Db, agent: &Db, sql: &str) -> Result<u64, SqlError> {
    let patient = sql.contains("CONCURRENTLY") || sql.contains("VALIDATE");
    let mut longest = 0;
    for number in 0..TRIES {
        let timeout = if patient { 0 } else { lock_timeout_ms(number) };
        worker.rows(&format!("SET lock_timeout = {timeout}")).await?;
        let (ran, stall) = look::watched(agent, worker.pid, worker.run(sql)).await;
        longest = longest.max(stall);
        match ran {
            Err(error) if trouble(error.code.as_deref()) == Trouble::Locked && number + 1 < TRIES => {
                tokio::time::sleep(Duration::from_millis(pause_ms(number, 500))).await;
            }
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    Ok(longest)
}
