//! A majority of the voters is gone for good: `dfs-node recover`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Cluster, NodeProcess, Ran, cluster::run, node::free_address, tree, wait::until};
use serde_json::Value;
use tempfile::TempDir;

use crate::store::{Files, assert_all_there, find_in_segments, put, put_some, try_get};

/// An election, a snapshot and a few files, on a machine with much else to do.
const SOON: Duration = Duration::from_secs(60);

fn recover(node: &NodeProcess, arguments: &[&str]) -> Ran {
    run(node.command("dfs-node").arg("recover").arg("--data").arg(&node.data).args(arguments))
}

/// What a person compares.
fn position(said: &str) -> String {
    let line = said.lines().find_map(|line| line.strip_prefix("position "));
    line.unwrap_or_else(|| panic!("no position in {said}")).to_owned()
}

fn kill_all(cluster: &mut Cluster) {
    cluster.nodes.iter_mut().for_each(NodeProcess::kill);
}

fn wait_serving(cluster: &Cluster) {
    until("the namespace serves", SOON, || cluster.dfs(["ls", "/"]).status == 0);
}

/// Waits until these nodes, and no others, are members that are up, lack nothing, and own all of the ring between them.
fn wait_healed(cluster: &Cluster, members: &[usize]) {
    until("everything has its replicas", SOON, || {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let is_whole = |index: &usize| {
            let address = cluster.nodes[*index].address.to_string();
            nodes.iter().any(|node| {
                node["address"] == address.as_str()
                    && node["state"] == "up"
                    && node["store"]["lacking"] == 0
                    && node["partitions"] == 4096
                    && (node["role"] == "leader" || node["role"] == "voter")
            })
        };
        status["moves"]["transition"].is_null()
            && status["moves"]["endangered"] == 0
            && nodes.len() == members.len()
            && members.iter().all(is_whole)
    });
}

fn readme_section() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let section = readme.split("\n## ").find(|section| section.starts_with("When things go wrong"));
    section.expect("the section is there").to_owned()
}

/// Runs the commands of the README, in its order: the first of three nodes is left.
#[test]
fn the_commands_of_the_readme_bring_a_cluster_back_that_lost_two_of_three_nodes() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 2000);
    cluster.wait_replicated(0);
    recover(&cluster.nodes[0], &[]).fails(1, &["cannot recover", "in use"]);
    kill_all(&mut cluster);
    for lost in [1, 2] {
        fs::remove_dir_all(&cluster.nodes[lost].data).unwrap();
    }
    let section = readme_section();
    let mut ran = 0;
    for line in section.lines().filter_map(|line| line.strip_prefix("      ")) {
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        ran += 1;
        match words.as_slice() {
            ["dfs-node", "recover", "--data", _] => look_twice(&cluster),
            ["dfs-node", "recover", "--data", _, "--force"] => {
                let ran = recover(&cluster.nodes[0], &["--force"]);
                assert!(ran.stderr.contains("2 other voters and every change behind entry"), "{}", ran.stderr);
                assert!(ran.ok().contains("the only voter of the cluster now"));
                for again in [&["--force"][..], &[]] {
                    recover(&cluster.nodes[0], again).fails(1, &["nothing is to recover", "the only voter"]);
                }
            }
            ["dfs-node", "run", "--data", _] if ran == 3 => {
                cluster.nodes[0].start();
                wait_serving(&cluster);
                assert_all_there(&cluster, &files);
            }
            // The token is made, and the node started, by what adds nodes in every test.
            ["dfs", "token", "create", "--for", "node"] | ["dfs-node", "join", ..] => {}
            ["dfs-node", "run", "--data", _] => {
                cluster.add_node();
                cluster.add_node();
            }
            ["dfs", "remove", address, "--force"] => {
                let gone = if *address == "10.0.0.2:7400" { 1 } else { 2 };
                cluster.dfs(["remove", &cluster.nodes[gone].address.to_string(), "--force"]).ok();
            }
            other => panic!("{other:?} is not run by this test"),
        }
    }
    assert_eq!(ran, 8, "commands of the section");
    wait_healed(&cluster, &[0, 3, 4]);
    cluster.nodes[0].kill();
    wait_serving(&cluster);
    assert_all_there(&cluster, &files);
    put(&cluster, "/after", b"two of three are up");
}

/// Looking changes nothing, and says the same the next time.
fn look_twice(cluster: &Cluster) {
    let said = recover(&cluster.nodes[0], &[]).ok();
    for words in ["3 nodes vote", "does not answer", "is lost for good", "all 4096 partitions", "Nothing was changed"] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    let data = cluster.nodes[0].data.display().to_string();
    assert!(said.contains(&format!("dfs-node recover --data {data} --force\n")), "{said}");
    let authoritative = ["vote", "purged", "members"].map(|name| cluster.nodes[0].data.join("log").join(name));
    let before = authoritative.each_ref().map(|path| fs::read(path).unwrap());
    assert_eq!(position(&recover(&cluster.nodes[0], &[]).ok()), position(&said));
    assert_eq!(authoritative.map(|path| fs::read(path).unwrap()), before);
}

