//! Disks without room.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::PathBuf,
    time::Duration,
};

use harness::{Cluster, Mount, NodeProcess, Ran, SmallDisk, node::free_address, tree, wait::until};

use crate::store::{Files, assert_all_there, last_word, put, try_put};

/// A cluster, the last `small` of its three nodes on small disks, which are to go before its directory.
fn start(small: usize) -> (Cluster, Vec<SmallDisk>) {
    let mut cluster = Cluster::empty(3);
    let mut disks = Vec::new();
    if small == 3 {
        cluster.set_profile("disk-0/node/admin");
    }
    for index in 0..3 {
        if index < 3 - small {
            cluster.add_node();
        } else {
            let disk = SmallDisk::mount(cluster.path(&format!("disk-{index}")), 400);
            let data = disk.dir().join("node");
            cluster.add_node_with(NodeProcess::new(data, free_address(), None), &[]);
            disks.push(disk);
        }
    }
    cluster.wait_healthy();
    (cluster, disks)
}

fn warned_of(cluster: &Cluster, kind: &str) -> usize {
    let status = cluster.status();
    let warnings = status["warnings"].as_array().cloned().unwrap_or_default();
    warnings.iter().filter(|warning| warning["kind"] == kind).count()
}

/// Files of 6 MiB, more than the segments in use have room for.
fn large_files(name: &str, count: u64) -> Files {
    (0..count).map(|number| (format!("/{name}-{number}"), tree::bytes(number + count * 100, 6 << 20))).collect()
}

#[test]
fn with_one_disk_full_writes_succeed_status_warns_and_what_was_missed_is_fetched_later_as_root() {
    let (mut cluster, disks) = start(1);
    disks[0].fill(30);
    let files = large_files("file", 7);
    for (path, bytes) in &files {
        put(&cluster, path, bytes);
    }
    until("the status warns", Duration::from_secs(10), || warned_of(&cluster, "disk-full") == 1);
    let text = cluster.dfs(["status"]).ok();
    assert!(text.contains("Warning: ") && text.contains("is full"), "{text}");
    assert_all_there(&cluster, &files);
    disks[0].give_back();
    until("the warning goes", Duration::from_secs(20), || warned_of(&cluster, "disk-full") == 0);
    cluster.wait_replicated(2);
    cluster.wait_healthy();
    crate::store::leave_chunks_only_on(&mut cluster, 2);
    assert_all_there(&cluster, &files);
}

#[test]
fn with_more_disks_full_than_the_quorum_spares_writers_get_an_error_while_reads_and_removals_go_on_as_root() {
    let (cluster, disks) = start(2);
    let before = large_files("before", 1);
    for (path, bytes) in &before {
        put(&cluster, path, bytes);
    }
    for disk in &disks {
        disk.fill(30);
    }
    let mut stored = Files::new();
    let mut refused = None;
    for (path, bytes) in large_files("file", 10) {
        let ran = try_put(&cluster, &path, &bytes);
        if ran.status == 0 {
            stored.insert(path, bytes);
        } else {
            refused = Some((path, ran));
            break;
        }
    }
    let (path, ran) = refused.expect("the disks are full long before ten files");
    eprintln!("{}", ran.stderr.trim());
    last_word(ran).fails(1, &[&path, "full"]);
    until("the status warns", Duration::from_secs(10), || warned_of(&cluster, "disk-full") == 2);
    last_word(cluster.dfs(["stat", &path])).fails(1, &["no such file"]);
    assert_all_there(&cluster, &stored);
    assert_all_there(&cluster, &before);
    put(&cluster, "/small", b"small files live with their names and need no chunk");
    let mount = Mount::new(&cluster, "mnt");
    let (taken, file) = write_until_refused(&mount, "written");
    what_finds_no_room_goes_when_it_is_told_to(&cluster, &mount);
    for path in before.keys() {
        cluster.dfs(["rm", path]).ok();
    }
    assert_all_there(&cluster, &stored);
    for disk in &disks {
        disk.give_back();
    }
    until("writes go on", Duration::from_secs(20), || {
        try_put(&cluster, "/again", &tree::bytes(1, 6 << 20)).status == 0
    });
    until("what the mount took in is stored", Duration::from_secs(20), || file.sync_all().is_ok());
    assert_all_there(&cluster, &Files::from([("/written".to_owned(), taken)]));
    until("the mount takes more", Duration::from_secs(10), || fs::write(mount.path("more"), [7; 1 << 20]).is_ok());
}

/// Writes on a mount until that says that there is no room; what it took in before, which no `fsync` takes for stored.
fn write_until_refused(mount: &Mount, name: &str) -> (Vec<u8>, fs::File) {
    const PIECE: usize = 1 << 20;
    const PIECES_MAX: u64 = 1000;
    let mut file = fs::File::create(mount.path(name)).unwrap();
    let mut taken = Vec::new();
    for number in 0..PIECES_MAX {
        let piece = tree::bytes(number, PIECE);
        match file.write(&piece) {
            Ok(len) => taken.extend_from_slice(&piece[..len]),
            Err(error) => {
                eprintln!("on a mount: {} bytes, then {error}", taken.len());
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                let unsynced = file.sync_all().unwrap_err();
                assert_eq!(unsynced.kind(), ErrorKind::StorageFull, "{unsynced}");
                let closed = nix::unistd::close(file.try_clone().unwrap());
                assert_eq!(closed, Err(nix::errno::Errno::ENOSPC), "who does not sync is told as well");
                // What needs no chunk still has room: others on this mount go on.
                fs::write(mount.path("short"), b"few bytes").unwrap();
                return (taken, file);
            }
        }
    }
    panic!("a mount takes in without end what cannot be stored");
}

