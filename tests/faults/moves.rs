//! Nodes that come and go for good: what they hold moves, and nothing is missed.

use std::{path::Path, process::Stdio, time::Duration};

use harness::{Cluster, NodeProcess, cluster::run, node::free_address, wait::until};
use serde_json::Value;

use crate::store::{assert_all_there, last_word, put, put_some};

/// How long a few files may take to move, on a machine with much else to do.
const MOVED_MAX: Duration = Duration::from_secs(120);

/// Partitions of the ring, and replicas of each.
const PLACES: u64 = 4096 * 3;

/// A cluster of `count` nodes that give up who is silent for `out_after`.
fn cluster(count: usize, out_after: &str) -> Cluster {
    let mut cluster = Cluster::empty(3);
    for _ in 0..count {
        add_node(&mut cluster, out_after);
    }
    cluster.wait_healthy();
    wait_moved(&cluster, count);
    cluster
}

fn add_node(cluster: &mut Cluster, out_after: &str) {
    let data = cluster.dir().join(format!("node-{}", cluster.nodes.len() + 1));
    let mut node = NodeProcess::new(data, free_address(), None);
    node.arguments = vec!["--out-after".to_owned(), out_after.to_owned()];
    cluster.add_node_with(node, &[]);
}

/// Waits until `holders` nodes hold equal shares of the ring, all of its replicas, and nothing moves.
fn wait_moved(cluster: &Cluster, holders: usize) {
    until(&format!("{holders} nodes hold everything"), MOVED_MAX, || {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let shares: Vec<u64> =
            nodes.iter().filter_map(|node| node["partitions"].as_u64()).filter(|count| *count > 0).collect();
        let fair = PLACES / holders as u64;
        status["moves"]["transition"].is_null()
            && status["moves"]["endangered"] == 0
            && shares.len() == holders
            && shares.iter().all(|share| (fair..=fair + 1).contains(share))
    });
}

/// Waits until the fourth node stands in `zone`, and has the largest share there is: a replica of everything.
fn wait_placed(cluster: &Cluster, zone: &str) {
    until("its share fits its place", MOVED_MAX, || {
        let status = cluster.status();
        let node = &status["nodes"][3];
        let is_settled = status["moves"]["transition"].is_null() && status["moves"]["endangered"] == 0;
        node["zone"] == zone && node["partitions"] == PLACES / 3 && is_settled
    });
}

fn chunks_of(status: &Value) -> u64 {
    status["nodes"].as_array().unwrap().iter().filter_map(|node| node["store"]["chunks"].as_u64()).sum()
}

fn address(cluster: &Cluster, index: usize) -> String {
    cluster.nodes[index].address.to_string()
}

