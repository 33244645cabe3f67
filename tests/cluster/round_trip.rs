//! What goes in comes out: every property of a tree that must survive.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use harness::{Cluster, tree};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

const MIB: usize = 1 << 20;

/// Sets the times of what a path names, a link itself if it is one.
pub(crate) fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Uploads and downloads `name` of the cluster's directory; fails unless the copy is the same.
fn there_and_back(cluster: &Cluster, name: &str) {
    let source = cluster.path(name);
    cluster.dfs([OsStr::new("upload"), OsStr::new("-r"), source.as_os_str(), OsStr::new("/")]).ok();
    let copy = cluster.path(&format!("{name}.copy"));
    let there = format!("/{name}");
    cluster.dfs([OsStr::new("download"), OsStr::new("-r"), OsStr::new(&there), copy.as_os_str()]).ok();
    tree::assert_same(&source, &copy);
}

#[test]
fn files_of_every_length_around_a_boundary_come_back_byte_for_byte() {
    let cluster = Cluster::start();
    let dir = cluster.path("lengths");
    fs::create_dir(&dir).unwrap();
    let lengths =
        [0, 1, 4095, 4096, 4097, 16383, 16384, 16385, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 8 * MIB + 4097, 20 * MIB];
    for (seed, len) in (0..).zip(lengths) {
        fs::write(dir.join(len.to_string()), tree::bytes(seed, len)).unwrap();
    }
    // The same bytes again, and the same chunk twice in one file.
    fs::copy(dir.join("4194304"), dir.join("again")).unwrap();
    let twice = fs::read(dir.join("4194304")).unwrap().repeat(2);
    fs::write(dir.join("twice"), twice).unwrap();
    there_and_back(&cluster, "lengths");
}

#[test]
fn modes_times_links_pipes_and_empty_directories_survive() {
    let cluster = Cluster::start();
    let dir = cluster.path("kinds");
    fs::create_dir_all(dir.join("deep/er/empty")).unwrap();
    fs::write(dir.join("file"), b"first").unwrap();
    fs::write(dir.join("run"), b"#!/bin/sh\n").unwrap();
    fs::write(dir.join("secret"), tree::bytes(1, 9000)).unwrap();
    fs::hard_link(dir.join("file"), dir.join("deep/same file")).unwrap();
    fs::hard_link(dir.join("secret"), dir.join("deep/er/same secret")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    symlink("../nowhere/at all", dir.join("deep/dangling")).unwrap();
    symlink("deep/er", dir.join("to a directory")).unwrap();
    rustix::fs::mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    fs::set_permissions(dir.join("run"), Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(dir.join("secret"), Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(dir.join("deep/er"), Permissions::from_mode(0o1733)).unwrap();
    let times = [
        ("file", 1_234_567_890, 123_456_789),
        ("run", -86_400, 1),
        ("secret", 4_102_444_800, 999_999_999),
        ("link", 7, 8),
        ("pipe", 1, 0),
        ("deep/er/empty", 1_000_000_000, 5),
        ("deep/er", 1_000_000_001, 6),
        ("deep", 1_000_000_002, 7),
        (".", 1_000_000_003, 8),
    ];
    for (name, seconds, nanoseconds) in times {
        set_times(&dir.join(name), seconds, nanoseconds);
    }
    there_and_back(&cluster, "kinds");
    let copy = cluster.path("kinds.copy");
    let inode = |name: &str| fs::symlink_metadata(copy.join(name)).unwrap().ino();
    assert_eq!(inode("file"), inode("deep/same file"));
    assert_eq!(inode("secret"), inode("deep/er/same secret"));
    assert_eq!(fs::symlink_metadata(copy.join("link")).unwrap().mtime_nsec(), 8, "the time of a link itself");
}

#[test]
fn holes_stay_holes() {
    let cluster = Cluster::start();
    let dir = cluster.path("sparse");
    fs::create_dir(&dir).unwrap();
    let sparse = File::create(dir.join("islands")).unwrap();
    sparse.set_len(300 * MIB as u64).unwrap();
    for (seed, offset) in (1..).zip([0, 7 * MIB, 8 * MIB - 4096, 100 * MIB]) {
        sparse.write_all_at(&tree::bytes(seed, 8192), offset as u64).unwrap();
    }
    sparse.sync_all().unwrap();
    let empty = File::create(dir.join("nothing but a hole")).unwrap();
    empty.set_len(5_000_000_001).unwrap();
    let metadata = |name: &str| fs::metadata(cluster.path(name)).unwrap();
    assert!(metadata("sparse/islands").blocks() * 512 < 1 << 20, "the file system of the test knows no holes");

    cluster.dfs(["upload", "-r", dir.to_str().unwrap(), "/"]).ok();
    cluster.dfs(["download", "-r", "/sparse", cluster.path("copy").to_str().unwrap()]).ok();
    let (islands, nothing) = (metadata("copy/islands"), metadata("copy/nothing but a hole"));
    assert_eq!((islands.len(), nothing.len()), (300 * MIB as u64, 5_000_000_001));
    assert!(islands.blocks() * 512 < 1 << 20, "{} blocks", islands.blocks());
    assert_eq!(nothing.blocks(), 0);
    assert_eq!(fs::read(dir.join("islands")).unwrap(), fs::read(cluster.path("copy/islands")).unwrap());

    let status = cluster.status();
    assert!(status["usage"]["bytes"].as_u64().unwrap() < 1 << 20, "holes take no room: {}", status["usage"]);
}

#[test]
fn names_are_bytes_of_any_kind_up_to_255() {
    let cluster = Cluster::start();
    let dir = cluster.path("names");
    fs::create_dir(&dir).unwrap();
    let long = [b'n'; 255];
    let wide = "ß".repeat(127);
    let names: [&[u8]; 12] = [
        b"\xff\xfe not UTF-8 \x80",
        b"new\nline",
        b"tab\tand \x1b[31mescape",
        b" leading and trailing ",
        b"-rf",
        b"--help",
        b"'\"$`*?",
        "ünïcödé 日本語 🦀".as_bytes(),
        b"\x01\x7f",
        b"...",
        &long,
        wide.as_bytes(),
    ];
    for (seed, name) in (0..).zip(names) {
        fs::write(dir.join(OsStr::from_bytes(name)), tree::bytes(seed, 100)).unwrap();
    }
    fs::create_dir(dir.join(OsStr::from_bytes(b"d\xe9j\xe0"))).unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"d\xe9j\xe0/vu\xff")), b"again").unwrap();
    symlink(OsStr::from_bytes(b"d\xe9j\xe0/vu\xff"), dir.join("link")).unwrap();
    there_and_back(&cluster, "names");
}

