//! The way back when a majority of the voting nodes is gone for good: `dfs-node recover`.
//!
//! Without a majority Raft elects nobody, and rightly: those that are gone may have acknowledged what the others never
//! heard of. Only a person can know that they never come back. This module tells that person what is at stake, and at
//! their word begins a new *generation* ([`crate::generation`]) of the cluster on one survivor, which from then on is the
//! only voter. Everything else follows by the ordinary ways: nodes join by token, the lost ones are removed by force,
//! chunks are made again from the copies that are left.
//!
//! Three steps, each on a data directory whose node does not run:
//!
//! 1. [`look`] says what this survivor has and what would be lost. It changes nothing.
//! 2. [`lead_alone`] makes this survivor lead alone. For exactly one node: the one with the highest place.
//! 3. [`follow`] makes another survivor begin anew with its chunks and without its part in the namespace, of which it gets
//!    the recovered one as a snapshot. It asks the recovered cluster first, so it does nothing where nothing was recovered.
//!
//! # Invariants
//! - Nobody is overruled who answers: where a majority of the voters can be reached, or a node that was recovered, nothing
//!   is.
//! - Killed at any moment, a directory is what it was or what it was to become, or refuses to start until the same command
//!   has been run again.
//! - What the survivor has stays: its whole log, identity, peers, ring, names. Chunks are never touched.
//! - A survivor that was not told to follow takes no part in the namespace of the recovered cluster, and nobody in its:
//!   members of two generations do not hear each other. Until then it still serves chunks.
//! - A file of which no copy of a chunk is left is an error to its reader, never other bytes: names and hashes are what
//!   the survivor has of them, and chunks are checked against them by whoever reads.
//! - Nothing is deleted: what [`follow`] puts aside stays in the directory until a person removes it.
//!
//! # What it is not
//! - Not a merge. Of two survivors, what only the one that is not recovered has is lost. A file that was changed in the
//!   lost part of the history is as it was before; one that was deleted there is back, perhaps without its chunks.
//! - Not a fence against the dead. Should a majority of the old voters come back, it would go on by itself as it was, in
//!   the old generation, next to the recovered cluster. Whoever recovers says that this will not happen.
//! - Not to be done on two nodes. Each would lead a cluster of its own, in the same generation. A second one is refused while
//!   the first runs and can be reached; otherwise nobody can know.
//! - Not for a node that lost its Raft log: that one joins as a new one.
//!
//! # Not here
//! How Raft's files are written (`consensus::survivor`); what the rows become (`namespace::recovery`).

mod finding;
mod probe;
mod report;

pub use finding::{Facts, Plan, Refused};
pub use report::Report;

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ring::NodeId;
use tokio::time::{Instant, sleep};
use wire::{
    cluster::{ClusterId, ClusterMap},
    namespace::Timestamp,
    quic::Credentials,
};

use crate::{
    append_log::LogConfig,
    consensus::{self, OpenError, Survivor, SurvivorError},
    disk::{
        Disk,
        data_dir::{DataDir, DataDirError},
    },
    generation::Generation,
    kv::{KvError, KvStore},
    namespace::{self, ClusterCommand, CommandBody},
};

/// Where to look: a data directory that the caller has locked.
pub struct Scene {
    /// The directory.
    pub dir: DataDir,
    /// Whose it is.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Opens the files of the Raft log.
    pub disk: Arc<dyn Disk>,
    /// What the node shows to others.
    pub credentials: Arc<Credentials>,
    /// Source of the log's generations.
    pub seed: u64,
}

/// How long the map of before may still be answered with: a node that has just been recovered applies what it was told as
/// soon as it leads, and looks at its rows twice a second. One question may take longer than that: the places of those that
/// are gone are asked too. So only a question asked after it decides.
const MAP_MAX: Duration = Duration::from_secs(2);
const MAP_POLL: Duration = Duration::from_millis(250);

