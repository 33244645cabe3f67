//! What happens to the machines: a story told by a seed. Pure.

use std::time::Duration;

use rand::{Rng, rngs::StdRng, seq::IteratorRandom};

/// One fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// SIGKILL, and back later.
    KillNodes(Vec<usize>),
    /// SIGSTOP, and SIGCONT later.
    StopNodes(Vec<usize>),
    /// SIGTERM, and back at once.
    RestartNode(usize),
    /// SIGKILL, and mounted again by the same command.
    KillMount(usize),
    /// SIGSTOP, and SIGCONT later.
    StopMount(usize),
    /// All nodes, and a mount, at once.
    KillAll(usize),
    /// The cables of hosts are pulled, and plugged in later: nodes come first, then mounts.
    Unplug(Vec<usize>),
    /// What a host sends to some others is lost, and what they send to it arrives.
    Deafen(usize, Vec<usize>),
    /// Another program takes all room on the disks of nodes but so many MiB, and gives it back later.
    FillDisks(Vec<usize>, u64),
    /// Some bytes in the chunk segments of a node change.
    Rot { node: usize, state: Victim, seed: u64 },
    /// Some bytes in the Raft log of a node change while it is down: it must see that, and joins as a new one.
    RotLog { node: usize, seed: u64 },
    /// Some bytes in the chunk index of a node change while it is down: it starts, or does once the index is gone.
    RotIndex { node: usize, seed: u64 },
    /// A node loses everything, is removed, and another takes its place.
    Wipe(usize),
    /// The clock of a node is so many seconds ahead or behind.
    JumpClock(usize, i64),
}

/// Whether a node runs while its disk rots.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Victim {
    Runs,
    IsDown,
}

/// Faults at once, each with how long it lasts, and how long it is quiet afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) faults: Vec<(Fault, Duration)>,
    pub(crate) quiet: Duration,
}

/// Who can suffer what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cast {
    pub(crate) nodes: usize,
    /// Mounts that may.
    pub(crate) mortal: usize,
    /// Networks can be cut.
    pub(crate) hosts: bool,
    /// Disks can be full.
    pub(crate) disks: bool,
    /// Clocks can jump.
    pub(crate) clocks: bool,
}

/// The next scene. Whether it happens as told does not matter for the one after it.
pub(crate) fn next(random: &mut StdRng, cast: Cast) -> Scene {
    let first = fault(random, cast);
    let second = random.random_bool(0.4).then(|| fault(random, cast)).filter(|second| go_together(&first, second));
    let lasts = |random: &mut StdRng| Duration::from_millis(random.random_range(50..8_000));
    let faults = [Some(first), second].into_iter().flatten().map(|fault| (fault, lasts(random))).collect();
    Scene { faults, quiet: Duration::from_millis(random.random_range(0..5_000)) }
}

fn fault(random: &mut StdRng, cast: Cast) -> Fault {
    let node = random.random_range(0..cast.nodes);
    let mount = random.random_range(0..cast.mortal);
    let several = |random: &mut StdRng, count| (0..cast.nodes).choose_multiple(random, count);
    let seed = random.random_range(0..1_000_000);
    let state = if random.random_bool(0.6) { Victim::Runs } else { Victim::IsDown };
    loop {
        return match random.random_range(0..220) {
            0..20 => Fault::KillNodes(vec![node]),
            20..32 => Fault::StopNodes(vec![node]),
            32..40 => Fault::RestartNode(node),
            40..50 => Fault::KillNodes(several(random, 2)),
            50..58 => Fault::StopNodes(several(random, 2)),
            58..72 => Fault::KillMount(mount),
            72..80 => Fault::StopMount(mount),
            80..88 => Fault::KillAll(mount),
            88..112 => Fault::Rot { node, state, seed },
            112..120 => Fault::RotLog { node, seed },
            120..126 => Fault::RotIndex { node, seed },
            126..136 => Fault::Wipe(node),
            136..148 if cast.clocks => Fault::JumpClock(node, random.random_range(-100_000..100_000)),
            148..162 if cast.disks => Fault::FillDisks(vec![node], random.random_range(0..40)),
            162..168 if cast.disks => Fault::FillDisks(several(random, 2), random.random_range(0..40)),
            168..182 if cast.hosts => Fault::Unplug(vec![node]),
            182..189 if cast.hosts => Fault::Unplug(several(random, 2)),
            189..197 if cast.hosts => Fault::Unplug(vec![cast.nodes + mount]),
            197.. if cast.hosts => {
                let count = random.random_range(1..cast.nodes + cast.mortal);
                let from = random.random_range(0..cast.nodes + cast.mortal);
                let others = (0..cast.nodes + cast.mortal).filter(|other| *other != from);
                Fault::Deafen(from, others.choose_multiple(random, count))
            }
            _ => continue,
        };
    }
}

