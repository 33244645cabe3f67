//! One `dfs-node` process.

use std::{
    fs::{File, OpenOptions},
    io,
    net::{SocketAddr, UdpSocket},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{hosts::command_in, wait::until};

/// How long a node may take to say that it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// Where `cargo` put the programs: two folders above the test itself.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(path.is_file(), "{} is missing: run cargo build --workspace --bins --examples", path.display());
    path
}

/// A UDP port of loopback that nobody uses at the moment.
pub fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A node with its data directory; killed when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its data directory.
    pub data: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    /// Network namespace that it runs in, if it is not that of the test.
    pub network: Option<String>,
    /// What is given to `run` besides.
    pub arguments: Vec<String>,
    /// What its environment has besides.
    pub environment: Vec<(String, String)>,
    child: Option<Child>,
    starts: u32,
}

impl NodeProcess {
    /// A node that is not running yet.
    pub fn new(data: PathBuf, address: SocketAddr, network: Option<String>) -> Self {
        Self { data, address, network, arguments: Vec::new(), environment: Vec::new(), child: None, starts: 0 }
    }

    /// A command in the node's network.
    pub fn command(&self, name: &str) -> Command {
        command_in(self.network.as_deref(), name)
    }

    /// Where its standard error goes.
    pub fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.data.display());
        self.starts += 1;
        let log = OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let ready = File::create(self.ready_file()).unwrap();
        let mut command = self.command("dfs-node");
        command.arg("run").arg("--data").arg(&self.data).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let spawned = command.stdin(Stdio::null()).stdout(ready).stderr(log).spawn();
        self.child = Some(spawned.unwrap());
    }

    fn ready_file(&self) -> PathBuf {
        self.data.with_extension("ready")
    }

    /// Starts it and waits until it serves.
    pub fn start(&mut self) {
        self.spawn();
        until(&format!("{} is ready", self.data.display()), READY_DEADLINE, || {
            let exited = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "{} ended: {exited:?}: {}", self.data.display(), self.last_words());
            std::fs::read_to_string(self.ready_file()).unwrap().contains("ready")
        });
    }

    /// Waits until it serves (true) or has ended by itself (false).
    pub fn serves_or_ends(&mut self) -> bool {
        let mut serves = false;
        until(&format!("{} is ready or ends", self.data.display()), READY_DEADLINE, || {
            serves = std::fs::read_to_string(self.ready_file()).unwrap().contains("ready");
            serves || self.child.as_mut().unwrap().try_wait().unwrap().is_some()
        });
        serves
    }

    /// All of its log.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid().unwrap()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let mut child = self.child.take().unwrap();
        let mut status = None;
        until("the node stops", Duration::from_secs(15), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.take().map_or_else(|| Ok(ExitStatus::from_raw(0)), |mut child| child.wait())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
