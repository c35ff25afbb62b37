//! What asynchronous mode may lose: so many bytes for each failover, and nothing where nothing failed over.

use super::Finding;
use std::collections::BTreeMap;

/// Checks that `lost` acknowledged writes, of at least `bytes_each` bytes of WAL, fit into `failovers` times `bound_bytes`.
pub fn check(acked: u64, lost: u64, bytes_each: u64, failovers: u64, bound_bytes: u64) -> Finding {
    let mut finding = Finding::new("bound of async mode", acked);
    let allowed = bound_bytes.saturating_mul(failovers) / bytes_each.max(1);
    finding.figures = BTreeMap::from([("lost", lost), ("failovers", failovers), ("allowed", allowed)]);
    if lost > allowed {
        finding.violated(format!(
            "{lost} acknowledged writes are lost; {failovers} failovers may lose {bound_bytes} bytes each, at most \
             {allowed} writes"
        ));
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Outcome;

    #[test]
    fn a_loss_within_the_bound_is_allowed() {
        assert_eq!(check(1000, 10, 64, 1, 640).outcome, Outcome::Holds);
        assert_eq!(check(1000, 20, 64, 2, 640).outcome, Outcome::Holds);
    }

    #[test]
    fn a_loss_beyond_the_bound_is_found() {
        assert_eq!(check(1000, 11, 64, 1, 640).outcome, Outcome::Violated);
    }

    #[test]
    fn nothing_may_be_lost_without_a_failover() {
        assert_eq!(check(1000, 1, 64, 0, 1 << 30).outcome, Outcome::Violated);
    }
}
