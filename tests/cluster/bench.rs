//! `dfs bench`: numbers, and nothing left.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use harness::{Cluster, wait::until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.dfs(["ls", "-A", "/"]).ok().lines().map(str::to_owned).collect()
}

#[test]
fn bench_measures_in_a_directory_of_its_own_and_leaves_nothing() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "/mine"]).ok();
    let told: Value =
        serde_json::from_str(&cluster.dfs(["bench", "--size", "9MiB", "--files", "50", "--json"]).ok()).unwrap();
    for (what, count, rate) in [
        ("write", "bytes", "bytes_per_s"),
        ("read", "bytes", "bytes_per_s"),
        ("write_small", "files", "files_per_s"),
        ("read_small", "files", "files_per_s"),
        ("list", "files", "files_per_s"),
    ] {
        let counted = if count == "bytes" { 9 << 20 } else { 50 };
        assert_eq!(told[what][count], counted, "{what}: {told}");
        assert!(told[what]["seconds"].as_f64().unwrap() > 0.0, "{what}: {told}");
        assert!(told[what][rate].as_u64().unwrap() > 0, "{what}: {told}");
    }
    let (p50, p99) = (told["change"]["p50_ms"].as_f64().unwrap(), told["change"]["p99_ms"].as_f64().unwrap());
    assert!(told["change"]["count"] == 100 && p50 > 0.0 && p99 >= p50, "{told}");
    assert_eq!(names(&cluster), ["mine"]);

    // One byte is a file without chunks, and one file a listing.
    let text = cluster.dfs(["bench", "--size", "1B", "--files", "1"]).ok();
    assert_eq!(text.lines().count(), 9, "{text}");
    assert!(text.starts_with("WHAT") && text.contains("write a file of 1 B") && text.contains("memory"), "{text}");
    assert_eq!(names(&cluster), ["mine"]);
    until("only the root and a directory are left", Duration::from_secs(20), || {
        cluster.status()["usage"]["inodes"] == 2
    });
}

#[test]
fn bench_refuses_sizes_that_make_no_sense_and_files_that_have_no_room() {
    let cluster = Cluster::with(1, 1);
    for arguments in [["--size", "0"], ["--size", "2TiB"], ["--size", "much"], ["--files", "0"], ["--files", "-1"]] {
        let ran = cluster.dfs(["bench"].into_iter().chain(arguments));
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{arguments:?}: {}", ran.stderr);
    }
    let free = cluster.dfs(["df", "--json"]).ok();
    let free = serde_json::from_str::<Value>(&free).unwrap()["free"].as_u64().unwrap();
    if free < 1 << 40 {
        cluster.dfs(["bench", "--size", "1TiB"]).fails(1, &["cannot measure", "room", "--size"]);
    }
    assert_eq!(names(&cluster), Vec::<String>::new());
}

/// "It goes whatever ended the work."
#[test]
fn ctrl_c_ends_a_bench_and_takes_its_directory_away() {
    let cluster = Cluster::start();
    for what in ["large", "small"] {
        let mut command = cluster.command();
        let (size, files) = if what == "large" { ("16GiB", "1") } else { ("1MiB", "1000000") };
        command.args(["bench", "--size", size, "--files", files]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("it has begun", Duration::from_secs(30), || {
            let begun = names(&cluster).pop();
            let dir = begun.map(|name| format!("/{name}"));
            dir.is_some_and(|dir| what == "large" || cluster.dfs(["ls", &format!("{dir}/small/1")]).status == 0)
        });
        let begun = Instant::now();
        kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.lines().last()), (Some(130), Some("dfs: interrupted")), "{said}");
        assert_eq!(names(&cluster), Vec::<String>::new(), "after {:?}: {said}", begun.elapsed());
    }
}
