//! What happens to the machines: a story told by a seed, and the hands that make it so.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Mount};
use rand::{Rng, rngs::StdRng, seq::IteratorRandom};
use rustix::process::Signal;

use crate::worker::Stage;

/// One fault, and how long it lasts.
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
    /// Nodes, and a mount, at once.
    KillAll(usize),
}

/// A fault, how long it lasts, and how long it is quiet afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
    pub(crate) quiet: Duration,
}

/// The next scene with `nodes` nodes, of which any may suffer, and mounts of which the first `mortal` may.
pub(crate) fn next(random: &mut StdRng, nodes: usize, mortal: usize) -> Scene {
    let node = random.random_range(0..nodes);
    let mount = random.random_range(0..mortal);
    let several = |random: &mut StdRng, count| (0..nodes).choose_multiple(random, count);
    let fault = match random.random_range(0..100) {
        0..25 => Fault::KillNodes(vec![node]),
        25..40 => Fault::StopNodes(vec![node]),
        40..50 => Fault::RestartNode(node),
        50..60 => Fault::KillNodes(several(random, 2)),
        60..68 => Fault::StopNodes(several(random, 2)),
        68..82 => Fault::KillMount(mount),
        82..92 => Fault::StopMount(mount),
        _ => Fault::KillAll(mount),
    };
    let lasts = Duration::from_millis(random.random_range(50..8_000));
    Scene { fault, lasts, quiet: Duration::from_millis(random.random_range(0..6_000)) }
}

/// Lets a scene happen.
pub(crate) fn play(scene: &Scene, cluster: &mut Cluster, mounts: &mut [Mount], stage: &Stage) {
    let dies = |mount: usize| stage.deaths[mount].fetch_add(1, Ordering::AcqRel);
    match &scene.fault {
        Fault::KillNodes(nodes) => {
            nodes.iter().for_each(|node| cluster.nodes[*node].kill());
            pause(scene.lasts, stage);
            nodes.iter().for_each(|node| cluster.nodes[*node].start());
        }
        Fault::StopNodes(nodes) => {
            nodes.iter().for_each(|node| cluster.nodes[*node].signal(Signal::STOP));
            pause(scene.lasts, stage);
            nodes.iter().for_each(|node| cluster.nodes[*node].signal(Signal::CONT));
        }
        Fault::RestartNode(node) => {
            cluster.nodes[*node].stop();
            cluster.nodes[*node].start();
        }
        Fault::KillMount(mount) => {
            dies(*mount);
            mounts[*mount].kill();
            mounts[*mount].start(cluster, &[]);
        }
        Fault::StopMount(mount) => {
            mounts[*mount].signal(Signal::STOP);
            pause(scene.lasts, stage);
            mounts[*mount].signal(Signal::CONT);
        }
        Fault::KillAll(mount) => {
            dies(*mount);
            cluster.nodes.iter_mut().for_each(harness::NodeProcess::kill);
            mounts[*mount].kill();
            cluster.nodes.iter_mut().for_each(harness::NodeProcess::start);
            mounts[*mount].start(cluster, &[]);
        }
    }
    pause(scene.quiet, stage);
}

/// Waits; not beyond the end.
fn pause(long: Duration, stage: &Stage) {
    let begun = Instant::now();
    while begun.elapsed() < long && !stage.is_over() {
        thread::park_timeout(Duration::from_millis(20));
    }
}
