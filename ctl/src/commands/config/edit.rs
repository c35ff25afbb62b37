use super::super::Frame;
use super::{change, read, report};
use crate::failure::Failure;
use crate::output::{self, confirm};
use proto::control::{Assignment, Settings};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Opens the settings in an editor, and carries out what was changed.
pub async fn run(frame: &Frame, yes: bool) -> Result<(), Failure> {
    let before = read(frame).await?;
    let file = TemporaryFile::create(&page(&before))?;
    edit(&file.path)?;
    let edited = std::fs::read_to_string(&file.path).map_err(|error| failed(&file.path, &error))?;
    let assignments = changes(&before, &edited)?;
    if assignments.is_empty() {
        return output::line("nothing was changed");
    }
    for Assignment { key, value } in &assignments {
        let old = before
            .settings
            .iter()
            .find(|setting| setting.key == *key)
            .map(|setting| setting.value.as_str());
        eprintln!("{key}: {} -> {value}", old.unwrap_or("-"));
    }
    confirm("Change these?", yes)?;
    let changed = change(frame, before.version, assignments).await?;
    report(frame, &changed)
}

/// The settings as lines of `key = value`, each under what it is for.
fn page(settings: &Settings) -> String {
    let mut page = format!(
        "# The cluster's settings, version {}. Lines that you leave as they are change nothing.\n",
        settings.version
    );
    for setting in &settings.settings {
        // Writing into a String cannot fail.
        let _ = writeln!(
            page,
            "\n# {}\n# Allowed: {}; default: {}",
            setting.doc, setting.allowed, setting.default
        );
        // `custom` says that no profile fits: it is no value to go back to.
        let hidden = if setting.value == "custom" { "# " } else { "" };
        let _ = writeln!(page, "{hidden}{} = {}", setting.key, setting.value);
    }
    page
}

/// What differs from `before`, in the order of the page: a profile first, then single terms over it.
fn changes(before: &Settings, edited: &str) -> Result<Vec<Assignment>, Failure> {
    let mut changes = Vec::new();
    for (index, line) in edited.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(Failure::usage(format!(
                "line {} is no \"key = value\": {line}",
                index + 1
            )));
        };
        let (key, value) = (key.trim().to_owned(), value.trim().trim_matches('"').to_owned());
        if !before
            .settings
            .iter()
            .any(|setting| setting.key == key && setting.value == value)
        {
            changes.push(Assignment { key, value });
        }
    }
    Ok(changes)
}

fn edit(path: &Path) -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = variable("VISUAL")
        .or_else(|| variable("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned());
    // An editor may come with options, such as `code --wait`.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    match Command::new(program).args(words).arg(path).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::local(format!(
            "{editor} ended with {status}: nothing was changed"
        ))),
        Err(error) => Err(Failure::local(format!(
            "{editor} cannot be run ({error}): set EDITOR to one that can"
        ))),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::local(format!("{}: {error}", path.display()))
}

/// A file for one editing, gone afterwards.
struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    fn create(content: &str) -> Result<TemporaryFile, Failure> {
        let path = std::env::temp_dir().join(format!("pgctl-{}.toml", uuid::Uuid::new_v4()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()));
        written.map_err(|error| failed(&path, &error))?;
        Ok(TemporaryFile { path })
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // What is left in a temporary directory does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::Setting;

    fn settings() -> Settings {
        let setting = |key: &str, value: &str| Setting {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Setting::default()
        };
        Settings {
            version: 3,
            settings: vec![setting("timing", "default"), setting("sync_standbys", "1")],
        }
    }

    #[test]
    fn an_untouched_page_changes_nothing() {
        assert_eq!(changes(&settings(), &page(&settings())), Ok(Vec::new()));
    }

    #[test]
    fn only_what_differs_is_changed() {
        let edited = page(&settings()).replace("sync_standbys = 1", "sync_standbys = \"2\"");
        let expected = Assignment {
            key: "sync_standbys".to_owned(),
            value: "2".to_owned(),
        };
        assert_eq!(changes(&settings(), &edited), Ok(vec![expected]));
    }

    #[test]
    fn a_line_of_another_form_is_named() {
        assert!(
            matches!(changes(&settings(), "sync_standbys: 2"), Err(Failure::Usage { message }) if message.contains("line 1"))
        );
    }
}
