//! `dfs doctor` says how the cluster is, and its exit status says the same.

use std::{path::Path, time::Duration};

use harness::{Cluster, wait::until};
use serde_json::Value;

use crate::store::put;

/// How long the cluster may take to see a change, on a machine with much else to do.
const SEEN_MAX: Duration = Duration::from_secs(60);

/// Exit status and what was found.
fn examine(cluster: &Cluster) -> (i32, Value) {
    let ran = cluster.dfs(["doctor", "--json"]);
    assert_eq!(ran.stderr, "", "what is found stands on standard output");
    let diagnosis: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(diagnosis["status"], ran.status, "{diagnosis}");
    (ran.status, diagnosis)
}

/// Whether a finding of this kind is among them.
fn has(diagnosis: &Value, kind: &str) -> bool {
    diagnosis["findings"].as_array().unwrap().iter().any(|finding| finding["kind"] == kind)
}

/// The section of the README, with its commands run and what it says of exit statuses seen.
#[test]
fn the_doctor_finds_a_cluster_well_then_a_node_down_then_no_quorum_as_the_readme_says() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let section = readme.split("\n### ").find(|section| section.starts_with("What is wrong")).unwrap();
    for sentence in [
        "ends with 0 when all is well",
        "with 1 when something wants attention",
        "(`node-down`,",
        "with 3 when",
        "(`no-quorum`)",
    ] {
        assert!(section.contains(sentence), "{sentence}");
    }
    let mut cluster = Cluster::start();
    put(&cluster, "/file", &vec![7; 100_000]);
    until("all is well", SEEN_MAX, || examine(&cluster).0 == 0);
    let commands: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    dfs ")).collect();
    assert_eq!(commands.len(), 3);
    for command in commands {
        let words = command.split('#').next().unwrap().split_whitespace();
        let said = cluster.dfs(words).ok();
        assert!(said.contains("healthy") || said.contains("\"severity\": \"note\""), "{command}: {said}");
    }

    let killed = (cluster.leader() + 1) % 3;
    cluster.nodes[killed].kill();
    until("a node is down", SEEN_MAX, || {
        let (status, diagnosis) = examine(&cluster);
        status == 1 && has(&diagnosis, "node-down") && diagnosis["redundancy"]["lowest"] == 2
    });
    let ran = cluster.dfs(["doctor"]);
    assert_eq!(ran.status, 1);
    let address = cluster.nodes[killed].address.to_string();
    for word in [&*address, "is down: not heard for", "no other node could take over", "To do: start dfs-node"] {
        assert!(ran.stdout.contains(word), "{word:?} in {}", ran.stdout);
    }

    let second = (killed + 1) % 3;
    cluster.nodes[second].kill();
    until("the cluster has no quorum", SEEN_MAX, || {
        let (status, diagnosis) = examine(&cluster);
        status == 3 && has(&diagnosis, "no-quorum")
    });
    cluster.nodes[killed].start();
    cluster.nodes[second].start();
    until("all is well again", SEEN_MAX, || examine(&cluster).0 == 0);
}
