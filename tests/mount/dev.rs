//! `dfs dev up --mount`: a cluster on one machine that is a directory, told and taken down as one.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use harness::{Dev, cluster::run, wait::until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// How long the kernel and a process may take to end what was killed, and to begin what was started.
const DEADLINE: Duration = Duration::from_secs(60);

fn up_on(dev: &Dev, dir: &Path) {
    dev.dev(&["up", "--nodes", "1", "--mount", dir.to_str().unwrap()]).ok();
}

fn is_mounted(dev: &Dev, dir: &Path, state: &str) {
    assert_eq!(dev.status()["mount"], json!({ "dir": dir, "state": state }));
}

/// Processes that were started with all of these words.
fn processes(words: &[&str]) -> Vec<Pid> {
    let started_with_all = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.iter().all(|word| line.contains(&word.as_bytes()))
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| started_with_all(*pid)).filter_map(Pid::from_raw).collect()
}

/// SIGKILL for the program of the mount; returns when the mount is seen to be dead.
fn kill_mount(dev: &Dev, dir: &Path) {
    let serving = processes(&["mount", dir.to_str().unwrap(), "--foreground"]);
    assert_eq!(serving.len(), 1, "{serving:?}");
    kill_process(serving[0], Signal::KILL).unwrap();
    until("the mount is dead", DEADLINE, || dev.status()["mount"]["state"] == "dead");
}

fn write_synced(path: PathBuf, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn up_mounts_status_tells_and_down_stores_and_unmounts_before_it_stops() {
    let dev = Dev::new();
    let dir = dev.path("new/mnt");
    dev.dev(&["up", "--nodes", "1"]).ok();
    assert!(dev.status()["mount"].is_null());
    up_on(&dev, &dir);
    is_mounted(&dev, &dir, "mounted");
    assert!(dev.dev(&["status"]).ok().contains(&format!("Mounted on {}\n", dir.display())));
    up_on(&dev, &dir);
    dev.dev(&["up"]).ok();
    assert_eq!(dev.mounts(), [&*dir], "mounted once, however often it is asked for");

    fs::write(dir.join("file"), "nobody synced this").unwrap();
    let said = dev.dev(&["down"]).ok();
    assert!(said.contains(&format!("Unmounted {}\nStopped 1 node", dir.display())), "{said}");
    assert!(dev.mounts().is_empty() && dev.pids().is_empty());
    is_mounted(&dev, &dir, "not mounted");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);

    dev.dev(&["up"]).ok();
    is_mounted(&dev, &dir, "mounted");
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "nobody synced this");
}

#[test]
fn down_stops_nothing_while_somebody_sits_in_the_mount() {
    let dev = Dev::new();
    // In the folder of the cluster: a purge must not reach what is stored.
    let dir = dev.dir().join("mnt");
    dev.dev(&["up", "--nodes", "1"]).ok();
    up_on(&dev, &dir);
    fs::write(dir.join("file"), "bytes").unwrap();
    let mut shell = Command::new("cat").current_dir(&dir).stdin(Stdio::piped()).spawn().unwrap();
    let pids = dev.pids();
    for arguments in [&["down"][..], &["down", "--purge"]] {
        dev.dev(arguments).fails(1, &[dir.to_str().unwrap(), "somebody uses it", "dfs umount --lazy"]);
        is_mounted(&dev, &dir, "mounted");
        assert_eq!(dev.pids(), pids);
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "bytes");
    }
    shell.kill().unwrap();
    shell.wait().unwrap();
    dev.dev(&["down", "--purge"]).ok();
    assert!(dev.mounts().is_empty() && !dev.dir().exists());
}

#[test]
fn a_mount_whose_program_was_killed_is_told_and_made_again_and_taken_down() {
    let dev = Dev::new();
    let (dir, link) = (dev.path("mnt"), dev.path("link"));
    symlink(&dir, &link).unwrap();
    up_on(&dev, &dir);
    write_synced(dir.join("file"), b"bytes");
    // Later by a link to it, which leads to the same mount, dead or alive.
    for asked in [&dir, &link] {
        kill_mount(&dev, &dir);
        up_on(&dev, asked);
        is_mounted(&dev, &dir, "mounted");
        assert_eq!(dev.mounts(), [&*dir]);
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "bytes");
    }
    kill_mount(&dev, &dir);
    up_on(&dev, &dev.path("other"));
    assert_eq!(dev.mounts(), [dev.path("other")], "the dead one is gone with the word of it");
    assert_eq!(fs::read_to_string(dev.path("other/file")).unwrap(), "bytes");
    kill_mount(&dev, &dev.path("other"));
    dev.dev(&["down"]).ok();
    assert!(dev.mounts().is_empty() && dev.pids().is_empty());
}

