//! Who is here: heartbeats to the leader, and the leader's housekeeping.
//!
//! Every node tells the leader every 500 ms that it is there, and how its store is. The leader chooses the voters, has the ring solved when enough nodes have joined and again when some come or go, ends silent sessions, and
//! gives back what nobody holds.
//!
//! # Invariants
//! - Timers decide only when to try. What changes goes through the Raft log.
//!
//! # Not here
//! What a change does (`namespace`); who lacks which chunks (`repair`); what becomes of dead ones (`garbage`).

mod confirmed;
mod detector;
mod moves;
mod reports;
mod sessions;
mod silent;
mod site;
mod stand_ins;
mod voters;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use ring::{NodeId, ReplicaCount};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tracing::{debug, info, warn};
use wire::{
    Answer, Refusal, Request,
    cluster::{ClientId, ClusterAnswer, ClusterMap, ClusterRequest, KeyFingerprint, Newcomer, NodeRow, TokenPurpose},
    namespace::{Inode, SessionId, Timestamp},
};

pub use detector::Detector;
pub use moves::{Hearing, Moves};
pub use reports::Reports;
pub(crate) use reports::own_report;
pub use sessions::{HOLDS_MAX, Opened, Sessions};
pub use stand_ins::StandIns;

use voters::VoterChange;

use crate::{
    consensus::{AfterVoting, FoundError},
    garbage,
    generation::Generation,
    kv::KvRead,
    namespace::{self, ClusterCommand, CommandBody, CommandOutcome, LogIndex},
    node::Node,
};

/// How long one proposal of the housekeeping may take.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a newcomer may take to catch up before it is tried again.
const LEARN_DEADLINE: Duration = Duration::from_secs(30);

/// Follow-ups proposed in one step, and orphans given back by one command.
const WORK_MAX: usize = 64;

/// Changes of the ring proposed in one step: all partitions of an ordinary ring at once.
const MOVES_MAX: usize = 8;

/// Orphans looked at in one step: more than that many held open at once delay the others.
const ORPHANS_LISTED_MAX: usize = 4096;

/// Follow-ups under way at once: they share syncs of the log, and are few beside what clients may have under way.
const WORK_AT_ONCE: usize = 8;

/// How long follow-ups go on before the rest of the housekeeping has its turn.
const WORK_TIME_MAX: Duration = Duration::from_millis(400);

/// What a cluster begins with.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Replicas of each chunk.
    pub replicas: ReplicaCount,
    /// The first node.
    pub node: NodeRow,
    /// The authority's certificate (DER).
    pub authority: Vec<u8>,
    /// The authority's private key, sealed.
    pub sealed_key: Vec<u8>,
    /// The first client: who, and its key.
    pub client: Option<(ClientId, KeyFingerprint)>,
    /// User and group of the person who makes the cluster: the root directory is theirs.
    pub owner: (u32, u32),
}

/// Heartbeats and housekeeping until the node stops.
pub async fn run(node: Arc<Node>, founding: Option<Founding>) {
    if let Some(founding) = founding {
        found(&node, founding).await;
    }
    let behind = Notify::new();
    tokio::select! {
        biased;
        () = node.stop.cancelled() => {}
        () = keep_house_always(&node) => {}
        () = beat_always(&node, &behind) => {}
        () = reports::report_always(&node) => {}
        () = catch_up_always(&node, &behind) => {}
    }
}

async fn keep_house_always(node: &Arc<Node>) {
    let mut tick = tokio::time::interval(node.config.membership.housekeeping);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut step, mut walk, mut told) = (None, None, false);
    loop {
        tick.tick().await;
        node.refresh_local_map();
        if !node.is_leader() {
            continue;
        }
        site::follow(node, &mut told).await;
        match keep_house(node, &mut step, &mut walk).await {
            Ok(Work::Done) => {}
            // A large truncation, or a folder of many files that was removed: no pause before the rest of it.
            Ok(Work::Left) => tick.reset_immediately(),
            Err(refusal) => debug!(%refusal, "housekeeping was interrupted"),
        }
    }
}

/// Whether a round has left follow-ups.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Work {
    Done,
    Left,
}

/// Heartbeats, of which each waits for its own answer and for nothing else: silence is what makes a node count as down.
async fn beat_always(node: &Arc<Node>, behind: &Notify) {
    let mut told = false;
    let mut tick = tokio::time::interval(node.config.membership.heartbeat);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let heard = beat(node, behind).await;
        if matches!(heard, Err(Refusal::UnknownPeer)) && !told {
            told = true;
            warn!(
                "this node is not a member of the cluster any more: stop it; delete its data directory if it was removed on \
                 purpose, but keep it if the cluster was recovered by force: it may have the only copies"
            );
        }
    }
}

