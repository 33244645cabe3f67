//! `dfs dev`: a whole cluster on one machine, up, down and up again whatever happened.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use harness::{Dev, cluster::run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn upload(dev: &Dev, name: &str, bytes: &[u8]) {
    let local = dev.path(name);
    fs::write(&local, bytes).unwrap();
    dev.dfs(&["upload", "-q", local.to_str().unwrap(), "/"]).ok();
}

/// Whether the process runs: one that has ended may still be listed, because nobody asked how.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

fn pid(pid: i32) -> Pid {
    Pid::from_raw(pid).unwrap()
}

#[test]
fn up_serves_status_tells_and_down_stops() {
    let dev = Dev::new();
    let said = dev.dev(&["up"]).ok();
    assert!(said.contains("3 nodes serve") && said.contains("dfs upload -r SRC /"), "{said}");
    upload(&dev, "file", b"bytes");
    let nodes = dev.nodes();
    assert_eq!(nodes.len(), 3);
    for node in &nodes {
        assert_eq!(node["state"], "running", "{node}");
        assert_eq!(node["id"].as_str().unwrap().len(), 32, "{node}");
        assert!(node["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{node}");
        assert!(Path::new(node["data"].as_str().unwrap()).join("node.toml").is_file(), "{node}");
        assert!(runs(node["pid"].as_i64().unwrap().try_into().unwrap()), "{node}");
    }
    let pids = dev.pids();
    let said = dev.dev(&["down"]).ok();
    assert!(said.contains("Stopped 3 nodes"), "{said}");
    pids.iter().for_each(|&node| assert!(!runs(node), "{node} still runs"));
    let stopped = dev.nodes();
    assert!(stopped.iter().all(|node| node["state"] == "stopped" && node["pid"].is_null()), "{stopped:?}");
    dev.dev(&["down"]).ok();

    dev.dev(&["up"]).ok();
    assert_eq!(dev.dfs(&["cat", "/file"]).ok(), "bytes");
    let ids =
        |nodes: &[Value]| nodes.iter().map(|node| (node["id"].clone(), node["address"].clone())).collect::<Vec<_>>();
    assert_eq!(ids(&dev.nodes()), ids(&nodes), "the same nodes at the same addresses");
}

#[test]
fn a_second_up_starts_only_what_does_not_run() {
    let dev = Dev::new();
    dev.dev(&["up"]).ok();
    upload(&dev, "file", b"bytes");
    let before = dev.pids();
    dev.dev(&["up"]).ok();
    assert_eq!(dev.pids(), before);
    kill_process(pid(before[1]), Signal::KILL).unwrap();
    dev.dev(&["up"]).ok();
    let after = dev.pids();
    assert_eq!((after.len(), after[0], after[2]), (3, before[0], before[2]));
    assert_ne!(after[1], before[1]);

    after.iter().for_each(|&node| kill_process(pid(node), Signal::KILL).unwrap());
    dev.dev(&["up"]).ok();
    assert_eq!(dev.pids().len(), 3);
    assert_eq!(dev.dfs(&["cat", "/file"]).ok(), "bytes", "P2: kill -9 of every node loses nothing");

    dev.dev(&["up", "--nodes", "2"]).status(2);
    dev.dev(&["up", "--nodes", "4"]).ok();
    assert_eq!(dev.pids().len(), 4);
}

#[test]
fn an_up_that_was_killed_is_finished_by_the_next() {
    let dev = Dev::new();
    for files in [1, 2, 3] {
        let mut command = dev.command();
        command.args(["dev", "up", "--dir"]).arg(dev.dir()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let node = dev.dir().join(format!("node-{files}/data"));
        harness::wait::until("it came so far", std::time::Duration::from_secs(60), || {
            node.is_dir() || child.try_wait().unwrap().is_some()
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
    dev.dev(&["up"]).ok();
    upload(&dev, "file", b"bytes");
    assert_eq!(dev.dfs(&["cat", "/file"]).ok(), "bytes");
    assert_eq!(dev.pids().len(), 3);
}

#[test]
fn a_node_that_joined_before_it_was_noted_is_not_joined_again() {
    let dev = Dev::new();
    dev.dev(&["up", "--nodes", "2"]).ok();
    let before = dev.pids();
    // As an `up` leaves it that is killed right after the join.
    let path = dev.dir().join("dev.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["nodes"][1]["stage"] = "planned".into();
    fs::write(&path, state.to_string()).unwrap();
    dev.dev(&["up"]).ok();
    assert_eq!(dev.pids(), before);
}

#[test]
fn purge_forgets_the_default_profile_also_after_another_login() {
    let dev = Dev::new();
    dev.dev(&["up", "--nodes", "1"]).ok();
    let token = dev.dfs(&["token", "create", "--for", "client"]).ok();
    dev.dfs(&["login", token.trim()]).ok();
    let profiles = [dev.dir().join("profile"), dev.config().join("dfs/default")];
    let [ours, theirs] = profiles.map(|profile| fs::read(profile.join("key.der")).unwrap());
    assert_ne!(ours, theirs);
    dev.dev(&["down", "--purge"]).ok();
    assert!(!dev.config().join("dfs/default").exists());
}

#[test]
fn a_purge_that_was_interrupted_is_finished_by_the_next_as_root() {
    let dev = Dev::new();
    dev.dev(&["up", "--nodes", "1"]).ok();
    // What is mounted cannot be deleted: it stops the purge somewhere in the middle.
    let stuck = dev.dir().join("node-1/data/stuck");
    fs::create_dir(&stuck).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&stuck)).ok();
    let first = dev.dev(&["down", "--purge"]);
    run(Command::new("umount").arg(&stuck)).ok();
    first.fails(1, &["cannot delete"]);
    assert!(dev.dir().join("dev.json").is_file());
    dev.dev(&["down", "--purge"]).ok();
    assert!(!dev.dir().exists());
}

#[test]
fn purge_deletes_everything_and_nothing_else() {
    let dev = Dev::new();
    let not_ours = dev.path("not ours");
    fs::create_dir(&not_ours).unwrap();
    let path = not_ours.to_str().unwrap();
    dev.dfs(&["dev", "down", "--purge", "--dir", path]).fails(1, &[path]);
    assert!(not_ours.is_dir());
    dev.dev(&["up", "--nodes", "1"]).ok();
    assert!(dev.config().join("dfs/default/profile.toml").is_file());
    let pids = dev.pids();
    dev.dev(&["down", "--purge"]).ok();
    assert!(!dev.dir().exists());
    assert!(!dev.config().join("dfs/default").exists(), "the default profile was that of the cluster");
    assert!(!runs(pids[0]));
    dev.dev(&["status"]).status(1);
}

#[test]
fn the_default_profile_is_written_only_if_there_is_none() {
    let (first, second) = (Dev::new(), Dev::new());
    first.dev(&["up", "--nodes", "1"]).ok();
    first.dfs(&["mkdir", "/first"]).ok();
    let said = run(first.command().args(["dev", "up", "--nodes", "1", "--dir"]).arg(second.dir())).ok();
    let profile = second.dir().join("profile");
    assert!(said.contains(&format!("--profile {}", profile.display())), "{said}");
    assert_eq!(first.dfs(&["ls", "/"]).ok(), "first\n");
    assert_eq!(first.dfs(&["--profile", profile.to_str().unwrap(), "ls", "/"]).ok(), "");
}
