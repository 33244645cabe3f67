//! What shows: `ls`, `tree`, `stat`, `cat`, `du`, `df`, `status`, `nodes`, `ring`.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

use harness::{Cluster, cluster::run, tree};
use serde_json::Value;

use crate::round_trip::set_times;

const MIB: usize = 1 << 20;

/// A cluster with `/d`: `big` of 5 MiB, `small`, `.hidden`, `sub/` with `file`, `link`.
fn furnished() -> Cluster {
    let cluster = Cluster::start();
    let dir = cluster.path("d");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("big"), tree::bytes(1, 5 * MIB)).unwrap();
    fs::write(dir.join("small"), b"0123456789").unwrap();
    fs::write(dir.join(".hidden"), b"").unwrap();
    fs::write(dir.join("sub/file"), b"x").unwrap();
    std::os::unix::fs::symlink("small", dir.join("link")).unwrap();
    set_times(&dir.join("small"), 1_577_880_000, 0);
    cluster.dfs(["upload", "-r", dir.to_str().unwrap(), "/"]).ok();
    cluster
}

fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    serde_json::from_str(&cluster.dfs(arguments).ok()).unwrap()
}

#[test]
fn ls_lists_as_ls_does() {
    let cluster = furnished();
    assert_eq!(cluster.dfs(["ls", "/d"]).ok(), "big\nlink\nsmall\nsub\n");
    assert_eq!(cluster.dfs(["ls", "-a", "/d"]).ok(), ".\n..\n.hidden\nbig\nlink\nsmall\nsub\n");
    assert_eq!(cluster.dfs(["ls", "-d", "/d"]).ok(), "/d\n");
    assert_eq!(cluster.dfs(["ls", "-R", "/d"]).ok(), "/d:\nbig\nlink\nsmall\nsub\n\n/d/sub:\nfile\n");
    let local = cluster.path("d");
    for options in [&["-l"][..], &["-la"], &["-ld"], &["-lh"], &["-lR"]] {
        let ours = cluster.dfs([&["ls"], options, &["/d"]].concat()).ok();
        let theirs = run(std::process::Command::new("ls").env("LC_ALL", "C").args(options).arg(&local)).ok();
        let theirs = theirs.replace(local.to_str().unwrap(), "/d");
        // Totals, sizes of directories and the width of columns that follow from them differ.
        let rows = |text: &str| {
            let rows = text.lines().filter(|line| !line.starts_with("total") && !line.ends_with(" .."));
            let words = rows.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
            let without_size = words.map(|mut row| {
                if row.first().is_some_and(|mode| mode.starts_with('d')) && row.len() > 4 {
                    row.remove(4);
                }
                row
            });
            without_size.collect::<Vec<_>>()
        };
        assert_eq!(rows(&ours), rows(&theirs), "{options:?}");
    }
    cluster.dfs(["ls", "/nowhere"]).fails(1, &["cannot list '/nowhere'", "no such file or directory"]);
}

#[test]
fn ls_speaks_json_for_names_of_any_bytes() {
    let cluster = furnished();
    let odd = OsStr::from_bytes(b"odd \xff");
    fs::write(cluster.path("d").join(odd), b"odd").unwrap();
    let path = cluster.path("d").join(odd);
    cluster.dfs([OsStr::new("upload"), path.as_os_str(), OsStr::new("/d")]).ok();
    let list = json(&cluster, &["ls", "-l", "--json", "/d"]);
    let by = |field: &str, value: &str| {
        let found = list.as_array().unwrap().iter().find(|entry| entry[field] == value);
        found.unwrap_or_else(|| panic!("{field} {value}: {list}")).clone()
    };
    let small = by("name", "small");
    assert_eq!((&small["size"], &small["type"], &small["path"]), (&10.into(), &"file".into(), &"/d/small".into()));
    assert_eq!(small["modified"], "2020-01-01T12:00:00.000000000Z");
    let odd = by("name_base64", "b2RkIP8=");
    assert_eq!((&odd["name"], &odd["size"]), (&Value::Null, &3.into()));
    assert_eq!(by("name", "link")["target"], "small");
    let deep = json(&cluster, &["ls", "-R", "--json", "/d"]);
    assert!(deep.as_array().unwrap().iter().any(|entry| entry["path"] == "/d/sub/file"), "{deep}");
}

#[test]
fn tree_draws_what_is_there() {
    let cluster = furnished();
    let drawn = cluster.dfs(["tree", "/d"]).ok();
    let expected = "/d\n├── big\n├── link\n├── small\n└── sub\n    └── file\n\n2 directories, 4 files\n";
    assert_eq!(drawn, expected);
    let value = json(&cluster, &["tree", "--json", "/d"]);
    assert_eq!(value[0]["contents"][3]["contents"][0]["name"], "file", "{value}");
    cluster.dfs(["tree", "/nowhere"]).fails(1, &["cannot list '/nowhere'", "no such file or directory"]);
}

