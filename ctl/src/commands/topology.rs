//! `pgctl topology`: who streams from whom.

use super::Frame;
use super::list::{headline, notes};
use crate::failure::Failure;
use crate::output::{self, Format, bytes};
use proto::control::{Cluster, Member};

/// Shows who streams from whom, as a tree
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl topology
  pgctl topology -o json      # the same document as `pgctl list`; see `upstream`")]
pub struct Args {}

pub async fn run(frame: &Frame, _: &Args) -> Result<(), Failure> {
    let cluster = frame.session.cluster().await?;
    if frame.format == Format::Json {
        return output::json(&cluster);
    }
    output::line(headline(&cluster))?;
    output::line(tree(&cluster).join("\n"))
}

/// The members as lines of a tree. Each is shown once, whatever they say of their upstreams.
pub(super) fn tree(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    let mut shown = vec![false; cluster.members.len()];
    let members = &cluster.members;
    let has_upstream = |member: &Member| {
        members
            .iter()
            .any(|other| other.name != member.name && streams_from(member, other))
    };
    for index in 0..members.len() {
        if !shown[index] && (members[index].holder || !has_upstream(&members[index])) {
            branch(members, index, "", "", &mut shown, &mut lines);
        }
    }
    // Standbys that name each other as upstream hang off nobody.
    for index in 0..members.len() {
        if !shown[index] {
            branch(members, index, "", "", &mut shown, &mut lines);
        }
    }
    lines
}

fn streams_from(member: &Member, upstream: &Member) -> bool {
    !member.holder && !member.upstream.is_empty() && member.upstream == upstream.postgres
}

fn branch(
    members: &[Member],
    index: usize,
    own_indent: &str,
    inner_indent: &str,
    shown: &mut [bool],
    lines: &mut Vec<String>,
) {
    shown[index] = true;
    lines.push(format!("{own_indent}{}", label(&members[index])));
    let below: Vec<usize> = (0..members.len())
        .filter(|other| !shown[*other] && streams_from(&members[*other], &members[index]))
        .collect();
    for (place, other) in below.iter().enumerate() {
        let last = place + 1 == below.len();
        let own = format!("{inner_indent}{}", if last { "└─ " } else { "├─ " });
        let inner = format!("{inner_indent}{}", if last { "   " } else { "│  " });
        if !shown[*other] {
            branch(members, *other, &own, &inner, shown, lines);
        }
    }
}

fn label(member: &Member) -> String {
    let mut words = vec![
        member.name.clone(),
        format!("({}, {})", member.role, member.state),
    ];
    if member.in_sync_set {
        words.push("sync".to_owned());
    }
    if let Some(lag) = member.lag_bytes.filter(|lag| *lag > 0) {
        words.push(format!("{} behind", bytes(lag)));
    }
    words.extend(notes(member));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, upstream: &str) -> Member {
        Member {
            name: name.to_owned(),
            postgres: format!("{name}:5432"),
            upstream: if upstream.is_empty() {
                String::new()
            } else {
                format!("{upstream}:5432")
            },
            role: "standby".to_owned(),
            state: "streaming".to_owned(),
            voter: true,
            holder: name == "n1",
            ..Member::default()
        }
    }

    fn shape(members: Vec<Member>) -> Vec<String> {
        let lines = tree(&Cluster {
            members,
            ..Cluster::default()
        });
        lines
            .into_iter()
            .map(|line| line.replace(" (standby, streaming)", ""))
            .collect()
    }

    #[test]
    fn a_cascade_is_indented() {
        let members = vec![
            member("n1", ""),
            member("n2", "n1"),
            member("n3", "n2"),
            member("n4", "n1"),
        ];
        assert_eq!(shape(members), ["n1", "├─ n2", "│  └─ n3", "└─ n4"]);
    }

    #[test]
    fn everybody_is_shown_once_also_in_a_circle_or_with_a_stale_upstream() {
        let members = vec![
            member("n1", "n2"),
            member("n2", "n3"),
            member("n3", "n2"),
            member("n4", "gone"),
        ];
        assert_eq!(shape(members), ["n1", "n4", "n2", "└─ n3"]);
    }
}
