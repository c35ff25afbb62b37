use super::super::Frame;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::{Client, Intent};
use agent_core::cluster::Settings;
use agent_core::timing::TimingProfile;
use proto::control::{Assignment, CheckSettingsRequest, SettingsCheck, TimingCheck};

/// Asks the cluster what it would say of `assignments`.
pub async fn online(frame: &Frame, assignments: Vec<Assignment>) -> Result<(), Failure> {
    let request = CheckSettingsRequest { assignments };
    let ask = async |mut client: Client| client.check_settings(request.clone()).await;
    let check = frame.session.call(Intent::Read, ask).await?;
    finish(frame.format, &check)
}

/// Works out the same from a profile and the defaults, here.
pub fn offline(format: Format, profile: &str, assignments: &[Assignment]) -> Result<(), Failure> {
    let Some(profile) = TimingProfile::ALL
        .into_iter()
        .find(|known| known.name() == profile)
    else {
        let known: Vec<&str> = TimingProfile::ALL.into_iter().map(TimingProfile::name).collect();
        return Err(Failure::usage(format!(
            "there is no profile {profile}: the profiles are {}",
            known.join(", ")
        )));
    };
    let mut settings = Settings {
        timing: profile.timing(),
        ..Settings::default()
    };
    let mut problems: Vec<String> = Vec::new();
    for Assignment { key, value } in assignments {
        problems.extend(settings.assign(key, value).err().map(|error| error.to_string()));
    }
    if problems.is_empty() {
        problems.extend(settings.validate().err().map(|error| error.to_string()));
    }
    let timing = settings.timing.check().into_iter().map(|check| TimingCheck {
        rule: check.rule,
        arithmetic: check.arithmetic,
        holds: check.holds,
    });
    finish(
        format,
        &SettingsCheck {
            timing: timing.collect(),
            problems,
            watchdog: Vec::new(),
        },
    )
}

fn finish(format: Format, check: &SettingsCheck) -> Result<(), Failure> {
    if format == Format::Json {
        output::json(check)?;
    } else {
        for check in check.timing.iter().chain(&check.watchdog) {
            let mark = if check.holds { "holds " } else { "BROKEN" };
            output::line(format!("{mark} {}\n       {}", check.rule, check.arithmetic))?;
        }
    }
    if check.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::refused("bad-settings", check.problems.join("\n  ")))
}