#[test]
fn stat_shows_extents_keys_and_the_nodes_that_hold_them() {
    let cluster = furnished();
    let all = json(&cluster, &["stat", "--json", "/d/big", "/d/small"]);
    let extents = all[0]["extents"].as_array().unwrap();
    let bytes = tree::bytes(1, 5 * MIB);
    let (first, second) = bytes.split_at(4 * MIB);
    for (extent, part) in extents.iter().zip([first, second]) {
        assert_eq!(extent["chunk"], blake3::hash(part).to_hex().as_str());
        assert_eq!(extent["len"], part.len());
        let nodes = extent["nodes"].as_array().unwrap();
        let mut distinct: Vec<_> = nodes.iter().map(|node| node.as_str().unwrap()).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 3, "{extent}");
    }
    assert_eq!((extents.len(), &extents[1]["offset"]), (2, &(4 * MIB).into()));
    assert_eq!((&all[0]["size"], &all[1]["size"]), (&(5 * MIB).into(), &10.into()));
    let text = cluster.dfs(["stat", "/d/big"]).ok();
    let key = blake3::hash(first).to_hex();
    let addresses = cluster.nodes.iter().map(|node| node.address.to_string());
    for words in addresses.chain(["5,242,880 bytes".to_owned(), key.to_string()]) {
        assert!(text.contains(&words), "{words}: {text}");
    }
    cluster.dfs(["stat", "/nowhere"]).fails(1, &["'/nowhere'", "no such file or directory"]);
}

#[test]
fn cat_writes_bytes_and_nothing_else() {
    let cluster = furnished();
    assert_eq!(cluster.dfs(["cat", "/d/small", "/d/link"]).ok(), "01234567890123456789");
    let output = cluster.command().args(["cat", "/d/big"]).output().unwrap();
    assert!(output.status.success() && output.stdout == tree::bytes(1, 5 * MIB));
    cluster.dfs(["cat", "/d"]).fails(1, &["cannot read '/d'"]);
    let ran = cluster.dfs(["cat", "/nowhere", "/d/small"]);
    assert_eq!(ran.stdout, "0123456789", "the others are still read");
    ran.fails(1, &["cannot read '/nowhere'", "no such file or directory"]);
}

#[test]
fn du_and_df_add_up() {
    let cluster = furnished();
    let du = json(&cluster, &["du", "-s", "--json", "/d"]);
    let bytes = du[0]["bytes"].as_u64().unwrap();
    assert!((5 * MIB as u64..5 * MIB as u64 + 4096).contains(&bytes), "{du}");
    assert!(cluster.dfs(["du", "-sh", "/d"]).ok().starts_with("5."), "{du}");
    cluster.dfs(["du", "/nowhere"]).fails(1, &["'/nowhere'", "no such file or directory"]);
    let df = json(&cluster, &["df", "--json"]);
    assert_eq!((&df["replicas"], &df["inodes"]), (&3.into(), &8.into()));
    assert!(df["free"].as_u64().unwrap() > 0 && df["used"].as_u64().unwrap() > 0, "{df}");
    assert!(cluster.dfs(["df", "-h"]).ok().contains("Use%"));
}

#[test]
fn status_nodes_and_ring_tell_of_the_cluster() {
    let cluster = furnished();
    let status = cluster.status();
    assert_eq!((&status["health"], &status["missing"], &status["replicas"]), (&"ok".into(), &0.into(), &3.into()));
    assert_eq!(status["warnings"], Value::Array(Vec::new()));
    let text = cluster.dfs(["status"]).ok();
    assert!(text.contains("is healthy: 3 of 3 nodes are up, 3 replicas of each chunk"), "{text}");
    let nodes = json(&cluster, &["nodes", "--json"]);
    let nodes = nodes["nodes"].as_array().unwrap().clone();
    let leaders = nodes.iter().filter(|node| node["role"] == "leader").count();
    let up = nodes.iter().filter(|node| node["state"] == "up").count();
    assert_eq!((nodes.len(), leaders, up), (3, 1, 3));
    let table = cluster.dfs(["nodes"]).ok();
    for node in &cluster.nodes {
        assert!(table.contains(&node.address.to_string()), "{table}");
    }
    let ring = cluster.dfs(["ring"]).ok();
    assert!(ring.contains("partitions"), "{ring}");
    json(&cluster, &["ring", "--json"]);
}
