//! The agent's include file `pgctl.conf`, and its place as the last word in `postgresql.conf`.

use super::conf_text::{parse_setting, parse_settings, quote_setting};
use super::owned_settings::{Owned, log_defaults, owned, passfile, same_value};
use super::{Instance, Overridden, PgError, ServerConf, durable_file, hba};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

pub(super) const INCLUDE_FILE: &str = "pgctl.conf";
const INCLUDE_LINE: &str =
    "include 'pgctl.conf' # must stay the last line: the agent's settings have the last word";
/// Configuration is for its owner alone.
const MODE: u32 = 0o600;

impl Instance {
    /// Which settings of the operator's, from the agent's configuration or set by ALTER SYSTEM, do not take effect, and
    /// why. Depends on the last configuration that was written; empty before the first.
    #[must_use]
    pub fn overridden(&self) -> Vec<Overridden> {
        let Some(conf) = self.last_conf() else {
            return Vec::new();
        };
        let altered = settings_in(&self.config().data_dir.join("postgresql.auto.conf"));
        let mut all = Vec::new();
        for ours in self.owned_settings(&conf) {
            let theirs = [altered.get(ours.name), self.config().parameters.get(ours.name)];
            for user_value in theirs
                .into_iter()
                .flatten()
                .filter(|value| !same_value(&ours.value, value))
            {
                all.push(Overridden {
                    name: ours.name.to_owned(),
                    user_value: user_value.clone(),
                    our_value: ours.value.clone(),
                    why: ours.why,
                });
            }
        }
        all
    }

    /// Writes everything that the server reads at a start or a reload; true if its settings have changed.
    pub(super) fn write_configuration(&self, conf: &ServerConf) -> Result<bool, PgError> {
        let (data_dir, account) = (&self.config().data_dir, self.account());
        durable_file::replace(
            &passfile(self.config()),
            &self.passfile_content(conf),
            account,
            MODE,
        )?;
        let mut changed = self.write_access_rules()?;
        let text = self.render(conf);
        changed |= durable_file::replace(&data_dir.join(INCLUDE_FILE), &text, account, MODE)?;
        let main = data_dir.join("postgresql.conf");
        let content = std::fs::read_to_string(&main).map_err(PgError::file("read", &main))?;
        changed |= durable_file::replace(&main, &with_include_last(&content), account, MODE)?;
        self.remember_conf(conf);
        Ok(changed)
    }

    /// Takes the lines of owned settings out of `postgresql.auto.conf`, which is read after `postgresql.conf` and would
    /// win. Only while no server runs, since ALTER SYSTEM rewrites that file.
    pub(super) fn clean_auto_conf(&self, conf: &ServerConf) -> Result<(), PgError> {
        let path = self.config().data_dir.join("postgresql.auto.conf");
        let Ok(content) = std::fs::read_to_string(&path) else {
            return Ok(());
        };
        let ours = self.owned_settings(conf);
        let kept: String = content
            .lines()
            .filter(|line| {
                // A copy that was restored has the target of its recovery there, which it has passed.
                parse_setting(line).is_none_or(|(name, _)| {
                    !name.starts_with("recovery_target") && !ours.iter().any(|owned| owned.name == name)
                })
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        durable_file::replace(&path, &kept, self.account(), MODE)?;
        Ok(())
    }

    pub(super) fn owned_settings(&self, conf: &ServerConf) -> Vec<Owned> {
        let control = self.control_data().ok().flatten();
        let user = self.credentials().replication_user;
        owned(self.config(), conf, control.as_ref(), &user, self.major())
    }

    fn render(&self, conf: &ServerConf) -> String {
        let parameters = &self.config().parameters;
        let main = settings_in(&self.config().data_dir.join("postgresql.conf"));
        let mut text = String::from(
            "# Written by pgctl-agent; what is changed here is lost. Set `parameters` in the agent's configuration.\n",
        );
        section(
            &mut text,
            "the operator's",
            parameters.iter().map(|(name, value)| (name.as_str(), value)),
        );
        let defaults = log_defaults(self.config());
        let silent = defaults
            .iter()
            .filter(|(name, _)| !parameters.contains_key(**name) && !main.contains_key(**name))
            .map(|(name, value)| (*name, value));
        section(&mut text, "log settings where the operator says nothing", silent);
        let ours = self.owned_settings(conf);
        section(
            &mut text,
            "the agent's",
            ours.iter().map(|owned| (owned.name, &owned.value)),
        );
        text
    }

    /// One line for the walreceiver; empty without an upstream, so that no new connection can be authenticated by a
    /// walreceiver that was started with an older configuration.
    fn passfile_content(&self, conf: &ServerConf) -> String {
        if conf.upstream.is_none() {
            return String::new();
        }
        let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        let credentials = self.credentials();
        format!(
            "*:*:*:{}:{}\n",
            escape(&credentials.replication_user),
            escape(&credentials.replication_password)
        )
    }

    fn write_access_rules(&self) -> Result<bool, PgError> {
        let (data_dir, account) = (&self.config().data_dir, self.account());
        let rollout = self.config().rollout_role.as_deref();
        let mut changed = false;
        for (name, block) in [
            (
                "pg_hba.conf",
                hba::rules(&self.credentials(), rollout, &self.config().hba),
            ),
            ("pg_ident.conf", hba::identities(&account.name, rollout)),
        ] {
            let path = data_dir.join(name);
            let content = match std::fs::read_to_string(&path) {
                Ok(content) => content,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(PgError::file("read", &path)(error)),
            };
            changed |= durable_file::replace(&path, &hba::with_block(&content, &block), account, MODE)?;
        }
        Ok(changed)
    }
}

fn section<'a>(text: &mut String, title: &str, settings: impl Iterator<Item = (&'a str, &'a String)>) {
    let lines: String = settings.fold(String::new(), |mut lines, (name, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name} = {}", quote_setting(value));
        lines
    });
    let _ = write!(text, "\n# {title}\n{lines}");
}

fn settings_in(path: &Path) -> BTreeMap<String, String> {
    parse_settings(&std::fs::read_to_string(path).unwrap_or_default())
}

/// `content` with our include line at its very end and nowhere else.
fn with_include_last(content: &str) -> String {
    let ours = |line: &str| {
        parse_setting(line).is_some_and(|(name, value)| name == "include" && value == INCLUDE_FILE)
    };
    let mut text: String = content
        .lines()
        .filter(|line| !ours(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    text.push_str(INCLUDE_LINE);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_include_line_is_the_last_and_the_only_one() {
        let once = with_include_last("port = 1\ninclude 'pgctl.conf'\nwork_mem = '4MB'");
        assert!(
            once.ends_with(&format!("work_mem = '4MB'\n{INCLUDE_LINE}\n")),
            "{once}"
        );
        assert_eq!(once.matches("pgctl.conf").count(), 1);
        assert_eq!(with_include_last(&once), once, "writing it again changes nothing");
    }
}
