//! The old and the new program write at once, through connections that they share, from before the version is opened until
//! after it is contracted.

use super::super::on_each_version;
use super::{Stage, one, said};
use ddl::expand::{Keep, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::Client;

pub const SETUP: &str = "
CREATE TABLE customers (id int PRIMARY KEY);
INSERT INTO customers SELECT generate_series(1, 10);
CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers,
    amount int NOT NULL DEFAULT 0 CONSTRAINT positive CHECK (amount >= 0), note text, parcel int UNIQUE);
CREATE INDEX orders_amount ON orders (amount) WHERE amount > 10;
CREATE INDEX orders_customer ON orders (customer, abs(amount));
COMMENT ON COLUMN orders.amount IS 'what''s owed';
INSERT INTO orders (customer, amount, note) SELECT 1 + n % 10, n, 'n' || n FROM generate_series(1, 1500) n;
UPDATE orders SET amount = 0 WHERE id = 1;
GRANT SELECT, INSERT, UPDATE ON orders TO program; GRANT USAGE ON SEQUENCE orders_id_seq TO program;
";

pub const CHANGE: &str = "
-- pgctl:down amount = round(amount * 100)
ALTER TABLE orders ALTER COLUMN amount TYPE numeric(12,2) USING amount / 100.0, ALTER COLUMN amount SET DEFAULT 0;
ALTER TABLE orders ALTER COLUMN id TYPE bigint, ALTER COLUMN customer TYPE bigint, ALTER COLUMN parcel TYPE text;
-- pgctl:down parcel = parcel::int
ALTER TABLE orders RENAME COLUMN note TO remark;
";

/// Stands in for a pooler: each transaction gets whichever connection is free, whosever it was before.
struct Pool {
    free: Mutex<mpsc::UnboundedReceiver<Client>>,
    back: mpsc::UnboundedSender<Client>,
}

impl Pool {
    async fn transaction(&self, sql: &str) -> String {
        let client = self.free.lock().await.recv().await.expect("a connection");
        let answer = client.simple_query(&format!("BEGIN; {sql}; COMMIT")).await;
        let answer = answer.unwrap_or_else(|error| panic!("{sql}: {}", said(&error)));
        self.back
            .send(client)
            .unwrap_or_else(|_| panic!("the pool is there"));
        let value = answer.iter().rev().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        value.unwrap_or_default()
    }
}

/// A program, of the old version or of the new.
struct Program {
    new: bool,
    pool: Arc<Pool>,
    stop: Arc<AtomicBool>,
    transactions: Arc<AtomicU64>,
}