#[test]
fn a_tree_may_be_deep() {
    let cluster = Cluster::start();
    let dir = cluster.path("deep");
    let mut path = dir.clone();
    // Local paths end at 4,096 bytes; this one comes close.
    while path.as_os_str().len() < 3600 {
        path.push("a directory whose name is long enough to matter");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), path.as_os_str().as_bytes()).unwrap();
    }
    there_and_back(&cluster, "deep");
}

#[test]
fn two_thousand_small_files_survive() {
    let cluster = Cluster::start();
    let dir = cluster.path("many");
    for part in 0..20 {
        let part_dir = dir.join(format!("part-{part:02}"));
        fs::create_dir_all(&part_dir).unwrap();
        for number in 0..100 {
            let seed = part * 100 + number;
            let len = usize::try_from(seed * 7 % 6000).unwrap();
            fs::write(part_dir.join(number.to_string()), tree::bytes(seed, len)).unwrap();
        }
    }
    there_and_back(&cluster, "many");
    assert_eq!(cluster.status()["usage"]["inodes"], 2000 + 20 + 1 + 1);
}

#[test]
fn owners_set_id_bits_and_devices_survive_as_root() {
    let cluster = Cluster::start();
    let dir = cluster.path("owned");
    fs::create_dir(&dir).unwrap();
    for (name, uid, gid) in [("a", 1000, 1001), ("b", 0, 65534), ("c", 4_000_000_000, 12)] {
        fs::write(dir.join(name), name).unwrap();
        std::os::unix::fs::chown(dir.join(name), Some(uid), Some(gid)).unwrap();
    }
    fs::set_permissions(dir.join("a"), Permissions::from_mode(0o6755)).unwrap();
    symlink("a", dir.join("link")).unwrap();
    std::os::unix::fs::lchown(dir.join("link"), Some(7), Some(8)).unwrap();
    for (name, kind, major, minor) in
        [("null", FileType::CharacterDevice, 1, 3), ("disk", FileType::BlockDevice, 259, 300)]
    {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o600), device).unwrap();
    }
    std::os::unix::fs::chown(&dir, Some(1000), Some(1000)).unwrap();
    there_and_back(&cluster, "owned");
}

#[test]
fn a_single_file_keeps_its_mode_and_time_and_takes_the_name_it_is_given() {
    let cluster = Cluster::start();
    let file = cluster.path("one");
    fs::write(&file, tree::bytes(3, 5000)).unwrap();
    let modified = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 42);
    File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    cluster.dfs(["upload", file.to_str().unwrap(), "/other name"]).ok();
    let copy = cluster.path("two");
    cluster.dfs(["download", "/other name", copy.to_str().unwrap()]).ok();
    assert_eq!(fs::read(&copy).unwrap(), tree::bytes(3, 5000));
    assert_eq!(fs::metadata(&copy).unwrap().modified().unwrap(), modified);
}
