//! Wherever an expansion is broken off, the old schema is there again, and nothing that was written is gone.

use super::super::on_each_version;
use super::side_by_side::{CHANGE, SETUP};
use super::{Stage, said};
use ddl::expand::Keep;

/// What an old program writes, at any time.
const OLD_WRITES: &str = "
INSERT INTO orders (id, customer, amount, note, parcel) VALUES (5000, 1, 250, 'old', 9);
UPDATE orders SET amount = amount + 1 WHERE id BETWEEN 100 AND 110;
";
/// What a new one writes, once it can; 7.257 is rounded as the column's type says.
const NEW_WRITES: &str = "
INSERT INTO app_v2.orders (id, customer, amount, remark, parcel) VALUES (5001, 2, 7.257, 'new', '11');
UPDATE app_v2.orders SET amount = amount * 2, parcel = NULL WHERE id = 5000;
";

const DATA: &str = "SELECT md5(string_agg(format('%s %s %s %s %s', id, customer, amount, note, parcel), ',' ORDER BY id)) FROM public.orders";

#[test]
fn an_expansion_that_is_aborted_behind_any_step_leaves_the_old_schema_and_every_row() {
    on_each_version(async |server| {
        let stage = Stage::set(&server, SETUP).await;
        let (schema, count) = (stage.schema().await, stage.plan(CHANGE).await.len());
        assert!(count > 15, "only {count} steps");
        for done in 0..=count {
            let stage = Stage::set(&server, SETUP).await;
            let plan = stage.plan(CHANGE).await;
            for step in &plan[..done] {
                stage
                    .step(step)
                    .await
                    .unwrap_or_else(|error| panic!("{:?}: {}", step.sql, said(&error)));
            }
            stage.admin.batch_execute(OLD_WRITES).await.expect("old writes");
            let mut expected = "5000 250 9";
            if done == count {
                stage.admin.batch_execute(NEW_WRITES).await.expect("new writes");
                let seen = stage
                    .one("SELECT format('%s %s', amount, parcel) FROM orders WHERE id = 5001")
                    .await;
                assert_eq!(
                    seen, "726 11",
                    "what the new program wrote, as the old one sees it"
                );
                expected = "5000 500 ";
            }
            let data = stage.one(DATA).await;
            stage
                .undo(&plan[..done])
                .await
                .unwrap_or_else(|error| panic!("behind {done}: {}", said(&error)));
            assert_eq!(stage.schema().await, schema, "behind {done} steps");
            assert_eq!(stage.one(DATA).await, data, "behind {done} steps");
            let row = stage
                .one("SELECT format('%s %s %s', id, amount, parcel) FROM orders WHERE id = 5000")
                .await;
            assert_eq!(row, expected);
        }
    });
}

#[test]
fn a_version_is_given_up_from_wherever_an_aborted_rollout_has_left_it() {
    on_each_version(async |server| {
        let stage = Stage::set(&server, SETUP).await;
        let (schema, count) = (stage.schema().await, stage.plan(CHANGE).await.len());
        for done in [1, 2, 3, count / 2, count - 1, count] {
            let stage = Stage::set(&server, SETUP).await;
            let plan = stage.plan(CHANGE).await;
            stage.run(&plan[..done]).await.expect("steps");
            stage.admin.batch_execute(OLD_WRITES).await.expect("old writes");
            let data = stage.one(DATA).await;
            let back = stage.contraction(Keep::Old, Some(1)).await.expect("a way back");
            stage
                .run(&back)
                .await
                .unwrap_or_else(|error| panic!("behind {done}: {}", said(&error)));
            assert_eq!(stage.schema().await, schema, "behind {done} steps");
            assert_eq!(stage.one(DATA).await, data, "behind {done} steps");
        }
    });
}

#[test]
fn a_version_that_is_in_use_is_not_given_up_and_one_that_lacks_something_is_not_contracted() {
    on_each_version(async |server| {
        let stage = Stage::set(&server, SETUP).await;
        stage.run(&stage.plan(CHANGE).await).await.expect("it opens");
        stage.admin.batch_execute(OLD_WRITES).await.expect("old writes");
        stage.admin.batch_execute(NEW_WRITES).await.expect("new writes");
        let back = stage.contraction(Keep::Old, Some(5)).await.expect("a way back");
        let refused = stage.run(&back).await.expect_err("it is in use");
        assert!(
            said(&refused).contains("new version has written"),
            "{}",
            said(&refused)
        );
        assert!(stage.contraction(Keep::Tables, None).await.is_err());

        stage
            .worker
            .batch_execute("CREATE INDEX since ON orders (amount, note)")
            .await
            .expect("an index");
        let refused = stage
            .contraction(Keep::New, None)
            .await
            .expect_err("the index would be lost");
        assert!(refused.join(" ").contains("the index since"), "{refused:?}");
        stage
            .worker
            .batch_execute("DROP INDEX since; CREATE VIEW v AS SELECT amount FROM orders")
            .await
            .expect("a view");
        let refused = stage
            .contraction(Keep::New, None)
            .await
            .expect_err("the view would be lost");
        assert!(refused.join(" ").contains("view public.v"), "{refused:?}");
        stage
            .worker
            .batch_execute("DROP VIEW v; DROP INDEX pgctl_new_orders_amount")
            .await
            .expect("an index less");
        let refused = stage
            .contraction(Keep::New, None)
            .await
            .expect_err("its twin is gone");
        assert!(refused.join(" ").contains("orders_amount"), "{refused:?}");
        stage
            .worker
            .batch_execute("DROP INDEX orders_amount")
            .await
            .expect("an index less");
        let contraction = stage
            .contraction(Keep::New, None)
            .await
            .expect("neither is missed");
        stage.run(&contraction).await.expect("it is contracted");
    });
}
