//! Money is moved, never made: every read that was confirmed shows the same total.

use super::Finding;
use std::collections::BTreeMap;

/// One confirmed read of all accounts, or the last look.
#[derive(Clone, Debug)]
pub struct Read {
    /// Who read, and when: for messages.
    pub who: String,
    /// Each account's balance.
    pub balances: BTreeMap<u32, i64>,
}

/// Checks that each read shows `accounts` accounts with `total` in them, and no debt: a transfer is only made where there
/// is enough.
pub fn check(reads: &[Read], accounts: usize, total: i64) -> Finding {
    let mut finding = Finding::new("bank", reads.len() as u64);
    for Read { who, balances } in reads {
        let sum: i64 = balances.values().sum();
        if balances.len() != accounts {
            finding.violated(format!(
                "{who}: {} of {accounts} accounts: {balances:?}",
                balances.len()
            ));
        } else if sum != total {
            finding.violated(format!("{who}: {sum} instead of {total}: {balances:?}"));
        } else if balances.values().any(|balance| *balance < 0) {
            finding.violated(format!("{who}: an account is in debt: {balances:?}"));
        }
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Outcome;

    fn outcome(balances: &[i64]) -> Outcome {
        let balances = (0..).zip(balances.iter().copied()).collect();
        let read = Read {
            who: "client 1".to_owned(),
            balances,
        };
        check(&[read], 3, 30).outcome
    }

    #[test]
    fn money_may_move() {
        assert_eq!(outcome(&[10, 10, 10]), Outcome::Holds);
        assert_eq!(outcome(&[0, 25, 5]), Outcome::Holds);
    }

    #[test]
    fn half_a_transfer_is_found() {
        assert_eq!(outcome(&[10, 10, 5]), Outcome::Violated);
    }

    #[test]
    fn a_missing_account_is_found_even_if_the_total_is_right() {
        assert_eq!(outcome(&[15, 15]), Outcome::Violated);
    }

    #[test]
    fn debt_is_found() {
        assert_eq!(outcome(&[-5, 20, 15]), Outcome::Violated);
    }
}
