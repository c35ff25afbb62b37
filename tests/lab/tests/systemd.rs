//! systemd accepts the unit that we ship.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};

const UNIT: &str = include_str!("../../../deploy/systemd/pgctl-agent.service");

/// A copy of the unit whose program exists, with one more edit.
fn written(dir: &Path, edit: impl Fn(String) -> String) -> Result<PathBuf> {
    let program = dir.join("pgctl-agent");
    fs::write(&program, "#!/bin/sh\n")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let copy = UNIT.replace("/usr/local/bin/pgctl-agent", &program.display().to_string());
    assert_ne!(
        copy, UNIT,
        "the unit should start the program where `make install` puts it"
    );
    let unit = dir.join("pgctl-agent.service");
    fs::write(&unit, edit(copy))?;
    Ok(unit)
}

/// What `systemd-analyze` says; `None`, loudly, where there is none (it needs no running systemd).
fn analyze(args: &[&str], unit: &Path) -> Result<Option<Output>> {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        eprintln!(
            "SKIPPED: systemd-analyze is not installed, so the unit is not checked (apt-get install systemd)"
        );
        return Ok(None);
    }
    let done = Command::new("/usr/bin/systemd-analyze")
        .args(args)
        .arg(unit)
        .output();
    done.map(Some).context("cannot run systemd-analyze")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn the_unit_is_accepted_without_a_word() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let unit = written(dir.path(), |unit| unit)?;
    if let Some(said) = analyze(&["verify", "--man=no"], &unit)? {
        assert!(said.status.success(), "{}", text(&said));
        let about_us: Vec<_> = text(&said)
            .lines()
            .filter(|l| l.contains("pgctl"))
            .map(str::to_owned)
            .collect();
        assert!(about_us.is_empty(), "{about_us:?}");
    }
    Ok(())
}

#[test]
fn a_broken_unit_would_be_noticed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let unit = written(dir.path(), |unit| unit.replace("Type=notify", "Type=notifying"))?;
    if let Some(said) = analyze(&["verify", "--man=no"], &unit)? {
        assert!(text(&said).contains("notifying"), "{}", text(&said));
    }
    Ok(())
}

#[test]
fn the_unit_is_not_wide_open() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let unit = written(dir.path(), |unit| unit)?;
    // systemd's own measure, 0 (closed) to 100; above 50 it speaks of "medium" and worse.
    if let Some(said) = analyze(
        &["security", "--offline=true", "--threshold=50", "--no-pager"],
        &unit,
    )? {
        assert!(said.status.success(), "{}", text(&said));
    }
    Ok(())
}

#[test]
fn the_server_outlives_a_restart_of_the_agent() {
    for line in [
        "Type=notify",
        "KillMode=process",
        "Restart=always",
        "RestartSec=100ms",
        "Delegate=yes",
    ] {
        assert!(UNIT.lines().any(|l| l == line), "{line} is missing");
    }
}
