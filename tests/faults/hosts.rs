//! A cluster over several hosts.

use std::{fs::OpenOptions, os::unix::fs::FileExt, process::Command, time::Duration};

use harness::{Cluster, Hosts, Mount, NodeProcess, cluster::run, hosts::command_in, tree, wait::until};

use crate::store::Files;

fn add(cluster: &mut Cluster, hosts: &Hosts, index: usize) {
    let data = cluster.path(&format!("host-{index}")).join("srv");
    std::fs::create_dir_all(data.parent().unwrap()).unwrap();
    let node = NodeProcess::new(data, Hosts::address(index), Some(hosts.host(index)));
    cluster.add_node_with(node, &[]);
}

/// A command on a host of its own that is no node, with the profile that `dfs login` made there.
fn on(cluster: &Cluster, hosts: &Hosts, index: usize) -> Command {
    let mut command = command_in(Some(&hosts.host(index)), "dfs");
    command.env("XDG_CONFIG_HOME", cluster.path("laptop"));
    command
}

#[test]
fn a_cluster_over_several_hosts_survives_the_loss_of_one_and_takes_in_more_as_root() {
    // Hosts 0 to 3 are nodes, host 4 is the client's.
    let hosts = Hosts::make(5);
    let mut cluster = Cluster::empty(3);
    cluster.set_profile("host-0/srv/admin");
    add(&mut cluster, &hosts, 0);
    let source = cluster.path("source");
    std::fs::write(&source, tree::bytes(5, 5 << 20)).unwrap();
    let put = |cluster: &Cluster, path: &str| run(cluster.command().arg("upload").arg(&source).arg(path));
    until("the first node answers", Duration::from_secs(20), || cluster.status()["missing"] == 2);
    put(&cluster, "/early").fails(1, &["2 more node"]);
    add(&mut cluster, &hosts, 1);
    until("the second node is known", Duration::from_secs(20), || cluster.status()["missing"] == 1);
    put(&cluster, "/early").fails(1, &["1 more node"]);
    add(&mut cluster, &hosts, 2);
    cluster.wait_healthy();

    let token = cluster.dfs(["token", "create", "--for", "client"]).ok();
    run(on(&cluster, &hosts, 4).args(["login", token.trim()])).ok();
    run(on(&cluster, &hosts, 4).args(["login", "--profile", "second", token.trim()])).fails(1, &["used"]);
    let files: Files = (0..4).map(|n| (format!("/file-{n}"), tree::bytes(50 + n, (5 << 20) + 17))).collect();
    let upload = |path: &str, bytes: &[u8]| {
        let local = cluster.path("local");
        std::fs::write(&local, bytes).unwrap();
        run(on(&cluster, &hosts, 4).arg("upload").arg(&local).arg(path)).ok();
    };
    let download = |path: &str| {
        let local = cluster.path("back");
        run(on(&cluster, &hosts, 4).args(["download", path]).arg(&local)).ok();
        let bytes = std::fs::read(&local).unwrap();
        std::fs::remove_file(local).unwrap();
        bytes
    };
    for (path, bytes) in &files {
        upload(path, bytes);
    }
    // The first host too, whose address is the first in every profile.
    for lost in [0, 2] {
        hosts.cable(lost, "down");
        for (path, bytes) in &files {
            assert!(download(path) == *bytes, "{path}");
        }
        upload(&format!("/meanwhile-{lost}"), &tree::bytes(60, 300_000));
        let see = || -> serde_json::Value {
            let ran = run(on(&cluster, &hosts, 4).args(["status", "--json"]));
            serde_json::from_str(&ran.stdout).unwrap_or_default()
        };
        let address = Hosts::address(lost).to_string();
        until("the host is seen down", Duration::from_secs(10), || {
            let nodes = see()["nodes"].as_array().cloned().unwrap_or_default();
            nodes.iter().any(|node| node["address"] == address.as_str() && node["state"] == "down")
        });
        hosts.cable(lost, "up");
        cluster.wait_healthy();
        cluster.wait_replicated(lost);
    }

    add(&mut cluster, &hosts, 3);
    cluster.wait_healthy();
    until("the new host has its share", Duration::from_secs(120), || cluster.node_status(3)["partitions"] == 3072);
    for (path, bytes) in &files {
        let local = cluster.path("back");
        run(on(&cluster, &hosts, 4).args(["download", path]).arg(&local)).ok();
        assert!(std::fs::read(&local).unwrap() == *bytes, "{path}");
        std::fs::remove_file(local).unwrap();
    }
    drop(cluster);
}

/// P3 where what was written takes longer to arrive than others like to wait.
#[test]
fn a_mount_on_a_slow_line_loses_nothing_to_another_that_looks_at_once_as_root() {
    const LEN: usize = 8 << 20;
    // Hosts 0 to 2 are nodes; 3 has the slow line, 4 looks.
    let hosts = Hosts::make(5);
    let mut cluster = Cluster::empty(3);
    cluster.set_profile("host-0/srv/admin");
    (0..3).for_each(|index| add(&mut cluster, &hosts, index));
    cluster.wait_healthy();
    let slow = Mount::on(&cluster, "slow", &hosts.host(3));
    let other = Mount::on(&cluster, "other", &hosts.host(4));
    let path = |mount: &Mount| mount.path("file");
    std::fs::write(path(&slow), tree::bytes(1, LEN)).unwrap();
    assert!(std::fs::read(path(&other)).unwrap() == tree::bytes(1, LEN));
    // Three replicas, at two megabytes a second.
    hosts.slow(3, "16mbit");
    for round in 2..4 {
        let written = OpenOptions::new().write(true).open(path(&slow)).unwrap();
        written.write_all_at(&tree::bytes(round, LEN), 0).unwrap();
        let seen = std::fs::read(path(&other)).unwrap();
        assert!(seen == tree::bytes(round, LEN), "round {round}");
        written.sync_all().unwrap();
        assert!(std::fs::read(path(&slow)).unwrap() == seen, "round {round}");
    }
}
