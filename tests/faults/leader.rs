//! The leader killed while clients work.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, cluster::run, tree, wait::until};

/// P5: "namespace reads, writes and operations within 5 seconds."
const OPERATION_MAX: Duration = Duration::from_secs(5);

/// A tree of small and middling files, wide enough that its upload can be interrupted.
fn make_tree(root: &Path, seed: u64) {
    for dir in 0..30 {
        let dir_path = root.join(format!("dir-{dir}"));
        fs::create_dir_all(&dir_path).unwrap();
        for file in 0..50u64 {
            let len = if file % 10 == 0 { 300_000 } else { 500 + 700 * usize::try_from(file % 10).unwrap() };
            fs::write(dir_path.join(format!("file-{file}")), tree::bytes(seed + dir * 1000 + file, len)).unwrap();
        }
    }
}

#[test]
fn a_leader_killed_in_the_middle_of_an_upload_is_hidden_from_the_user() {
    let mut cluster = Cluster::start();
    let source = cluster.path("source");
    make_tree(&source, 7);
    let mut upload = cluster.command();
    upload.arg("upload").arg("-r").arg(&source).arg("/copy");
    let leader = cluster.leader();
    thread::scope(|scope| {
        let upload = scope.spawn(move || run(&mut upload));
        until("the upload is under way", Duration::from_secs(30), || {
            cluster.status()["usage"]["inodes"].as_u64().is_some_and(|inodes| inodes > 100)
        });
        cluster.nodes[leader].kill();
        assert!(!upload.is_finished(), "the upload was over before the leader died: make the tree larger");
        upload.join().unwrap().ok();
    });
    let back = cluster.path("back");
    run(cluster.command().args(["download", "-r", "/copy"]).arg(&back)).ok();
    tree::assert_same(&source, &back);
}

/// P4: "every namespace operation … is applied exactly once even when a request is retried": each of these fails when
/// it is executed a second time.
#[test]
fn operations_under_way_while_leaders_die_are_executed_exactly_once() {
    let mut cluster = Cluster::start();
    cluster.dfs(["mkdir", "/made", "/moved"]).ok();
    let (mut done, mut slowest) = (0, Duration::ZERO);
    for _round in 0..3 {
        let leader = cluster.leader();
        let mut commands = thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let start = Instant::now();
                let (mut number, mut slowest) = (done, Duration::ZERO);
                while start.elapsed() < Duration::from_secs(6) {
                    let (made, moved) = (format!("/made/{number}"), format!("/moved/{number}"));
                    for arguments in [["mkdir", made.as_str()].as_slice(), &["mv", &made, &moved]] {
                        let begun = Instant::now();
                        cluster.dfs(arguments).ok();
                        slowest = slowest.max(begun.elapsed());
                    }
                    number += 1;
                }
                (number, slowest)
            });
            let path = format!("/moved/{}", done + 3);
            until("operations are under way", Duration::from_secs(20), || cluster.dfs(["stat", &path]).status == 0);
            kill_by_pid(&cluster, leader);
            worker.join().unwrap()
        });
        done = commands.0;
        slowest = slowest.max(commands.1);
        commands.0 = done;
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start();
        cluster.wait_healthy();
    }
    eprintln!("{done} directories made and moved, the slowest operation took {slowest:?}");
    let listed: BTreeSet<String> = cluster.dfs(["ls", "/moved"]).ok().lines().map(str::to_owned).collect();
    let expected: BTreeSet<String> = (0..done).map(|number: u32| number.to_string()).collect();
    assert_eq!(listed, expected);
    assert_eq!(cluster.dfs(["ls", "/made"]).ok(), "");
    assert!(slowest < OPERATION_MAX, "{slowest:?}");
}

/// SIGKILL from beside: the harness notices later.
fn kill_by_pid(cluster: &Cluster, index: usize) {
    cluster.nodes[index].signal(rustix::process::Signal::KILL);
}
