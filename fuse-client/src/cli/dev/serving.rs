//! Waiting until nodes serve.

use std::{fs, path::Path, time::Duration};

use fuse_client::{Cluster, ClusterConfig, Profile};
use tokio::time::{Instant, sleep, timeout_at};
use wire::cluster::{ClusterStatus, NodeState, RaftRole};

use super::{
    binary::last_line,
    folder::{DevState, NodeFolder},
    process::Started,
};
use crate::cli::failure::{Failure, Line, with_causes};

/// What a node prints when it serves.
const READY: &str = "dfs-node: ready";

/// Between two looks at a log.
const LOG_PERIOD: Duration = Duration::from_millis(25);

/// Between two questions to the cluster.
const STATUS_PERIOD: Duration = Duration::from_millis(100);

/// For one question: a cluster that is electing a leader answers within this.
const QUESTION_MAX: Duration = Duration::from_secs(3);

/// Waits until a node that was just started says that it is ready.
pub(super) async fn until_ready(node: &NodeFolder, started: &mut Started, deadline: Instant) -> Result<(), Failure> {
    let what = || Line::new(format!("{} does not serve", node.name()));
    let see = format!("see {}", node.log().display());
    loop {
        let log = log_from(&node.log(), started.log_offset);
        if log.split(|&byte| byte == b'\n').any(|line| line.starts_with(READY.as_bytes())) {
            return Ok(());
        }
        if let Some(reason) = started.ended() {
            let said =
                last_line(&log_from(&node.log(), started.log_offset)).unwrap_or_else(|| "it said nothing".to_owned());
            return Err(what().why(format!("it ended with {reason}: {said}")).advice(see).failed());
        }
        if Instant::now() >= deadline {
            return Err(what().why("it was not ready in time").advice(see).failed());
        }
        sleep(LOG_PERIOD).await;
    }
}

/// The part of a log from an offset.
fn log_from(path: &Path, offset: u64) -> Vec<u8> {
    use std::io::{Read, Seek, SeekFrom};

    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        // A node says ready early; a megabyte of log without it is a node in trouble.
        file.take(1 << 20).read_to_end(&mut text)
    });
    if read.is_ok() { text } else { Vec::new() }
}

/// Waits until the cluster answers, has its ring, and sees every node of the state.
pub(super) async fn until_serving(
    profile: &Profile,
    state: &DevState,
    log: &Path,
    deadline: Instant,
) -> Result<ClusterStatus, Failure> {
    let mut why = "the cluster did not answer".to_owned();
    while Instant::now() < deadline {
        match timeout_at(deadline, ask(profile)).await {
            Ok(Ok(status)) => match lacking(&status, state) {
                None => return Ok(status),
                Some(lack) => why = lack,
            },
            Ok(Err(error)) => why = error.line().unwrap_or(why),
            Err(_) => break,
        }
        sleep(STATUS_PERIOD).await;
    }
    let line = Line::new("the cluster does not serve").why(why);
    Err(line.advice(format!("see {}", log.display())).failed())
}

/// The profile in a folder. That it cannot be read is not a thing to wait for.
pub(super) fn profile(folder: &Path) -> Result<Profile, Failure> {
    Profile::load(folder).map_err(|error| Line::new(with_causes(&error)).failed())
}

/// The state of the cluster, as one short question.
pub(super) async fn ask(profile: &Profile) -> Result<ClusterStatus, Failure> {
    let cluster = open(profile).await?;
    let status = cluster.status().await;
    cluster.close().await;
    status.map_err(|error| Line::new(with_causes(&error)).failed())
}

/// Connects with a profile, impatiently.
pub(super) async fn open(profile: &Profile) -> Result<Cluster, Failure> {
    let config = ClusterConfig { deadline: QUESTION_MAX, ..ClusterConfig::default() };
    Cluster::connect(profile, config).await.map_err(|error| Line::new(with_causes(&error)).failed())
}

/// Nodes that vote on the namespace, where there are so many.
const VOTERS: usize = 3;

/// What the cluster still lacks, if something.
fn lacking(status: &ClusterStatus, state: &DevState) -> Option<String> {
    if status.missing > 0 {
        return Some(format!("{} more node(s) must join", status.missing));
    }
    let seen = |address: &str| {
        status.nodes.iter().any(|node| {
            node.row.address.to_string() == address && !matches!(node.state, NodeState::Down | NodeState::Out)
        })
    };
    if let Some(node) = state.nodes.iter().find(|node| !seen(&node.address)) {
        return Some(format!("the node at {} is down", node.address));
    }
    // Before that the loss of one node could still stop the namespace.
    let votes = status.nodes.iter().filter(|node| matches!(node.role, RaftRole::Leader | RaftRole::Voter)).count();
    (votes < state.nodes.len().min(VOTERS)).then(|| format!("{votes} of {VOTERS} voters of the namespace are ready"))
}
