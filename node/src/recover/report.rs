//! What a person is told before they decide. Pure.

use std::{fmt, path::PathBuf};

use ring::NodeId;
use wire::{cluster::ClusterMap, namespace::Timestamp};

use super::Plan;

/// A [`Plan`] in sentences.
#[derive(Debug)]
pub struct Report<'a> {
    /// What is found and would be done.
    pub plan: &'a Plan,
    /// Of which directory.
    pub data: PathBuf,
    /// The time of day.
    pub now: Timestamp,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found(f)?;
        self.compared(f)?;
        self.lost(f)
    }
}

impl Report<'_> {
    fn found(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.plan.facts;
        let voters = facts.standing.voters.len();
        writeln!(f, "This is node {} of a cluster in which {voters} nodes vote:", facts.node)?;
        for voter in &facts.standing.voters {
            let how = match voter {
                id if *id == facts.node => "this node",
                id if facts.answering.contains(id) => "answers",
                _ => "does not answer",
            };
            let address = facts.map.as_ref().and_then(|map| map.node(*voter)).map(|row| row.address.to_string());
            writeln!(f, "  {voter}  {}  {how}", address.as_deref().unwrap_or("(no member)"))?;
        }
        let majority = voters / 2 + 1;
        writeln!(
            f,
            "It takes {majority} of them to go on. If so many will never come back, the cluster can go on from here."
        )
    }

    fn compared(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standing = &self.plan.facts.standing;
        let last = standing.last.expect("a plan is made of a log that has entries");
        let when = match standing.changed {
            Some(changed) => format!("the newest change was made {}", ago(changed, self.now)),
            None => "when the newest change was made is not known".to_owned(),
        };
        writeln!(f, "\nposition {last}")?;
        writeln!(f, "  entry {} is the last in its log, {} are applied; {when}", last.index, standing.applied)?;
        writeln!(
            f,
            "Run this on every node that is left, and recover the one with the highest position, as sort(1) orders them."
        )
    }

    fn lost(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.plan.facts;
        let data = self.data.display();
        writeln!(f, "\nIf the cluster goes on from here, this is lost for good:")?;
        writeln!(
            f,
            "  - changes that only others have, though they were acknowledged: new names are gone, changed files are"
        )?;
        writeln!(f, "    as they were, deleted ones are back, and so are clients and nodes as they were")?;
        let chunks = facts.map.as_ref().and_then(|map| chunks(map, facts.node));
        writeln!(f, "  - {}", chunks.as_deref().unwrap_or("chunks of which every copy was on nodes that are gone"))?;
        writeln!(f, "  - what mounts and uploads have not stored, and their locks: mounts are to be mounted again")?;
        writeln!(f, "\nNothing was changed. To go on, when the others will never come back, and on this node only:")?;
        writeln!(f, "    dfs-node recover --data {data} --force")?;
        writeln!(f, "    dfs-node run --data {data}")?;
        writeln!(f, "Then, on each other node that is left: dfs-node recover --data DIR --follow, and dfs-node run.")
    }
}

/// Which chunks may be gone.
fn chunks(map: &ClusterMap, node: NodeId) -> Option<String> {
    let placement = map.placement()?;
    let all = placement.bits().count();
    let here = placement.bits().partitions().filter(|partition| placement.is_owner(*partition, node)).count();
    let elsewhere = "chunks of which every copy was on nodes that are gone: reading them is an error";
    Some(match all - here {
        0 => format!("{elsewhere}; this node keeps copies of all {all} partitions"),
        without => {
            format!("{elsewhere}; this node keeps copies of {here} of {all} partitions, {without} only others have")
        }
    })
}

/// How long ago, in the largest unit that fits.
fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.seconds().saturating_sub(then.seconds());
    let (count, unit) = match seconds {
        ..0 => return "in the future, by the clock of this machine".to_owned(),
        0..120 => (seconds, "seconds"),
        120..7_200 => (seconds / 60, "minutes"),
        7_200..172_800 => (seconds / 3_600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit} ago")
}
