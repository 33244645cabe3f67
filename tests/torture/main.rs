//! Programs at work on mounts and by commands while nodes and mounts are killed and stopped, bytes change on disks and nodes
//! are lost; as root also while hosts are cut off and disks are full; with Debian's libfaketime while clocks jump. Two of
//! these at a time, at random: nothing that was acknowledged is lost or wrong, what is shared behaves as one register, a lock
//! keeps others out, every
//! operation ends, no node ends by itself but for a full disk, and in the end everything has its replicas again.
//!
//! Of what nodes hold only one at a time is damaged, and no other before it is whole again.
//!
//! `DFS_TORTURE_SECONDS` lets it run longer, `DFS_TORTURE_SEED` repeats the faults and the work of one run in their order
//! (scripts/torture).
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what cannot go on should stop there, and say so")]

mod commands;
mod counter;
mod faults;
mod hands;
mod ledger;
mod rot;
mod watch;
mod whole;
mod worker;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use harness::{
    Cluster, Hosts, Mount, NodeProcess, SmallDisk,
    invariants::register::{self, Event},
    node::free_address,
    wait::until,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    commands::{Commands, use_commands},
    faults::Cast,
    hands::{Hands, write_seeds},
    watch::Watch,
    whole::Epochs,
    worker::{Report, Stage, Worker, use_register},
};

const NODES: usize = 3;

/// Mounts that may be killed and stopped; the last two, with the register, may not.
const MORTAL: usize = 2;

/// Long runs wait for the garbage as well, which takes minutes.
const COLLECTED_FROM: Duration = Duration::from_secs(100);
const COLLECTED_MAX: Duration = Duration::from_secs(240);

/// No process may hold more, whatever happens.
const MEMORY_MAX_KIB: u64 = 1 << 20;
const FILES_MAX: usize = 1024;

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Room on the disk of each node, as root: some hundred MiB are in use.
const DISK_MIB: u32 = 2048;

/// Lets a program have a clock of its own; part of Debian's libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// What was done, and what was found wrong meanwhile.
struct Outcome {
    reports: Vec<Report>,
    events: Vec<Event>,
    counts: Vec<counter::Step>,
    scenes: usize,
    wrong: Vec<String>,
}

/// Where everything happens.
struct World {
    cluster: Cluster,
    hosts: Option<Hosts>,
    disks: Vec<SmallDisk>,
    clocks: Vec<PathBuf>,
}

/// Disks go before the directory that they are mounted in.
impl Drop for World {
    fn drop(&mut self) {
        self.cluster.nodes.iter_mut().for_each(NodeProcess::kill);
        self.disks.clear();
    }
}

/// Ends the run however its owner ends.
struct StopAtEnd<'a>(&'a Stage);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

fn watch(stage: &Stage, seed: u64) {
    while !stage.is_over() || stage.watch.is_busy() {
        let stuck = stage.watch.stuck();
        if !stuck.is_empty() {
            eprintln!("seed {seed}: an operation does not end: {}", stuck.join("\n"));
            // Whoever waits for that thread waits for ever.
            std::process::exit(3);
        }
        thread::park_timeout(Duration::from_millis(500));
    }
}

fn torture(world: &mut World, mounts: &mut [Mount], stage: &Stage, (seed, long): (u64, Duration)) -> Outcome {
    let network = world.hosts.as_ref().map(|hosts| hosts.host(NODES + MORTAL));
    let commands = Commands::of(&world.cluster, network);
    commands.dfs(&["mkdir", &format!("/commands-{}", seed * 100)]).ok();
    let count = mounts.len();
    thread::scope(|scope| {
        let mut workers: Vec<_> = (0..6)
            .map(|number| {
                let worker = Worker::new(stage, number % count, seed * 100 + number as u64);
                scope.spawn(move || worker.run())
            })
            .collect();
        workers.push(scope.spawn(|| use_commands(stage, &commands, seed * 100)));
        let registers: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || use_register(stage, MORTAL + number % 2, seed * 100 + 50 + number as u64))
            })
            .collect();
        let counters: Vec<_> = (0..2)
            .map(|number| scope.spawn(move || counter::count(stage, MORTAL + number, seed * 100 + 60 + number as u64)))
            .collect();
        let watcher = scope.spawn(|| watch(stage, seed));
        let (scenes, wrong) = {
            let _stop = StopAtEnd(stage);
            tell_story(world, mounts, stage, (seed, long), || workers.iter().any(|worker| worker.is_finished()))
        };
        let reports = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        let events = registers.into_iter().flat_map(|register| register.join().unwrap()).collect();
        let counts = counters.into_iter().flat_map(|counter| counter.join().unwrap()).collect();
        watcher.join().unwrap();
        Outcome { reports, events, counts, scenes, wrong }
    })
}

