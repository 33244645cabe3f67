//! What a status means: room for files, warnings, whether all is well. Pure.

use ring::{NodeId, ReplicaCount};
use wire::{
    cluster::{ClusterStatus, NodeState, NodeStatus, StoreReport},
    moves::MovesStatus,
};

use super::text::number::{counted, long_size};

/// A store counts as nearly full when less than one part in this many is free: time to add room, not yet an error.
const NEARLY_FULL_PART: u64 = 10;

/// How the cluster is, in one word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Health {
    /// Nothing to say.
    Ok,
    /// It serves, but something wants attention.
    Degraded,
    /// Files cannot be stored.
    Unavailable,
}

impl Health {
    /// For JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Something that wants attention.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Warning {
    /// A word for programs: `node-down`.
    pub(crate) kind: &'static str,
    /// About which node, if about one.
    pub(crate) node: Option<NodeId>,
    /// A sentence for people.
    pub(crate) text: String,
}

/// Room, counted in bytes of files: what the disks hold, divided by the replicas.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Room {
    /// All of it.
    pub(crate) capacity: u64,
    /// Taken, dead chunks included.
    pub(crate) used: u64,
    /// Free.
    pub(crate) free: u64,
    /// Nodes that have said nothing of their stores.
    pub(crate) silent: u64,
}

/// Room over all nodes that hold partitions. Nodes that have said nothing are taken to be like the others.
pub(crate) fn room(status: &ClusterStatus) -> Room {
    let holders = || status.nodes.iter().filter(|node| node.partitions > 0);
    let reports = || holders().filter_map(|node| node.store.as_ref());
    let (all, heard) = (holders().count() as u128, reports().count() as u128);
    let replicas = status.replicas.count() as u128;
    let over_all = |of: fn(&StoreReport) -> u64| {
        let sum: u128 = reports().map(|store| u128::from(of(store))).sum();
        u64::try_from(sum * all / (heard.max(1) * replicas)).unwrap_or(u64::MAX)
    };
    Room {
        capacity: over_all(|store| store.capacity),
        used: over_all(|store| store.used),
        free: over_all(|store| store.free),
        silent: u64::try_from(all - heard).expect("members are counted in 16 bits"),
    }
}

/// How the cluster is, and what wants attention, the worst first.
pub(crate) fn examine(
    status: &ClusterStatus,
    moves: &MovesStatus,
    name_of: &dyn Fn(NodeId) -> String,
) -> (Health, Vec<Warning>) {
    let mut warnings = Vec::new();
    if status.missing > 0 {
        warnings.push(Warning {
            kind: "too-few-nodes",
            node: None,
            text: format!(
                "{} must still join before files can be stored ({} were asked for at init)",
                counted(u64::from(status.missing), "node", "nodes"),
                counted(replicas(status.replicas), "replica", "replicas"),
            ),
        });
    }
    let down = status
        .nodes
        .iter()
        .filter(|node| matches!(node.state, NodeState::Down | NodeState::Out) && node.partitions > taken(moves, node))
        .count();
    let spare = status.replicas.count() - status.replicas.write_quorum();
    if status.missing == 0 && down > spare {
        warnings.push(Warning {
            kind: "no-write-quorum",
            node: None,
            text: format!("{down} nodes are down: some chunks cannot be written, and some perhaps not read"),
        });
    }
    let unavailable = !warnings.is_empty();
    for node in &status.nodes {
        let name = name_of(node.row.id);
        warnings.extend(node_warnings(node, &name));
        if taken(moves, node) > 0 {
            let text = format!("writes of node {name} go to stand-ins");
            warnings.push(Warning { kind: "away", node: Some(node.row.id), text });
        }
    }
    let health = match (unavailable, warnings.is_empty()) {
        (true, _) => Health::Unavailable,
        (false, false) => Health::Degraded,
        (false, true) => Health::Ok,
    };
    (health, warnings)
}

/// Partitions of which others take the writes of `node`.
fn taken(moves: &MovesStatus, node: &NodeStatus) -> u32 {
    moves.away.iter().find(|away| away.node == node.row.id).map_or(0, |away| away.partitions)
}

/// Whether it is time to add room, though not an error yet.
pub(crate) fn is_nearly_full(store: &StoreReport) -> bool {
    store.capacity > 0 && store.free < store.capacity / NEARLY_FULL_PART
}

fn replicas(count: ReplicaCount) -> u64 {
    u64::try_from(count.count()).expect("at most 7")
}

