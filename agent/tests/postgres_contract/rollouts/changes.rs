//! Random changes of the stage's schema, that servers accept.

use rand::Rng;
use rand::rngs::StdRng;
use std::fmt::Write;

/// What a random change may still be made of.
struct Left {
    indexes: Vec<&'static str>,
    partitions: Vec<&'static str>,
    /// Of the things that have a name of their own.
    names: u32,
}

const TABLES: [&str; 2] = ["customers", "orders"];

/// A script of some statements.
pub fn random(rng: &mut StdRng) -> String {
    let mut left = Left {
        indexes: vec!["orders_state", "orders_amount"],
        partitions: vec!["parts_1", "parts_2", "parts_3"],
        names: 0,
    };
    let mut script = String::new();
    for _ in 0..rng.random_range(2..7) {
        if rng.random_ratio(1, 6) {
            let (first, second) = (in_a_transaction(rng, &mut left), in_a_transaction(rng, &mut left));
            let _ = writeln!(script, "BEGIN; {first}; {second}; COMMIT;");
        } else if rng.random_ratio(1, 2) {
            let _ = writeln!(script, "{};", in_a_transaction(rng, &mut left));
        } else {
            let _ = writeln!(script, "{};", alone(rng, &mut left));
        }
    }
    script
}

fn in_a_transaction(rng: &mut StdRng, left: &mut Left) -> String {
    left.names += 1;
    let number = left.names;
    let table = TABLES[rng.random_range(0..TABLES.len())];
    match rng.random_range(0..10) {
        0 => format!("ALTER TABLE {table} ADD COLUMN c{number} int DEFAULT {number}"),
        1 => format!("ALTER TABLE {table} ADD COLUMN c{number} text"),
        2 => format!("CREATE TABLE t{number} (id int PRIMARY KEY, customer int REFERENCES customers)"),
        3 => format!("CREATE VIEW v{number} AS SELECT id, touched FROM {table}"),
        4 => format!("ALTER TABLE {table} ALTER COLUMN touched SET DEFAULT {number}"),
        5 => format!("CREATE SEQUENCE s{number}"),
        6 => format!("CREATE FUNCTION f{number}() RETURNS int LANGUAGE sql AS 'SELECT {number}'"),
        7 => format!("ALTER TABLE {table} SET (fillfactor = {})", 50 + number),
        8 => format!(
            "INSERT INTO customers (id, name) VALUES ({}, 'new')",
            1000 + number
        ),
        _ => format!(
            "ALTER TABLE orders ADD COLUMN d{number} date, ALTER COLUMN amount SET STATISTICS {number}"
        ),
    }
}

fn alone(rng: &mut StdRng, left: &mut Left) -> String {
    left.names += 1;
    let number = left.names;
    let table = TABLES[rng.random_range(0..TABLES.len())];
    match rng.random_range(0..13) {
        0 => format!("CREATE INDEX i{number} ON {table} (touched, id)"),
        1 => format!("CREATE UNIQUE INDEX CONCURRENTLY i{number} ON {table} (id DESC) WHERE touched >= 0"),
        // Not unique: the server refuses, in both runs alike.
        2 if rng.random_ratio(1, 3) => format!("CREATE UNIQUE INDEX i{number} ON orders (customer)"),
        2 => format!("CREATE INDEX ON {table} ((id + {number}))"),
        3 => format!("ALTER TABLE {table} ADD CONSTRAINT k{number} CHECK (touched >= 0)"),
        4 => format!(
            "ALTER TABLE orders ADD CONSTRAINT k{number} FOREIGN KEY (customer) REFERENCES customers (id)"
        ),
        5 => format!("ALTER TABLE customers ADD CONSTRAINT k{number} UNIQUE (mail, id)"),
        6 => format!(
            "UPDATE {table} SET touched = touched + 1 WHERE id % {} = 0",
            rng.random_range(1..4)
        ),
        7 => "UPDATE parts SET touched = touched + 1".to_owned(),
        8 => format!("REINDEX TABLE CONCURRENTLY {table}"),
        9 => format!("VACUUM (ANALYZE) {table}"),
        10 if !left.indexes.is_empty() => {
            let index = left.indexes.remove(rng.random_range(0..left.indexes.len()));
            format!("DROP INDEX CONCURRENTLY {index}")
        }
        11 if !left.partitions.is_empty() => {
            let partition = left.partitions.remove(rng.random_range(0..left.partitions.len()));
            format!("ALTER TABLE parts DETACH PARTITION {partition} CONCURRENTLY")
        }
        12 => format!("ALTER TYPE mood ADD VALUE 'mood {number}'"),
        _ => "ALTER TABLE orders ALTER COLUMN state SET NOT NULL".to_owned(),
    }
}
