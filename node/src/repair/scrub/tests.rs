//! The pace and the way of the scrub, over stores that are made up.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ring::ChunkKey;
use tokio::time::Instant;

use super::{Found, READ_COST_MIN, Scrub, Step};
use crate::{
    chunk_store::{Checked, PageEnd},
    config::ScrubConfig,
};

/// Copies that are held, with their lengths.
type Held = BTreeMap<ChunkKey, u64>;

/// What a scrub did.
#[derive(Debug, Default)]
struct Seen {
    /// When which copy was read, and what that counts as.
    reads: Vec<(Instant, ChunkKey, u64)>,
    /// When a pass began to list.
    passes: Vec<Instant>,
}

fn key(number: u64) -> ChunkKey {
    ChunkKey::of(&number.to_le_bytes())
}

/// Takes steps on `held` until `passes` passes have ended; each read takes `read_takes`. `change` may change what is
/// held after each step.
fn play(
    scrub: &mut Scrub,
    held: &mut Held,
    now: &mut Instant,
    passes: u64,
    read_takes: Duration,
    mut change: impl FnMut(&mut Held),
) -> Seen {
    let mut seen = Seen::default();
    for _ in 0..1_000_000 {
        match scrub.poll(*now) {
            Step::Wait { until } => {
                if scrub.progress.passes == passes {
                    return seen;
                }
                assert!(until >= *now, "it waits for something to come");
                *now = until;
            }
            Step::List { after } => {
                if after == Some(scrub.from) {
                    seen.passes.push(*now);
                }
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let mut keys: Vec<ChunkKey> =
                    held.range((from, Bound::Unbounded)).map(|(key, _)| *key).take(4).collect();
                let end = if keys.len() == 4 { PageEnd::More } else { PageEnd::Last };
                keys.truncate(3);
                scrub.handle_page(keys.into(), end);
            }
            Step::Read { key } => {
                let bytes = held.get(&key).copied();
                let checked = if bytes.is_some() { Checked::Good } else { Checked::Unknown };
                let began = *now;
                *now += read_takes;
                scrub.handle_read(Found { bytes: bytes.unwrap_or(0), checked }, began);
                seen.reads.push((began, key, bytes.unwrap_or(0).max(READ_COST_MIN)));
            }
        }
        change(held);
    }
    panic!("a pass does not come to its end");
}

fn config(bytes_per_s: u64, every_s: u64) -> ScrubConfig {
    ScrubConfig { bytes_per_s, every: Duration::from_secs(every_s) }
}

#[test]
fn a_pass_reads_every_copy_once_wherever_it_begins() {
    let now = Instant::now();
    for count in [0, 1, 2, 3, 4, 17] {
        let mut held: Held = (0..count).map(|number| (key(number), 100)).collect();
        let starts = held.keys().copied().chain([[0; 32], [0xff; 32], [0x80; 32]].map(ChunkKey::from_bytes));
        for from in starts.collect::<Vec<_>>() {
            let (mut scrub, mut now) = (Scrub::new(config(1 << 20, 60), from, now), now);
            let seen = play(&mut scrub, &mut held, &mut now, 1, Duration::ZERO, |_| {});
            let mut read: Vec<ChunkKey> = seen.reads.iter().map(|(_, key, _)| *key).collect();
            assert!(read.windows(2).filter(|pair| pair[0] > pair[1]).count() <= 1, "it goes round once");
            read.sort_unstable();
            assert_eq!(read, held.keys().copied().collect::<Vec<_>>());
            let report = scrub.progress.report(now);
            assert_eq!((report.chunks, report.bytes, report.passes), (count, count * 100, 1));
        }
    }
}

