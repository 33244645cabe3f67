//! P2: what was synced is there, whoever dies; what was closed is there after an orderly end.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use harness::{Cluster, Mount, tree, wait::until};

/// Small, middling and large files, written in different ways, each with what it must hold.
fn write_files(root: &Path, sync: impl Fn(&File)) -> Vec<(String, Vec<u8>)> {
    let mut written = Vec::new();
    for (name, len) in [("empty", 0), ("small", 100), ("inline", 4096), ("outside", 4097), ("middling", 300_000)] {
        let bytes = tree::bytes(len as u64, len);
        let mut file = File::create(root.join(name)).unwrap();
        file.write_all(&bytes).unwrap();
        sync(&file);
        written.push((name.to_owned(), bytes));
    }
    let mut large = tree::bytes(1, 9 << 20);
    let file = File::create(root.join("large")).unwrap();
    file.write_all_at(&large, 0).unwrap();
    sync(&file);
    let patch = tree::bytes(2, 70_000);
    file.write_all_at(&patch, 4_190_000).unwrap();
    large[4_190_000..4_260_000].copy_from_slice(&patch);
    sync(&file);
    written.push(("large".to_owned(), large));
    let mut log = OpenOptions::new().append(true).create(true).open(root.join("log")).unwrap();
    let mut lines = Vec::new();
    for number in 0..50 {
        let line = format!("line {number}\n");
        log.write_all(line.as_bytes()).unwrap();
        lines.extend_from_slice(line.as_bytes());
    }
    sync(&log);
    written.push(("log".to_owned(), lines));
    // Saved as editors do.
    let file = File::create(root.join("small.new")).unwrap();
    file.write_all_at(b"another small one", 0).unwrap();
    sync(&file);
    fs::rename(root.join("small.new"), root.join("small")).unwrap();
    sync(&File::open(root).unwrap());
    written.retain(|(name, _)| name != "small");
    written.push(("small".to_owned(), b"another small one".to_vec()));
    written
}

fn assert_there(root: &Path, written: &[(String, Vec<u8>)]) {
    for (name, bytes) in written {
        let found = fs::read(root.join(name)).unwrap();
        let first = found.iter().zip(bytes).position(|(one, other)| one != other);
        assert!(found == *bytes, "{name}: {} of {} bytes, first wrong {first:?}", found.len(), bytes.len());
    }
    let mut names: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let mut expected: Vec<_> = written.iter().map(|(name, _)| name.into()).collect::<Vec<std::ffi::OsString>>();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn what_was_synced_survives_sigkill_of_the_mount_and_the_same_command_mounts_again() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let written = write_files(mount.dir(), |file| file.sync_all().unwrap());
    mount.kill();
    assert!(fs::read_dir(mount.dir()).is_err(), "the mount point is dead");
    mount.start(&cluster, &[]);
    assert_there(mount.dir(), &written);
}

#[test]
fn what_was_synced_survives_sigkill_of_everything_at_once() {
    let mut cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let written = write_files(mount.dir(), |file| file.sync_data().unwrap());
    let synced = OpenOptions::new().write(true).create(true).truncate(true).open(mount.path("log")).unwrap();
    synced.write_all_at(b"the last word", 0).unwrap();
    synced.sync_data().unwrap();
    cluster.nodes.iter_mut().for_each(harness::NodeProcess::kill);
    mount.kill();
    cluster.nodes.iter_mut().for_each(harness::NodeProcess::spawn);
    cluster.wait_healthy();
    mount.start(&cluster, &[]);
    let mut expected = written;
    expected.iter_mut().filter(|(name, _)| name == "log").for_each(|(_, bytes)| *bytes = b"the last word".to_vec());
    assert_there(mount.dir(), &expected);
}

#[test]
fn sigterm_stores_what_was_written_and_unmounts() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let written = write_files(mount.dir(), |_| {});
    let status = mount.terminate();
    assert!(status.success(), "{status}: {}", mount.last_words());
    assert_eq!(fs::read_dir(mount.dir()).unwrap().count(), 0, "nothing is mounted");
    mount.start(&cluster, &[]);
    assert_there(mount.dir(), &written);
}

#[test]
fn umount_returns_when_what_was_written_is_stored() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let written = write_files(mount.dir(), |_| {});
    mount.unmount(&cluster);
    for (name, bytes) in &written {
        let copy = cluster.path("copy");
        cluster.dfs(["download", &format!("/{name}"), copy.to_str().unwrap()]).ok();
        assert!(fs::read(&copy).unwrap() == *bytes, "{name}");
        fs::remove_file(copy).unwrap();
    }
}

#[test]
fn commands_and_mounts_see_each_others_changes_at_once() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    for round in 0..10 {
        let text = format!("round {round}");
        fs::write(mount.path("file"), &text).unwrap();
        assert_eq!(cluster.dfs(["cat", "/file"]).ok(), text);
        let local = cluster.path("local");
        fs::write(&local, format!("upload {round}")).unwrap();
        cluster.dfs(["upload", local.to_str().unwrap(), "/file"]).ok();
        assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), format!("upload {round}"));
    }
}

#[test]
fn what_nobody_synced_is_stored_a_moment_later() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let file = File::create(mount.path("file")).unwrap();
    file.write_all_at(&tree::bytes(1, 100_000), 0).unwrap();
    let stored =
        || cluster.status()["usage"]["bytes"].as_u64().unwrap_or_else(|| panic!("{}", cluster.status()["usage"]));
    until("it is stored", Duration::from_secs(15), || stored() >= 100_000);
    mount.kill();
    drop(file);
    mount.start(&cluster, &[]);
    assert!(fs::read(mount.path("file")).unwrap() == tree::bytes(1, 100_000));
}
