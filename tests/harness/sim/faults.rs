//! What goes wrong, when, and for how long: by the seed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use node::disk::SimFault;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{CLIENT, World, run::LATENCY_MAX};
use crate::invariants::Severity;

/// After a fault is over, time to get well again: until the next one, what it broke still counts as broken.
const CONVALESCENCE: Duration = Duration::from_secs(4);

/// Something to go wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Nothing reaches a node, and nothing leaves it.
    Cut,
    /// Nothing reaches a node.
    Deaf,
    /// Nothing leaves a node.
    Mute,
    /// Links lose datagrams.
    Loss,
    /// The links of a node become slow.
    Slow,
    /// A node is killed; its page cache stays.
    Kill,
    /// A node loses power, and what it had not synced.
    PowerLoss,
    /// All nodes do, at once.
    PowerLossOfAll,
    /// A sync of a node's chunk disk fails, and loses what it should have written.
    FailedSync,
    /// Nothing reaches two nodes, and nothing leaves them, for so long that others take their writes if there are others.
    CutOfTwo,
    /// Two nodes lose power, at once and for as long.
    PowerLossOfTwo,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Cut,
        Self::Deaf,
        Self::Mute,
        Self::Loss,
        Self::Slow,
        Self::Kill,
        Self::PowerLoss,
        Self::PowerLossOfAll,
        Self::FailedSync,
        Self::CutOfTwo,
        Self::PowerLossOfTwo,
    ];

    fn severity(self) -> Severity {
        match self {
            Self::PowerLossOfAll | Self::Loss | Self::CutOfTwo | Self::PowerLossOfTwo => Severity::More,
            _ => Severity::OneNode,
        }
    }

    fn loses_memory(self) -> bool {
        matches!(self, Self::Kill | Self::PowerLoss | Self::PowerLossOfAll | Self::PowerLossOfTwo)
    }

    fn lasts(self, chance: &mut StdRng) -> Duration {
        let (least, most) = match self {
            Self::PowerLossOfAll => (100, 1_500),
            Self::Loss | Self::Slow => (100, 4_000),
            // They may be a majority of those who vote: readers give up after 10 s.
            Self::CutOfTwo | Self::PowerLossOfTwo => (2_000, 8_000),
            _ => (100, 8_000),
        };
        Duration::from_millis(chance.random_range(least..most))
    }
}

/// What the story and the faults tell each other.
#[derive(Clone, Debug, Default)]
pub struct Stage(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    open: bool,
    over: bool,
    /// From when on how much was broken, in virtual time.
    broken: Vec<(Duration, Severity)>,
    /// Whether a change has returned since the last step.
    acknowledged: bool,
}

impl Stage {
    /// From here on things may go wrong.
    pub fn open(&self) {
        self.0.lock().unwrap().open = true;
    }

    fn is_open(&self) -> bool {
        self.0.lock().unwrap().open
    }

    /// Whether nothing goes wrong any more.
    pub fn is_over(&self) -> bool {
        self.0.lock().unwrap().over
    }

    /// A change has returned.
    pub fn acknowledge(&self) {
        self.0.lock().unwrap().acknowledged = true;
    }

    fn take_acknowledged(&self) -> bool {
        std::mem::take(&mut self.0.lock().unwrap().acknowledged)
    }

    /// The worst since an operation began.
    pub fn worst_since(&self, begin: Duration) -> Severity {
        let inner = self.0.lock().unwrap();
        let at_begin = inner.broken.iter().rposition(|(from, _)| *from <= begin).unwrap_or(0);
        inner.broken[at_begin..].iter().map(|(_, severity)| *severity).max().unwrap_or_default()
    }

    fn set(&self, severity: Severity, now: Duration) {
        self.0.lock().unwrap().broken.push((now, severity));
    }
}

/// The faults of one run.
#[derive(Debug)]
pub(super) struct Faults {
    chance: StdRng,
    /// Still to come, last first.
    plan: Vec<Fault>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing is wrong until then.
    Calm { until: Duration },
    /// The fault is there until then, at this node.
    Broken { fault: Fault, node: usize, until: Duration },
}

impl Faults {
    /// As many of `kinds` as `count` says, as the seed picks them.
    pub(super) fn new(seed: u64, kinds: &[Fault], count: usize) -> Self {
        let mut chance = StdRng::seed_from_u64(seed ^ 0x00fa_u64);
        let plan = (0..count).map(|_| *kinds.choose(&mut chance).unwrap()).collect();
        Self { chance, plan, state: State::Calm { until: Duration::ZERO } }
    }

