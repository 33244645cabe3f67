//! A cluster of `dfs dev`, as a person makes it on one machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Ran, cluster::run, node::program};

/// A folder for the cluster and one for profiles; cluster and mounts end with it.
#[derive(Debug)]
pub struct Dev {
    home: TempDir,
}

/// Nothing yet.
impl Default for Dev {
    fn default() -> Self {
        Self { home: TempDir::with_prefix("dfs-test-dev-").unwrap() }
    }
}

impl Dev {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A path in the folder of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The folder of the cluster.
    pub fn dir(&self) -> PathBuf {
        self.path("cluster")
    }

    /// Where profiles of the user are kept.
    pub fn config(&self) -> PathBuf {
        self.path("config")
    }

    /// A `dfs` command of this user.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("dfs"));
        command.env("XDG_CONFIG_HOME", self.config()).env("XDG_STATE_HOME", self.path("state"));
        command.env_remove("DFS_PROFILE");
        command
    }

    /// Runs a `dfs` command to its end.
    pub fn dfs(&self, arguments: &[&str]) -> Ran {
        run(self.command().args(arguments))
    }

    /// Runs a `dfs dev` command on the folder of the cluster.
    pub fn dev(&self, arguments: &[&str]) -> Ran {
        self.dfs(&[&["dev"], arguments, &["--dir", self.dir().to_str().unwrap()]].concat())
    }

    /// What `dfs dev status --json` says.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.dev(&["status", "--json"]).ok()).unwrap()
    }

    /// Its nodes.
    pub fn nodes(&self) -> Vec<Value> {
        self.status()["nodes"].as_array().unwrap().clone()
    }

    /// Processes of nodes that run.
    pub fn pids(&self) -> Vec<i32> {
        self.nodes().iter().filter_map(|node| node["pid"].as_i64()).map(|pid| i32::try_from(pid).unwrap()).collect()
    }

    /// What is mounted below the folder of the test, as the kernel lists it; twice what is mounted twice.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = list.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(self.home.path())).collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        for number in 1..=if std::thread::panicking() { 4 } else { 0 } {
            let log = fs::read_to_string(self.dir().join(format!("node-{number}/log"))).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("node-{number} says at last:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        // Nothing may be left that a removal of the test's directory could reach into.
        for point in self.mounts() {
            let _gone = unmount(&point);
        }
        let mut command = self.command();
        let _gone = command.args(["dev", "down", "--purge", "--dir"]).arg(self.dir()).output().is_ok();
    }
}

/// Takes whatever is mounted there out of sight.
fn unmount(point: &Path) -> bool {
    if rustix::process::geteuid().is_root() {
        return rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).is_ok();
    }
    Command::new("fusermount3").args(["-u", "-z"]).arg(point).output().is_ok()
}
