//! The pace of repair, in a time that is made up.

use std::time::Duration;

use tokio::time::Instant;

use super::{LULL, Pace, REST_MAX, Turn};

const MS: Duration = Duration::from_millis(1);

/// Who asks for something: for `work` at the beginning of each `every`.
#[derive(Clone, Copy)]
struct Clients {
    every: Duration,
    work: Duration,
}

/// What came of repair that always wants `at_once` turns of 1 MiB, each of which takes `takes`.
#[derive(Debug, Default)]
struct Played {
    /// While at least one turn ran.
    active: Duration,
    turns: u64,
    at_once_max: usize,
    waited_max: Duration,
}

fn play(pace: &mut Pace, clients: Option<Clients>, takes: Duration, at_once: usize, time: Duration) -> Played {
    let begin = Instant::now();
    let mut now = begin;
    let (mut running, mut played): (Vec<Instant>, Played) = Default::default();
    let mut asking = false;
    let mut idle_since = now;
    while now < begin + time {
        let phase = |clients: Clients| (now - begin).as_nanos() % clients.every.as_nanos() < clients.work.as_nanos();
        let asks = clients.is_some_and(phase);
        match (asking, asks) {
            (false, true) => pace.handle_request(now),
            (true, false) => pace.handle_request_end(now),
            _ => {}
        }
        asking = asks;
        running.retain(|began| {
            let ended = now >= *began + takes;
            if ended {
                pace.handle_turn_end(*began, 1 << 20, now);
                played.turns += 1;
                idle_since = now;
            }
            !ended
        });
        while running.len() < at_once && pace.poll_turn(now) == Turn::Begun {
            if running.is_empty() {
                played.waited_max = played.waited_max.max(now - idle_since);
            }
            running.push(now);
        }
        played.at_once_max = played.at_once_max.max(running.len());
        now += MS / 2;
        played.active += if running.is_empty() { Duration::ZERO } else { MS / 2 };
    }
    played
}

fn always() -> Option<Clients> {
    Some(Clients { every: MS, work: MS })
}

#[tokio::test(start_paused = true)]
async fn while_nobody_asks_for_anything_repair_works_all_the_time_as_much_at_once_as_it_likes() {
    let mut pace = Pace::new(None, Instant::now());
    let played = play(&mut pace, None, 10 * MS, 4, Duration::from_secs(10));
    assert_eq!((played.active, played.at_once_max, played.turns), (Duration::from_secs(10), 4, 3996));
}

/// "at a rate that leaves foreground work its share".
#[tokio::test(start_paused = true)]
async fn beside_clients_turns_run_one_at_a_time_and_take_a_fifth_of_the_time_however_fast_the_disk_is() {
    for takes in [MS, 20 * MS, 400 * MS] {
        let mut pace = Pace::new(None, Instant::now());
        let time = Duration::from_secs(100);
        let played = play(&mut pace, always(), takes, 4, time);
        assert_eq!(played.at_once_max, 1, "{takes:?}");
        let share = played.active.as_secs_f64() / time.as_secs_f64();
        assert!((0.13..=0.21).contains(&share), "{takes:?}: {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_now_and_then_hardly_slows_repair() {
    let mut pace = Pace::new(None, Instant::now());
    let now_and_then = Clients { every: 200 * MS, work: 2 * MS };
    let time = Duration::from_secs(20);
    let played = play(&mut pace, Some(now_and_then), 20 * MS, 4, time);
    assert!(played.active > time * 4 / 5, "{played:?}");
}

#[tokio::test(start_paused = true)]
async fn repair_goes_on_soon_whatever_its_last_turn_took() {
    let mut pace = Pace::new(None, Instant::now());
    let played = play(&mut pace, always(), Duration::from_secs(30), 4, Duration::from_secs(300));
    assert!(played.turns >= 9 && played.waited_max <= REST_MAX + MS, "{played:?}");
}

#[tokio::test(start_paused = true)]
async fn what_clients_cost_repair_is_forgotten_when_they_have_gone() {
    let mut pace = Pace::new(None, Instant::now());
    play(&mut pace, always(), 20 * MS, 4, Duration::from_secs(10));
    tokio::time::advance(Duration::from_secs(10)).await;
    pace.handle_request_end(Instant::now());
    tokio::time::advance(LULL.max(REST_MAX)).await;
    let played = play(&mut pace, None, 10 * MS, 4, Duration::from_secs(1));
    assert_eq!((played.active, played.at_once_max), (Duration::from_secs(1), 4));
}

#[tokio::test(start_paused = true)]
async fn never_more_bytes_than_the_bound_allows() {
    let mut pace = Pace::new(Some(50 << 20), Instant::now());
    let played = play(&mut pace, None, 5 * MS, 4, Duration::from_secs(10));
    // Besides those that run at once.
    assert!((480..=504).contains(&played.turns), "{played:?}");
}