/// Scene after scene; how many, and what must not have been.
fn tell_story(
    world: &mut World,
    mounts: &mut [Mount],
    stage: &Stage,
    (seed, long): (u64, Duration),
    is_enough: impl Fn() -> bool,
) -> (usize, Vec<String>) {
    let mut random = StdRng::seed_from_u64(seed);
    let cast = Cast {
        nodes: NODES,
        mortal: MORTAL,
        hosts: world.hosts.is_some(),
        disks: !world.disks.is_empty(),
        clocks: !world.clocks.is_empty(),
    };
    let mut hands = Hands {
        cluster: &mut world.cluster,
        mounts,
        hosts: world.hosts.as_ref(),
        disks: &world.disks,
        clocks: &world.clocks,
        stage,
        epochs: Epochs::default(),
        joined: 0,
        was_full: false,
        wrong: Vec::new(),
    };
    let mut scenes = 0;
    while stage.begun.elapsed() < long && !is_enough() {
        let scene = faults::next(&mut random, cast);
        eprintln!("{:7.1?} {scene:?}", stage.begun.elapsed());
        if let Err(wrong) = hands.play(&scene) {
            hands.wrong.push(wrong);
            break;
        }
        scenes += 1;
    }
    if let Err(wrong) = hands.epochs.wait_whole(hands.cluster) {
        hands.wrong.push(wrong);
    }
    (scenes, hands.wrong)
}

impl World {
    /// Each node on a host and a disk of its own, if this is root.
    fn start() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let hosts = is_root.then(|| Hosts::make(NODES + MORTAL + 1));
        let mut world = Self { cluster: Cluster::empty(3), hosts, disks: Vec::new(), clocks: Vec::new() };
        for index in 0..NODES {
            let data = world.cluster.path(&format!("node-{}", index + 1));
            let mut node = match &world.hosts {
                Some(hosts) => NodeProcess::new(data.clone(), Hosts::address(index), Some(hosts.host(index))),
                None => NodeProcess::new(data.clone(), free_address(), None),
            };
            if is_root {
                world.disks.push(SmallDisk::mount(data, DISK_MIB));
            }
            node.arguments = ["--scrub-every", "1s", "--scrub-rate", "64MiB"].map(str::to_owned).into();
            if Path::new(FAKETIME).exists() {
                node.environment = world.own_clock(index);
            }
            world.cluster.add_node_with(node, &[]);
        }
        // The first node, where the profile was made, may lose it.
        fs::create_dir(world.cluster.path("admin")).unwrap();
        for entry in fs::read_dir(world.cluster.profile()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, world.cluster.path("admin").join(path.file_name().unwrap())).unwrap();
        }
        world.cluster.set_profile("admin");
        write_seeds(&world.cluster);
        world.cluster.wait_healthy();
        world
    }

    /// A clock of its own for a node: what others see of it, not what it waits by.
    fn own_clock(&mut self, index: usize) -> Vec<(String, String)> {
        let file = self.cluster.path(&format!("clock-{index}"));
        fs::write(&file, "+0\n").unwrap();
        let path = file.to_str().unwrap().to_owned();
        self.clocks.push(file);
        [
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME_TIMESTAMP_FILE", &path),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }
}

/// After everything is quiet: what the ledgers say is there, on a mount that knows nothing yet.
fn audit(cluster: &Cluster, outcome: &Outcome) -> Vec<String> {
    let mount = Mount::new(cluster, "audit");
    let mut wrong = register::wrong(&outcome.events);
    wrong.extend(counter::wrong(&outcome.counts, counter::read(&mount.path("counter"))));
    wrong.extend(outcome.wrong.iter().cloned());
    for report in &outcome.reports {
        let dir = mount.path(&report.dir);
        wrong.extend(report.wrong.iter().cloned());
        let found = |name: &str| worker::read(&dir.join(name)).unwrap();
        wrong.extend(report.ledger.wrong(found).into_iter().map(|what| format!("{}/{what}", report.dir)));
    }
    wrong
}

/// What nodes and mounts said, for whoever looks for the reason.
fn keep_logs(cluster: &Cluster, seed: u64) {
    let kept = std::env::temp_dir().join(format!("dfs-torture-{seed}"));
    fs::create_dir_all(&kept).unwrap();
    for entry in fs::read_dir(cluster.dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "log") {
            fs::copy(&path, kept.join(path.file_name().unwrap())).unwrap();
        }
    }
    eprintln!("what they said is in {}", kept.display());
    // All that they hold, for who asks for it: it is large.
    if let Some(all) = std::env::var_os("DFS_TORTURE_KEEP") {
        let copied = std::process::Command::new("cp").arg("-a").arg(cluster.dir()).arg(&all).status().unwrap();
        assert!(copied.success(), "not all was copied to {}", all.display());
    }
}

