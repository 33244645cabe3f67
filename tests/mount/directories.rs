//! Listing directories that are large, and change meanwhile.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use harness::{Cluster, Mount, cluster::run};
use rustix::fs::{Dir, Mode, OFlags, SeekFrom, open, seek};

/// Entries that stay.
const ENTRIES: usize = 20_000;

/// A cluster with a directory `/large` of so many empty files.
fn with_large_directory(cluster: &Cluster, count: usize) {
    let local = cluster.path("large");
    fs::create_dir(&local).unwrap();
    for number in 0..count {
        File::create(local.join(format!("stays-{number:05}"))).unwrap();
    }
    run(cluster.command().args(["upload", "-q", "-r"]).arg(&local).arg("/")).ok();
}

fn listed(mount: &Mount) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(mount.path("large")).unwrap() {
        *found.entry(entry.unwrap().file_name().into_string().unwrap()).or_default() += 1;
    }
    found
}

#[test]
fn each_entry_that_stays_is_listed_exactly_once_while_others_come_and_go() {
    let cluster = Cluster::start();
    with_large_directory(&cluster, ENTRIES);
    let [lister, changer] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // One changes on the mount that lists, one on another.
        let changers: Vec<_> = [&lister, &changer]
            .into_iter()
            .enumerate()
            .map(|(number, mount)| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let name = |count: u32| mount.path(&format!("large/passes-{number}-{count}"));
                        File::create_new(name(count)).unwrap();
                        if count >= 20 {
                            fs::remove_file(name(count - 20)).unwrap();
                        }
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let listings: Vec<_> = (0..4).map(|_| listed(&lister)).collect();
        stop.store(true, Ordering::Relaxed);
        let changes: Vec<u32> = changers.into_iter().map(|changer| changer.join().unwrap()).collect();
        eprintln!("changes meanwhile: {changes:?}");
        assert!(changes.iter().all(|count| *count > 20), "nothing changed meanwhile: {changes:?}");
        for listing in listings {
            let stays = listing.iter().filter(|(name, _)| name.starts_with("stays-"));
            assert_eq!(stays.clone().count(), ENTRIES);
            let repeated: Vec<_> = listing.iter().filter(|(_, times)| **times != 1).collect();
            assert!(repeated.is_empty(), "{repeated:?}");
        }
    });
    assert_eq!(listed(&lister), listed(&changer));
}

#[test]
fn a_place_in_a_directory_stays_valid_while_the_directory_changes() {
    let cluster = Cluster::start();
    with_large_directory(&cluster, 3000);
    let mount = Mount::new(&cluster, "mnt");
    let fd = open(mount.path("large"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let entries: Vec<_> = Dir::read_from(&fd).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(entries.len(), 3002);
    // What was listed before the place, and what comes in later, must not move it.
    let place = entries[1500].offset();
    for entry in entries.iter().take(1500).filter(|entry| entry.file_name().to_bytes().starts_with(b"stays-")) {
        fs::remove_file(mount.path("large").join(entry.file_name().to_str().unwrap())).unwrap();
    }
    File::create(mount.path("large/new")).unwrap();
    seek(&fd, SeekFrom::Start(u64::try_from(place).unwrap())).unwrap();
    let mut buffer = Vec::with_capacity(1 << 16);
    let mut raw = rustix::fs::RawDir::new(&fd, buffer.spare_capacity_mut());
    let mut rest = Vec::new();
    while let Some(entry) = raw.next() {
        rest.push(entry.unwrap().file_name().to_owned());
    }
    let expected: Vec<_> = entries[1501..].iter().map(|entry| entry.file_name().to_owned()).collect();
    rest.retain(|name| name.to_bytes() != b"new");
    assert_eq!(rest, expected);
}

#[test]
fn a_tree_is_removed_as_a_whole_and_leaves_an_empty_directory() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    for dir in 0..20 {
        let path = mount.path(&format!("tree/{dir}/below"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..20 {
            fs::write(path.join(format!("{file}")), format!("{dir} {file}")).unwrap();
        }
    }
    fs::remove_dir_all(mount.path("tree")).unwrap();
    assert_eq!(fs::read_dir(mount.dir()).unwrap().count(), 0);
}

/// Whoever renames what it lists comes to an end: what comes into a directory after a listing began is not of it.
#[test]
fn a_listing_ends_though_every_entry_is_renamed_as_it_is_listed() {
    let cluster = Cluster::start();
    with_large_directory(&cluster, 3000);
    let mount = Mount::new(&cluster, "mnt");
    let dir = mount.path("large");
    let mut listed = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        fs::rename(&path, dir.join("other")).unwrap();
        fs::rename(dir.join("other"), &path).unwrap();
        listed += 1;
        assert!(listed <= 3000, "the listing has no end");
    }
    assert_eq!(listed, 3000);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3000, "a new listing shows all");
}
