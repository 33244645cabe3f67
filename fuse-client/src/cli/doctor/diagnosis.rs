//! What the facts mean for a person. Pure: facts in, findings out.
//!
//! # Not here
//! Where the facts come from and how findings are printed ([`super`]); what is said of one node ([`super::nodes`]).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fuse_client::ClusterError;
use ring::NodeId;
use wire::{
    cluster::{ClusterMap, ClusterStatus, NodeState, RaftRole},
    health::{HealthStatus, HeardReport},
    moves::{MovesStatus, TransitionStatus},
};

use super::{
    nodes::node_findings,
    redundancy::{Redundancy, redundancy},
};
use crate::cli::{
    failure::with_causes,
    moving::{bytes_left, time_left},
    nodes::node_names,
    text::number::{counted, long_size, span, thousands},
};

/// What the cluster said.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Nodes and their stores.
    pub(crate) status: ClusterStatus,
    /// How far the moves are.
    pub(crate) moves: MovesStatus,
    /// What nodes say of themselves; none from a leader of an earlier release.
    pub(crate) health: Option<HealthStatus>,
    /// Who holds what.
    pub(crate) map: Arc<ClusterMap>,
}

/// How bad something is. The worst is the highest.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Severity {
    /// Good to know.
    Note,
    /// The cluster is at work on it.
    Mending,
    /// Somebody should do something.
    Attention,
    /// Files cannot be stored or read, or nobody can say.
    Unavailable,
}

impl Severity {
    /// For JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Mending => "mending",
            Self::Attention => "attention",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One thing that is so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Finding {
    /// A word for programs: `node-down`.
    pub(crate) kind: &'static str,
    /// How bad it is.
    pub(crate) severity: Severity,
    /// About which node, if about one.
    pub(crate) node: Option<NodeId>,
    /// What is so, as a sentence.
    pub(crate) text: String,
    /// What the cluster does about it.
    pub(crate) meanwhile: Option<String>,
    /// What a person should do.
    pub(crate) advice: Option<String>,
}

impl Finding {
    /// About the cluster, with nothing to be done.
    pub(crate) fn new(kind: &'static str, severity: Severity, text: impl Into<String>) -> Self {
        Self { kind, severity, node: None, text: text.into(), meanwhile: None, advice: None }
    }

    /// With what the cluster does about it.
    pub(crate) fn meanwhile(self, words: impl Into<String>) -> Self {
        Self { meanwhile: Some(words.into()), ..self }
    }

    /// With what a person should do.
    pub(crate) fn advice(self, words: impl Into<String>) -> Self {
        Self { advice: Some(words.into()), ..self }
    }
}

/// All that is to be said.
#[derive(Clone, Debug)]
pub(crate) struct Diagnosis {
    /// Which cluster, if it could be asked.
    pub(crate) cluster: Option<String>,
    /// The worst first.
    pub(crate) findings: Vec<Finding>,
    /// Copies within reach, once there is a ring.
    pub(crate) redundancy: Option<Redundancy>,
}

impl Diagnosis {
    /// How bad the worst of it is.
    pub(crate) fn severity(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Note)
    }
}

/// A clock that differs by more is wrong, not late: reports take milliseconds, and clocks that are kept differ by less.
const CLOCK_AHEAD_MS_MAX: u64 = 10_000;

/// What is so in a cluster that answered.
pub(crate) fn diagnose(facts: &Facts) -> Diagnosis {
    let copies = redundancy(&facts.map, &facts.status);
    let mut findings: Vec<Finding> =
        [too_few_nodes(facts), out_of_reach(&copies), fewer_copies(&copies), voters(facts)]
            .into_iter()
            .flatten()
            .collect();
    let name = node_names(&facts.status);
    findings.extend(facts.status.nodes.iter().flat_map(|node| node_findings(facts, node, &name(node.row.id))));
    findings.extend(facts.moves.transition.as_ref().map(|transition| ring_changes(facts, transition)));
    findings.extend(unclean(facts));
    findings.extend(versions(facts));
    findings.extend(clocks(facts, &name));
    if findings.iter().all(|finding| finding.severity == Severity::Note) {
        findings.push(all_well(facts, &copies));
    }
    findings.extend(scrubbed(facts));
    // Stable: within a severity in the order above.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let redundancy = (copies.partitions > 0).then_some(copies);
    Diagnosis { cluster: Some(facts.status.cluster.to_string()), findings, redundancy }
}

