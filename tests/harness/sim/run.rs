//! One run: hosts, story and faults, stepped together.

use std::{
    cell::RefCell,
    panic,
    sync::{Arc, Once},
    time::{Duration, UNIX_EPOCH},
};

use super::{CLIENT, Fault, Members, Stage, World, faults::Faults, story::Story};

/// Most a datagram takes where nothing is wrong.
pub(super) const LATENCY_MAX: Duration = Duration::from_millis(5);

/// The time of day at the start: stamps have lengths on the wire.
const FIRST_DAY: Duration = Duration::from_secs(1_800_000_000);

/// Virtual time after which a run that has not come to its end is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(600);

/// What is run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Decides everything that is not said here.
    pub seed: u64,
    /// How many nodes there are, one that joins later included.
    pub nodes: usize,
    /// Whether they stay.
    pub members: Members,
    /// Kinds of faults to pick from.
    pub kinds: Vec<Fault>,
    /// How many of them, one after the other.
    pub faults: usize,
}

impl Scenario {
    /// Three nodes that stay, with these faults.
    pub fn of_three(seed: u64, kinds: &[Fault], faults: usize) -> Self {
        Self { seed, nodes: 3, members: Members::Stay, kinds: kinds.to_vec(), faults }
    }

    /// Anything at all, as the seed decides: three nodes, five, or four of which one joins and perhaps one goes.
    pub fn any(seed: u64) -> Self {
        let (nodes, members) = match seed % 4 {
            0 | 1 => (3, Members::Stay),
            2 => (5, Members::Stay),
            _ => (4 + (seed / 4 % 2) as usize, Members::ComeAndGo),
        };
        Self { seed, nodes, members, kinds: Fault::ALL.to_vec(), faults: 4 }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Everything that happened.
    pub trace: String,
    /// The slowest operation while at most one node was broken.
    pub slowest: Duration,
    /// Operations that returned.
    pub operations: usize,
    /// Virtual time that passed.
    pub elapsed: Duration,
}

thread_local! {
    /// Panics of this thread: the runtime catches those of tasks, and a simulation runs on one thread.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs a scenario, with every promise checked after every step; panics with the seed if one is broken.
pub fn run(scenario: &Scenario) -> Outcome {
    note_panics();
    let world = Arc::new(World::new(scenario.seed, scenario.nodes));
    let events = world.trace.collect_events();
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| steps(scenario, &world)));
    drop(events);
    let panics = PANICS.take();
    match outcome {
        Ok(outcome) if panics.is_empty() => outcome,
        _ => {
            let trace = world.trace.text();
            let path = std::env::temp_dir().join(format!("dfs-sim-{}.trace", scenario.seed));
            std::fs::write(&path, trace).unwrap();
            panic!("{scenario:?} fails: {}\nits trace is in {}", panics.join("\n"), path.display());
        }
    }
}

fn steps(scenario: &Scenario, world: &Arc<World>) -> Outcome {
    let mut sim = turmoil::Builder::new()
        .rng_seed(scenario.seed)
        .epoch(UNIX_EPOCH + FIRST_DAY)
        .simulation_duration(STUCK_AFTER)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(LATENCY_MAX)
        .udp_capacity(1 << 16)
        .build();
    for (index, node) in world.nodes.iter().enumerate() {
        let world = world.clone();
        sim.host(node.host.as_str(), move || world.clone().run_node(index));
    }
    let stage = Stage::default();
    let story = Arc::new(Story::new(world.clone(), stage.clone(), scenario.members));
    let of_client = story.clone();
    sim.client(CLIENT, async move {
        of_client.tell().await;
        Ok(())
    });
    let mut faults = Faults::new(scenario.seed, &scenario.kinds, scenario.faults);
    while !sim.step().unwrap() {
        assert!(PANICS.with_borrow(Vec::is_empty), "a task panicked");
        faults.step(&mut sim, world, &stage);
    }
    let (operations, slowest) = story.tally();
    Outcome { trace: world.trace.text(), slowest, operations, elapsed: sim.elapsed() }
}

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            usual(info);
        }));
    });
}
