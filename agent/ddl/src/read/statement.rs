//! Which statement it is.

use super::words::{Cursor, Word};
use crate::model::{Act, AlteredKind, DroppedKind, IndexAct, ReindexTarget};

/// Reads one statement. What is not known to touch relations is [`Act::Other`].
pub fn read(sql: &str, words: &[Word<'_>]) -> Act {
    let mut cursor = Cursor::new(sql, words);
    let first: Vec<&str> = words.iter().take(3).map(|word| word.text).collect();
    cursor.act().unwrap_or_else(|| Act::Other(first.join(" ")))
}

impl Cursor<'_, '_> {
    fn act(&mut self) -> Option<Act> {
        if self.eat("create") {
            return self.create();
        }
        if self.eat("alter") {
            return self.alter();
        }
        if self.eat("drop") {
            return self.drop();
        }
        self.utility().or_else(|| self.query())
    }

    fn create(&mut self) -> Option<Act> {
        let or_replace = self.eat("or replace");
        let temporary = self.eat_any(&[
            "temporary",
            "temp",
            "local temporary",
            "local temp",
            "global temporary",
            "global temp",
        ]);
        self.eat("unlogged");
        if self.eat("table") {
            self.create_table(temporary)
        } else if self.eat("foreign table") {
            self.create_table(false)
        } else if self.eat("unique index") {
            self.create_index(true)
        } else if self.eat("index") {
            self.create_index(false)
        } else if self.eat_any(&["recursive view", "view"]) {
            self.create_view(or_replace, false)
        } else if self.eat("materialized view") {
            self.create_view(false, true)
        } else if self.eat("sequence") {
            self.create_sequence()
        } else if self.eat_any(&["constraint trigger", "trigger"]) {
            self.until(&["on"]);
            self.eat("on");
            Some(Act::CreateTrigger { table: self.name()? })
        } else if self.eat_any(&["function", "procedure"]) {
            self.create_function()
        } else if self.eat("policy") {
            self.on_table("CREATE POLICY")
        } else if self.eat("rule") {
            let name = self.ident()?;
            self.until(&["to"]);
            self.eat("to");
            Some(Act::TableProperty {
                what: "CREATE RULE",
                name,
                table: self.name()?,
            })
        } else if self.eat("domain") {
            self.create_domain()
        } else if self.eat("type") {
            let name = self.name()?;
            Some(Act::CreateType {
                name,
                enumeration: self.at("as enum"),
            })
        } else if self.eat("publication") {
            self.publication(false)
        } else if self.eat("statistics") {
            self.until(&["from"]);
            self.eat("from");
            Some(Act::CreateStatistics { table: self.name() })
        } else {
            None
        }
    }

    fn alter(&mut self) -> Option<Act> {
        if self.eat("table") {
            self.alter_table(AlteredKind::Table)
        } else if self.eat("foreign table") {
            self.alter_table(AlteredKind::ForeignTable)
        } else if self.eat("view") {
            self.alter_table(AlteredKind::View)
        } else if self.eat("materialized view") {
            self.alter_table(AlteredKind::MaterializedView)
        } else if self.eat("index") {
            self.alter_index()
        } else if self.eat("sequence") {
            self.alter_sequence()
        } else if self.eat("domain") {
            self.alter_domain()
        } else if self.eat("type") {
            self.alter_type()
        } else if self.eat("publication") {
            self.publication(true)
        } else if self.eat("policy") {
            self.on_table("ALTER POLICY")
        } else if self.eat("trigger") {
            self.on_table("ALTER TRIGGER")
        } else if self.eat("rule") {
            self.on_table("ALTER RULE")
        } else {
            None
        }
    }

    /// `name ON table`.
    fn on_table(&mut self, what: &'static str) -> Option<Act> {
        self.eat("if exists");
        let name = self.ident()?;
        self.eat("on");
        Some(Act::TableProperty {
            what,
            name,
            table: self.name()?,
        })
    }

    fn alter_index(&mut self) -> Option<Act> {
        if self.at("all in tablespace") {
            return None;
        }
        self.eat("if exists");
        let index = self.name()?;
        let what = if self.eat("rename to") {
            IndexAct::Rename(self.ident()?)
        } else if self.eat("attach partition") {
            IndexAct::Attach(self.name()?)
        } else if self.eat("set tablespace") {
            IndexAct::SetTablespace
        } else if self.at("set (") || self.at("reset (") {
            IndexAct::SetOptions
        } else if self.eat("alter") {
            IndexAct::SetStatistics
        } else {
            IndexAct::Other
        };
        Some(Act::AlterIndex { index, what })
    }

    fn drop(&mut self) -> Option<Act> {
        const KINDS: &[(&str, DroppedKind)] = &[
            ("table", DroppedKind::Table),
            ("foreign table", DroppedKind::ForeignTable),
            ("view", DroppedKind::View),
            ("materialized view", DroppedKind::MaterializedView),
            ("index", DroppedKind::Index),
            ("sequence", DroppedKind::Sequence),
            ("type", DroppedKind::Type),
            ("domain", DroppedKind::Domain),
            ("function", DroppedKind::Function),
            ("procedure", DroppedKind::Function),
            ("aggregate", DroppedKind::Function),
            ("routine", DroppedKind::Function),
            ("schema", DroppedKind::Schema),
            ("publication", DroppedKind::Publication),
        ];
        for (word, what) in [
            ("trigger", "DROP TRIGGER"),
            ("policy", "DROP POLICY"),
            ("rule", "DROP RULE"),
        ] {
            if self.eat(word) {
                return self.on_table(what);
            }
        }
        let kind = KINDS.iter().find(|(word, _)| self.eat(word))?.1;
        let concurrently = self.eat("concurrently");
        let if_exists = self.eat("if exists");
        let names = self.names();
        Some(Act::Drop {
            kind,
            names,
            cascade: self.eat("cascade"),
            if_exists,
            concurrently,
        })
    }

    /// Commands that are neither queries nor CREATE, ALTER, DROP.
    fn utility(&mut self) -> Option<Act> {
        if self.eat("reindex") {
            let options = self.parens();
            let target = if self.eat("index") {
                ReindexTarget::Index
            } else if self.eat("table") {
                ReindexTarget::Table
            } else if self.eat("schema") {
                ReindexTarget::Schema
            } else {
                self.next();
                ReindexTarget::Database
            };
            let concurrently = self.eat("concurrently") | options.iter().any(|word| word.is("concurrently"));
            return Some(Act::Reindex {
                target,
                name: self.name(),
                concurrently,
            });
        }
        if self.eat("cluster") {
            self.parens();
            self.eat("verbose");
            return Some(self.repack("CLUSTER", false));
        }
        if self.eat("repack") {
            let options = self.parens();
            let concurrently = options.iter().any(|word| word.is("concurrently"));
            return Some(self.repack("REPACK", concurrently));
        }
        if self.eat("vacuum") {
            let options = self.parens();
            let mut full = options.iter().any(|word| word.is("full"));
            while self.at("full")
                || self.at("freeze")
                || self.at("verbose")
                || self.at("analyze")
                || self.at("analyse")
            {
                full |= self.eat("full") || self.next().is_none();
            }
            return Some(if full {
                self.repack("VACUUM FULL", false)
            } else {
                Act::Vacuum { tables: self.names() }
            });
        }
        if self.eat_any(&["analyze", "analyse"]) {
            self.parens();
            self.eat("verbose");
            return Some(Act::Analyze { tables: self.names() });
        }
        if self.eat("truncate") {
            self.eat("table");
            let tables = self.names();
            let cascade = self.rest().iter().any(|word| word.is("cascade"));
            return Some(Act::Truncate { tables, cascade });
        }
        if self.eat("refresh materialized view") {
            let concurrently = self.eat("concurrently");
            let view = self.name()?;
            return Some(Act::RefreshView {
                view,
                concurrently,
                with_data: !self.at("with no data"),
            });
        }
        if self.eat("lock") {
            self.eat("table");
            let tables = self.names();
            let mode = if self.eat("in") {
                let words = self.until(&["mode"]);
                words
                    .iter()
                    .map(|word| word.folded.clone())
                    .collect::<Vec<_>>()
                    .join(" ")
            } else {
                "access exclusive".to_owned()
            };
            return Some(Act::LockTable { tables, mode });
        }
        self.session()
    }

    fn repack(&mut self, command: &'static str, concurrently: bool) -> Act {
        Act::Repack {
            command,
            tables: self.names(),
            concurrently,
        }
    }
}