/// What is so if it cannot be asked.
pub(crate) fn unanswered(error: &ClusterError) -> Diagnosis {
    let why = with_causes(error);
    let finding = |kind, what: &str| Finding::new(kind, Severity::Unavailable, format!("{what}: {why}."));
    let finding = match error {
        ClusterError::NoQuorum { .. } => finding("no-quorum", "Nodes answer, but too few of those that vote")
            .meanwhile("nothing can be stored, listed or found; what is stored stays where it is")
            .advice("start dfs-node again on the voting nodes: more than half of them must run and reach each other"),
        ClusterError::Unreachable { .. } => finding("unreachable", "No node answers")
            .advice("see whether dfs-node runs on the nodes, and whether this machine reaches their UDP ports"),
        ClusterError::Untrusted { .. } => {
            finding("untrusted", "The cluster does not know this client").advice("dfs login with a new token")
        }
        ClusterError::Profile(_) => finding("profile", "This client has no profile that can be used")
            .advice("dfs login with a token, or name another profile with --profile"),
        ClusterError::Bind(_) | ClusterError::Refused(_) | ClusterError::Confused => {
            finding("cannot-ask", "The cluster cannot be asked")
        }
    };
    Diagnosis { cluster: None, findings: vec![finding], redundancy: None }
}

fn all_well(facts: &Facts, copies: &Redundancy) -> Finding {
    let nodes = counted(facts.status.nodes.len() as u64, "node is up and holds", "nodes are up and hold");
    let text = format!("{nodes} {} of everything.", counted(copies.wanted.into(), "copy", "copies"));
    Finding::new("healthy", Severity::Note, text)
}

/// Fewer nodes than copies: none can be stored yet, or not all of them.
fn too_few_nodes(facts: &Facts) -> Option<Finding> {
    let wanted = facts.status.replicas.count();
    let holding = facts.map.nodes.iter().filter(|row| facts.map.leaving(row.id).is_none()).count();
    let missing = wanted.saturating_sub(holding).max(facts.status.missing as usize);
    if missing == 0 {
        return None;
    }
    let (severity, so) = match facts.map.ring {
        None => (Severity::Unavailable, "no file can be stored before"),
        Some(_) => (Severity::Attention, "not all copies can be made before"),
    };
    let text = format!(
        "The cluster keeps {} of everything and has {} to hold them: {} must join, and {so}.",
        counted(wanted as u64, "copy", "copies"),
        counted(holding as u64, "node", "nodes"),
        counted(missing as u64, "more node", "more nodes"),
    );
    Some(Finding::new("too-few-nodes", severity, text).advice("dfs token create --for node, then dfs-node join there"))
}

fn out_of_reach(copies: &Redundancy) -> Option<Finding> {
    let Redundancy { partitions, unwritable, unreadable, .. } = *copies;
    if unwritable == 0 && unreadable == 0 {
        return None;
    }
    let text = format!(
        "Too many nodes are down: of {partitions} partitions, {unwritable} cannot be written to, and {unreadable} cannot \
         be read."
    );
    let finding = Finding::new("out-of-reach", Severity::Unavailable, text);
    Some(finding.advice("start the nodes again that are down: nothing is lost while their disks are intact"))
}

fn fewer_copies(copies: &Redundancy) -> Option<Finding> {
    let Redundancy { wanted, partitions, fewer, catching_up, chunks_fewer, lowest, .. } = *copies;
    if fewer == 0 {
        return None;
    }
    let text = format!(
        "{} of {partitions}, about {}, {} fewer than {wanted} sure copies in reach; the fewest is {lowest}.",
        counted(fewer.into(), "partition", "partitions"),
        counted(chunks_fewer, "chunk", "chunks"),
        if fewer == 1 { "has" } else { "have" },
    );
    // Nobody need do anything about what nodes that are up fetch by themselves.
    let severity = if fewer == catching_up { Severity::Mending } else { Severity::Attention };
    let finding = Finding::new("fewer-copies", severity, text);
    if catching_up == 0 {
        return Some(finding);
    }
    let which = if fewer == catching_up {
        "all of them".to_owned()
    } else {
        format!("{} of them", thousands(catching_up.into()))
    };
    Some(finding.meanwhile(format!("nodes that are up fetch what they lack, which makes {which} whole again")))
}

/// Voters, of which a majority must be up.
fn voters(facts: &Facts) -> Option<Finding> {
    let voters = || {
        let votes = |role| matches!(role, RaftRole::Leader | RaftRole::Voter);
        facts.status.nodes.iter().filter(move |node| votes(node.role))
    };
    let all = voters().count();
    let up = voters().filter(|node| !matches!(node.state, NodeState::Down | NodeState::Out)).count();
    if up == all || up != all / 2 + 1 {
        return None;
    }
    let text = format!("{up} of {all} voting nodes are up: if one more is lost, the namespace stops until it is back.");
    Some(Finding::new("no-spare-voter", Severity::Attention, text))
}