impl Fault {
    /// Whether a node loses some of what it has: of the others none may until the cluster is whole again.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, Self::Rot { .. } | Self::RotLog { .. } | Self::RotIndex { .. } | Self::Wipe(_))
    }

    /// The nodes whose processes it ends or stops, or whose disks it spoils.
    fn nodes(&self) -> Vec<usize> {
        match self {
            Self::KillNodes(nodes) | Self::StopNodes(nodes) | Self::FillDisks(nodes, _) => nodes.clone(),
            Self::RestartNode(node) | Self::Wipe(node) => vec![*node],
            Self::Rot { node, .. } | Self::RotLog { node, .. } | Self::RotIndex { node, .. } => vec![*node],
            Self::KillMount(_) | Self::StopMount(_) | Self::KillAll(_) | Self::JumpClock(..) => Vec::new(),
            Self::Unplug(_) | Self::Deafen(..) => Vec::new(),
        }
    }

    fn mount(&self) -> Option<usize> {
        match self {
            Self::KillMount(mount) | Self::StopMount(mount) => Some(*mount),
            _ => None,
        }
    }

    fn is_about_network(&self) -> bool {
        matches!(self, Self::Unplug(_) | Self::Deafen(..))
    }
}

/// Whether two faults can be played at once: not on the same process, at most one of them a loss, and what a person has to
/// do (a node that joins) while the others are there.
fn go_together(first: &Fault, second: &Fault) -> bool {
    let either = |what: fn(&Fault) -> bool| what(first) || what(second);
    let needs_help = |fault: &Fault| matches!(fault, Fault::Wipe(_) | Fault::RotLog { .. });
    let is_of_mount = |fault: &Fault| fault.mount().is_some();
    if either(|fault| matches!(fault, Fault::KillAll(_))) || (first.is_loss() && second.is_loss()) {
        return false;
    }
    if either(needs_help) {
        return needs_help(first) && is_of_mount(second) || needs_help(second) && is_of_mount(first);
    }
    let apart = first.nodes().iter().all(|node| !second.nodes().contains(node));
    let (one, other) = (first.mount(), second.mount());
    apart && (one.is_none() || one != other) && !(first.is_about_network() && second.is_about_network())
}

#[test]
fn one_seed_tells_one_story_and_no_two_nodes_lose_something_at_once() {
    use rand::SeedableRng;
    let cast = Cast { nodes: 3, mortal: 2, hosts: true, disks: true, clocks: true };
    let story = |seed| {
        let mut random = StdRng::seed_from_u64(seed);
        (0..500).map(|_| next(&mut random, cast)).collect::<Vec<_>>()
    };
    let (one, again) = (story(7), story(7));
    assert_eq!(format!("{one:?}"), format!("{again:?}"));
    assert_ne!(format!("{one:?}"), format!("{:?}", story(8)));
    assert!(one.iter().any(|scene| scene.faults.len() == 2));
    for scene in &one {
        assert!(scene.faults.iter().filter(|(fault, _)| fault.is_loss()).count() <= 1, "{scene:?}");
    }
}
