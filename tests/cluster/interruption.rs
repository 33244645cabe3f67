//! Ctrl-C and worse at any moment: under a name stands a whole file or none, and the same command goes on.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use harness::{Cluster, tree, wait::until};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A few large files, many small ones.
fn make(dir: &Path) {
    fs::create_dir_all(dir.join("small")).unwrap();
    for number in 0..12 {
        fs::write(dir.join(format!("large-{number}")), tree::bytes(number, 6 << 20)).unwrap();
    }
    for number in 0..200 {
        let len = usize::try_from(number * 37).unwrap();
        fs::write(dir.join(format!("small/{number}")), tree::bytes(1000 + number, len)).unwrap();
    }
}

fn spawn(cluster: &Cluster, arguments: &[&str]) -> Child {
    let mut command = cluster.command();
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Ends `child` with `signal` after a while, and gives what became of it.
fn end(child: Child, signal: Signal, after: Duration) -> (Option<i32>, Option<i32>, String) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    // Not a wait for something: the moment itself is what the seed chooses.
    std::thread::park_timeout(after);
    let _ended_before = kill_process(pid, signal).is_err();
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?} to end", start.elapsed());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), output.status.signal(), said)
}

/// Sizes of the files in the store by their path below `/tree`.
fn sizes(cluster: &Cluster) -> BTreeMap<String, u64> {
    let ran = cluster.dfs(["ls", "-AR", "-l", "--json", "/"]);
    let list: Value = serde_json::from_str(&ran.ok()).unwrap();
    let files = list.as_array().unwrap().iter().filter(|entry| entry["type"] == "file");
    files.map(|entry| (entry["path"].as_str().unwrap().to_owned(), entry["size"].as_u64().unwrap())).collect()
}

#[test]
fn an_upload_that_is_interrupted_leaves_whole_files_only_and_goes_on() {
    let cluster = Cluster::start();
    let dir = cluster.path("tree");
    make(&dir);
    let seed = 20;
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let upload = ["upload", "-rT", dir.to_str().unwrap(), "/tree"];
    let mut interrupted = 0;
    for signal in [Signal::INT, Signal::KILL, Signal::INT, Signal::KILL, Signal::TERM] {
        let after = Duration::from_millis(random.random_range(60..600));
        let (code, ended_by, said) = end(spawn(&cluster, &upload), signal, after);
        match (signal, code) {
            (_, Some(0)) => {}
            (Signal::KILL, _) => assert_eq!(ended_by, Some(9)),
            (Signal::INT, code) => assert_eq!((code, said.lines().last()), (Some(130), Some("dfs: interrupted"))),
            (_, code) => assert_eq!((code, said.lines().last()), (Some(143), Some("dfs: terminated"))),
        }
        interrupted += u32::from(code != Some(0));
        for (path, size) in sizes(&cluster) {
            let local = dir.join(path.strip_prefix("/tree/").unwrap());
            assert_eq!(size, fs::metadata(&local).unwrap().len(), "{path} after {signal:?} at {after:?}");
        }
    }
    assert!(interrupted > 0, "every upload ended before its signal");
    cluster.dfs(upload).ok();
    let copy = cluster.path("copy");
    cluster.dfs(["download", "-r", "/tree", copy.to_str().unwrap()]).ok();
    tree::assert_same(&dir, &copy);
}

#[test]
fn a_download_that_is_interrupted_leaves_whole_files_only_and_goes_on() {
    let cluster = Cluster::start();
    let dir = cluster.path("tree");
    make(&dir);
    cluster.dfs(["upload", "-r", dir.to_str().unwrap(), "/"]).ok();
    let seed = 21;
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let copy = cluster.path("copy");
    let download = ["download", "-rT", "/tree", copy.to_str().unwrap()];
    let mut interrupted = 0;
    for signal in [Signal::INT, Signal::KILL, Signal::INT, Signal::KILL, Signal::INT] {
        let after = Duration::from_millis(random.random_range(40..300));
        let (code, _, _) = end(spawn(&cluster, &download), signal, after);
        interrupted += u32::from(code != Some(0));
        let mut left = Vec::new();
        whole_files(&dir, &copy, &mut left);
        assert_eq!(left, Vec::<String>::new(), "temporary files after {signal:?}");
        if signal == Signal::INT && code != Some(0) {
            assert_eq!(code, Some(130));
        }
    }
    assert!(interrupted > 0, "every download ended before its signal");
    cluster.dfs(download).ok();
    tree::assert_same(&dir, &copy);
}

/// Whether the process has a handler of its own for SIGINT: before that it would simply end.
fn handles_interrupts(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
}

#[test]
fn ctrl_c_ends_a_command_that_waits_for_its_reader_or_for_its_input() {
    let cluster = Cluster::start();
    let file = cluster.path("file");
    fs::write(&file, tree::bytes(1, 9 << 20)).unwrap();
    cluster.dfs(["upload", file.to_str().unwrap(), "/file"]).ok();
    let mut command = cluster.command();
    command.args(["cat", "/file"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Held, and never read: the pipe is full after 64 KiB.
    let stdout = child.stdout.take().unwrap();
    let full = || rustix::io::ioctl_fionread(&stdout).unwrap() >= 64 << 10;
    until("the pipe is full", Duration::from_secs(20), full);
    let (code, _, said) = end(child, Signal::INT, Duration::ZERO);
    assert_eq!((code, said.as_str()), (Some(130), "dfs: interrupted\n"));

    let mut command = cluster.command();
    command.args(["login", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // `wait_with_output` would close it.
    let stdin = child.stdin.take().unwrap();
    until("it listens", Duration::from_secs(20), || handles_interrupts(&child));
    let (code, _, said) = end(child, Signal::INT, Duration::from_millis(50));
    assert_eq!((code, said.as_str()), (Some(130), "dfs: interrupted\n"));
    drop(stdin);
}

/// Fails the test if a file under its final name is not whole; notes temporary files.
fn whole_files(expected: &Path, found: &Path, temporary: &mut Vec<String>) {
    let entries = match fs::read_dir(found) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => panic!("{}: {error}", found.display()),
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_dir() {
            whole_files(&expected.join(name), &path, temporary);
        } else if name.as_bytes().starts_with(b".") {
            temporary.push(path.to_str().unwrap().to_owned());
        } else {
            assert!(fs::read(&path).unwrap() == fs::read(expected.join(name)).unwrap(), "{}", path.display());
        }
    }
}

#[test]
fn replacing_a_file_leaves_the_old_one_whole_until_the_new_one_is() {
    let cluster = Cluster::start();
    let (old, new) = (cluster.path("old"), cluster.path("new"));
    fs::write(&old, tree::bytes(1, 9 << 20)).unwrap();
    fs::write(&new, tree::bytes(2, 40 << 20)).unwrap();
    cluster.dfs(["upload", old.to_str().unwrap(), "/file"]).ok();
    let mut child = spawn(&cluster, &["upload", new.to_str().unwrap(), "/file"]);
    let mut seen = Vec::new();
    until("the upload ends", Duration::from_secs(60), || {
        let output = cluster.command().args(["cat", "/file"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        seen.push(output.stdout.len());
        let known = output.stdout == fs::read(&old).unwrap() || output.stdout == fs::read(&new).unwrap();
        assert!(known, "{} bytes that are neither the old file nor the new one", output.stdout.len());
        child.try_wait().unwrap().is_some()
    });
    assert!(child.wait().unwrap().success());
    let output = cluster.command().args(["cat", "/file"]).output().unwrap();
    assert!(output.stdout == fs::read(&new).unwrap(), "{seen:?}");
}
