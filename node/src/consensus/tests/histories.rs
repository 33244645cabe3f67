//! Random histories: clients add to a counter and read it while members are cut off, lose messages and lose power.
//!
//! A counter that answers each addition with its new value orders all additions by itself, so a history is linearizable
//! if the values agree with real time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use ring::NodeId;
use tokio::time::{Instant, sleep};

use super::harness::{Group, Net, SECOND, add_one, id, read_counter, rows, value_of};
use crate::consensus::{ProposeError, Retention};

const COUNTER: u8 = 5;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Add,
    Read,
}

/// What a client saw. No value: it does not know whether its addition counts.
#[derive(Clone, Copy, Debug)]
struct Event {
    kind: Kind,
    begun: Instant,
    ended: Instant,
    value: Option<u64>,
}

type Log = Arc<Mutex<Vec<Event>>>;

async fn client(net: Net, seed: u64, until: Instant, log: Log) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ask = id(rng.random_range(1..=3));
    while Instant::now() < until {
        let kind = if rng.random_ratio(1, 3) { Kind::Read } else { Kind::Add };
        let begun = Instant::now();
        let result = match (net.member(ask), kind) {
            (None, _) => Err(ProposeError::Stopped),
            (Some(member), Kind::Add) => {
                member.propose(add_one(COUNTER), SECOND).await.map(|outcome| value_of(&outcome))
            }
            (Some(member), Kind::Read) => {
                member.read(SECOND).await.map(|store| read_counter(&*store, COUNTER).unwrap())
            }
        };
        let event = Event { kind, begun, ended: Instant::now(), value: result.as_ref().ok().copied() };
        log.lock().push(event);
        match result {
            Ok(_) => sleep(Duration::from_millis(rng.random_range(0..20))).await,
            Err(ProposeError::NotLeader { leader: Some(leader) }) => ask = leader,
            Err(_) => {
                ask = id(rng.random_range(1..=3));
                sleep(Duration::from_millis(rng.random_range(5..50))).await;
            }
        }
    }
}

/// Cuts, drops, crashes, restarts and heals at random; at most one member is down or cut off at a time, but for a moment
/// in which all lose power.
async fn trouble(group: &mut Group, rng: &mut StdRng, until: Instant) {
    let all = [id(1), id(2), id(3)];
    let mut down: Option<NodeId> = None;
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.random_range(100..1_500))).await;
        let node = *all.choose(rng).unwrap();
        match rng.random_range(0..6) {
            0 | 1 if down.is_none() => {
                group.crash(node).await;
                down = Some(node);
            }
            2 => group.net.isolate(node),
            3 => group.net.drop_one_in(rng.random_range(5..30)),
            4 if down.is_none() => {
                for node in all {
                    group.crash(node).await;
                }
                for node in all {
                    group.start(node).await.unwrap();
                }
            }
            _ => {
                group.net.heal();
                group.net.drop_one_in(0);
                if let Some(node) = down.take() {
                    group.start(node).await.unwrap();
                }
            }
        }
    }
    group.net.heal();
    group.net.drop_one_in(0);
    if let Some(node) = down {
        group.start(node).await.unwrap();
    }
}

fn check(events: &[Event], last: u64, seed: u64) {
    let adds = |event: &&Event| event.kind == Kind::Add;
    let known: Vec<u64> = events.iter().filter(adds).filter_map(|event| event.value).collect();
    let distinct: BTreeSet<u64> = known.iter().copied().collect();
    assert_eq!(distinct.len(), known.len(), "seed {seed}: two additions were answered with one value");
    let attempts = events.iter().filter(adds).count() as u64;
    assert!(last >= known.len() as u64 && last <= attempts, "seed {seed}: {last} of {attempts}, {} known", known.len());
    for after in events.iter().filter(|event| event.value.is_some()) {
        let value = after.value.unwrap();
        let begun = events.iter().filter(adds).filter(|add| add.begun <= after.ended).count() as u64;
        assert!(
            value <= begun && value <= last,
            "seed {seed}: {value} before {begun} additions began, {last} in the end"
        );
        for before in events.iter().filter(|event| event.ended < after.begun) {
            let Some(earlier) = before.value else { continue };
            let right = if after.kind == Kind::Add { earlier < value } else { earlier <= value };
            assert!(right, "seed {seed}: {before:?} then {after:?}");
        }
    }
}

async fn run(seed: u64, length: Duration) -> (Net, u64) {
    let mut group = Group::founded_with(seed, 3, Retention { entries: 100, bytes: 1 << 20 }).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let log = Log::default();
    let until = Instant::now() + length;
    let clients: Vec<_> = (0..4)
        .map(|number| tokio::spawn(client(group.net.clone(), seed * 100 + number, until, Arc::clone(&log))))
        .collect();
    trouble(&mut group, &mut rng, until).await;
    for client in clients {
        client.await.unwrap();
    }
    let leader = group.leader().await;
    let last = read_counter(&*group.member(leader).read(5 * SECOND).await.unwrap(), COUNTER).unwrap();
    check(&log.lock(), last, seed);
    for node in [id(1), id(2), id(3)] {
        group.caught_up(node, leader).await;
    }
    for node in [id(2), id(3)] {
        assert_eq!(rows(&group.machines[&node].kv), rows(&group.machines[&id(1)].kv), "seed {seed}: {node:?}");
    }
    group.stop_all().await;
    (group.net, last)
}

#[tokio::test(start_paused = true)]
async fn histories_are_linearizable_and_lose_nothing_that_was_answered() {
    let mut total = 0;
    for seed in 200..205 {
        total += run(seed, 6 * SECOND).await.1;
    }
    assert!(total > 200, "the trouble let hardly anything through: {total}");
}

#[test]
fn one_seed_gives_one_history() {
    // A runtime of its own each, as each run of a program has.
    let once = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { run(seed, 2 * SECOND).await.0.trace() })
    };
    let (first, second, other) = (once(77), once(77), once(78));
    assert!(first.len() > 300, "{} messages", first.len());
    if let Some(at) = first.iter().zip(&second).position(|(one, two)| one != two) {
        panic!("message {at} differs: {:?} and {:?}", first[at], second[at]);
    }
    assert_eq!(first.len(), second.len());
    assert_ne!(first, other);
}