impl Program {
    fn path(&self) -> &'static str {
        if self.new {
            "SET LOCAL search_path = app_v2, public; "
        } else {
            ""
        }
    }

    /// As this program writes so many cents.
    fn sum(&self, cents: u64) -> String {
        if self.new {
            format!("{}.{:02}", cents / 100, cents % 100)
        } else {
            cents.to_string()
        }
    }

    async fn transaction(&self, sql: &str) -> String {
        let answer = self.pool.transaction(&format!("{}{sql}", self.path())).await;
        self.transactions.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// Works until it is stopped; the rows that it wrote, as they should be, and how often it added to the row of all.
    async fn work(self) -> (BTreeMap<u64, (u64, String)>, u64) {
        let note = if self.new { "remark" } else { "note" };
        let mut own: BTreeMap<u64, (u64, String)> = BTreeMap::new();
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            round += 1;
            let cents = 1 + round * 37 % 9_999;
            let insert = format!(
                "INSERT INTO orders (customer, amount, {note}) VALUES ({}, {}, 'r{round}') RETURNING id",
                1 + round % 10,
                self.sum(cents)
            );
            let id: u64 = self.transaction(&insert).await.parse().expect("an id");
            own.insert(id, (cents, format!("r{round}")));
            let (chosen, row) = own
                .iter_mut()
                .nth(usize::try_from(round * 7).expect("small") % usize::try_from(round).expect("small"))
                .expect("a row");
            row.0 += 7;
            row.1.push('x');
            let update = format!(
                "UPDATE orders SET amount = amount + {}, {note} = {note} || 'x' WHERE id = {chosen} RETURNING amount",
                self.sum(7)
            );
            assert_eq!(self.transaction(&update).await, self.sum(row.0), "row {chosen}");
            row.0 += 100;
            let upsert = format!(
                "INSERT INTO orders (id, customer, amount) VALUES ({chosen}, 1, {}) ON CONFLICT (id) DO UPDATE SET amount = \
                 excluded.amount",
                self.sum(row.0)
            );
            self.transaction(&upsert).await;
            let all = format!(
                "UPDATE orders SET amount = amount + {} WHERE id = 1",
                self.sum(100)
            );
            self.transaction(&all).await;
        }
        (own, round)
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn no_write_of_either_program_is_lost_and_each_sees_the_other_s() {
    on_each_version(async |server| {
        let stage = Stage::set(&server, SETUP).await;
        let (back, free) = mpsc::unbounded_channel();
        for _ in 0..3 {
            let client = server.connect().await.expect("a connection");
            client.batch_execute("SET ROLE program").await.expect("a role");
            back.send(client).unwrap_or_else(|_| panic!("the pool is there"));
        }
        let pool = Arc::new(Pool {
            free: Mutex::new(free),
            back,
        });
        let begin = |new: bool| {
            let (stop, transactions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let program = Program {
                new,
                pool: Arc::clone(&pool),
                stop: Arc::clone(&stop),
                transactions: Arc::clone(&transactions),
            };
            (tokio::spawn(program.work()), stop, transactions)
        };
        let (old, stop_old, by_old) = begin(false);
        until("the old program works", || by_old.load(Ordering::Relaxed) > 20).await;
        let plan = stage.plan(CHANGE).await;
        for step in &plan {
            stage
                .step(step)
                .await
                .unwrap_or_else(|error| panic!("{:?}: {}", step.sql, said(&error)));
            let before = by_old.load(Ordering::Relaxed);
            until("the old program goes on", || {
                by_old.load(Ordering::Relaxed) > before + 8
            })
            .await;
        }
        let (new, stop_new, by_new) = begin(true);
        let before = by_old.load(Ordering::Relaxed);
        until("both work", || {
            by_new.load(Ordering::Relaxed) > 200 && by_old.load(Ordering::Relaxed) > before + 200
        })
        .await;
        let differ = "SELECT count(*) FROM orders WHERE amount IS DISTINCT FROM round(pgctl_new_amount * 100) \
                      OR id <> pgctl_new_id OR customer <> pgctl_new_customer";
        assert_eq!(stage.one(differ).await, "0", "the versions differ");

        // It is seen that the old one is in use: first by its writes, then by a reader that writes nothing.
        let early = stage.contraction(Keep::New, Some(2)).await.expect("steps");
        let refused = stage.run(&early).await.expect_err("it is in use");
        assert!(said(&refused).contains("old version"), "{}", said(&refused));
        stop_old.store(true, Ordering::Relaxed);
        let (old_rows, old_rounds) = old.await.expect("the old program");
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        let reader = server.connect().await.expect("a connection");
        reader
            .batch_execute("BEGIN; SELECT count(*) FROM orders")
            .await
            .expect("a reader");
        let refused = stage.run(&early).await.expect_err("it is in use");
        assert!(
            said(&refused).contains("uses public.orders"),
            "{}",
            said(&refused)
        );
        reader.batch_execute("COMMIT").await.expect("a reader");

        let contraction = stage.contraction(Keep::New, Some(2)).await.expect("steps");
        for step in &contraction {
            stage
                .step(step)
                .await
                .unwrap_or_else(|error| panic!("{:?}: {}", step.sql, said(&error)));
        }
        let before = by_new.load(Ordering::Relaxed);
        until("the new program goes on", || {
            by_new.load(Ordering::Relaxed) > before + 100
        })
        .await;
        stop_new.store(true, Ordering::Relaxed);
        let (new_rows, new_rounds) = new.await.expect("the new program");

        assert_eq!(stage.versions().await[0].state, State::Contracted);
        for (id, (cents, note)) in old_rows.iter().chain(&new_rows) {
            let row = one(
                &stage.admin,
                &format!(
                    "SELECT format('%s %s', round(amount * 100), remark) FROM public.orders WHERE id = {id}"
                ),
            )
            .await;
            assert_eq!(row, format!("{cents} {note}"), "row {id}");
        }
        let all = stage
            .one("SELECT round(amount)::text FROM public.orders WHERE id = 1")
            .await;
        assert_eq!(all, (old_rounds + new_rounds).to_string(), "additions to one row");
        let untouched = "SELECT count(*) FROM orders WHERE id BETWEEN 2 AND 1500 AND amount <> id / 100.0";
        assert_eq!(stage.one(untouched).await, "0", "rows that nobody wrote");
        as_if_made_so(&stage).await;
        stage
            .run(&stage.contraction(Keep::Tables, None).await.expect("steps"))
            .await
            .expect("the views go");
        assert_eq!(
            stage
                .one("SELECT count(*) FROM pg_namespace WHERE nspname = 'app_v2'")
                .await,
            "0"
        );
    });
}

/// The tables are as if they had been made as the new version has them.
async fn as_if_made_so(stage: &Stage) {
    for (sql, expected) in [
        (
            "SELECT string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attname) FROM pg_attribute \
          WHERE attrelid = 'orders'::regclass AND attnum > 0 AND NOT attisdropped",
            "amount numeric(12,2), customer bigint, id bigint, parcel text, remark text",
        ),
        (
            "SELECT string_agg(attname, ' ' ORDER BY attname) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0 \
          AND attnotnull",
            "amount customer id",
        ),
        (
            "SELECT string_agg(c.relname || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END, ' ' ORDER BY c.relname) FROM pg_index i \
          JOIN pg_class c ON c.oid = i.indexrelid WHERE indrelid = 'orders'::regclass",
            "orders_amount orders_customer orders_parcel_key orders_pkey",
        ),
        (
            "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND convalidated \
          AND contype <> 'n'",
            "orders_customer_fkey orders_parcel_key orders_pkey positive",
        ),
        (
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal",
            "0",
        ),
        (
            "SELECT col_description('orders'::regclass, attnum) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'amount'",
            "what's owed",
        ),
        (
            "SELECT pg_get_serial_sequence('orders', 'id')",
            "public.orders_id_seq",
        ),
        (
            "SELECT format_type(seqtypid, NULL) FROM pg_sequence WHERE seqrelid = 'orders_id_seq'::regclass",
            "bigint",
        ),
        (
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'app_v2'::regnamespace",
            "0",
        ),
    ] {
        assert_eq!(stage.one(sql).await, expected, "{sql}");
    }
}