/// Fetches the map when a heartbeat found out that this node is behind, that nobody leads, or that the map says wrongly
/// where this node stands: then the leader is told.
async fn catch_up_always(node: &Arc<Node>, behind: &Notify) {
    let deadline = node.config.membership.heartbeat * 2;
    let (mut told, mut told_site) = (false, false);
    loop {
        behind.notified().await;
        node.fetch_map(deadline).await;
        if !told && is_left_behind(node) {
            told = true;
            let data = node.config.data.display();
            warn!(
                "the cluster was recovered without this node: stop it and run dfs-node recover --data {data} --follow"
            );
        }
        if !node.is_leader() {
            site::tell(node, deadline, &mut told_site).await;
        }
    }
}

/// Whether the map is of a later generation than this node's part in the namespace: another was recovered, and nobody hears
/// this one in matters of Raft.
fn is_left_behind(node: &Node) -> bool {
    let Some(map) = node.map() else { return false };
    let view = node.consensus.watch().borrow().clone();
    let has_part = view.last_log > 0 || view.applied > 0;
    has_part && Generation::of_term(view.term) < Generation::of_epoch(map.epoch)
}

/// Makes the cluster, unless an earlier start has made it.
async fn found(node: &Node, founding: Founding) {
    let Founding { replicas, node: row, authority, sealed_key, client, owner } = founding;
    let cluster = node.cluster;
    node.refresh_local_map();
    if node.map().is_none() {
        let command = ClusterCommand::Found { cluster, replicas, node: row, authority, sealed_key, owner };
        match node.consensus.found(command.clone()).await {
            Ok(()) => {}
            // An earlier start made the group and did not come to the command.
            Err(FoundError::AlreadyMember) => {
                if let Err(refusal) = propose(node, CommandBody::Cluster(command)).await {
                    warn!(%refusal, "the cluster cannot be founded");
                }
            }
            Err(error) => warn!(%error, "the cluster cannot be founded"),
        }
        node.refresh_local_map();
    }
    if let Some((id, key)) = client {
        let admitted = admit_first_client(node, id, key).await;
        if let Err(refusal) = admitted {
            warn!(%refusal, "the first client cannot be admitted; its profile will not work");
        }
    }
}

/// The first client comes in by a token like everybody, one that nobody ever saw.
async fn admit_first_client(node: &Node, id: ClientId, key: KeyFingerprint) -> Result<(), Refusal> {
    let peer = wire::cluster::Peer::Client(id);
    let known = namespace::identify(&*node.consensus.local(), &peer, &key);
    if matches!(known, Ok(Some(_))) {
        return Ok(());
    }
    let hash = *blake3::hash(&node.random::<32>()).as_bytes();
    let purpose = TokenPurpose::Client(wire::cluster::Access::ReadWrite);
    let now = node.clock.now();
    let expires = Timestamp::new(now.seconds() + 3600, 0).expect("no nanoseconds");
    propose(node, CommandBody::Cluster(ClusterCommand::CreateToken { hash, purpose, expires })).await?;
    let newcomer = Newcomer::Client { id };
    propose(node, CommandBody::Cluster(ClusterCommand::RedeemToken { hash, key, newcomer })).await?;
    Ok(())
}

/// Tells the leader that this node is here, and learns whether it is behind.
async fn beat(node: &Arc<Node>, behind: &Notify) -> Result<(), Refusal> {
    // Heard, it would be taken for one that can vote.
    if is_left_behind(node) {
        node.note_unheard();
        behind.notify_one();
        return Err(Refusal::NotServing);
    }
    let store = node.store_report().await;
    if !store.full && !store.failed {
        node.repair.note_disk_well();
    }
    let epoch = node.map().map(|map| map.epoch).unwrap_or_default();
    let deadline = node.config.membership.heartbeat * 2;
    let heard = if node.is_leader() {
        node.with_leader_state(|leader| leader.detector.handle_heartbeat(node.id, store, Instant::now()));
        Ok((node.id, epoch))
    } else {
        let request = Request::Cluster(ClusterRequest::Heartbeat { store, epoch });
        let leader = node.leader_id().filter(|leader| *leader != node.id);
        let answer = match leader {
            Some(leader) => node.ask(leader, &request, deadline).await,
            None => Err(Refusal::NotLeader { leader }),
        };
        match answer {
            Ok(Answer::Cluster(ClusterAnswer::Heard { epoch })) => Ok((leader.unwrap_or(node.id), epoch)),
            Ok(_) => Err(Refusal::Malformed),
            Err(refusal) => Err(refusal),
        }
    };
    match heard {
        Ok((leader, leaders)) => {
            if node.note_heard(leader, Instant::now()) {
                info!(%leader, "heard by the leader");
                node.repair.compare_again();
            }
            if leaders > epoch || site::is_elsewhere(node) {
                behind.notify_one();
            }
            Ok(())
        }
        Err(refusal) => {
            if node.note_unheard() {
                debug!(%refusal, "not heard by a leader");
            }
            behind.notify_one();
            Err(refusal)
        }
    }
}

