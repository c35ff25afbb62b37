//! The cluster's settings by name, for `pgctl config`.

use super::refusal;
use crate::config::nearest;
use agent_core::cluster::{AssignError, ClusterState, SETTING_KEYS, Settings};
use agent_core::timing::{Timing, TimingCheck};
use agent_core::view::ClusterView;
use proto::control as wire;
use std::collections::BTreeMap;
use tonic::Status;

/// All settings, with their defaults and what may be given.
pub(super) fn shown(settings: &Settings) -> wire::Settings {
    let defaults = Settings::default();
    let rows = SETTING_KEYS.iter().map(|key| wire::Setting {
        key: key.name.to_owned(),
        value: key.value(settings),
        default: key.value(&defaults),
        allowed: key.allowed.to_owned(),
        doc: key.doc.to_owned(),
    });
    wire::Settings {
        version: settings.version,
        settings: rows.collect(),
    }
}

/// `settings` with `assignments` carried out in their order, and everything that is wrong with the result.
pub(super) fn assigned(settings: &Settings, assignments: &[wire::Assignment]) -> (Settings, Vec<String>) {
    let mut changed = settings.clone();
    let mut problems = Vec::new();
    for wire::Assignment { key, value } in assignments {
        match changed.assign(key, value) {
            Ok(()) => {}
            Err(error @ AssignError::UnknownKey { .. }) => {
                let near = nearest(key, SETTING_KEYS.iter().map(|known| known.name));
                problems.push(match near {
                    Some(near) => format!("{error}; did you mean {near}?"),
                    None => format!("{error}: `pgctl config show` lists them"),
                });
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty()
        && let Err(error) = changed.validate()
    {
        problems.push(error.to_string());
    }
    (changed, problems)
}

/// The same, refused if anything is wrong.
pub(super) fn accepted(
    settings: &Settings,
    assignments: &[wire::Assignment],
    watchdogs: &Watchdogs,
) -> Result<Settings, Status> {
    if assignments.is_empty() {
        return Err(refusal::invalid(
            "nothing-to-change",
            "no setting was given",
            "pgctl config set KEY=VALUE",
        ));
    }
    let (changed, mut problems) = assigned(settings, assignments);
    problems.extend(watchdogs.problems(&changed.timing));
    if problems.is_empty() {
        Ok(changed)
    } else {
        Err(refusal::invalid(
            "bad-settings",
            problems.join("; "),
            "`pgctl config check KEY=VALUE` tries values out",
        ))
    }
}

/// What is wrong, and the arithmetic of the timing.
pub(super) fn checked(
    settings: &Settings,
    assignments: &[wire::Assignment],
    watchdogs: &Watchdogs,
) -> wire::SettingsCheck {
    let (changed, mut problems) = assigned(settings, assignments);
    problems.extend(watchdogs.problems(&changed.timing));
    let timing = changed.timing.check().into_iter().map(|check| wire::TimingCheck {
        rule: check.rule,
        arithmetic: check.arithmetic,
        holds: check.holds,
    });
    wire::SettingsCheck {
        timing: timing.collect(),
        problems,
        watchdog: watchdogs.checks(&changed.timing),
    }
}

/// The watchdogs that nodes have told of: by their timeout and whether they are required, the names of the nodes.
#[derive(Debug, Default)]
pub(super) struct Watchdogs(BTreeMap<(u64, bool), Vec<String>>);

impl Watchdogs {
    /// As the newest reports tell of them.
    pub(super) fn of(state: &ClusterState, view: &ClusterView) -> Watchdogs {
        let mut found = Watchdogs::default();
        for (node, (_, report)) in &view.reports {
            if let Some(watchdog) = &report.watchdog {
                let nodes = found
                    .0
                    .entry((watchdog.timeout_s, watchdog.required))
                    .or_default();
                nodes.push(state.name_of(*node));
            }
        }
        found
    }

    fn each<'a>(&'a self, timing: &'a Timing) -> impl Iterator<Item = (bool, String, TimingCheck)> + 'a {
        self.0.iter().flat_map(|((timeout_s, required), nodes)| {
            let checks = timing.watchdog_check(*timeout_s).into_iter();
            checks.map(|check| (*required, nodes.join(", "), check))
        })
    }

    fn checks(&self, timing: &Timing) -> Vec<wire::TimingCheck> {
        let checks = self.each(timing).map(|(_, nodes, check)| wire::TimingCheck {
            rule: format!("watchdog of {nodes}: {}", check.rule),
            arithmetic: check.arithmetic,
            holds: check.holds,
        });
        checks.collect()
    }

    /// A node that requires its watchdog could not be promoted any more.
    fn problems(&self, timing: &Timing) -> Vec<String> {
        let broken = self
            .each(timing)
            .filter(|(required, _, check)| *required && !check.holds);
        let told = broken.map(|(_, nodes, check)| {
            format!(
                "the watchdog that {nodes} requires has no room: {}: {}; raise timing.promise_ms, or lower \
                 fencing.watchdog_timeout_s there",
                check.rule, check.arithmetic
            )
        });
        told.collect()
    }
}
