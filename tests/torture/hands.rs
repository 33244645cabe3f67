//! What makes a story so: signals, cables, disks, clocks; and what a person does for a node that has lost everything.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Hosts, Mount, NodeProcess, SmallDisk, cluster::run, node::free_address, wait::until};
use rustix::process::Signal;

use crate::{
    faults::{Fault, Scene, Victim},
    rot,
    whole::Epochs,
    worker::Stage,
};

/// A node joins, a leader is found: on a machine with much else to do.
const JOINED_MAX: Duration = Duration::from_secs(60);

/// All that can be laid hands on.
pub(crate) struct Hands<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) mounts: &'a mut [Mount],
    pub(crate) hosts: Option<&'a Hosts>,
    /// Each node's, if they can be full.
    pub(crate) disks: &'a [SmallDisk],
    /// Where each node reads how wrong its clock is.
    pub(crate) clocks: &'a [PathBuf],
    pub(crate) stage: &'a Stage,
    pub(crate) epochs: Epochs,
    /// Nodes that joined so far, for ports that nobody had.
    pub(crate) joined: u16,
    /// Whether a disk was full lately: a node whose log finds no room ends.
    pub(crate) was_full: bool,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

impl Hands<'_> {
    /// Lets a scene happen. An error ends the run.
    pub(crate) fn play(&mut self, scene: &Scene) -> Result<(), String> {
        if scene.faults.iter().any(|(fault, _)| fault.is_loss()) {
            self.epochs.wait_whole(self.cluster)?;
            self.was_full = false;
        }
        // Files that this program has open on a stopped mount are closed in every process that it starts, which waits for the
        // mount: it stops after all that starts any, and goes on before.
        let mut faults: Vec<_> = scene.faults.iter().collect();
        faults.sort_by_key(|(fault, _)| matches!(fault, Fault::StopMount(_)));
        faults.iter().for_each(|(fault, _)| self.begin(fault));
        let begun = Instant::now();
        // A mount comes back only while there are nodes, and before a node is replaced, which may take minutes.
        let turn = |fault: &Fault| match fault {
            Fault::StopMount(_) => 0,
            Fault::KillMount(_) => 2,
            Fault::Wipe(_) | Fault::RotLog { .. } => 3,
            _ => 1,
        };
        faults.sort_by_key(|(fault, lasts)| (turn(fault), *lasts));
        for (fault, lasts) in faults {
            self.pause(lasts.saturating_sub(begun.elapsed()));
            self.end(fault)?;
        }
        self.look_after_nodes();
        self.epochs.look(&self.cluster.status())?;
        self.pause(scene.quiet);
        Ok(())
    }

    fn begin(&mut self, fault: &Fault) {
        match fault {
            Fault::KillNodes(nodes) => nodes.iter().for_each(|node| self.cluster.nodes[*node].kill()),
            Fault::StopNodes(nodes) => self.signal(nodes, Signal::STOP),
            Fault::RestartNode(node) => {
                self.cluster.nodes[*node].stop();
                self.start(*node);
            }
            Fault::KillMount(mount) => {
                self.dies_or_lives(*mount);
                self.mounts[*mount].kill();
            }
            Fault::StopMount(mount) => self.mounts[*mount].signal(Signal::STOP),
            Fault::KillAll(mount) => {
                self.dies_or_lives(*mount);
                self.cluster.nodes.iter_mut().for_each(NodeProcess::kill);
                self.mounts[*mount].kill();
            }
            Fault::Unplug(at) => at.iter().for_each(|host| self.hosts.unwrap().cable(*host, "down")),
            Fault::Deafen(from, others) => others.iter().for_each(|other| self.hosts.unwrap().cut(*from, *other)),
            Fault::FillDisks(nodes, left) => {
                self.was_full = true;
                self.stage.was_full.store(true, Ordering::Release);
                nodes.iter().for_each(|node| self.disks[*node].fill(*left));
            }
            Fault::Rot { node, state, seed } => {
                if *state == Victim::IsDown {
                    self.cluster.nodes[*node].kill();
                }
                tell_spoilt(&rot::spoil_log(&self.cluster.nodes[*node].data.join("chunks"), *seed));
            }
            Fault::RotLog { node, seed } => {
                self.cluster.nodes[*node].kill();
                tell_spoilt(&rot::spoil_log(&self.cluster.nodes[*node].data.join("log/log"), *seed));
            }
            Fault::RotIndex { node, seed } => {
                self.cluster.nodes[*node].kill();
                tell_spoilt(&rot::spoil_files(&self.cluster.nodes[*node].data.join("index"), *seed));
            }
            Fault::Wipe(node) => self.cluster.nodes[*node].kill(),
            Fault::JumpClock(node, seconds) => fs::write(&self.clocks[*node], format!("{seconds:+}\n")).unwrap(),
        }
    }

    fn end(&mut self, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::KillNodes(nodes) => nodes.iter().for_each(|node| self.start(*node)),
            Fault::StopNodes(nodes) => self.signal(nodes, Signal::CONT),
            Fault::RestartNode(_) | Fault::Rot { state: Victim::Runs, .. } => {}
            Fault::Rot { node, state: Victim::IsDown, .. } => self.start(*node),
            Fault::KillMount(mount) => {
                self.mounts[*mount].start(self.cluster, &[]);
                self.dies_or_lives(*mount);
            }
            Fault::StopMount(mount) => self.mounts[*mount].signal(Signal::CONT),
            Fault::KillAll(mount) => {
                (0..self.cluster.nodes.len()).for_each(|node| self.start(node));
                self.mounts[*mount].start(self.cluster, &[]);
                self.dies_or_lives(*mount);
            }
            Fault::Unplug(at) => at.iter().for_each(|host| self.hosts.unwrap().cable(*host, "up")),
            Fault::Deafen(from, others) => others.iter().for_each(|other| self.hosts.unwrap().mend(*from, *other)),
            Fault::FillDisks(nodes, _) => nodes.iter().for_each(|node| self.disks[*node].give_back()),
            Fault::RotLog { node, .. } => self.start_with_rotten_log(*node)?,
            Fault::RotIndex { node, .. } => self.start_with_rotten_index(*node),
            Fault::Wipe(node) => self.replace(*node)?,
            Fault::JumpClock(node, _) => fs::write(&self.clocks[*node], "+0\n").unwrap(),
        }
        Ok(())
    }

    fn signal(&mut self, nodes: &[usize], signal: Signal) {
        for node in nodes {
            if self.cluster.nodes[*node].is_running() {
                self.cluster.nodes[*node].signal(signal);
            }
        }
    }

    fn dies_or_lives(&self, mount: usize) {
        self.stage.deaths[mount].fetch_add(1, Ordering::AcqRel);
    }

    /// Starts a node; whether it serves.
    fn try_start(&mut self, index: usize) -> bool {
        let node = &mut self.cluster.nodes[index];
        node.kill();
        node.spawn();
        node.serves_or_ends()
    }

    /// Starts a node, which must serve, unless its disk is full.
    fn start(&mut self, index: usize) {
        if !self.try_start(index) && !self.was_full {
            self.note(format!("node {index} does not start: {}", self.cluster.nodes[index].last_words()));
        }
    }

    fn note(&mut self, what: String) {
        eprintln!("WRONG: {what}");
        self.wrong.push(what);
    }

    /// Starts nodes that have ended by themselves: only a full disk is a reason.
    fn look_after_nodes(&mut self) {
        for index in 0..self.cluster.nodes.len() {
            if self.cluster.nodes[index].is_running() {
                continue;
            }
            let words = self.cluster.nodes[index].last_words();
            eprintln!("node {index} has ended by itself: {words}");
            if !self.was_full {
                self.note(format!("node {index} has ended by itself: {words}"));
            }
            if !self.try_start(index) {
                self.note(format!("node {index} does not start again: {}", self.cluster.nodes[index].last_words()));
            }
        }
    }

    fn start_with_rotten_log(&mut self, index: usize) -> Result<(), String> {
        if self.try_start(index) {
            eprintln!("node {index} serves: what has changed is nowhere that counts");
            return Ok(());
        }
        let words = self.cluster.nodes[index].last_words();
        if !words.contains("join again") {
            self.note(format!("node {index} does not say what to do about its log: {words}"));
        }
        self.replace(index)
    }

    fn start_with_rotten_index(&mut self, index: usize) {
        if !self.try_start(index) {
            eprintln!("node {index} needs another index: {}", self.cluster.nodes[index].last_words());
            fs::remove_dir_all(self.cluster.nodes[index].data.join("index")).unwrap();
            self.start(index);
        }
    }

    /// Takes everything from a node that is down, lets another join in its place, and removes it.
    fn replace(&mut self, index: usize) -> Result<(), String> {
        let old = self.cluster.nodes[index].address;
        self.cluster.nodes[index].kill();
        for entry in fs::read_dir(&self.cluster.nodes[index].data).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        self.joined += 1;
        let node = &mut self.cluster.nodes[index];
        node.address = match self.hosts {
            Some(_) => std::net::SocketAddr::new(old.ip(), 7400 + self.joined),
            None => free_address(),
        };
        let (listen, data) = (node.address.to_string(), node.data.clone());
        let mut token = String::new();
        until("somebody makes a token", JOINED_MAX, || {
            let ran = self.cluster.dfs(["token", "create", "--for", "node"]);
            token = ran.stdout.trim().to_owned();
            ran.status == 0
        });
        let mut join = self.cluster.nodes[index].command("dfs-node");
        let join = run(join.arg("join").arg("--data").arg(data).args(["--listen", &listen, "--token", &token]));
        if join.status != 0 {
            return Err(format!("a new node {index} does not join: {}", join.stderr));
        }
        self.start(index);
        write_seeds(self.cluster);
        let mut said = String::new();
        let begun = Instant::now();
        while begun.elapsed() < JOINED_MAX {
            let ran = self.cluster.dfs(["remove", &old.to_string(), "--force"]);
            if ran.status == 0 || ran.stderr.contains("no node has this address") {
                return self.epochs.wait_whole(self.cluster);
            }
            said = ran.stderr;
        }
        Err(format!("node {index}, which is gone, is not removed: {said}"))
    }

    /// Waits; not beyond the end.
    fn pause(&self, long: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < long && !self.stage.is_over() {
            thread::park_timeout(Duration::from_millis(20));
        }
    }
}

fn tell_spoilt(spoilt: &[(PathBuf, u64)]) {
    let places = spoilt.iter().map(|(path, at)| format!("{}@{at}", path.file_name().unwrap().display()));
    eprintln!("        bytes changed: {}", places.collect::<Vec<_>>().join(" "));
}

/// Writes into the first client's profile where the nodes are now.
pub(crate) fn write_seeds(cluster: &Cluster) {
    let path = cluster.profile().join("profile.toml");
    let text = fs::read_to_string(&path).unwrap();
    let seeds: Vec<_> = cluster.nodes.iter().map(|node| format!("\"{}\"", node.address)).collect();
    let lines = text.lines().filter(|line| !line.starts_with("seeds")).map(str::to_owned);
    let text: Vec<_> = lines.chain([format!("seeds = [{}]", seeds.join(", "))]).collect();
    let new = path.with_extension("new");
    fs::write(&new, text.join("\n") + "\n").unwrap();
    fs::rename(new, path).unwrap();
}
