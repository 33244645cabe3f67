//! A cluster of real processes.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    hosts::command_in,
    node::{NodeProcess, free_address},
    wait::until,
};

/// How long any command may take before the test fails.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// How long what nodes say of themselves has to stay the same until it is taken for the present: three heartbeats.
const SETTLED_AFTER: Duration = Duration::from_millis(1500);

/// Voters that a cluster wants.
const VOTERS: usize = 3;

/// Nodes, and a client profile.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order in which they joined. Dropped before the directory.
    pub nodes: Vec<NodeProcess>,
    /// Replicas of each chunk.
    pub replicas: u8,
    profile: PathBuf,
    dir: TempDir,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; 128 and the number of the signal if one ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Fails the test unless the command succeeded; gives its standard output.
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Fails the test unless the command ended with `status`.
    pub fn status(self, status: i32) {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
    }

    /// Fails the test unless the command ended with `status` and one line of error that holds all of `words`.
    pub fn fails(self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let lines: Vec<_> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "one line of error: {}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} in the error: {}", self.stderr);
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        Self {
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end; fails the test if that takes too long.
pub fn run(command: &mut Command) -> Ran {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let start = Instant::now();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watched = done.clone();
    let text = format!("{command:?}");
    let watch = std::thread::spawn(move || {
        while !watched.load(std::sync::atomic::Ordering::Relaxed) {
            if start.elapsed() > COMMAND_DEADLINE {
                eprintln!("{text} takes longer than {COMMAND_DEADLINE:?}: killed");
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                return;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    });
    let output = child.wait_with_output().unwrap();
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    watch.thread().unpark();
    watch.join().unwrap();
    output.into()
}

/// What the nodes said last, when a test fails.
impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter().filter(|_| std::thread::panicking()) {
            eprintln!("{} says at last:\n{}", node.data.display(), node.last_words());
        }
    }
}

impl Cluster {
    /// Three nodes that keep three replicas, all serving.
    pub fn start() -> Self {
        Self::with(3, 3)
    }

    /// `count` nodes that keep `replicas` replicas, all serving.
    pub fn with(count: usize, replicas: u8) -> Self {
        let mut cluster = Self::empty(replicas);
        for _ in 0..count {
            cluster.add_node();
        }
        cluster.wait_healthy();
        cluster
    }

    /// No nodes yet.
    pub fn empty(replicas: u8) -> Self {
        let profile = PathBuf::from("node-1/admin");
        Self { nodes: Vec::new(), replicas, profile, dir: TempDir::with_prefix("dfs-test-").unwrap() }
    }

    /// Says where the first client's profile lies, relative to the test's directory, if not where the first node of
    /// [`Cluster::add_node`] puts it.
    pub fn set_profile(&mut self, profile: &str) {
        self.profile = PathBuf::from(profile);
    }

    /// The directory of everything; gone when the cluster is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes and starts one more node.
    pub fn add_node(&mut self) -> &mut NodeProcess {
        let data = self.dir().join(format!("node-{}", self.nodes.len() + 1));
        self.add_node_with(NodeProcess::new(data, free_address(), None), &[])
    }

    /// Makes and starts `node`, with more arguments to `init` or `join`.
    pub fn add_node_with(&mut self, mut node: NodeProcess, arguments: &[&str]) -> &mut NodeProcess {
        self.make_node(&node, arguments);
        node.start();
        self.nodes.push(node);
        self.nodes.last_mut().unwrap()
    }

    /// Makes the data directory of `node`, with more arguments to `init` or `join`.
    pub fn make_node(&self, node: &NodeProcess, arguments: &[&str]) {
        let listen = node.address.to_string();
        let mut command = node.command("dfs-node");
        if self.nodes.is_empty() {
            command.arg("init").args(["--replicas", &self.replicas.to_string()]);
        } else {
            let token = self.dfs(["token", "create", "--for", "node"]).ok();
            command.arg("join").args(["--token", token.trim()]);
        }
        run(command.arg("--data").arg(&node.data).args(["--listen", &listen]).args(arguments)).ok();
    }

    /// The profile of the first client.
    pub fn profile(&self) -> PathBuf {
        self.dir().join(&self.profile)
    }

    /// A `dfs` command with the first client's profile.
    pub fn command(&self) -> Command {
        self.command_in(self.nodes.first().unwrap().network.as_deref())
    }

    /// As [`Cluster::command`], in another network.
    pub fn command_in(&self, network: Option<&str>) -> Command {
        let mut command = command_in(network, "dfs");
        command.env("XDG_CONFIG_HOME", self.dir().join("config")).env("XDG_STATE_HOME", self.dir().join("state"));
        command.arg("--profile").arg(self.profile());
        command
    }

    /// Runs a `dfs` command to its end.
    pub fn dfs<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        run(self.command().args(arguments))
    }

    /// State of the cluster as the leader sees it; null while there is none.
    pub fn status(&self) -> serde_json::Value {
        let ran = self.dfs(["status", "--json"]);
        if ran.status == 0 { serde_json::from_str(&ran.stdout).unwrap() } else { serde_json::Value::Null }
    }

    /// Waits until every node is up, as many as can vote do, and files can be stored.
    pub fn wait_healthy(&self) {
        let wanted = self.nodes.len();
        let voters = wanted.min(VOTERS);
        until("every node is up", Duration::from_secs(60), || {
            let status = self.status();
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let votes = nodes.iter().filter(|node| node["role"] == "leader" || node["role"] == "voter").count();
            status["missing"] == 0
                && nodes.len() == wanted
                && votes >= voters
                && nodes.iter().all(|node| node["state"] == "up" && node["store"]["lacking"] == 0)
        });
    }

    /// What the leader says of one node; null while there is none.
    pub fn node_status(&self, index: usize) -> serde_json::Value {
        let address = self.nodes.get(index).unwrap().address.to_string();
        let status = self.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.into_iter().find(|node| node["address"] == address.as_str()).unwrap_or_default()
    }

    /// Waits until a node that came back, or lost what it had, holds as many chunks as the one that holds most. (A writer
    /// does not wait for the last replica: of others one may be missing for a while.) What nodes say of themselves is half a
    /// second old, so it has to stay so for a while.
    pub fn wait_replicated(&self, index: usize) {
        let address = self.nodes.get(index).unwrap().address.to_string();
        let mut since: Option<(Option<Option<u64>>, Instant)> = None;
        until(&format!("{address} holds every chunk"), Duration::from_secs(60), || {
            let status = self.status();
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let most = nodes.iter().filter_map(|node| node["store"]["chunks"].as_u64()).max();
            let is_whole = nodes.iter().any(|node| {
                node["address"] == address.as_str()
                    && node["state"] == "up"
                    && node["store"]["lacking"] == 0
                    && node["store"]["chunks"].as_u64() == most
            });
            let state = is_whole.then_some(most);
            match &since {
                Some((of, begun)) if *of == state => state.is_some() && begun.elapsed() >= SETTLED_AFTER,
                _ => {
                    since = Some((state, Instant::now()));
                    false
                }
            }
        });
    }

    /// The node that leads, as an index into `nodes`.
    pub fn leader(&self) -> usize {
        let mut leader = None;
        until("somebody leads", Duration::from_secs(30), || {
            let status = self.status();
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let address = nodes.iter().find(|node| node["role"] == "leader").map(|node| node["address"].clone());
            leader = self
                .nodes
                .iter()
                .position(|node| address.as_ref().is_some_and(|address| *address == node.address.to_string().as_str()));
            leader.is_some()
        });
        leader.unwrap()
    }

    /// A path in the test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }
}
