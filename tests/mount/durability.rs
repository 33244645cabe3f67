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

/// Bytes of one of a row of writes to one file: two streams by turns, pages here and there, and a head that is written over
/// again and again.
fn write_numbered(file: &File, number: u64) -> std::io::Result<()> {
    let (offset, len) = place_of(number);
    let mut bytes = vec![7; len];
    bytes[..8].copy_from_slice(&(number + 1).to_le_bytes());
    file.write_all_at(&bytes, offset)
}

fn place_of(number: u64) -> (u64, usize) {
    let round = number / 64;
    match number % 64 {
        0 => (0, 100),
        1 => ((1 << 30) + round * 3_000_000, 4096),
        // Three whole chunks.
        step @ 2..50 => ((1 << 40) + (round * 48 + step - 2) * (256 << 10), 256 << 10),
        step => ((1 << 41) + (round * 14 + step - 50) * (100 << 10), 100 << 10),
    }
}

#[test]
fn of_bytes_that_nobody_synced_only_the_last_are_missing_when_the_mount_is_killed() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    for round in 0..3_u64 {
        let path = mount.path(&format!("file-{round}"));
        let file = File::create(&path).unwrap();
        file.sync_all().unwrap();
        let began = std::time::Instant::now();
        let done = std::thread::scope(|scope| {
            let writer =
                scope.spawn(|| (0..100_000).take_while(|number| write_numbered(&file, *number).is_ok()).count());
            while began.elapsed() < Duration::from_millis(400 + 350 * round) {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            mount.kill();
            writer.join().unwrap() as u64
        });
        drop(file);
        mount.start(&cluster, &[]);
        let file = File::open(&path).unwrap();
        let found = |number: u64| {
            let mut stamp = [0; 8];
            let read = file.read_at(&mut stamp, place_of(number).0).unwrap();
            if read == 8 { u64::from_le_bytes(stamp) } else { 0 }
        };
        let is_head = |number: u64| number.is_multiple_of(64);
        let there: Vec<u64> = (0..=done).filter(|number| !is_head(*number) && found(*number) == number + 1).collect();
        // The head may be the last that was stored.
        let stored = there.last().map_or(0, |last| last + 1).max(found(0));
        eprintln!("round {round}: of {done} writes the first {stored} were stored");
        let expected: Vec<u64> = (0..stored).filter(|number| !is_head(*number)).collect();
        assert_eq!(there, expected, "round {round}: these are there of {done} writes");
        let head = (0..stored).rfind(|number| is_head(*number)).map_or(0, |number| number + 1);
        assert_eq!(found(0), head, "round {round}: the head after {stored} of {done} writes");
    }
}
