//! Too few nodes to go on, and nodes that hang.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Ran, cluster::run, wait::until};
use rustix::process::Signal;

use crate::store::{assert_all_there, last_word, put, put_some, try_get, try_put};

/// "no quorum (an error within a deadline, not a hang)".
const ERROR_MAX: Duration = Duration::from_secs(15);

/// P5: "namespace reads, writes and operations within 5 seconds."
const OPERATION_MAX: Duration = Duration::from_secs(5);

#[test]
fn without_a_quorum_every_command_fails_with_one_line_in_time_and_goes_on_when_it_is_back() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 600);
    cluster.nodes[0].kill();
    cluster.nodes[2].kill();
    let commands: [(&str, &[&str]); 7] = [
        ("ls", &["ls", "/"]),
        ("status", &["status"]),
        ("mkdir", &["mkdir", "/new"]),
        ("mv", &["mv", "/file-1", "/file-9"]),
        ("rm", &["rm", "/file-1"]),
        ("cat", &["cat", "/file-5"]),
        ("token", &["token", "create", "--for", "client"]),
    ];
    thread::scope(|scope| {
        let cluster = &cluster;
        for (name, arguments) in commands {
            scope.spawn(move || in_time(name, || run(cluster.command().args(arguments))));
        }
        scope.spawn(move || in_time("upload", || try_put(cluster, "/late", b"late")));
        scope.spawn(move || in_time("download", || try_get(cluster, "/file-4").unwrap_err()));
    });
    cluster.nodes[0].start();
    until("the cluster serves again", Duration::from_secs(10), || cluster.dfs(["ls", "/"]).status == 0);
    assert_all_there(&cluster, &files);
    put(&cluster, "/late", b"in time");
    cluster.nodes[2].start();
    cluster.wait_healthy();
}

/// Runs what must fail for want of a quorum.
fn in_time(name: &str, command: impl FnOnce() -> Ran) {
    let start = Instant::now();
    let ran = command();
    eprintln!("{name} after {:?}: {}", start.elapsed(), ran.stderr.trim());
    assert!(start.elapsed() < ERROR_MAX, "{name} took {:?}", start.elapsed());
    last_word(ran).fails(1, &["quorum"]);
}

#[test]
fn a_node_that_hangs_stops_nothing_whether_it_leads_or_not() {
    let cluster = Cluster::start();
    let files = put_some(&cluster, "file", 700);
    let leader = cluster.leader();
    for victim in [(leader + 1) % 3, leader] {
        cluster.nodes[victim].signal(Signal::STOP);
        let timed = |name: &str, work: &dyn Fn()| {
            let start = Instant::now();
            work();
            eprintln!(
                "{name} with a hanging {}: {:?}",
                if victim == leader { "leader" } else { "node" },
                start.elapsed()
            );
            assert!(start.elapsed() < OPERATION_MAX, "{name} took {:?}", start.elapsed());
        };
        timed("mkdir", &|| drop(cluster.dfs(["mkdir", &format!("/dir-{victim}")]).ok()));
        timed("ls", &|| drop(cluster.dfs(["ls", "/"]).ok()));
        timed("upload", &|| put(&cluster, &format!("/new-{victim}"), &[7; 100_000]));
        for file in &files {
            timed(file.0, &|| assert_eq!(try_get(&cluster, file.0).unwrap().len(), file.1.len()));
        }
        cluster.nodes[victim].signal(Signal::CONT);
        cluster.wait_healthy();
    }
    assert_all_there(&cluster, &files);
}