/// What wants attention about one node.
fn node_warnings(node: &NodeStatus, name: &str) -> Vec<Warning> {
    let warning = |kind, text| Warning { kind, node: Some(node.row.id), text };
    let mut warnings = Vec::new();
    match node.state {
        NodeState::Up => {}
        NodeState::Down => {
            let text = format!("node {name} ({}) is down: start it again, or see its log", node.row.address);
            warnings.push(warning("node-down", text));
        }
        NodeState::Out => {
            let text = format!("node {name} ({}) is out: others hold its share until it is back", node.row.address);
            warnings.push(warning("node-out", text));
        }
        NodeState::Draining => {}
        NodeState::CatchingUp => {
            let lacking = node.store.as_ref().map_or(0, |store| store.lacking);
            let text = format!("node {name} is catching up: {} still to fetch", counted(lacking, "chunk", "chunks"));
            warnings.push(warning("catching-up", text));
        }
    }
    let Some(store) = &node.store else {
        return warnings;
    };
    if store.failed {
        let text = format!("the disk of node {name} failed: it takes no chunks; replace the disk");
        warnings.push(warning("disk-failed", text));
    }
    if store.starved {
        let text = format!("the disk of node {name} is full to the last byte: it takes nothing; give it more room");
        warnings.push(warning("disk-full", text));
    } else if store.full {
        let text = format!("the disk of node {name} is full: it takes no chunks; remove files or give it more room");
        warnings.push(warning("disk-full", text));
    } else if is_nearly_full(store) {
        let text = format!("the disk of node {name} is nearly full: {} left", long_size(store.free));
        warnings.push(warning("disk-nearly-full", text));
    }
    let unrepaired = store.damaged.saturating_sub(store.repaired);
    if unrepaired > 0 {
        let text = format!(
            "node {name} holds {}, not replaced yet from another replica",
            counted(unrepaired, "damaged chunk", "damaged chunks")
        );
        warnings.push(warning("damaged", text));
    }
    if store.lacking > 0 && node.state == NodeState::Up {
        let text = format!("node {name} lacks {}", counted(store.lacking, "chunk", "chunks"));
        warnings.push(warning("lacking", text));
    }
    warnings
}

