//! Data directories: one cluster, one version, one process each.

use std::{fs, net::UdpSocket, path::Path, process::Command, time::Duration};

use harness::{
    Cluster, NodeProcess, Ran,
    cluster::run,
    node::{free_address, program},
    wait::until,
};

fn dfs_node(arguments: &[&str], data: &Path) -> Ran {
    run(Command::new(program("dfs-node")).args(arguments).arg("--data").arg(data))
}

fn init(data: &Path) -> Ran {
    dfs_node(&["init", "--replicas", "1", "--listen", &free_address().to_string()], data)
}

/// What a node that cannot run says last.
fn refusal(data: &Path) -> String {
    let ran = dfs_node(&["run", "--log", "off"], data);
    assert_eq!((ran.status, ran.stderr.lines().count()), (1, 1), "{}", ran.stderr);
    ran.stderr
}

#[test]
fn a_directory_in_use_is_refused_and_its_user_goes_on() {
    let mut cluster = Cluster::with(1, 1);
    let data = cluster.nodes[0].data.clone();
    let line = refusal(&data);
    assert!(line.contains(data.to_str().unwrap()) && line.contains("in use"), "{line}");
    init(&data).status(1);
    cluster.dfs(["mkdir", "/still-here"]).ok();
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    assert_eq!(cluster.dfs(["ls", "/"]).ok(), "still-here\n");
}

#[test]
fn a_directory_of_another_cluster_is_neither_overwritten_nor_let_in() {
    let (mut ours, theirs) = (Cluster::with(1, 1), Cluster::with(1, 1));
    ours.dfs(["mkdir", "/ours"]).ok();
    ours.nodes[0].kill();
    let data = ours.nodes[0].data.clone();
    init(&data).fails(1, &["belongs to cluster", "choose another directory"]);
    let token = theirs.dfs(["token", "create", "--for", "node"]).ok();
    let address = free_address().to_string();
    let join = ["join", "--listen", &address, "--token", token.trim()];
    dfs_node(&join, &data).fails(1, &["belongs to cluster", "choose another directory"]);
    ours.nodes[0].start();
    assert_eq!(ours.dfs(["ls", "/"]).ok(), "ours\n");
}

#[test]
fn a_directory_of_another_version_or_of_something_else_is_named_and_left_alone() {
    let cluster = Cluster::empty(1);
    let data = cluster.path("data");
    init(&data).ok();
    let file = data.join("node.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("format = 1", "format = 7")).unwrap();
    let line = refusal(&data);
    assert!(line.contains("has data format 7, this program reads format 1"), "{line}");
    fs::write(&file, "format = ").unwrap();
    let line = refusal(&data);
    assert!(line.contains("node.toml") && line.contains("damaged"), "{line}");

    let foreign = cluster.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), b"years of work").unwrap();
    init(&foreign).fails(1, &["is not empty and is no dfs data directory"]);
    assert_eq!(fs::read(foreign.join("thesis.tex")).unwrap(), b"years of work");
    let line = refusal(&foreign);
    assert!(line.contains("is not a dfs data directory"), "{line}");
    let line = refusal(&cluster.path("nowhere"));
    assert!(line.contains("is not a dfs data directory"), "{line}");
}

/// Directory of the first release, see `tests/fixtures/README.md`.
fn unpack(data: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1.tar.gz");
    fs::create_dir_all(data).unwrap();
    run(Command::new("tar").arg("--no-same-owner").arg("-xzf").arg(fixture).arg("-C").arg(data)).ok();
}