/// The one that is recovered lags, and has lost its chunks as well; the newer one comes back behind it.
#[test]
fn a_newer_survivor_follows_with_its_chunks_and_what_only_it_knew_is_gone_and_nothing_is_wrong() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 2100);
    cluster.wait_replicated(1);
    cluster.nodes[0].kill();
    put(&cluster, "/late", &[7; 100_000]);
    cluster.dfs(["rm", "/file-1"]).ok();
    kill_all(&mut cluster);
    fs::remove_dir_all(&cluster.nodes[2].data).unwrap();
    let positions = [0, 1].map(|index| position(&recover(&cluster.nodes[index], &[]).ok()));
    assert!(positions[0] < positions[1], "{positions:?}");
    recover(&cluster.nodes[1], &["--follow"]).fails(1, &["no node of the cluster answers"]);

    for lost in ["chunks", "index"] {
        fs::remove_dir_all(cluster.nodes[0].data.join(lost)).unwrap();
    }
    recover(&cluster.nodes[0], &["--force"]).ok();
    cluster.nodes[0].start();
    wait_serving(&cluster);
    assert_only_what_is_inline_is_read(&cluster, &files);

    recover(&cluster.nodes[1], &["--force"]).fails(1, &["was recovered on another node already", "--follow"]);
    // As it is, it takes no part in the namespace, and says what to do. Its chunks are there again.
    cluster.nodes[1].start();
    let told = "recovered without this node: stop it and run dfs-node recover";
    until("it is told", SOON, || cluster.nodes[1].log_text().contains(told));
    assert_all_there(&cluster, &files);
    until("it is not waited for", SOON, || cluster.node_status(1)["state"] == "down");
    cluster.nodes[1].kill();

    assert!(readme_section().contains("`dfs-node recover --data /srv/dfs --follow`, then `dfs-node run`"));
    let said = recover(&cluster.nodes[1], &["--follow"]).ok();
    assert!(said.contains("before-recovery-1"), "{said}");
    assert!(cluster.nodes[1].data.join("before-recovery-1/log/vote").exists(), "what it had is kept");
    cluster.nodes[1].start();
    until("it votes", SOON, || cluster.node_status(1)["role"] == "voter");
    assert!(try_get(&cluster, "/late").unwrap_err().stderr.contains("no such file"), "what only it knew is gone");
    put(&cluster, "/late", &[8; 50_000]);
    assert_eq!(try_get(&cluster, "/late").unwrap(), [8; 50_000]);
    assert_all_there(&cluster, &files);
    // Either of the two has all of the namespace now.
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    wait_serving(&cluster);
    assert_all_there(&cluster, &files);
}

/// "A file of which no copy of a chunk is left is an error to its reader, never other bytes."
fn assert_only_what_is_inline_is_read(cluster: &Cluster, files: &Files) {
    for path in ["/file-1", "/file-2"] {
        assert!(try_get(cluster, path).unwrap() == files[path], "{path}");
    }
    let refused = try_get(cluster, "/file-5").unwrap_err();
    assert!(refused.stderr.contains("/file-5: no replica of chunk"), "{}", refused.stderr);
}

/// By the survivor's map a partition lies with others than those that have it by now, and these are told of that map.
#[test]
fn what_has_moved_since_the_survivor_fell_silent_is_not_taken_for_left_over() {
    let mut cluster = Cluster::with(5, 3);
    let files = put_many(&cluster, 300);
    cluster.wait_healthy();
    until("everything has its replicas", SOON, || {
        let held = |node: &Value| node["store"]["chunks"].as_u64().unwrap_or_default();
        cluster.status()["nodes"].as_array().is_some_and(|nodes| nodes.iter().map(held).sum::<u64>() == 900)
    });
    let leader = cluster.leader();
    let votes = |index: &usize| *index != leader && cluster.node_status(*index)["role"] == "voter";
    let survivor = (1..5).find(votes).unwrap();
    // The first has the client's profile.
    let [drained, heir, first, second] =
        (0..5).filter(|index| *index != survivor).collect::<Vec<_>>().try_into().unwrap();
    cluster.nodes[survivor].kill();
    let held = || cluster.node_status(drained)["store"]["chunks"].as_u64().unwrap();
    let (held_before, before) = (held(), rows(&cluster, &files));
    let row = |nodes: [usize; 3]| nodes.map(|index| id(&cluster, index)).into_iter().collect::<BTreeSet<_>>();
    let (old, new) = (row([first, second, drained]), row([first, second, heir]));
    cluster.dfs(["drain", &cluster.nodes[drained].address.to_string()]).ok();
    until("something that only its heir is to have has gone over, and what is left over is dropped", SOON, || {
        let now = rows(&cluster, &files);
        let inherited = files.keys().filter(|path| before[*path] == old && now[*path] == new).count() as u64;
        inherited > 0 && held() + inherited <= held_before
    });

    kill_all(&mut cluster);
    for lost in [first, second] {
        fs::remove_dir_all(&cluster.nodes[lost].data).unwrap();
    }
    recover(&cluster.nodes[survivor], &["--force"]).ok();
    cluster.nodes[survivor].start();
    wait_serving(&cluster);
    for other in [drained, heir] {
        recover(&cluster.nodes[other], &["--follow"]).ok();
        cluster.nodes[other].start();
    }
    let heir = id(&cluster, heir);
    assert!(rows(&cluster, &files).values().all(|holders| holders.contains(&heir)), "what it has counts");
    assert_all_there(&cluster, &files);
    for lost in [first, second] {
        cluster.dfs(["remove", &cluster.nodes[lost].address.to_string(), "--force"]).ok();
    }
    until("everything has its replicas", SOON, || {
        let moves = cluster.status()["moves"].clone();
        moves["transition"].is_null() && moves["endangered"] == 0 && moves["unclean"] == 0
    });
    assert_all_there(&cluster, &files);
}

