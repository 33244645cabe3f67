//! Programs at work on mounts while nodes and mounts are killed, stopped and, as root, cut off at random: nothing that was acknowledged is
//! lost or wrong, what is shared behaves as one register, and every operation ends.
//!
//! `DFS_TORTURE_SECONDS` lets it run longer, `DFS_TORTURE_SEED` repeats the faults and the work of one run in their order
//! (scripts/torture).
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what cannot go on should stop there, and say so")]

mod faults;
mod ledger;
mod register;
mod watch;
mod worker;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Hosts, Mount, NodeProcess, wait::until};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    register::Event,
    watch::Watch,
    worker::{Report, Stage, Worker, use_register},
};

const NODES: usize = 3;

/// Mounts that may be killed and stopped; the last two, with the register, may not.
const MORTAL: usize = 2;

/// No process may hold more, whatever happens.
const MEMORY_MAX_KIB: u64 = 1 << 20;
const FILES_MAX: usize = 1024;

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// What was done, and what was found wrong meanwhile.
struct Outcome {
    reports: Vec<Report>,
    events: Vec<Event>,
    scenes: usize,
}

fn torture(
    cluster: &mut Cluster,
    mounts: &mut [Mount],
    hosts: Option<&Hosts>,
    stage: &Stage,
    (seed, long): (u64, Duration),
) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|number| {
                let worker = Worker::new(stage, number % mounts.len(), seed * 100 + number as u64);
                scope.spawn(move || worker.run())
            })
            .collect();
        let registers: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || use_register(stage, MORTAL + number % 2, seed * 100 + 50 + number as u64))
            })
            .collect();
        let watcher = scope.spawn(|| {
            while !stage.is_over() || stage.watch.is_busy() {
                let stuck = stage.watch.stuck();
                if !stuck.is_empty() {
                    eprintln!("seed {seed}: an operation does not end: {}", stuck.join("\n"));
                    // Whoever waits for that thread waits for ever.
                    std::process::exit(3);
                }
                thread::park_timeout(Duration::from_millis(500));
            }
        });
        let mut scenes = 0;
        while stage.begun.elapsed() < long && !workers.iter().any(|worker| worker.is_finished()) {
            let scene = faults::next(&mut random, cluster.nodes.len(), MORTAL, hosts.is_some());
            eprintln!("{:7.1?} {scene:?}", stage.begun.elapsed());
            faults::play(&scene, cluster, mounts, hosts, stage);
            scenes += 1;
        }
        stage.stop.store(true, Ordering::Release);
        let reports = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        let events = registers.into_iter().flat_map(|register| register.join().unwrap()).collect();
        watcher.join().unwrap();
        Outcome { reports, events, scenes }
    })
}

/// Each node on a host of its own, if there are hosts.
fn start(hosts: Option<&Hosts>) -> Cluster {
    let Some(hosts) = hosts else { return Cluster::start() };
    let mut cluster = Cluster::empty(3);
    for index in 0..NODES {
        let data = cluster.path(&format!("node-{}", index + 1));
        cluster.add_node_with(NodeProcess::new(data, Hosts::address(index), Some(hosts.host(index))), &[]);
    }
    cluster.wait_healthy();
    cluster
}

/// After everything is quiet: what the ledgers say is there, on a mount that knows nothing yet.
fn audit(cluster: &Cluster, outcome: &Outcome) -> Vec<String> {
    let mount = Mount::new(cluster, "audit");
    let mut wrong = register::wrong(&outcome.events);
    for report in &outcome.reports {
        let dir = mount.path(&report.dir);
        wrong.extend(report.wrong.iter().cloned());
        let found = |name: &str| worker::read(&dir.join(name)).unwrap();
        wrong.extend(report.ledger.wrong(found).into_iter().map(|what| format!("{}/{what}", report.dir)));
    }
    wrong
}

/// Memory and open files of a process.
fn greed(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let peak: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    let files = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).ok()?.count();
    (peak > MEMORY_MAX_KIB || files > FILES_MAX)
        .then(|| format!("process {pid}: {peak} KiB at most, {files} files open"))
}

#[test]
fn nothing_acknowledged_is_lost_or_wrong_while_nodes_and_mounts_are_killed_and_stopped() {
    let seed = environment("DFS_TORTURE_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let long = Duration::from_secs(environment("DFS_TORTURE_SECONDS").unwrap_or(40));
    eprintln!("seed {seed}");
    let hosts = rustix::process::geteuid().is_root().then(|| Hosts::make(NODES + MORTAL + 1));
    let mut cluster = start(hosts.as_ref());
    let mount = |number: usize| {
        let name = format!("mnt-{number}");
        match &hosts {
            Some(hosts) => Mount::on(&cluster, &name, &hosts.host(NODES + number.min(MORTAL))),
            None => Mount::new(&cluster, &name),
        }
    };
    let mut mounts: Vec<Mount> = (0..MORTAL + 2).map(mount).collect();
    let stage = Stage {
        mounts: mounts.iter().map(|mount| mount.dir().to_owned()).collect(),
        deaths: mounts.iter().map(|_| AtomicU64::new(0)).collect(),
        stop: AtomicBool::new(false),
        begun: Instant::now(),
        watch: Watch::default(),
    };
    let outcome = torture(&mut cluster, &mut mounts, hosts.as_ref(), &stage, (seed, long));
    cluster.wait_healthy();
    let mut wrong = audit(&cluster, &outcome);
    let pids = cluster.nodes.iter().filter_map(harness::NodeProcess::pid);
    let pids = pids.chain(mounts.iter().map(|mount| mount.pid().as_raw_nonzero().get().unsigned_abs()));
    wrong.extend(pids.filter_map(greed));
    let steps: u64 = outcome.reports.iter().map(|report| report.steps).sum();
    let failed: u64 = outcome.reports.iter().map(|report| report.failed).sum();
    eprintln!(
        "seed {seed}: {} scenes, {steps} steps of which {failed} failed, the slowest took {:.1?}, register used {} times",
        outcome.scenes,
        stage.watch.slowest(),
        outcome.events.len()
    );
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
    assert!(steps > 0 && !outcome.events.is_empty());
    until("every chunk has all its replicas", Duration::from_secs(60), || {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        !nodes.is_empty() && nodes.iter().all(|node| node["store"]["lacking"] == 0)
    });
}