/// The shortest prefixes, of at least eight digits, that tell these nodes apart.
pub(crate) fn short_ids(ids: &[NodeId]) -> impl Fn(NodeId) -> String + use<> {
    let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let distinct = |len: &usize| {
        let mut heads: Vec<&str> = texts.iter().filter_map(|text| text.get(..*len)).collect();
        heads.sort_unstable();
        heads.windows(2).all(|pair| matches!(pair, [a, b] if a != b))
    };
    let len = (8..32).find(distinct).unwrap_or(32);
    move |id| id.to_string().chars().take(len).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use ring::{Epoch, GcEpoch, NodeId, ReplicaCount, Weight};
    use wire::{
        chunk::Incarnation,
        cluster::{ClusterId, ClusterStatus, KeyFingerprint, NodeRow, NodeState, NodeStatus, RaftRole, StoreReport},
        moves::{AwayStatus, MovesStatus},
        namespace::Usage,
    };

    use super::{Health, Room, examine, room, short_ids};

    fn node(id: u8, state: NodeState) -> NodeStatus {
        NodeStatus {
            row: NodeRow {
                id: NodeId::from_bytes([id; 16]),
                address: "127.0.0.1:7001".parse().unwrap(),
                zone: None,
                weight: Weight(NonZeroU32::MIN),
                key: KeyFingerprint([0; 32]),
            },
            state,
            role: RaftRole::Voter,
            store: Some(StoreReport {
                capacity: 3000,
                used: 600,
                free: 2400,
                chunks: 5,
                incarnation: Incarnation(1),
                full: false,
                failed: false,
                damaged: 0,
                repaired: 0,
                lacking: 0,
                starved: false,
            }),
            partitions: 4,
        }
    }

    fn status(nodes: Vec<NodeStatus>) -> ClusterStatus {
        ClusterStatus {
            cluster: ClusterId([1; 16]),
            epoch: Epoch(4),
            replicas: ReplicaCount::new(3).unwrap(),
            missing: 0,
            nodes,
            usage: Usage::default(),
            term: 1,
            applied: 9,
            gc_current: GcEpoch(0),
        }
    }

    fn kinds(status: &ClusterStatus) -> (Health, Vec<&'static str>) {
        kinds_with(status, &MovesStatus::default())
    }

    fn kinds_with(status: &ClusterStatus, moves: &MovesStatus) -> (Health, Vec<&'static str>) {
        let (health, warnings) = examine(status, moves, &|id| id.to_string());
        (health, warnings.iter().map(|warning| warning.kind).collect())
    }

    #[test]
    fn three_nodes_that_are_up_and_have_room_are_well() {
        let status = status((1..=3).map(|id| node(id, NodeState::Up)).collect());
        assert_eq!(kinds(&status), (Health::Ok, vec![]));
        assert_eq!(room(&status), Room { capacity: 3000, used: 600, free: 2400, silent: 0 });
    }

    #[test]
    fn a_node_that_is_silent_is_taken_to_be_like_the_others() {
        let mut nodes: Vec<NodeStatus> = (1..=3).map(|id| node(id, NodeState::Up)).collect();
        nodes[1].store = None;
        assert_eq!(room(&status(nodes)), Room { capacity: 3000, used: 600, free: 2400, silent: 1 });
        let mut early = status(vec![node(1, NodeState::Up)]);
        early.nodes[0].partitions = 0;
        assert_eq!(room(&early), Room::default());
    }

    #[test]
    fn each_trouble_has_its_warning() {
        let mut nodes: Vec<NodeStatus> = (1..=4).map(|id| node(id, NodeState::Up)).collect();
        nodes[0].state = NodeState::Down;
        nodes[0].store = None;
        nodes[1].state = NodeState::CatchingUp;
        nodes[2].store.as_mut().unwrap().full = true;
        nodes[2].store.as_mut().unwrap().damaged = 3;
        nodes[2].store.as_mut().unwrap().repaired = 1;
        nodes[3].store.as_mut().unwrap().failed = true;
        nodes[3].store.as_mut().unwrap().free = 299;
        assert_eq!(
            kinds(&status(nodes)),
            (
                Health::Degraded,
                vec!["node-down", "catching-up", "disk-full", "damaged", "disk-failed", "disk-nearly-full"]
            )
        );
    }

    #[test]
    fn a_disk_without_any_room_has_one_warning() {
        let mut nodes: Vec<NodeStatus> = (1..=3).map(|id| node(id, NodeState::Up)).collect();
        let store = nodes[2].store.as_mut().unwrap();
        (store.full, store.starved, store.free) = (true, true, 0);
        assert_eq!(kinds(&status(nodes)), (Health::Degraded, vec!["disk-full"]));
    }

    #[test]
    fn repaired_damage_is_no_trouble() {
        let mut nodes: Vec<NodeStatus> = (1..=3).map(|id| node(id, NodeState::Up)).collect();
        nodes[2].store.as_mut().unwrap().damaged = 3;
        nodes[2].store.as_mut().unwrap().repaired = 3;
        assert_eq!(kinds(&status(nodes)), (Health::Ok, vec![]));
    }

    #[test]
    fn a_cluster_that_cannot_store_says_so_first() {
        let mut early = status(vec![node(1, NodeState::Up)]);
        early.missing = 2;
        assert_eq!(kinds(&early), (Health::Unavailable, vec!["too-few-nodes"]));
        let nodes = vec![node(1, NodeState::Up), node(2, NodeState::Down), node(3, NodeState::Down)];
        let status = status(nodes);
        assert_eq!(kinds(&status), (Health::Unavailable, vec!["no-write-quorum", "node-down", "node-down"]));
        // Others take all writes of one of them.
        let away = |partitions| vec![AwayStatus { node: NodeId::from_bytes([2; 16]), partitions }];
        let moves = |partitions| MovesStatus { away: away(partitions), ..MovesStatus::default() };
        assert_eq!(kinds_with(&status, &moves(3)).0, Health::Unavailable, "not all of its writes");
        assert_eq!(kinds_with(&status, &moves(4)), (Health::Degraded, vec!["node-down", "away", "node-down"]));
    }

    #[test]
    fn short_ids_are_as_long_as_it_takes_to_tell_nodes_apart() {
        let mut like = [1; 16];
        like[5] = 2;
        let ids = [NodeId::from_bytes([1; 16]), NodeId::from_bytes(like)];
        let short = short_ids(&ids);
        assert_eq!(short(ids[0]), "010101010101");
        assert_eq!(short(ids[1]), "010101010102");
        assert_eq!(short_ids(&ids[..1])(ids[0]), "01010101");
    }
}
