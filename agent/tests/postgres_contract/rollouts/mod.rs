//! Schema changes whose agent dies at each thing that it does, with or without its server: they end as if nothing had happened.
//!
//! `PGCTL_ROLLOUT_DEATHS=all` tries every way to die at every point (default: one way at every fifth), and
//! `PGCTL_ROLLOUT_SEEDS=1000` so many random changes, from `PGCTL_ROLLOUT_SEED` on.

mod changes;
mod mortal;
mod stage;

use crate::bench::on_each_version;
use agent_core::cluster::RolloutPhase;
use mortal::{Death, Fate};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stage::{End, Stage};

/// A change with a step of every class.
const CHANGE: &str = "
ALTER TABLE orders ADD COLUMN note text;
CREATE UNIQUE INDEX orders_twice ON orders (customer, lower(note), id) WHERE amount > 0;
UPDATE orders SET touched = touched + 1, note = id::text WHERE amount > 10;
BEGIN; CREATE TABLE audit (id int); ALTER TABLE customers ADD COLUMN audited int; COMMIT;
ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount >= 0);
REINDEX INDEX CONCURRENTLY orders_amount;
ALTER TABLE parts DETACH PARTITION parts_2 CONCURRENTLY;
DROP INDEX CONCURRENTLY orders_state;
VACUUM orders;
";
/// The ways to die without the server; dying with it takes seconds, and is tried less often.
const ALONE: [Death; 3] = [Death::Before, Death::Amid, Death::After];
const EVERY: u32 = 5;
const WITH_THE_SERVER_EVERY: u32 = 45;
const SEEDS: u64 = 10;

#[test]
fn a_rollout_whose_agent_dies_at_any_point_ends_as_one_that_was_left_alone() {
    let all = std::env::var("PGCTL_ROLLOUT_DEATHS").is_ok_and(|which| which == "all");
    on_each_version(|bench| async move {
        let mut stage = Stage::set(&bench).await;
        stage.reset().await;
        let steps = stage.plan(CHANGE).await;
        let fate = Fate::none();
        stage.order(&steps);
        assert_eq!(
            stage.live(&fate).await,
            End::Rests(RolloutPhase::Done),
            "{}",
            stage.message()
        );
        let (things, straight) = (fate.done(), stage.picture().await);
        assert!(
            things > 80,
            "only {things} things are done for {} steps",
            steps.len()
        );
        println!("an agent does {things} things for {} steps", steps.len());
        for number in 0..things {
            let ways = match number {
                _ if all => vec![Death::Before, Death::Amid, Death::After, Death::WithTheServer],
                _ if number % WITH_THE_SERVER_EVERY == 1 => vec![Death::WithTheServer],
                _ if number % EVERY == 1 => vec![ALONE[(number / EVERY) as usize % ALONE.len()]],
                _ => Vec::new(),
            };
            for death in ways {
                stage.reset().await;
                stage.order(&steps);
                let first = stage.live(&Fate::at(number, death)).await;
                if number % 2 == 0 {
                    stage.begin_epoch();
                }
                let end = match first {
                    End::Died => stage.live(&Fate::none()).await,
                    rests @ End::Rests(_) => rests,
                };
                let what = format!("death {death:?} at {number}");
                assert_eq!(end, End::Rests(RolloutPhase::Done), "{what}: {}", stage.message());
                assert_eq!(stage.picture().await, straight, "{what}");
            }
        }
    });
}

#[test]
fn random_changes_under_random_deaths_end_as_ones_that_were_left_alone() {
    let seeds = std::env::var("PGCTL_ROLLOUT_SEEDS").map_or(SEEDS, |text| text.parse().unwrap());
    let first = std::env::var("PGCTL_ROLLOUT_SEED").map_or(0, |text| text.parse().unwrap());
    on_each_version(|bench| async move {
        let mut stage = Stage::set(&bench).await;
        stage.reset().await;
        let before = stage.picture().await;
        let mut undone = 0;
        for seed in first..first + seeds {
            let mut rng = StdRng::seed_from_u64(seed);
            let script = changes::random(&mut rng);
            let told = format!("seed {seed}:\n{script}");
            stage.reset().await;
            let steps = stage.plan(&script).await;
            let fate = Fate::none();
            stage.order(&steps);
            let (end, things) = (stage.live(&fate).await, fate.done());
            let (message, straight) = (stage.message(), stage.picture().await);

            stage.reset().await;
            stage.order(&steps);
            let mut expected = (end, straight);
            let mut left: u32 = rng.random_range(1..6);
            let broken = loop {
                let fate = if left == 0 {
                    Fate::none()
                } else {
                    let death = match rng.random_range(0..20) {
                        0 => Death::WithTheServer,
                        number => ALONE[number % ALONE.len()],
                    };
                    Fate::at(rng.random_range(0..things), death)
                };
                match stage.live(&fate).await {
                    End::Died => left = left.saturating_sub(1),
                    rests @ End::Rests(_) => break rests,
                }
                if rng.random_ratio(1, 3) {
                    stage.begin_epoch();
                }
                if rng.random_ratio(1, 3) && stage.order_undo() {
                    expected = (End::Rests(RolloutPhase::Aborted), before.clone());
                    undone += 1;
                }
            };
            assert_eq!(broken, expected.0, "{told}\n{message} / {}", stage.message());
            assert_eq!(stage.picture().await, expected.1, "{told}");
        }
        println!("{seeds} changes, {undone} of them undone half way");
    });
}