/// Keeps the logs if the test fails while it is there.
struct KeptOnPanic<'a> {
    cluster: &'a Cluster,
    seed: u64,
}

impl Drop for KeptOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            keep_logs(self.cluster, self.seed);
        }
    }
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
    let mut world = World::start();
    let mount = |number: usize| {
        let name = format!("mnt-{number}");
        match &world.hosts {
            Some(hosts) => Mount::on(&world.cluster, &name, &hosts.host(NODES + number.min(MORTAL))),
            None => Mount::new(&world.cluster, &name),
        }
    };
    let mut mounts: Vec<Mount> = (0..MORTAL + 2).map(mount).collect();
    let stage = Stage {
        mounts: mounts.iter().map(|mount| mount.dir().to_owned()).collect(),
        deaths: mounts.iter().map(|_| AtomicU64::new(0)).collect(),
        was_full: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        begun: Instant::now(),
        watch: Watch::default(),
    };
    let outcome = torture(&mut world, &mut mounts, &stage, (seed, long));
    let cluster = &world.cluster;
    let mut wrong = audit(cluster, &outcome);
    wrong.extend(whole::damage(&cluster.status()));
    let pids = cluster.nodes.iter().filter_map(harness::NodeProcess::pid);
    let pids = pids.chain(mounts.iter().map(|mount| mount.pid().as_raw_nonzero().get().unsigned_abs()));
    wrong.extend(pids.filter_map(greed));
    let steps: u64 = outcome.reports.iter().map(|report| report.steps).sum();
    let failed: u64 = outcome.reports.iter().map(|report| report.failed).sum();
    eprintln!(
        "seed {seed}: {} scenes, {steps} steps of which {failed} failed, the slowest took {:.1?}, register used {} times, counted {} times",
        outcome.scenes,
        stage.watch.slowest(),
        outcome.events.len(),
        outcome.counts.len(),
    );
    if !wrong.is_empty() {
        eprintln!("seed {seed}, wrong:\n{}", wrong.join("\n"));
        keep_logs(cluster, seed);
    }
    assert!(steps > 0 && !outcome.events.is_empty() && !outcome.counts.is_empty());
    drop(mounts);
    if wrong.is_empty() && long >= COLLECTED_FROM {
        wait_collected(cluster, seed);
    }
    // What is wrong is the last word: everything else ends before.
    drop(world);
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
}

/// Once no mount is there any more, and the sessions of those that were killed have ended: nothing dead is left, and all
/// nodes hold the same chunks.
fn wait_collected(cluster: &Cluster, seed: u64) {
    let _kept = KeptOnPanic { cluster, seed };
    let mut seen = (String::new(), Vec::new());
    until("what is dead is collected", COLLECTED_MAX, || {
        let ran = cluster.dfs(["gc", "status", "--json"]);
        let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        let status = cluster.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let chunks: Vec<_> = nodes.iter().filter_map(|node| node["store"]["chunks"].as_u64()).collect();
        let now = (told["dead_chunks"].to_string(), chunks.clone());
        if now != seen {
            eprintln!("        dead chunks {}, copies on each node {:?}", now.0, now.1);
            seen = now;
        }
        told["dead_chunks"] == 0 && chunks.len() == NODES && chunks.iter().all(|count| *count == chunks[0])
    });
}