/// Why a survivor does not lead, or cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is nothing to recover, or not here.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The Raft log or the state cannot be opened, or not be written.
    #[error(transparent)]
    Survivor(#[from] SurvivorError),
    /// The rows cannot be read.
    #[error(transparent)]
    Rows(#[from] KvError),
    /// The directory cannot be read.
    #[error(transparent)]
    Dir(#[from] DataDirError),
    /// Nobody can be asked whether they are there.
    #[error("cannot open a UDP socket to ask the other voters with")]
    Network(#[source] io::Error),
}

impl From<OpenError> for RecoverError {
    fn from(error: OpenError) -> Self {
        Self::Survivor(error.into())
    }
}

/// Says what the survivor has, and what leading alone would mean.
pub async fn look(scene: &Scene, kv: Arc<dyn KvStore>) -> Result<Plan, RecoverError> {
    let (survivor, plan) = open(scene, kv).await?;
    survivor.close().await?;
    Ok(plan)
}

/// Does what [`look`] said. `tell` hears it before anything is changed.
pub async fn lead_alone(
    scene: &Scene,
    kv: Arc<dyn KvStore>,
    now: Timestamp,
    tell: impl FnOnce(&Plan),
) -> Result<(), RecoverError> {
    let (survivor, plan) = open(scene, kv).await?;
    tell(&plan);
    let generation = plan.generation.number();
    let recover = CommandBody::Cluster(ClusterCommand::Recover { generation });
    survivor.lead_alone(scene.node, plan.generation, now, vec![recover; plan.commands]).await?;
    Ok(())
}

async fn open(scene: &Scene, kv: Arc<dyn KvStore>) -> Result<(Survivor, Plan), RecoverError> {
    let log = scene.dir.path().join("log");
    let survivor = Survivor::open(scene.disk.clone(), &log, kv.clone(), LogConfig::raft_log(), scene.seed).await?;
    let standing = survivor.standing().clone();
    let map = namespace::cluster_map(&*kv)?;
    let address = |id: &NodeId| map.as_ref().and_then(|map| map.node(*id)).map(|row| row.address);
    let kept = scene.dir.addresses()?;
    let others = standing.voters.iter().filter(|voter| **voter != scene.node);
    let places: BTreeMap<NodeId, SocketAddr> =
        others.filter_map(|id| Some((*id, address(id).or_else(|| kept.get(id).copied())?))).collect();
    let (answering, newest) = tokio::join!(
        probe::answering(scene.credentials.clone(), scene.cluster, &places),
        probe::newest_map(scene.credentials.clone(), scene.cluster, places.values().chain(kept.values()).copied()),
    );
    let facts = Facts {
        node: scene.node,
        standing,
        sessions: namespace::session_list(&*kv)?.len(),
        map,
        has_seal: scene.dir.seal()?.is_some(),
        answering: answering.map_err(RecoverError::Network)?,
        newest: newest.map_err(RecoverError::Network)?.map(|map| map.epoch),
    };
    let plan = facts.judge()?;
    Ok((survivor, plan))
}

/// Why a survivor does not begin anew.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Nobody knows whether the cluster was recovered.
    #[error(
        "no node of the cluster answers, and only a recovered one can be followed; start dfs-node on the node that was \
         recovered, then run this again"
    )]
    NobodyAnswers,
    /// The cluster was not recovered since this node took part in it.
    #[error("the cluster was not recovered without this node; start it with dfs-node run")]
    NotRecovered,
    /// The recovered cluster does not know it.
    #[error("the recovered cluster does not have this node as a member; join as a new one, in another directory")]
    NotMember,
    /// Nobody can be asked.
    #[error("cannot open a UDP socket to ask the other nodes with")]
    Network(#[source] io::Error),
    /// The vote cannot be read, or not be written.
    #[error(transparent)]
    Survivor(#[from] SurvivorError),
    /// The directory refuses.
    #[error(transparent)]
    Dir(#[from] DataDirError),
}

/// Makes this survivor begin anew in the recovered cluster; where its Raft log and state are kept.
pub async fn follow(scene: &Scene, seeds: &[SocketAddr]) -> Result<PathBuf, FollowError> {
    let log = scene.dir.path().join("log");
    let ours = match log.join("vote").exists() {
        true => consensus::generation_at(scene.disk.clone(), &log).await.map_err(SurvivorError::from)?,
        false => None,
    };
    let places: Vec<SocketAddr> = seeds.iter().copied().chain(scene.dir.addresses()?.into_values()).collect();
    let until = Instant::now() + MAP_MAX;
    let generation = loop {
        let decides = Instant::now() >= until;
        let map = probe::newest_map(scene.credentials.clone(), scene.cluster, places.iter().copied())
            .await
            .map_err(FollowError::Network)?
            .ok_or(FollowError::NobodyAnswers)?;
        match followed(ours, &map, scene.node) {
            Err(FollowError::NotRecovered) if !decides => sleep(MAP_POLL).await,
            decided => break decided?,
        }
    };
    let new = scene.dir.path().join("log.new");
    consensus::follow_from(scene.disk.clone(), &new, scene.node, generation).await?;
    Ok(scene.dir.put_aside(&new)?)
}

/// The generation to begin in, if there is a later one than `ours`.
fn followed(ours: Option<Generation>, map: &ClusterMap, node: NodeId) -> Result<Generation, FollowError> {
    let theirs = Generation::of_epoch(map.epoch);
    if theirs <= ours.unwrap_or_default() {
        return Err(FollowError::NotRecovered);
    }
    map.node(node).map(|_| theirs).ok_or(FollowError::NotMember)
}