/// Cut and removed, what cannot be stored is no trouble any more.
fn what_finds_no_room_goes_when_it_is_told_to(cluster: &Cluster, mount: &Mount) {
    let inodes = || cluster.status()["usage"]["inodes"].as_u64().unwrap();
    let (_, cut) = write_until_refused(mount, "cut");
    cut.set_len(5).unwrap();
    assert_eq!(cut.metadata().unwrap().len(), 5);
    cut.set_len(0).unwrap();
    cut.sync_all().expect("nothing is left to be stored");
    drop(cut);
    let before = inodes();
    let (_, gone) = write_until_refused(mount, "gone");
    fs::remove_file(mount.path("gone")).unwrap();
    drop(gone);
    until("a removed file is gone", Duration::from_secs(30), || inodes() == before);
}

/// More directories than there is room for.
const DIRECTORIES_MAX: u32 = 100_000;

fn make_directories(cluster: &Cluster, name: &str) -> Ran {
    let dirs = (0..100).map(|number| format!("/{name}-{number}-{}", "x".repeat(200)));
    cluster.dfs(["mkdir", "-p"].map(str::to_owned).into_iter().chain(dirs))
}

/// Directories, made on a mount, which answers for the cluster while it may, until it says that there is no room.
fn fill_with_directories(mount: &Mount) -> Vec<PathBuf> {
    let mut made = Vec::new();
    for number in 0..DIRECTORIES_MAX {
        let dir = mount.path(&format!("made-{number}-{}", "x".repeat(200)));
        match fs::create_dir(&dir) {
            Ok(()) => made.push(dir),
            Err(error) => {
                eprintln!("on a mount: {number} directories, then {error}");
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                return made;
            }
        }
    }
    panic!("the room that was kept back has no end");
}

/// Another program takes every byte there is on every node, and what the namespace writes finds no room.
#[test]
fn with_every_disk_full_to_the_last_byte_nodes_live_and_only_what_takes_room_is_refused_as_root() {
    let (mut cluster, disks) = start(3);
    let before = large_files("before", 2);
    for (path, bytes) in &before {
        put(&cluster, path, bytes);
    }
    until("room is kept back", Duration::from_secs(10), || {
        disks.iter().all(|disk| disk.dir().join("node/ballast").exists())
    });
    let mount = Mount::new(&cluster, "mnt");
    fs::write(mount.path("there"), b"before").unwrap();
    for disk in &disks {
        disk.fill(0);
    }
    until("every node lives on what it kept back", Duration::from_secs(30), || {
        disks.iter().all(|disk| !disk.dir().join("node/ballast").exists())
    });
    // Small changes go on from that, and stop before it is gone, too.
    until("small changes go on", Duration::from_secs(30), || make_directories(&cluster, "first").status == 0);
    disks.iter().for_each(|disk| disk.fill(21));
    let made = fill_with_directories(&mount);
    let unwritten = fs::write(mount.path("small"), b"a file").unwrap_err();
    assert_eq!(unwritten.kind(), ErrorKind::StorageFull, "{unwritten}");
    // What could not be stored is told by fsync, and kept until there is room.
    fs::write(mount.path("there"), b"what comes to be there").unwrap();
    let unsynced = fs::File::options().write(true).open(mount.path("there")).unwrap().sync_all().unwrap_err();
    assert_eq!(unsynced.kind(), ErrorKind::StorageFull, "{unsynced}");
    let ran = make_directories(&cluster, "second");
    eprintln!("{}", ran.stderr.trim());
    last_word(ran).fails(1, &["full"]);
    assert_all_there(&cluster, &before);
    made.iter().for_each(|dir| fs::remove_dir(dir).unwrap());
    for path in before.keys() {
        cluster.dfs(["rm", path]).ok();
    }
    for (node, disk) in cluster.nodes.iter_mut().zip(&disks) {
        assert!(node.is_running(), "a node has ended: {}", node.last_words());
        disk.give_back();
    }
    until("writes go on", Duration::from_secs(30), || {
        try_put(&cluster, "/again", &tree::bytes(1, 6 << 20)).status == 0
    });
    until("what a mount has kept is stored", Duration::from_secs(30), || {
        cluster.dfs(["cat", "/there"]).stdout == "what comes to be there"
    });
    until("room is kept back again", Duration::from_secs(10), || {
        disks.iter().all(|disk| disk.dir().join("node/ballast").exists())
    });
    cluster.wait_healthy();
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.wait_healthy();
    assert_all_there(&cluster, &Files::from([("/again".to_owned(), tree::bytes(1, 6 << 20))]));
}