#[test]
fn it_never_reads_faster_than_the_rate_however_copies_come_and_go_and_misses_none_that_stays() {
    for seed in 0..40 {
        eprintln!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let rate = random.random_range(1..64) << 18;
        let mut held: Held = (0..60).map(|number| (key(number), random.random_range(0..4 << 20))).collect();
        let stays: BTreeSet<ChunkKey> = (0..30).map(key).collect();
        let from = ChunkKey::from_bytes(random.random());
        let mut now = Instant::now();
        let mut scrub = Scrub::new(config(rate, 1), from, now);
        let read_takes = Duration::from_millis(random.random_range(0..200));
        let seen = play(&mut scrub, &mut held, &mut now, 2, read_takes, |held| {
            let number = random.random_range(30..90);
            if random.random() {
                held.remove(&key(number));
            } else {
                held.insert(key(number), random.random_range(0..4 << 20));
            }
        });
        for (first, (start, _, _)) in seen.reads.iter().enumerate() {
            let mut bytes = 0;
            for (at, _, cost) in &seen.reads[first..] {
                let allowed = at.duration_since(*start).as_secs_f64() * rate as f64;
                assert!(bytes as f64 <= allowed + 1.0, "{bytes} bytes before {:?}", at.duration_since(*start));
                bytes += cost;
            }
        }
        let second = seen.passes[1];
        for (from, to) in [(seen.passes[0], second), (second, now)] {
            let read: BTreeSet<ChunkKey> =
                seen.reads.iter().filter(|(at, _, _)| (from..to).contains(at)).map(|(_, key, _)| *key).collect();
            assert!(stays.is_subset(&read), "a copy that stays was not read");
        }
    }
}

#[test]
fn after_a_pass_it_rests_until_the_time_is_over_and_not_at_all_when_the_pass_took_longer() {
    let start = Instant::now();
    let mut held: Held = (0..10).map(|number| (key(number), 1 << 20)).collect();
    for (rate, passes_apart_s) in [(1 << 20, 100), (1 << 16, 160)] {
        let (mut scrub, mut now) = (Scrub::new(config(rate, 100), key(3), start), start);
        let seen = play(&mut scrub, &mut held, &mut now, 3, Duration::ZERO, |_| {});
        assert_eq!(seen.passes.len(), 3);
        for pair in seen.passes.windows(2) {
            assert_eq!(pair[1].duration_since(pair[0]), Duration::from_secs(passes_apart_s));
        }
    }
}

#[test]
fn what_is_damaged_is_counted_and_the_pass_goes_on() {
    let now = Instant::now();
    let mut scrub = Scrub::new(config(1 << 20, 100), ChunkKey::from_bytes([0; 32]), now);
    assert!(matches!(scrub.poll(now), Step::List { .. }));
    scrub.handle_page([key(1), key(2), key(3)].into(), PageEnd::Last);
    let mut now = now;
    for checked in [Checked::Damaged, Checked::Unreadable, Checked::Unknown] {
        assert!(matches!(scrub.poll(now), Step::Read { .. }));
        scrub.handle_read(Found { bytes: 1 << 20, checked }, now);
        assert_eq!(scrub.poll(now), Step::Wait { until: now + Duration::from_secs(1) });
        now += Duration::from_secs(1);
    }
    assert_eq!(scrub.poll(now), Step::List { after: None });
    scrub.handle_page([].into(), PageEnd::Last);
    assert!(matches!(scrub.poll(now), Step::Wait { .. }));
    let report = scrub.progress.report(now + Duration::from_secs(7));
    assert_eq!((report.chunks, report.damaged, report.passes), (2, 2, 1));
    assert_eq!((report.ended_s, report.next_s), (Some(7), Some(90)));
}

#[test]
fn an_index_that_cannot_be_listed_is_asked_again_later_for_the_same() {
    let start = Instant::now();
    let mut scrub = Scrub::new(config(1 << 20, 100), key(1), start);
    let step = scrub.poll(start);
    scrub.handle_no_page(start);
    let Step::Wait { until } = scrub.poll(start) else { panic!("it asks again at once") };
    assert_eq!(scrub.poll(until), step);
}
