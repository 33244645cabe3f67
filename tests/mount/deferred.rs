//! Changes of names and attributes that a mount answers before the leader has them: nobody can tell, but by killing the
//! mount, and then only the last of them are missing.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Mount, wait::until};
use rustix::process::Signal;
use wire::lease::TERM;

/// Changes in one directory, in an order that can be told from what is there afterwards.
const CHANGES: usize = 3_000;

/// What can be seen of a directory: kind, mode, links, size and target or bytes of each entry.
fn look(dir: &Path) -> BTreeMap<String, (u32, u64, u64, Vec<u8>)> {
    let see = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let meta = entry.path().symlink_metadata().unwrap();
        let bytes = match meta.file_type() {
            of if of.is_symlink() => fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes(),
            of if of.is_file() => fs::read(entry.path()).unwrap(),
            _ => Vec::new(),
        };
        (entry.file_name().into_string().unwrap(), (meta.mode(), meta.nlink(), meta.size(), bytes))
    };
    fs::read_dir(dir).unwrap().map(see).collect()
}

/// Every kind of change that is made without asking, in a directory of one's own.
fn change(dir: &Path, round: usize) {
    fs::create_dir(dir).unwrap();
    let path = |name: &str| dir.join(name);
    for name in ["kept", "moved", "replaced", "gone"] {
        File::create(path(name)).unwrap();
    }
    fs::write(path("written"), format!("round {round}")).unwrap();
    std::os::unix::fs::symlink(format!("target {round}"), path("link")).unwrap();
    fs::create_dir(path("dir")).unwrap();
    fs::create_dir(path("dir/gone")).unwrap();
    fs::hard_link(path("kept"), path("second")).unwrap();
    fs::rename(path("moved"), path("dir/moved")).unwrap();
    fs::rename(path("written"), path("replaced")).unwrap();
    fs::rename(path("dir"), path("folder")).unwrap();
    fs::remove_file(path("gone")).unwrap();
    fs::remove_dir(path("folder/gone")).unwrap();
    fs::set_permissions(path("kept"), Permissions::from_mode(0o640 | u32::try_from(round % 8).unwrap())).unwrap();
}

#[test]
fn what_one_mount_did_in_its_own_directory_is_there_for_another_that_looks_at_once() {
    let cluster = Cluster::start();
    let mounts = [Mount::new(&cluster, "a"), Mount::new(&cluster, "b")];
    for round in 0..40 {
        let (here, there) = (&mounts[round % 2], &mounts[(round + 1) % 2]);
        let name = format!("round-{round}");
        change(&here.path(&name), round);
        let seen = look(&there.path(&name));
        let mode = 0o100_640 | u32::try_from(round % 8).unwrap();
        let text = format!("round {round}").into_bytes();
        assert_eq!(
            seen.keys().map(String::as_str).collect::<Vec<_>>(),
            ["folder", "kept", "link", "replaced", "second"]
        );
        assert_eq!((seen["kept"].0, seen["kept"].1), (mode, 2), "round {round}");
        assert_eq!(seen["second"], seen["kept"]);
        assert_eq!(seen["replaced"].3, text);
        assert_eq!(seen["link"].3, format!("target {round}").into_bytes());
        assert_eq!(look(&there.path(&name).join("folder")).keys().collect::<Vec<_>>(), ["moved"]);
        assert_eq!(look(&here.path(&name)), seen, "round {round}: both see the same");
        let times = |mount: &Mount| {
            let meta = fs::metadata(mount.path(&name)).unwrap();
            (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec(), meta.ino(), meta.nlink())
        };
        assert_eq!(times(here), times(there), "round {round}");
    }
}

