//! Queries, the session, sequences, types, domains, publications.

use super::words::Cursor;
use crate::model::{Act, DomainAct, Name, SequenceAct, TypeAct};

impl Cursor<'_, '_> {
    pub fn alter_sequence(&mut self) -> Option<Act> {
        self.eat("if exists");
        let sequence = self.name()?;
        let what = if self.eat("rename to") {
            SequenceAct::Rename(self.ident()?)
        } else if self.at("owned by") {
            SequenceAct::OwnedBy(self.owned_by())
        } else if self.at("owner")
            || self.at("set schema")
            || self.at("set logged")
            || self.at("set unlogged")
        {
            SequenceAct::Other
        } else {
            SequenceAct::Options
        };
        Some(Act::AlterSequence { sequence, what })
    }

    pub fn create_domain(&mut self) -> Option<Act> {
        let domain = self.name()?;
        self.eat("as");
        let ty = self.type_name()?;
        let constrained = self
            .rest()
            .windows(2)
            .any(|pair| pair[0].is("check") || pair[0].is("not") && pair[1].is("null"));
        Some(Act::CreateDomain {
            domain,
            ty,
            constrained,
        })
    }

    pub fn alter_domain(&mut self) -> Option<Act> {
        let domain = self.name()?;
        let what = if self.eat("add") {
            let constraint = self.table_constraint();
            match constraint {
                Some(constraint) => DomainAct::AddConstraint {
                    not_valid: constraint.not_valid,
                    name: constraint.name,
                    body: constraint.body,
                },
                None => DomainAct::AddConstraint {
                    not_valid: self.rest().iter().any(|word| word.is("valid")),
                    name: None,
                    body: self.text(self.rest()),
                },
            }
        } else if self.eat("validate constraint") {
            DomainAct::ValidateConstraint(self.ident()?)
        } else if self.eat("set not null") {
            DomainAct::SetNotNull
        } else if self.eat("drop constraint") {
            DomainAct::DropConstraint
        } else {
            DomainAct::Other
        };
        Some(Act::AlterDomain { domain, what })
    }

    pub fn alter_type(&mut self) -> Option<Act> {
        let name = self.name()?;
        let what = if self.eat("add value") {
            self.eat("if not exists");
            TypeAct::AddValue(self.literal()?)
        } else if self.eat("rename value") {
            TypeAct::RenameValue
        } else if self.eat("rename to") {
            TypeAct::Rename(self.ident()?)
        } else if self.at("add attribute")
            || self.at("drop attribute")
            || self.at("alter attribute")
            || self.at("rename attribute")
        {
            TypeAct::Attribute
        } else {
            TypeAct::Other
        };
        Some(Act::AlterType { name, what })
    }

    /// Behind `CREATE PUBLICATION` or `ALTER PUBLICATION`.
    pub fn publication(&mut self, alter: bool) -> Option<Act> {
        let name = self.ident()?;
        let mut tables = Vec::new();
        let mut all_tables = false;
        if self.eat_any(&[
            "for all tables",
            "for tables in schema",
            "set tables in schema",
            "add tables in schema",
        ]) {
            all_tables = true;
        } else if self.eat_any(&["for table", "set table", "add table", "drop table"]) {
            while let Some((table, _)) = self.table() {
                tables.push(table);
                self.parens();
                if self.eat("where") {
                    self.parens();
                }
                if !self.eat(",") {
                    break;
                }
                self.eat("table");
            }
        }
        Some(Act::Publication {
            name,
            tables,
            all_tables,
            alter,
        })
    }