#[test]
fn the_mount_moves_only_when_it_is_unmounted_and_comes_back_where_it_was_last() {
    let dev = Dev::new();
    let (dir, other, link) = (dev.path("mnt"), dev.path("other"), dev.path("link"));
    up_on(&dev, &dir);
    let refused = dev.dev(&["up", "--mount", other.to_str().unwrap()]);
    refused.fails(2, &[dir.to_str().unwrap(), "dfs umount"]);
    assert!(!other.exists());
    is_mounted(&dev, &dir, "mounted");

    dev.dfs(&["umount", dir.to_str().unwrap()]).ok();
    is_mounted(&dev, &dir, "not mounted");
    dev.dev(&["up"]).ok();
    is_mounted(&dev, &dir, "mounted");

    fs::create_dir(&other).unwrap();
    symlink(&other, &link).unwrap();
    dev.dfs(&["umount", dir.to_str().unwrap()]).ok();
    up_on(&dev, &link);
    is_mounted(&dev, &other, "mounted");
    dev.dfs(&["umount", link.to_str().unwrap()]).ok();
    is_mounted(&dev, &other, "not mounted");

    // By hand and with the profile of the user it is the same cluster.
    dev.dfs(&["mount", other.to_str().unwrap()]).ok();
    is_mounted(&dev, &other, "mounted");
    dev.dev(&["down"]).ok();
    assert!(dev.mounts().is_empty());
}

#[test]
fn what_cannot_be_mounted_on_is_refused_before_anything_starts() {
    let dev = Dev::new();
    let (file, full) = (dev.path("file"), dev.path("full"));
    fs::write(&file, "bytes").unwrap();
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "bytes").unwrap();
    for (dir, why) in [(&file, "not a directory"), (&full, "not empty"), (&file.join("sub"), "Not a directory")] {
        let path = dir.to_str().unwrap();
        dev.dev(&["up", "--mount", path]).fails(1, &[path, why]);
        dev.dev(&["status"]).fails(1, &["no cluster"]);
    }
    // What is refused of a cluster that is there leaves it as it is.
    dev.dev(&["up", "--nodes", "1"]).ok();
    let before = dev.status();
    dev.dev(&["up", "--nodes", "2", "--mount", full.to_str().unwrap()]).fails(1, &["not empty"]);
    assert_eq!(dev.status(), before);
    assert_eq!(fs::read_to_string(full.join("file")).unwrap(), "bytes");
}

#[test]
fn what_else_is_mounted_there_is_told_and_left_alone_as_root() {
    let dev = Dev::new();
    let dir = dev.path("mnt");
    up_on(&dev, &dir);
    dev.dfs(&["umount", dir.to_str().unwrap()]).ok();
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&dir)).ok();
    fs::write(dir.join("theirs"), "bytes").unwrap();
    is_mounted(&dev, &dir, "other");
    dev.dev(&["up"]).fails(1, &[dir.to_str().unwrap(), "tmpfs"]);
    dev.dev(&["down"]).ok();
    dev.dev(&["down", "--purge"]).ok();
    assert_eq!(fs::read_to_string(dir.join("theirs")).unwrap(), "bytes");
}

#[test]
fn purge_never_deletes_through_a_mount() {
    let dev = Dev::new();
    dev.dev(&["up", "--nodes", "1"]).ok();
    let (dir, by_hand) = (dev.dir().join("mnt"), dev.dir().join("by hand"));
    up_on(&dev, &dir);
    write_synced(dir.join("file"), b"bytes");
    fs::create_dir(&by_hand).unwrap();
    dev.dfs(&["mount", by_hand.to_str().unwrap()]).ok();
    dev.dev(&["down", "--purge"]).fails(1, &["cannot delete", by_hand.to_str().unwrap()]);
    dev.dev(&["up"]).ok();
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "bytes");
    dev.dfs(&["umount", by_hand.to_str().unwrap()]).ok();
    dev.dev(&["down", "--purge"]).ok();
    assert!(!dev.dir().exists());

    let outside = dev.path("outside");
    up_on(&dev, &outside);
    fs::write(outside.join("file"), "bytes").unwrap();
    dev.dev(&["down", "--purge"]).ok();
    assert!(!dev.dir().exists() && outside.is_dir() && dev.mounts().is_empty());
}

#[test]
fn an_up_that_was_killed_while_it_mounted_leaves_one_mount_to_the_next_up_or_down() {
    let dev = Dev::new();
    let dir = dev.path("mnt");
    dev.dev(&["up", "--nodes", "1"]).ok();
    for last in [&["up"][..], &["down"]] {
        let mut command = dev.command();
        command.args(["dev", "up", "--dir"]).arg(dev.dir()).arg("--mount").arg(&dir).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        until("it mounts", DEADLINE, || {
            assert!(child.try_wait().unwrap().is_none(), "it was faster than we");
            !processes(&["mount", dir.to_str().unwrap()]).is_empty()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        dev.dev(last).ok();
        assert_eq!(dev.mounts().len(), usize::from(last == ["up"]), "after {last:?}");
        dev.dev(&["down"]).ok();
        assert!(dev.mounts().is_empty());
        assert_eq!(processes(&["mount", dir.to_str().unwrap()]), []);
        dev.dev(&["up", "--mount", dir.to_str().unwrap()]).ok();
        dev.dfs(&["umount", dir.to_str().unwrap()]).ok();
    }
}
