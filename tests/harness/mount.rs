//! A mount of a cluster: one `dfs mount` process.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use crate::{
    cluster::{Cluster, run},
    wait::until,
};

/// How long a mount may take to be there.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// How long a mount may take to store what is left, after it was unmounted.
const END_DEADLINE: Duration = Duration::from_secs(70);

/// A cluster mounted on a directory of its own; unmounted, and its process ended, when dropped. Drop it before the
/// cluster: declare it after.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    log: PathBuf,
    /// Network namespace that it runs in, if it is not that of the first node.
    network: Option<String>,
    child: Option<Child>,
}

impl Mount {
    /// Mounts the root of the cluster on the new directory `name`; as root, others may use it.
    pub fn new(cluster: &Cluster, name: &str) -> Self {
        Self::with(cluster, name, &[])
    }

    /// Mounts with more options.
    pub fn with(cluster: &Cluster, name: &str, options: &[&str]) -> Self {
        Self::begin(cluster, name, options, None)
    }

    /// Mounts on a host of its own.
    pub fn on(cluster: &Cluster, name: &str, network: &str) -> Self {
        Self::begin(cluster, name, &[], Some(network.to_owned()))
    }

    fn begin(cluster: &Cluster, name: &str, options: &[&str], network: Option<String>) -> Self {
        let dir = cluster.path(name);
        fs::create_dir_all(&dir).unwrap();
        let mut mount = Self { dir, log: cluster.path(&format!("{name}.log")), network, child: None };
        mount.start(cluster, options);
        mount
    }

    /// Mounts again what is not mounted now, by the same command.
    pub fn start(&mut self, cluster: &Cluster, options: &[&str]) {
        assert!(self.child.is_none(), "{} is mounted already", self.dir.display());
        let ready = self.log.with_extension("ready");
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = match &self.network {
            None => cluster.command(),
            Some(network) => cluster.command_in(Some(network)),
        };
        command.env("DFS_LOG", "info").arg("mount").arg(&self.dir).args(["--foreground", "--report"]);
        if rustix::process::geteuid().is_root() {
            command.args(["-o", "allow_other"]);
        }
        options.iter().for_each(|option| {
            command.args(["-o", option]);
        });
        let stdout = File::create(&ready).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(log).spawn().unwrap();
        until(&format!("{} is mounted", self.dir.display()), READY_DEADLINE, || {
            let said = fs::read_to_string(&ready).unwrap();
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the mount ended: {ended:?}: {said}");
            said.contains("mounted")
        });
        self.child = Some(child);
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGKILL, and waits for its end. The mount point is dead afterwards.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until its process has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        until("the mount ends", END_DEADLINE, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// `dfs umount`, which must succeed, and the process with it.
    pub fn unmount(&mut self, cluster: &Cluster) {
        run(cluster.command().arg("umount").arg(&self.dir)).ok();
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.last_words());
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

/// What a mount must never have to say: that its foresight is not the leader's.
const NEVER_SAID: &str = "other attributes than were foreseen";

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} says at last:\n{}", self.dir.display(), self.last_words());
        }
        // Nothing may be left that a removal of the test's directory could reach into.
        let flags = if std::thread::panicking() { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        let mounted = unmount(&self.dir, flags).is_err() && unmount(&self.dir, UnmountFlags::DETACH).is_err();
        if mounted && !rustix::process::geteuid().is_root() {
            let mut command = std::process::Command::new("fusermount3");
            let _unmounted = command.args(["-u", "-z"]).arg(&self.dir).output().is_ok();
        }
        if let Some(mut child) = self.child.take() {
            let start = std::time::Instant::now();
            while matches!(child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(5) {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            let _killed = child.kill().is_ok();
            let _ended = child.wait().is_ok();
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let surprises: Vec<_> = log.lines().filter(|line| line.contains(NEVER_SAID)).collect();
        assert!(surprises.is_empty() || std::thread::panicking(), "{surprises:#?}");
    }
}