#[test]
fn a_tree_that_others_have_looked_at_is_changed_by_one_mount_and_seen_by_the_other_at_any_moment() {
    let cluster = Cluster::start();
    let mounts = [Mount::new(&cluster, "a"), Mount::new(&cluster, "b")];
    let (here, there) = (mounts[0].path("dir"), mounts[1].path("dir"));
    fs::create_dir(&here).unwrap();
    (0..300).for_each(|number| fs::write(here.join(format!("{number:03}")), [b'x'; 10]).unwrap());
    let mut expected = look(&there);
    // The other mount looks now and then: what the first has taken for itself comes back, and is taken again.
    for number in 0..300 {
        let (name, moved) = (format!("{number:03}"), format!("moved-{number:03}"));
        match number % 3 {
            0 => fs::remove_file(here.join(&name)).unwrap(),
            1 => fs::rename(here.join(&name), here.join(&moved)).unwrap(),
            _ => fs::hard_link(here.join(&name), here.join(&moved)).unwrap(),
        }
        let entry = if number % 3 == 2 { expected.get(&name).cloned() } else { expected.remove(&name) };
        let entry = entry.map(|(mode, links, size, bytes)| (mode, links + u64::from(number % 3 == 2), size, bytes));
        if number % 3 == 2 {
            expected.insert(name, entry.clone().unwrap());
        }
        if number % 3 != 0 {
            expected.insert(moved, entry.unwrap());
        }
        if [5, 6, 50, 120, 121, 250, 299].contains(&number) {
            assert_eq!(look(&there), expected, "after {number}");
        }
    }
    assert_eq!(look(&here), expected);
    fs::remove_dir_all(&here).unwrap();
    assert!(!there.exists());
}

#[test]
fn a_directory_that_was_synced_keeps_its_names_when_the_mount_is_killed() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let dir = mount.path("dir");
    change(&dir, 1);
    for number in 0..500 {
        File::create(dir.join(format!("{number}"))).unwrap();
    }
    let before = look(&dir).into_keys().collect::<Vec<_>>();
    File::open(&dir).unwrap().sync_all().unwrap();
    mount.kill();
    mount.start(&cluster, &[]);
    assert_eq!(look(&dir).into_keys().collect::<Vec<_>>(), before);
}

#[test]
fn a_file_that_was_synced_keeps_all_its_names_and_those_that_lead_to_it_when_the_mount_is_killed() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    fs::write(mount.path("a/b/c/new"), "synced").unwrap();
    fs::rename(mount.path("a/b/c/new"), mount.path("a/b/name")).unwrap();
    fs::hard_link(mount.path("a/b/name"), mount.path("a/other")).unwrap();
    File::open(mount.path("a/b/name")).unwrap().sync_all().unwrap();
    mount.kill();
    mount.start(&cluster, &[]);
    assert_eq!(fs::read_to_string(mount.path("a/b/name")).unwrap(), "synced");
    assert_eq!(fs::read_to_string(mount.path("a/other")).unwrap(), "synced");
    assert!(!mount.path("a/b/c/new").exists());
}

#[test]
fn of_changes_that_nobody_synced_only_the_last_are_missing_when_the_mount_is_killed() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    for round in 0..4 {
        let dir = mount.path(&format!("dir-{round}"));
        fs::create_dir(&dir).unwrap();
        File::open(&dir).unwrap().sync_all().unwrap();
        let began = Instant::now();
        // Each file is made under a first name and gets its last; the one before the last is removed.
        let done = thread::scope(|scope| {
            let worker = scope.spawn(|| (0..CHANGES).take_while(|number| step(&dir, *number).is_ok()).count());
            while began.elapsed() < Duration::from_millis(150 * (round + 1)) {
                thread::park_timeout(Duration::from_millis(5));
            }
            mount.kill();
            worker.join().unwrap()
        });
        mount.start(&cluster, &[]);
        assert_is_a_moment(&dir, done, round);
    }
}

fn step(dir: &Path, number: usize) -> io::Result<()> {
    fs::write(dir.join("first"), bytes_of(number))?;
    fs::rename(dir.join("first"), dir.join(format!("{number}")))?;
    number.checked_sub(2).map_or(Ok(()), |before| fs::remove_file(dir.join(format!("{before}"))))
}

