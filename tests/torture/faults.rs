//! What happens to the machines: a story told by a seed, and the hands that make it so.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Hosts, Mount};
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
    /// The cables of hosts are pulled, and plugged in later: nodes come first, then mounts.
    Unplug(Vec<usize>),
    /// What a host sends to some others is lost, and what they send to it arrives.
    Deafen(usize, Vec<usize>),
}

/// A fault, how long it lasts, and how long it is quiet afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
    pub(crate) quiet: Duration,
}

/// The next scene with `nodes` nodes, of which any may suffer, and mounts of which the first `mortal` may; with `hosts`,
/// their network may as well.
pub(crate) fn next(random: &mut StdRng, nodes: usize, mortal: usize, hosts: bool) -> Scene {
    let node = random.random_range(0..nodes);
    let mount = random.random_range(0..mortal);
    let several = |random: &mut StdRng, count| (0..nodes).choose_multiple(random, count);
    let fault = match random.random_range(0..if hosts { 150 } else { 100 }) {
        0..25 => Fault::KillNodes(vec![node]),
        25..40 => Fault::StopNodes(vec![node]),
        40..50 => Fault::RestartNode(node),
        50..60 => Fault::KillNodes(several(random, 2)),
        60..68 => Fault::StopNodes(several(random, 2)),
        68..82 => Fault::KillMount(mount),
        82..92 => Fault::StopMount(mount),
        92..100 => Fault::KillAll(mount),
        100..115 => Fault::Unplug(vec![node]),
        115..122 => Fault::Unplug(several(random, 2)),
        122..130 => Fault::Unplug(vec![nodes + mount]),
        _ => {
            let count = random.random_range(1..nodes + mortal);
            let from = random.random_range(0..nodes + mortal);
            let others = (0..nodes + mortal).filter(|other| *other != from);
            Fault::Deafen(from, others.choose_multiple(random, count))
        }
    };
    let lasts = Duration::from_millis(random.random_range(50..8_000));
    Scene { fault, lasts, quiet: Duration::from_millis(random.random_range(0..6_000)) }
}

/// Lets a scene happen.
pub(crate) fn play(scene: &Scene, cluster: &mut Cluster, mounts: &mut [Mount], hosts: Option<&Hosts>, stage: &Stage) {
    let dies_or_lives = |mount: usize| stage.deaths[mount].fetch_add(1, Ordering::AcqRel);
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
            dies_or_lives(*mount);
            mounts[*mount].kill();
            mounts[*mount].start(cluster, &[]);
            dies_or_lives(*mount);
        }
        Fault::StopMount(mount) => {
            mounts[*mount].signal(Signal::STOP);
            pause(scene.lasts, stage);
            mounts[*mount].signal(Signal::CONT);
        }
        Fault::KillAll(mount) => {
            dies_or_lives(*mount);
            cluster.nodes.iter_mut().for_each(harness::NodeProcess::kill);
            mounts[*mount].kill();
            cluster.nodes.iter_mut().for_each(harness::NodeProcess::start);
            mounts[*mount].start(cluster, &[]);
            dies_or_lives(*mount);
        }
        Fault::Unplug(at) => {
            let hosts = hosts.unwrap();
            at.iter().for_each(|host| hosts.cable(*host, "down"));
            pause(scene.lasts, stage);
            at.iter().for_each(|host| hosts.cable(*host, "up"));
        }
        Fault::Deafen(from, others) => {
            let hosts = hosts.unwrap();
            others.iter().for_each(|other| hosts.cut(*from, *other));
            pause(scene.lasts, stage);
            others.iter().for_each(|other| hosts.mend(*from, *other));
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