/// Uploads so many files of one chunk each.
fn put_many(cluster: &Cluster, count: u64) -> Files {
    let place = TempDir::new_in(cluster.dir()).unwrap();
    let files: Files = (0..count).map(|index| (format!("/many-{index}"), tree::bytes(index, 20_000))).collect();
    let local = |path: &String| place.path().join(&path[1..]);
    files.iter().for_each(|(path, bytes)| fs::write(local(path), bytes).unwrap());
    run(cluster.command().arg("upload").args(files.keys().map(local)).arg("/")).ok();
    files
}

/// Who owns or may hold the chunk of each file, by the map of now.
fn rows(cluster: &Cluster, files: &Files) -> BTreeMap<String, BTreeSet<String>> {
    let said = run(cluster.command().args(["stat", "--json"]).args(files.keys())).ok();
    let entries: Vec<Value> = serde_json::from_str(&said).unwrap();
    let ids =
        |list: &Value| list.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let holders = |extent: &Value| [&extent["nodes"], &extent["may_hold"]].into_iter().flat_map(ids).collect();
    files.keys().cloned().zip(entries.iter().map(|entry| holders(&entry["extents"][0]))).collect()
}

fn id(cluster: &Cluster, index: usize) -> String {
    cluster.node_status(index)["id"].as_str().unwrap().to_owned()
}

/// Wherever a reset is cut short: the node starts as what it was, or does not start, and the same command finishes it.
#[test]
fn a_survivor_that_was_stopped_half_way_to_follow_is_finished_by_the_same_command() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 2200);
    cluster.wait_replicated(0);
    kill_all(&mut cluster);
    recover(&cluster.nodes[0], &["--force"]).ok();
    cluster.nodes[0].start();
    wait_serving(&cluster);
    let data = cluster.nodes[1].data.clone();
    let saved = cluster.path("saved");
    let names = ["log", "state", "seal.key"];
    names.iter().for_each(|name| copy(&data.join(name), &saved.join(name)));
    for moved in 1..=names.len() - 1 {
        for name in names {
            remove(&data.join(name));
            copy(&saved.join(name), &data.join(name));
        }
        // In the order in which they are put aside.
        for name in ["state", "log"].iter().take(moved) {
            remove(&data.join(name));
        }
        if moved == 2 {
            let node = &mut cluster.nodes[1];
            node.spawn();
            assert!(!node.serves_or_ends(), "without its log it must not vote");
            node.kill();
        }
        recover(&cluster.nodes[1], &["--follow"]).ok();
    }
    assert!(!find_in_segments(&data, &files["/file-4"]).is_empty(), "its chunks stay");
    cluster.nodes[1].start();
    until("it votes", SOON, || cluster.node_status(1)["role"] == "voter");
    assert_all_there(&cluster, &files);
}

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap()
    } else if path.exists() {
        fs::remove_file(path).unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        let entries: Vec<PathBuf> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.iter().for_each(|entry| copy(entry, &to.join(entry.file_name().unwrap())));
    } else {
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn where_nothing_is_to_recover_one_line_says_why_and_nothing_changes() {
    let mut cluster = Cluster::start();
    put(&cluster, "/file", b"bytes");
    let foreign = cluster.path("foreign");
    fs::create_dir(&foreign).unwrap();
    let node = NodeProcess::new(foreign, free_address(), None);
    recover(&node, &[]).fails(1, &["is not a dfs data directory"]);
    recover(&cluster.nodes[1], &["--force"]).fails(1, &["cannot recover", "in use"]);
    // Two of three are a majority, and they answer.
    let victim = (cluster.leader() + 1) % 3;
    cluster.nodes[victim].kill();
    for arguments in [&["--force"][..], &[]] {
        recover(&cluster.nodes[victim], arguments).fails(1, &["2 of the other voters answer", "dfs-node run"]);
    }
    recover(&cluster.nodes[victim], &["--follow"]).fails(1, &["was not recovered without this node"]);
    cluster.nodes[victim].start();
    cluster.wait_healthy();
    put(&cluster, "/after", b"as if nothing had been");
}