/// What a step writes, if it writes anything.
fn bytes_of(number: usize) -> Vec<u8> {
    if number.is_multiple_of(3) { Vec::new() } else { number.to_string().repeat(number % 500).into_bytes() }
}

/// Whether the directory is as it was at one moment, not after `done` steps and the next; a name has its bytes.
fn assert_is_a_moment(dir: &Path, done: usize, round: u64) {
    let names: Vec<String> = look(dir).into_keys().collect();
    let mut numbers: Vec<usize> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    let first = names.iter().any(|name| name == "first");
    eprintln!("round {round}: {done} steps, found {names:?}");
    let last = numbers.last().map_or(0, |last| last + 1);
    assert!(last <= done + 1, "round {round}: {done} steps, but {names:?}");
    let right = match numbers.as_slice() {
        [] => true,
        [0] => true,
        [one, two] => one + 1 == *two,
        [one, two, three] => one + 1 == *two && two + 1 == *three && !first,
        _ => false,
    };
    assert!(right, "round {round}: {done} steps, and this never was: {names:?}");
    for number in numbers {
        assert_eq!(fs::read(dir.join(number.to_string())).unwrap(), bytes_of(number), "round {round}: file {number}");
    }
}

#[test]
fn a_leader_that_is_killed_loses_no_change_that_was_answered_and_makes_none_twice() {
    let mut cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let dir = mount.path("dir");
    fs::create_dir(&dir).unwrap();
    let leader = cluster.leader();
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            for number in 0..CHANGES {
                step(&dir, number).unwrap();
            }
        });
        thread::park_timeout(Duration::from_millis(100));
        cluster.nodes[leader].kill();
        worker.join().unwrap();
    });
    let expected = [format!("{}", CHANGES - 2), format!("{}", CHANGES - 1)];
    assert_eq!(look(&dir).into_keys().collect::<Vec<_>>(), expected);
    File::open(&dir).unwrap().sync_all().unwrap();
    cluster.nodes[leader].start();
    mount.kill();
    mount.start(&cluster, &[]);
    assert_eq!(look(&dir).into_keys().collect::<Vec<_>>(), expected);
}

#[test]
fn changes_that_were_answered_are_made_though_the_cluster_was_away_for_longer_than_the_leases() {
    let cluster = Cluster::start();
    let mounts = [Mount::new(&cluster, "a"), Mount::new(&cluster, "b")];
    let dir = mounts[0].path("own");
    fs::create_dir(&dir).unwrap();
    let path = |name: &str| dir.join(name);
    for number in 0..16 {
        File::create(path(&format!("before-{number}"))).unwrap();
    }
    File::open(&dir).unwrap().sync_all().unwrap();
    cluster.nodes.iter().for_each(|node| node.signal(Signal::STOP));
    let away = Instant::now();
    fs::create_dir(path("made")).unwrap();
    for number in 0..16 {
        File::create(path(&format!("made/new-{number}"))).unwrap();
        fs::rename(path(&format!("before-{number}")), path(&format!("made/old-{number}"))).unwrap();
    }
    fs::hard_link(path("made/old-3"), path("second")).unwrap();
    fs::remove_file(path("made/new-5")).unwrap();
    assert!(away.elapsed() < TERM, "they were answered by the mount alone");
    until("the leases have ended", TERM * 4, || away.elapsed() > TERM * 2);
    cluster.nodes.iter().for_each(|node| node.signal(Signal::CONT));
    File::open(&dir).unwrap().sync_all().unwrap();
    for mount in &mounts {
        let seen = look(&mount.path("own"));
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["made", "second"]);
        assert_eq!(seen["second"].1, 2);
        let made = look(&mount.path("own/made"));
        let names = (0..16).flat_map(|number| [format!("new-{number}"), format!("old-{number}")]);
        let expected: std::collections::BTreeSet<_> = names.filter(|name| name != "new-5").collect();
        assert_eq!(made.keys().cloned().collect::<std::collections::BTreeSet<_>>(), expected);
    }
}