async fn keep_house(
    node: &Arc<Node>,
    step: &mut Option<JoinHandle<()>>,
    walk: &mut garbage::Walk,
) -> Result<Work, Refusal> {
    let Some(map) = node.map() else { return Ok(Work::Done) };
    tend_voters(node, &map, step);
    if map.ring.is_none() && map.missing() == 0 {
        propose(node, CommandBody::Cluster(ClusterCommand::SolveRing)).await?;
        node.refresh_local_map();
        info!("the ring is solved");
    }
    move_partitions(node).await?;

    silent::end_silent_sessions(node).await?;
    garbage::keep(node, walk).await?;
    finish_work(node).await
}

/// Has others take the writes of who is silent, gives up who stays so, takes back who has returned, and moves partitions
/// accordingly.
async fn move_partitions(node: &Node) -> Result<(), Refusal> {
    for _command in 0..MOVES_MAX {
        let Some(map) = node.map() else { return Ok(()) };
        let now = Instant::now();
        let next = node.with_leader_state(|leader| {
            let detector = &leader.detector;
            let hearing = |id| Hearing {
                heard: detector.is_heard(id, now),
                silent: detector.silence(id, now),
                steady: detector.steady(id, now),
            };
            // Writes wait for this, and for nothing else.
            leader.stand_ins.poll(&map, hearing, now).or_else(|| leader.moves.poll(&map, hearing, now))
        });
        let Some(command) = next.flatten() else { return Ok(()) };
        match &command {
            ClusterCommand::Settle { epoch, partitions } => {
                info!(%epoch, partitions = partitions.len(), "partitions have gone over to their new owners");
            }
            ClusterCommand::Clean { partitions, .. } => {
                info!(partitions = partitions.len(), "partitions are whole with their owners again");
            }
            ClusterCommand::Away { nodes } => info!(?nodes, "are away: others take their writes"),
            ClusterCommand::Back { node } => info!(?node, "takes its writes itself"),
            command => info!(?command, "the ring is to change"),
        }
        propose(node, CommandBody::Cluster(command)).await?;
        node.refresh_local_map();
    }
    Ok(())
}

/// Takes the next step to the voters that the cluster should have: one at a time, and beside the rest of the housekeeping,
/// because a newcomer may take long to learn.
fn tend_voters(node: &Arc<Node>, map: &ClusterMap, step: &mut Option<JoinHandle<()>>) {
    if step.as_ref().is_some_and(|step| !step.is_finished()) {
        return;
    }
    let view = node.consensus.watch().borrow().clone();
    let now = Instant::now();
    let next = node.with_leader_state(|leader| {
        voters::next_change(map, &view.voters, node.id, |id| leader.detector.is_heard(id, now))
    });
    let Some(next) = next.flatten() else { return };
    let node_of_task = node.clone();
    *step = Some(node.tasks.spawn(async move {
        let done = tokio::select! {
            biased;
            () = node_of_task.stop.cancelled() => return,
            done = change_voters(&node_of_task, next, view.voters) => done,
        };
        match done {
            Ok(()) => info!(?next, "the voters have changed"),
            Err(error) => warn!(?next, %error, "the voters cannot be changed yet"),
        }
    }));
}

async fn change_voters(node: &Node, change: VoterChange, mut voters: BTreeSet<NodeId>) -> anyhow::Result<()> {
    match change {
        VoterChange::Promote(next) => promote(node, next, &voters).await,
        // A leader that is to vote no longer hands over; the next one goes on.
        VoterChange::Demote(gone) if gone == node.id => {
            hand_over(node).await;
            Ok(())
        }
        VoterChange::Demote(gone) => {
            voters.remove(&gone);
            Ok(node.consensus.set_voters(voters, AfterVoting::Learns, LEARN_DEADLINE).await?)
        }
    }
}

