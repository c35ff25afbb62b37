//! Measured values, and what is made of several of one kind.

use serde::Serialize;

/// One value of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// `Patroni 20/1/3`
    pub system: String,
    /// `node kill: write gap`
    pub measure: String,
    /// `ms`, `MiB`, ...
    pub unit: &'static str,
    /// The value, in that unit.
    pub value: f64,
    /// Whether the watching ended before the thing watched did: the true value is at least this.
    pub at_least: bool,
}

/// Everything measured so far.
#[derive(Default, Debug)]
pub struct Samples {
    system: String,
    samples: Vec<Sample>,
    failures: Vec<(String, String)>,
}

impl Samples {
    /// What is added from now on was measured with this system.
    pub fn of(&mut self, system: &str) {
        system.clone_into(&mut self.system);
    }

    /// Adds a value.
    pub fn add(&mut self, measure: &str, unit: &'static str, value: f64) {
        self.push(measure, unit, value, false);
    }

    /// Adds a value that is only a lower bound.
    pub fn add_at_least(&mut self, measure: &str, unit: &'static str, value: f64) {
        self.push(measure, unit, value, true);
    }

    fn push(&mut self, measure: &str, unit: &'static str, value: f64, at_least: bool) {
        eprintln!(
            "   {measure}: {}{value:.1} {unit}",
            if at_least { ">= " } else { "" }
        );
        let (system, measure) = (self.system.clone(), measure.to_owned());
        self.samples.push(Sample {
            system,
            measure,
            unit,
            value,
            at_least,
        });
    }

    /// Notes that the run could not be ended.
    pub fn failed(&mut self, why: &str) {
        self.failures.push((self.system.clone(), why.to_owned()));
    }

    /// Runs that could not be ended: system and reason.
    pub fn failures(&self) -> &[(String, String)] {
        &self.failures
    }

    /// One summary for each measure and system, in the order of their first values.
    pub fn summaries(&self) -> Vec<Summary> {
        let mut summaries: Vec<Summary> = Vec::new();
        for sample in &self.samples {
            let same = |s: &&mut Summary| s.system == sample.system && s.measure == sample.measure;
            match summaries.iter_mut().find(same) {
                Some(summary) => {
                    summary.values.push(sample.value);
                    summary.at_least |= sample.at_least;
                }
                None => summaries.push(Summary {
                    system: sample.system.clone(),
                    measure: sample.measure.clone(),
                    unit: sample.unit,
                    median: 0.0,
                    p99: 0.0,
                    at_least: sample.at_least,
                    values: vec![sample.value],
                }),
            }
        }
        for summary in &mut summaries {
            summary.median = median(&summary.values);
            summary.p99 = percentile(&summary.values, 99);
        }
        summaries
    }
}

/// The values of one measure of one system.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// `pgctl`
    pub system: String,
    /// `node kill: write gap`
    pub measure: String,
    /// `ms`, `MiB`, ...
    pub unit: &'static str,
    /// The median of the values.
    pub median: f64,
    /// The 99th percentile of the values by nearest rank: with fewer than 100 values, the largest.
    pub p99: f64,
    /// Whether any of the values is only a lower bound.
    pub at_least: bool,
    /// In the order in which they were measured.
    pub values: Vec<f64>,
}

/// The middle value; the mean of the two middle ones if there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The smallest value that at least `percent` of the values (1 to 100) do not exceed.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).map_or(f64::NAN, |i| sorted[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&hundred[..30], 99), 100.0);
        assert_eq!(percentile(&[5.0], 50), 5.0);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn samples_are_grouped_by_system_and_measure() {
        let mut samples = Samples::default();
        samples.of("a");
        samples.add("x", "ms", 1.0);
        samples.add_at_least("x", "ms", 3.0);
        samples.of("b");
        samples.add("x", "ms", 9.0);
        let summaries = samples.summaries();
        assert_eq!(summaries.len(), 2);
        assert_eq!(
            (
                summaries[0].median,
                summaries[0].at_least,
                summaries[0].values.len()
            ),
            (2.0, true, 2)
        );
        assert_eq!((summaries[1].median, summaries[1].at_least), (9.0, false));
    }
}
