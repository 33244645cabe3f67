//! Random operations through the kernel, on a mount and on a directory of the local disk: whatever a program can see must
//! be the same, after each.
//!
//! `DFS_MODEL_SECONDS` lets it run longer, `DFS_MODEL_SEED` repeats one run.

mod operation;
mod place;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use harness::{Cluster, Mount};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use operation::Operation;
use place::{Place, Side, survey};

/// Operations of one run.
const OPERATIONS: u32 = 1500;

/// Operations told when one differs.
const TOLD: usize = 100;

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// One run in a directory of its own; what both sides look like is compared at the end as a whole.
fn run(mount: &Mount, local: &TempDir, seed: u64) {
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let name = format!("run-{seed}");
    let (mut ours, mut theirs) =
        (Place::new(Side::Ours, mount.path(&name)), Place::new(Side::Model, local.path().join(&name)));
    let mut told = VecDeque::new();
    for number in 0..OPERATIONS {
        let operation = Operation::random(&mut random);
        let (expected, seen) = (theirs.apply(&operation), ours.apply(&operation));
        told.push_back(format!("{number}: {operation:?} → {}", expected.brief()));
        if told.len() > TOLD {
            told.pop_front();
        }
        assert!(
            expected == seen,
            "seed {seed}, operation {number}: {operation:?}\nexpected {}\nseen     {}\nthe last ones:\n{}",
            expected.brief_against(&seen),
            seen.brief_against(&expected),
            told.make_contiguous().join("\n")
        );
    }
    ours.close_all();
    theirs.close_all();
    assert_eq!(survey(&ours.root), survey(&theirs.root), "seed {seed}");
}

#[test]
fn random_operations_do_what_they_do_on_a_local_disk_and_what_they_made_survives_a_remount() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let local = TempDir::with_prefix("dfs-model-").unwrap();
    let seconds = environment("DFS_MODEL_SECONDS").unwrap_or(0);
    let start = Instant::now();
    let mut seeds = Vec::new();
    match environment("DFS_MODEL_SEED") {
        Some(seed) => seeds.push(seed),
        None => seeds.extend((0..3).map(|_| rand::rng().random_range(0..1_000_000))),
    }
    for &seed in &seeds {
        run(&mount, &local, seed);
    }
    mount.unmount(&cluster);
    mount.start(&cluster, &[]);
    for seed in &seeds {
        let name = format!("run-{seed}");
        assert_eq!(survey(&mount.path(&name)), survey(&local.path().join(&name)), "seed {seed}, after a remount");
    }
    while start.elapsed() < Duration::from_secs(seconds) {
        run(&mount, &local, rand::rng().random_range(0..1_000_000_000));
    }
}