/// Makes each of the first two copies, `len` bytes long, in a file another version's: one byte, and the sum at `sum_at`
/// over all the rest.
fn make_later(path: &Path, len: usize, (version_at, version): (usize, u8), sum_at: usize) {
    let mut bytes = fs::read(path).unwrap();
    for copy in bytes.chunks_mut(len).take(2) {
        copy[version_at] = version;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&copy[..sum_at]), &copy[sum_at + 4..]);
        copy[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

fn make_state_later(data: &Path) {
    use node::kv::{FjallConfig, FjallKv, KvRead, KvStore, WriteBatch};
    let kv = FjallKv::open(&data.join("state"), FjallConfig::default()).unwrap();
    // The row that says how far the others reach.
    let mut row = kv.get(b"\0raft").unwrap().unwrap();
    row[0] = 2;
    let mut batch = WriteBatch::default();
    batch.put(b"\0raft", row);
    kv.commit(batch).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(kv.persist()).unwrap();
}

/// "One line says which version it has, and what to do."
#[test]
fn each_part_of_a_directory_that_a_later_version_wrote_is_refused_by_name() {
    let cluster = Cluster::empty(1);
    fn log(data: &Path, of: &str) -> std::path::PathBuf {
        data.join(of).join("0000000000000001.log")
    }
    type Change = Box<dyn Fn(&Path)>;
    let changes: [(&str, Change); 4] = [
        ("chunks", Box::new(|data| make_later(&log(data, "chunks"), 512, (8, 2), 508))),
        ("log", Box::new(|data| make_later(&log(data, "log/log"), 512, (8, 2), 508))),
        ("vote", Box::new(|data| make_later(&data.join("log/vote"), 4096, (7, b'2'), 28))),
        ("state", Box::new(make_state_later)),
    ];
    for (name, change) in changes {
        let data = cluster.path(name);
        unpack(&data);
        change(&data);
        let ran = dfs_node(&["run", "--log", "off", "--listen", &free_address().to_string()], &data);
        let line = ran.stderr;
        eprintln!("{name}: {}", line.trim());
        assert_eq!((ran.status, line.lines().count()), (1, 1), "{name}: {line}");
        let told = ["version 2", "this program reads 1", "run the version that wrote it"];
        assert!(told.iter().all(|word| line.contains(word)), "{name}: {line}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let mut cluster = Cluster::empty(1);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut node = NodeProcess::new(cluster.path("node-1"), address, None);
    let data = node.data.clone();
    dfs_node(&["init", "--replicas", "1", "--listen", &address.to_string()], &data).ok();
    let line = refusal(&data);
    assert!(line.contains(&format!("cannot listen on {address}")) && line.contains("in use"), "{line}");
    drop(taken);
    node.start();
    cluster.nodes.push(node);
    cluster.wait_healthy();
}

/// "An address given here is told to the cluster."
#[test]
fn a_node_that_listens_everywhere_tells_the_cluster_where_it_is_reached_now() {
    let mut cluster = Cluster::empty(2);
    cluster.add_node();
    let everywhere = |port: u16| std::net::SocketAddr::from(([0, 0, 0, 0], port));
    let (before, after) = (free_address(), free_address());
    let node = NodeProcess::new(cluster.path("node-2"), everywhere(before.port()), None);
    cluster.add_node_with(node, &["--advertise", &before.to_string()]);
    cluster.wait_healthy();
    let is_reached = |cluster: &Cluster, address: std::net::SocketAddr| {
        let nodes = cluster.status()["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().any(|node| node["address"] == address.to_string().as_str() && node["state"] == "up")
    };
    assert!(is_reached(&cluster, before));
    cluster.nodes[1].stop();
    let (listen, advertise) = (everywhere(after.port()).to_string(), after.to_string());
    cluster.nodes[1].arguments = ["--listen", &listen, "--advertise", &advertise].map(str::to_owned).to_vec();
    cluster.nodes[1].start();
    until("it is reached at its new address", Duration::from_secs(60), || is_reached(&cluster, after));
    let file = cluster.path("file");
    fs::write(&file, vec![7; 100_000]).unwrap();
    // Both replicas are written: the quorum of two is two.
    cluster.dfs(["upload", file.to_str().unwrap(), "/"]).ok();
}

/// "An address, zone or capacity given here is told to the cluster, and counts until the node is started without it; chunks
/// move accordingly."
#[test]
fn a_node_that_is_started_with_another_zone_and_capacity_gets_the_share_that_fits_them() {
    let mut cluster = Cluster::empty(2);
    for _node in 0..3 {
        cluster.add_node();
    }
    cluster.wait_healthy();
    let third =
        |cluster: &Cluster| cluster.status()["nodes"].as_array().and_then(|nodes| nodes.get(2).cloned()).unwrap();
    let before = third(&cluster);
    until("it has its share", Duration::from_secs(60), || third(&cluster)["partitions"].as_u64() > Some(2000));
    let file = cluster.path("file");
    fs::write(&file, vec![7; 5_000_000]).unwrap();
    cluster.dfs(["upload", file.to_str().unwrap(), "/"]).ok();

    let has = |node: &serde_json::Value, zone: &serde_json::Value, weight: &serde_json::Value| {
        node["zone"] == *zone && node["weight"] == *weight && node["state"] == "up"
    };
    cluster.nodes[2].stop();
    cluster.nodes[2].arguments = ["--zone", "rack-2", "--capacity", "1GiB"].map(str::to_owned).to_vec();
    cluster.nodes[2].start();
    until("its chunks have gone", Duration::from_secs(60), || {
        let node = third(&cluster);
        has(&node, &"rack-2".into(), &1.into()) && node["partitions"].as_u64() < Some(200)
    });
    cluster.dfs(["cat", "/file"]).ok();

    // The leader, too; and without a word it is as it was.
    cluster.nodes[2].stop();
    cluster.nodes[2].arguments = Vec::new();
    cluster.nodes[2].start();
    cluster.nodes[0].stop();
    cluster.nodes[0].arguments = ["--zone", "rack-1"].map(str::to_owned).to_vec();
    cluster.nodes[0].start();
    until("all is as they said", Duration::from_secs(60), || {
        let node = third(&cluster);
        let first = cluster.status()["nodes"][0]["zone"] == "rack-1";
        has(&node, &before["zone"], &before["weight"]) && node["partitions"].as_u64() > Some(2000) && first
    });
    cluster.dfs(["cat", "/file"]).ok();
}

#[test]
fn what_a_node_is_asked_to_do_that_cannot_be_is_wrong_usage() {
    let cluster = Cluster::empty(1);
    let data = cluster.path("data");
    let reach = ["no address that others can reach", "--advertise"];
    dfs_node(&["init", "--listen", "0.0.0.0:7400"], &data).fails(2, &reach);
    assert!(!data.exists());
    init(&data).ok();
    dfs_node(&["run", "--log", "off", "--listen", "0.0.0.0:7400"], &data).fails(2, &reach);
    dfs_node(&["run", "--log", "off", "--advertise", "127.0.0.1:0"], &data).fails(2, &reach);
    dfs_node(&["run", "--log", "dfs=loud"], &data).fails(2, &["--log dfs=loud"]);
    dfs_node(&["run", "--out-after", "soon"], &data).status(2);
}

#[test]
fn init_that_was_killed_half_way_can_be_run_again() {
    let cluster = Cluster::empty(1);
    for round in 0..6u64 {
        let data = cluster.path(&format!("data-{round}"));
        let mut command = Command::new(program("dfs-node"));
        command.args(["init", "--replicas", "1", "--listen", &free_address().to_string(), "--data"]).arg(&data);
        command.stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let files = round;
        until("some files are there, or all", Duration::from_secs(10), || {
            let there = fs::read_dir(&data).map_or(0, |entries| entries.count() as u64);
            there >= files || child.try_wait().unwrap().is_some()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        if !data.join("node.toml").exists() {
            init(&data).ok();
        }
        let mut node = NodeProcess::new(data, free_address(), None);
        node.start();
    }
}