/// Hands leadership to a voter that can be heard and stays.
pub(crate) async fn hand_over(node: &Node) {
    let voters = node.consensus.watch().borrow().voters.clone();
    let now = Instant::now();
    let map = node.map();
    let stays = |id: &NodeId| map.as_ref().is_some_and(|map| map.node(*id).is_some() && map.leaving(*id).is_none());
    let heirs = node.with_leader_state(|leader| {
        let is_fit = |id: &NodeId| *id != node.id && stays(id) && leader.detector.is_heard(*id, now);
        voters.into_iter().find(is_fit)
    });
    if let Some(heir) = heirs.flatten() {
        info!(?heir, "leadership is handed over");
        node.consensus.hand_over_to(heir).await;
    }
}

async fn promote(node: &Node, next: NodeId, voters: &BTreeSet<NodeId>) -> anyhow::Result<()> {
    let seal = node.seal().ok_or_else(|| anyhow::anyhow!("this leader has no seal to hand over"))?;
    let request = Request::Cluster(ClusterRequest::TakeSeal { seal });
    match node.ask(next, &request, PROPOSE_DEADLINE).await? {
        Answer::Cluster(ClusterAnswer::SealTaken) => {}
        _ => anyhow::bail!("it did not take the seal"),
    }
    node.consensus.add_learner(next, LEARN_DEADLINE).await?;
    let mut voters = voters.clone();
    voters.insert(next);
    Ok(node.consensus.set_voters(voters, AfterVoting::Learns, LEARN_DEADLINE).await?)
}

pub(crate) fn live_sessions(rows: &dyn KvRead) -> Result<BTreeMap<SessionId, Opened>, Refusal> {
    let sessions = namespace::session_list(rows).map_err(|error| broken(&error))?;
    Ok(sessions.into_iter().map(|summary| (summary.session, Opened(summary.opened))).collect())
}

/// Follow-ups of large changes, and orphans that nobody holds.
async fn finish_work(node: &Node) -> Result<Work, Refusal> {
    let until = Instant::now() + WORK_TIME_MAX;
    let mut orphans = Vec::new();
    let mut cuts = BTreeSet::new();
    while Instant::now() < until {
        let mut commands =
            namespace::pending_work(&*node.consensus.local(), WORK_MAX).map_err(|error| broken(&error))?;
        let cut = |command: &CommandBody| {
            let CommandBody::ContinueCut { inode } = command else { return None };
            Some(*inode)
        };
        let going_on: BTreeSet<Inode> = commands.iter().filter_map(cut).collect();
        tell_of_cuts(node, cuts.difference(&going_on));
        cuts = going_on;
        let before = std::mem::replace(&mut orphans, free_orphans(node)?);
        // Those that a whole step did not give back wait for the next round.
        if orphans != before {
            let reclaim = |inodes: &[Inode]| CommandBody::ReclaimOrphans { inodes: inodes.to_vec() };
            commands.extend(orphans.chunks(WORK_MAX).map(reclaim));
        }
        if commands.is_empty() {
            return Ok(Work::Done);
        }
        let mut steps =
            stream::iter(commands.into_iter().map(|command| propose(node, command))).buffer_unordered(WORK_AT_ONCE);
        while let Some(outcome) = steps.next().await {
            outcome?;
        }
    }
    tell_of_cuts(node, cuts.iter());
    Ok(Work::Left)
}

/// Mounts keep what they were told of an inode when it was cut, and how many bytes it weighs has changed since.
fn tell_of_cuts<'a>(node: &Node, cuts: impl Iterator<Item = &'a Inode>) {
    let now = Instant::now();
    node.with_leases(|leases| cuts.for_each(|inode| leases.handle_changed(*inode, now)));
}

/// Orphans that every session has seen and none holds.
fn free_orphans(node: &Node) -> Result<Vec<Inode>, Refusal> {
    let rows = node.consensus.local();
    let live = live_sessions(&*rows)?;
    let Some(seen) = node.with_leader_state(|leader| leader.sessions.seen_by_all(&live)) else { return Ok(Vec::new()) };
    let mut orphans = namespace::orphans(&*rows, LogIndex(seen), ORPHANS_LISTED_MAX).map_err(|error| broken(&error))?;
    node.with_leader_state(|leader| orphans.retain(|orphan| !leader.sessions.is_held(*orphan)));
    Ok(orphans)
}

/// Proposes a command of the housekeeping.
pub(crate) async fn propose(node: &Node, command: CommandBody) -> Result<CommandOutcome, Refusal> {
    crate::serve::propose(node, command, PROPOSE_DEADLINE).await
}

fn broken(error: &crate::kv::KvError) -> Refusal {
    warn!(%error, "the state of the cluster cannot be read");
    Refusal::Internal
}