fn state(cluster: &Cluster, index: usize) -> String {
    cluster.node_status(index)["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_node_that_joins_takes_its_share_while_files_are_written_and_every_byte_still_verifies() {
    let mut cluster = cluster(3, "10m");
    let mut files = put_some(&cluster, "before", 100);
    let all_three = |cluster: &Cluster| chunks_of(&cluster.status()).is_multiple_of(3);
    until("the third replicas have come", MOVED_MAX, || all_three(&cluster));
    add_node(&mut cluster, "10m");
    until("the ring changes", MOVED_MAX, || !cluster.status()["moves"]["transition"].is_null());
    files.extend(put_some(&cluster, "meanwhile", 200));
    assert_all_there(&cluster, &files);
    wait_moved(&cluster, 4);
    assert_all_there(&cluster, &files);
    // The old owners have dropped what they own no longer.
    until("nothing is held too often or too rarely", MOVED_MAX, || all_three(&cluster));
    // Whichever node dies now, the new one serves what it took over.
    cluster.nodes[0].kill();
    assert_all_there(&cluster, &files);
    put(&cluster, "/after", b"three of four are up");
}

#[test]
fn what_a_lost_node_held_is_made_again_and_then_another_may_die() {
    let mut cluster = cluster(4, "4s");
    let files = put_some(&cluster, "file", 300);
    let lost = (cluster.leader() + 1) % 4;
    cluster.nodes[lost].kill();
    until("it is given up", MOVED_MAX, || state(&cluster, lost) == "out");
    wait_moved(&cluster, 3);
    until("the voters are three that are up", MOVED_MAX, || {
        let nodes = cluster.status()["nodes"].as_array().cloned().unwrap_or_default();
        let votes = |node: &&Value| node["role"] == "leader" || node["role"] == "voter";
        nodes.iter().filter(votes).count() == 3 && nodes.iter().filter(votes).all(|node| node["state"] != "out")
    });
    let second = cluster.leader();
    cluster.nodes[second].kill();
    assert_all_there(&cluster, &files);
    put(&cluster, "/after", b"two of three holders are up");
    // The first comes back, is taken back in, and takes the place of the second.
    cluster.nodes[lost].start();
    until("the second is given up", MOVED_MAX, || state(&cluster, second) == "out");
    wait_moved(&cluster, 3);
    assert_all_there(&cluster, &files);
}

#[test]
fn a_drain_goes_on_when_the_leader_dies() {
    let mut cluster = cluster(4, "10m");
    let files = put_some(&cluster, "file", 400);
    let leader = cluster.leader();
    let drained = (leader + 1) % 4;
    let name = address(&cluster, drained);
    assert!(cluster.dfs(["drain", &name]).ok().contains("dfs status tells"));
    until("partitions move", MOVED_MAX, || !cluster.status()["moves"]["transition"].is_null());
    cluster.nodes[leader].kill();
    until("another leads", MOVED_MAX, || {
        let nodes = cluster.status()["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().any(|node| node["role"] == "leader" && node["address"] != address(&cluster, leader).as_str())
    });
    cluster.nodes[leader].start();
    assert!(cluster.dfs(["drain", &name, "--wait"]).ok().contains("holds nothing any more"));
    assert_eq!(cluster.node_status(drained)["partitions"], 0);
    // A voter that is drained is replaced.
    until("it does not vote", MOVED_MAX, || cluster.node_status(drained)["role"] == "learner");
    cluster.nodes[drained].kill();
    assert_all_there(&cluster, &files);
}

#[test]
fn whoever_waits_for_a_drain_is_told_when_somebody_takes_it_back() {
    let mut cluster = cluster(4, "10m");
    let drained = (cluster.leader() + 1) % 4;
    // What comes to a node that is down does not come: this drain has no end.
    cluster.nodes[(drained + 1) % 4].kill();
    let name = address(&cluster, drained);
    let mut command = cluster.command();
    let mut waiting = command.args(["drain", &name, "--wait"]).stderr(Stdio::piped()).spawn().unwrap();
    until("it is being drained", MOVED_MAX, || state(&cluster, drained) == "draining");
    until("status says what goes where, and how few copies there are meanwhile", MOVED_MAX, || {
        let transition = cluster.status()["moves"]["transition"].clone();
        let moves = transition["moves"].as_array().cloned().unwrap_or_default();
        moves.iter().any(|step| step["from"] == cluster.node_status(drained)["id"]) && transition["lowest"] == 2
    });
    let text = cluster.dfs(["status"]).ok();
    assert!(text.contains("has fewest has 2 sure copies.") && text.contains("FROM"), "{text}");
    assert!(waiting.try_wait().unwrap().is_none());
    assert!(cluster.dfs(["drain", &name, "--cancel"]).ok().contains("its share again"));
    until("the one who waits is told", MOVED_MAX, || waiting.try_wait().unwrap().is_some());
    let ran = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.trim_end().lines().last().unwrap().contains("the drain of node"), "{said}");
    assert!(said.contains("was taken back"), "{said}");
}

/// Runs the commands of the README, in its order, with the addresses of this machine.
#[test]
fn the_commands_of_the_readme_add_drain_and_remove_machines() {
    let mut cluster = cluster(3, "10m");
    let files = put_some(&cluster, "file", 500);
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let section = readme.split("\n## ").find(|section| section.starts_with("Adding and removing machines")).unwrap();
    let mut token = String::new();
    let mut ran = 0;
    for line in section.lines().filter_map(|line| line.strip_prefix("    ")) {
        let words: Vec<String> = line.split('#').next().unwrap().split_whitespace().map(str::to_owned).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        ran += 1;
        match words.as_slice() {
            ["dfs", "token", ..] => token = cluster.dfs(&words[1..]).ok().trim().to_owned(),
            ["dfs-node", "join", "--data", _, "--listen", _, "--token", _] => {
                let data = cluster.dir().join("node-4");
                let node = NodeProcess::new(data.clone(), free_address(), None);
                let mut join = node.command("dfs-node");
                join.args(["join", "--data"]).arg(data).args([
                    "--listen",
                    &node.address.to_string(),
                    "--token",
                    &token,
                ]);
                run(&mut join).ok();
                cluster.nodes.push(node);
            }
            ["dfs-node", "run", "--data", _, place @ ..] => {
                if let ["--zone", zone, "--capacity", _] = place {
                    cluster.nodes[3].stop();
                    cluster.nodes[3].arguments = place.iter().map(|word| (*word).to_owned()).collect();
                    cluster.nodes[3].start();
                    wait_placed(&cluster, zone);
                    // Until it is started without.
                    cluster.nodes[3].stop();
                    cluster.nodes[3].arguments.clear();
                }
                cluster.nodes[3].start();
                wait_moved(&cluster, 4);
            }
            ["dfs", ..] => run_documented(&cluster, &words),
            other => panic!("{other:?} is not run by this test"),
        }
    }
    assert_eq!(ran, 11, "commands of the section");
    // Two of the four nodes are no members any more.
    cluster.nodes[2].kill();
    cluster.nodes[1].kill();
    assert_all_there(&cluster, &files);
}

/// Runs a documented `dfs` command; what it is about to say is checked, and what must be refused before it.
fn run_documented(cluster: &Cluster, words: &[&str]) {
    let mut arguments: Vec<String> = words[1..].iter().map(|word| (*word).to_owned()).collect();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let documented = format!("10.0.0.{}:7400", index + 1);
        for argument in arguments.iter_mut().filter(|argument| **argument == documented) {
            *argument = node.address.to_string();
        }
    }
    let third = address(cluster, 2);
    match words {
        ["dfs", "drain", _, "--wait"] => {
            let held = last_word(cluster.dfs(["remove", &third]));
            held.fails(1, &["cannot remove", "partitions of the ring", "dfs drain"]);
            assert!(cluster.dfs(&arguments).ok().contains("holds nothing any more"));
            let few = cluster.dfs(["drain", &address(cluster, 1)]);
            few.fails(1, &["cannot drain", "only 2 other nodes", "add a node first"]);
        }
        ["dfs", "ring", "plan", "--drain", _] => {
            let plan = cluster.dfs(&arguments).ok();
            assert!(plan.starts_with("3,072 replicas of partitions move, about "), "{plan}");
        }
        ["dfs", "remove", _] => {
            let said = cluster.dfs(&arguments).ok();
            assert!(said.contains("is not a member of the cluster any more"), "{said}");
            assert_eq!(cluster.status()["nodes"].as_array().map(Vec::len), Some(3));
            cluster.dfs(["remove", &third]).fails(1, &["no node has this address"]);
            // What was removed is spoken to no longer, and cannot come back.
            let log = || cluster.nodes[2].log_text();
            until("it knows that it is out", MOVED_MAX, || log().contains("not a member"));
            cluster.dfs(["remove", &address(cluster, 1)]).fails(1, &["cannot remove", "--force"]);
        }
        ["dfs", "remove", _, "--force"] => {
            let ran = cluster.dfs(&arguments);
            assert!(ran.stderr.contains("by force: 4,096 partitions lose a replica"), "{}", ran.stderr);
            ran.ok();
        }
        _ => drop(cluster.dfs(&arguments).ok()),
    }
}