    /// Transactions, settings and what runs text of its own.
    pub fn session(&mut self) -> Option<Act> {
        if self.eat_any(&["begin", "start transaction"]) {
            return Some(Act::Begin);
        }
        if self.eat_any(&["commit", "end"]) {
            return Some(if self.at("prepared") {
                Act::Other("COMMIT PREPARED".to_owned())
            } else {
                Act::Commit
            });
        }
        if self.eat_any(&["rollback", "abort"]) {
            self.eat_any(&["work", "transaction"]);
            return Some(if self.at("to") {
                Act::Savepoint
            } else {
                Act::Rollback
            });
        }
        if self.eat_any(&["savepoint", "release"]) {
            return Some(Act::Savepoint);
        }
        if self.at("set transaction") || self.at("set constraints") || self.at("set session characteristics")
        {
            return Some(Act::Other("SET".to_owned()));
        }
        if self.eat("set") {
            let local = self.eat("local");
            self.eat("session");
            let name = if self.eat("time zone") {
                "timezone".to_owned()
            } else {
                let name = self.name()?.to_string();
                self.eat_any(&["to", "="]);
                name
            };
            let value = self.text(self.rest()).trim_matches('\'').to_owned();
            return Some(Act::Set { name, value, local });
        }
        if self.eat("reset") {
            return Some(Act::Set {
                name: self.text(self.rest()).to_lowercase(),
                value: "default".to_owned(),
                local: false,
            });
        }
        for (word, what) in [("do", "DO"), ("call", "CALL"), ("execute", "EXECUTE")] {
            if self.eat(word) {
                return Some(Act::Opaque { what });
            }
        }
        if self.eat("comment on") {
            let on_table = ["table", "view", "materialized view", "index", "sequence"];
            let table = if on_table.iter().any(|word| self.eat(word)) {
                self.name()
            } else if self.eat("column") {
                let full = self.name()?;
                full.schema.clone().map(Name::plain)
            } else if self.eat("constraint") {
                self.ident();
                self.eat("on");
                self.name()
            } else {
                None
            };
            return Some(Act::Comment { table });
        }
        if self.eat_any(&["grant", "revoke"]) {
            self.until(&["on"]);
            if !self.eat("on") || self.at("all") {
                return Some(Act::Grant { tables: Vec::new() });
            }
            let other = [
                "schema",
                "database",
                "function",
                "sequence",
                "type",
                "domain",
                "language",
                "procedure",
            ];
            if other.iter().any(|word| self.at(word)) {
                return Some(Act::Grant { tables: Vec::new() });
            }
            self.eat("table");
            return Some(Act::Grant { tables: self.names() });
        }
        None
    }

    /// SELECT, INSERT, UPDATE, DELETE, MERGE, COPY, with or without WITH.
    pub fn query(&mut self) -> Option<Act> {
        let reads = self.reads();
        let strings = self.strings();
        if self.eat("with") {
            self.until(&["select", "insert", "update", "delete", "merge", "values"]);
        }
        if self.eat("insert into") {
            let table = self.name()?;
            let from_query = self
                .rest()
                .iter()
                .any(|word| word.is("select") || word.is("table"));
            return Some(Act::Insert {
                table,
                reads,
                from_query,
                strings,
            });
        }
        if self.eat("update") {
            let (table, _) = self.table()?;
            self.until(&["where"]);
            return Some(Act::Update {
                table,
                filtered: self.at("where"),
                strings,
            });
        }
        if self.eat("delete from") {
            let (table, _) = self.table()?;
            self.until(&["where"]);
            return Some(Act::Delete {
                table,
                filtered: self.at("where"),
            });
        }
        if self.eat("merge into") {
            let (table, _) = self.table()?;
            return Some(Act::Update {
                table,
                filtered: true,
                strings,
            });
        }
        if self.eat("copy") {
            let table = self.name();
            self.parens();
            return Some(Act::Copy {
                table,
                into: self.at("from"),
            });
        }
        if self.at("select") || self.at("values") || self.at("(") || self.at("table") || self.at("explain") {
            let mut reads = reads;
            if self.eat("table") {
                reads.extend(self.name());
            }
            let locking = self.rest().windows(2).any(|pair| {
                pair[0].is("for") && (pair[1].is("update") || pair[1].is("share") || pair[1].is("no"))
            });
            let opaque = self.at("explain");
            return (!opaque).then_some(Act::Query {
                reads,
                locking,
                strings,
            });
        }
        None
    }
}