fn ring_changes(facts: &Facts, transition: &TransitionStatus) -> Finding {
    let bytes = bytes_left(&facts.status, transition);
    let text = format!(
        "The ring is changing: {} to come to {}, about {}.",
        counted(transition.replicas_left.into(), "copy of a partition is", "copies of partitions are"),
        counted(transition.coming.len() as u64, "node", "nodes"),
        long_size(bytes),
    );
    let moving = facts.health.as_ref().and_then(|health| health.moving);
    let left = moving.and_then(|moving| time_left(moving, transition.replicas_left));
    let pace = left.map_or("how long that takes cannot be told yet".to_owned(), |left| {
        format!("at the pace so far it takes another {}", span(left))
    });
    let more = if facts.moves.endangered > 0 {
        format!(
            "; {} first, because an owner is out or gone",
            counted(facts.moves.endangered.into(), "partition comes", "partitions come")
        )
    } else {
        String::new()
    };
    Finding::new("ring-changing", Severity::Mending, text).meanwhile(format!("{pace}{more}"))
}

/// What others took for nodes that were away, and these do not have yet.
fn unclean(facts: &Facts) -> Option<Finding> {
    let unclean = facts.map.unclean().len() as u64;
    (unclean > 0 && facts.map.away.is_empty()).then(|| {
        let text = format!(
            "Of {} others may hold what an owner lacks, which was away or comes from before a recovery.",
            counted(unclean, "partition", "partitions")
        );
        let meanwhile = "the owners fetch it, and then the others drop it";
        Finding::new("unclean", Severity::Mending, text).meanwhile(meanwhile)
    })
}

fn heard(facts: &Facts) -> impl Iterator<Item = (NodeId, &HeardReport)> {
    let nodes = facts.health.iter().flat_map(|health| &health.nodes);
    nodes.filter_map(|node| Some((node.node, node.heard.as_ref()?)))
}

fn versions(facts: &Facts) -> Option<Finding> {
    let mut by_version: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, HeardReport { report, .. }) in heard(facts) {
        *by_version.entry(&report.version).or_default() += 1;
    }
    if by_version.len() < 2 {
        return None;
    }
    let each: Vec<String> = by_version
        .iter()
        .map(|(version, count)| format!("{} {version:?}", counted(*count, "node runs", "nodes run")))
        .collect();
    let text = format!("The nodes run different versions: {}.", each.join(", "));
    Some(Finding::new("versions", Severity::Attention, text).advice("bring all nodes to the same version"))
}

fn clocks(facts: &Facts, name: &impl Fn(NodeId) -> String) -> Vec<Finding> {
    let is_wrong = |heard: &HeardReport| heard.clock_ahead_ms.unsigned_abs() > CLOCK_AHEAD_MS_MAX;
    let wrong = heard(facts).filter(|(_, heard)| is_wrong(heard));
    wrong
        .map(|(node, heard)| {
            let by = span(Duration::from_millis(heard.clock_ahead_ms.unsigned_abs()));
            let way = if heard.clock_ahead_ms < 0 { "behind" } else { "ahead of" };
            let text = format!("The clock of node {} is {by} {way} the leader's.", name(node));
            let finding = Finding::new("clock", Severity::Attention, text)
                .meanwhile("nothing that is stored depends on it; times of files and of tokens do")
                .advice("have both clocks kept, by chrony or systemd-timesyncd for instance");
            Finding { node: Some(node), ..finding }
        })
        .collect()
}

/// When everything was last read again.
fn scrubbed(facts: &Facts) -> Option<Finding> {
    let reports: Vec<_> = heard(facts).map(|(_, heard)| heard.report.scrub).collect();
    if reports.is_empty() {
        return None;
    }
    let ended: Vec<u64> = reports.iter().filter_map(|scrub| scrub.ended_s).collect();
    let found: u64 = reports.iter().map(|scrub| scrub.damaged).sum();
    let oldest = ended.iter().max().map(|ended_s| span(Duration::from_secs(*ended_s)));
    let longest = oldest.map_or(String::new(), |oldest| format!(", the longest ago {oldest} ago"));
    let bytes: u64 = reports.iter().map(|scrub| scrub.bytes).sum();
    let text = format!(
        "{} of {} read all they hold again since they were started{longest}; {} checked in the passes of now, {} found.",
        ended.len(),
        counted(reports.len() as u64, "node has", "nodes have"),
        long_size(bytes),
        counted(found, "damaged copy", "damaged copies"),
    );
    Some(Finding::new("scrub", Severity::Note, text))
}