    /// Called after each step of the simulation.
    pub(super) fn step(&mut self, sim: &mut turmoil::Sim<'_>, world: &World, stage: &Stage) {
        if !stage.is_open() {
            return;
        }
        let now = sim.elapsed();
        let acknowledged = stage.take_acknowledged();
        match self.state {
            // What was just acknowledged is what the power takes, if anything.
            State::Calm { .. } if self.plan.last().is_some_and(|next| next.loses_memory()) && !acknowledged => {}
            State::Calm { until } if now >= until => match self.plan.pop() {
                Some(fault) => {
                    let node = self.chance.random_range(0..world.nodes.len());
                    stage.set(fault.severity(), now);
                    self.begin(sim, world, fault, node);
                    self.state = State::Broken { fault, node, until: now + fault.lasts(&mut self.chance) };
                }
                None => {
                    stage.set(Severity::None, now);
                    stage.0.lock().unwrap().over = true;
                }
            },
            State::Broken { fault, node, until } if now >= until => {
                self.end(sim, world, fault, node);
                self.state = State::Calm { until: now + CONVALESCENCE };
            }
            _ => {}
        }
    }

    fn begin(&mut self, sim: &mut turmoil::Sim<'_>, world: &World, fault: Fault, index: usize) {
        let node = &world.nodes[index];
        let host = node.host.as_str();
        world.trace.note(format_args!("{fault:?} at {host}"));
        let others = || beside(world, index);
        match fault {
            Fault::Cut => others().for_each(|other| sim.partition(host, other)),
            Fault::CutOfTwo => two(world, index).for_each(|host| {
                hosts(world).filter(|other| *other != host).for_each(|other| sim.partition(host, other));
            }),
            Fault::Deaf => others().for_each(|other| sim.partition_oneway(other, host)),
            Fault::Mute => others().for_each(|other| sim.partition_oneway(host, other)),
            Fault::Loss => {
                let rate = self.chance.random_range(0.005..0.05);
                set_loss(sim, world, rate);
            }
            Fault::Slow => {
                let latency = Duration::from_millis(self.chance.random_range(50..300));
                others().for_each(|other| sim.set_link_max_message_latency(host, other, latency));
            }
            Fault::Kill => {
                sim.crash(host);
                node.kill();
            }
            Fault::PowerLoss => {
                sim.crash(host);
                node.lose_power(&mut self.chance);
            }
            Fault::PowerLossOfTwo | Fault::PowerLossOfAll => {
                let losers = if fault == Fault::PowerLossOfAll { world.nodes.len() } else { 2 };
                for at in (index..index + losers).map(|at| at % world.nodes.len()) {
                    sim.crash(world.nodes[at].host.as_str());
                    world.nodes[at].lose_power(&mut self.chance);
                }
            }
            Fault::FailedSync => node.chunk_disk.inject(SimFault::NextSync),
        }
    }

    fn end(&self, sim: &mut turmoil::Sim<'_>, world: &World, fault: Fault, index: usize) {
        let host = world.nodes[index].host.as_str();
        world.trace.note(format_args!("{fault:?} is over"));
        let others = || beside(world, index);
        match fault {
            Fault::Cut => others().for_each(|other| sim.repair(host, other)),
            Fault::CutOfTwo => two(world, index).for_each(|host| {
                hosts(world).filter(|other| *other != host).for_each(|other| sim.repair(host, other));
            }),
            Fault::Deaf => others().for_each(|other| sim.repair_oneway(other, host)),
            Fault::Mute => others().for_each(|other| sim.repair_oneway(host, other)),
            Fault::Loss => set_loss(sim, world, 0.0),
            Fault::Slow => others().for_each(|other| sim.set_link_max_message_latency(host, other, LATENCY_MAX)),
            Fault::Kill | Fault::PowerLoss => sim.bounce(host),
            Fault::PowerLossOfTwo => two(world, index).for_each(|host| sim.bounce(host)),
            Fault::PowerLossOfAll => world.nodes.iter().for_each(|node| sim.bounce(node.host.as_str())),
            Fault::FailedSync => {}
        }
    }
}

/// Every host.
fn hosts(world: &World) -> impl Iterator<Item = &str> {
    world.nodes.iter().map(|node| node.host.as_str()).chain([CLIENT])
}

/// Every host but node `index`.
fn beside(world: &World, index: usize) -> impl Iterator<Item = &str> {
    hosts(world).enumerate().filter(move |(at, _)| *at != index).map(|(_, host)| host)
}

/// Node `index` and the next.
fn two(world: &World, index: usize) -> impl Iterator<Item = &str> {
    [index, (index + 1) % world.nodes.len()].into_iter().map(|at| world.nodes[at].host.as_str())
}

fn set_loss(sim: &mut turmoil::Sim<'_>, world: &World, rate: f64) {
    for (index, node) in world.nodes.iter().enumerate() {
        beside(world, index).for_each(|other| sim.set_link_fail_rate(node.host.as_str(), other, rate));
    }
}
