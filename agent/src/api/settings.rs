//! The cluster's settings by name, for `pgctl config`.

use super::refusal;
use crate::config::nearest;
use agent_core::cluster::{AssignError, SETTING_KEYS, Settings};
use proto::control as wire;
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
pub(super) fn accepted(settings: &Settings, assignments: &[wire::Assignment]) -> Result<Settings, Status> {
    if assignments.is_empty() {
        return Err(refusal::invalid(
            "nothing-to-change",
            "no setting was given",
            "pgctl config set KEY=VALUE",
        ));
    }
    let (changed, problems) = assigned(settings, assignments);
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
pub(super) fn checked(settings: &Settings, assignments: &[wire::Assignment]) -> wire::SettingsCheck {
    let (changed, problems) = assigned(settings, assignments);
    let timing = changed.timing.check().into_iter().map(|check| wire::TimingCheck {
        rule: check.rule,
        arithmetic: check.arithmetic,
        holds: check.holds,
    });
    wire::SettingsCheck {
        timing: timing.collect(),
        problems,
    }
}
