//! Histograms that keep nothing.
//!
//! openraft counts how large its batches are and how long each stage of an entry takes, and shows the figures to whoever
//! asks for its runtime statistics. Nothing here does. The library that it counts with (`base2histogram` 0.2.3) makes its
//! tables for every bucket width at the first use and keeps them for ever: 26 MiB, two thirds of what an agent took.
//! This crate has the same names, and records nothing; the agent's own metrics are made elsewhere.

use std::fmt;
use std::marker::PhantomData;

/// A histogram that is always empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    metadata: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Histogram<T> {
        Histogram {
            metadata: PhantomData,
        }
    }

    /// Forgets `value`.
    pub fn record(&mut self, _value: u64) {}

    /// Forgets `value`, however often it came.
    pub fn record_n(&mut self, _value: u64, _count: u64) {}

    /// The percentiles of no samples.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// Percentiles by name; all zero.
#[expect(missing_docs, reason = "the names say it, and nobody reads the values")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not recorded")
    }
}

/// A chart of nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty chart.
    #[must_use]
    pub fn new() -> AsciiChart {
        AsciiChart
    }

    /// The same chart: there is nothing to add.
    #[must_use]
    pub fn add<T>(self, _name: impl Into<String>, _histogram: Histogram<T>) -> AsciiChart {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not recorded")
    }
}
