use super::keys;
use std::fmt::Write;

const HEAD: &str = "\
# Configuration reference

<!-- Generated from the agent's table of keys; a test compares the two. To renew it:
     PGCTL_BLESS=1 cargo test -p agent config::tests::reference -->

The agent reads one TOML file (`pgctl-agent --config node.toml`). Each key can be overridden by an environment variable:
`PGCTL_`, then the key in capitals with two underscores for each dot. Lists and tables are written there as in the file:
`PGCTL_POSTGRES__HBA='[\"host all all 10.0.0.0/8 scram-sha-256\"]'`.

`pgctl-agent --config node.toml --check-config` says what is wrong, all at once, and ends with exit code 64 if anything
is. `--dump-config` prints every value that is in force and where it came from. Unknown keys are refused.

A node's file says what is true of that node. What is true of the cluster (timing, synchronous mode, bounds) is kept by the
cluster itself: `[bootstrap]` is read once, when the cluster is created; later, use `pgctl config`.

";

/// The page `docs/config.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    let mut section = String::new();
    for key in keys::all() {
        let head = key.name.split('.').next().unwrap_or_default().to_owned();
        if head != section {
            section = head;
            // Writing into a String cannot fail.
            let _ = writeln!(page, "## `[{section}]`\n");
        }
        let _ = writeln!(page, "### `{}`\n", key.name);
        let _ = writeln!(page, "{}\n", key.doc);
        let _ = writeln!(page, "- allowed: {}", key.allowed);
        let _ = writeln!(page, "- default: {}", key.default);
        let _ = writeln!(page, "- variable: `{}`\n", keys::variable(&key.name));
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}
