//! Owners, modes, times, links: what an inode carries.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use harness::{Cluster, Mount, cluster::run};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr, utimensat};

/// The user `nobody`.
const NOBODY: u32 = 65534;

/// A mount that other users can reach.
fn open_to_others(cluster: &Cluster) -> Mount {
    fs::set_permissions(cluster.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = Mount::new(cluster, "mnt");
    fs::set_permissions(mount.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    mount
}

/// Runs a line of shell as `nobody`.
fn as_nobody(line: &str, path: &Path) -> harness::Ran {
    let mut command = Command::new("sh");
    run(command.uid(NOBODY).gid(NOBODY).arg("-c").arg(line).arg("sh").arg(path))
}

fn with_mode(path: &Path, mode: u32) {
    fs::write(path, b"bytes").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn set_id_bits_go_when_somebody_else_writes_truncates_or_owns_as_root() {
    let cluster = Cluster::start();
    let mount = open_to_others(&cluster);
    let path = mount.path("file");
    for (what, line) in [
        ("write", "printf x >> \"$1\""),
        ("truncation on open", ": > \"$1\""),
        ("truncate", "truncate -s 2 \"$1\""),
        ("fallocate", "fallocate -l 100000 \"$1\""),
    ] {
        with_mode(&path, 0o6777);
        assert_eq!(mode(&path), 0o6777);
        as_nobody(line, &path).ok();
        assert_eq!(mode(&path), 0o777, "{what} by another user");
    }
    with_mode(&path, 0o6777);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
    assert_eq!(mode(&path), 0o6777, "a write by root keeps them");
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(mode(&path), 0o777, "a change of owner");
    // Without the right to execute, the bit of the group goes only if the writer is none of the group.
    for line in ["printf x >> \"$1\"", "fallocate -l 100000 \"$1\"", "truncate -s 2 \"$1\""] {
        for (group, left) in [(0, 0o666), (NOBODY, 0o2666)] {
            with_mode(&path, 0o666);
            chown(&path, None, Some(group)).unwrap();
            with_mode(&path, 0o2666);
            as_nobody(line, &path).ok();
            assert_eq!(mode(&path), left, "{line} of a file of group {group}");
        }
    }
}

#[test]
fn permissions_count_for_everybody_but_root_as_root() {
    let cluster = Cluster::start();
    let mount = open_to_others(&cluster);
    let (file, dir) = (mount.path("file"), mount.path("dir"));
    with_mode(&file, 0o600);
    fs::create_dir(&dir).unwrap();
    for line in ["cat \"$1\"", "printf x >> \"$1\"", "chmod 777 \"$1\"", "chown nobody \"$1\"", "touch -d @1 \"$1\""] {
        assert_ne!(as_nobody(line, &file).status, 0, "{line}");
    }
    assert_ne!(as_nobody("touch \"$1/new\"", &dir).status, 0);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    as_nobody("touch \"$1/new\" && mkdir \"$1/made\"", &dir).ok();
    let meta = fs::metadata(dir.join("new")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY));
    // Sticky: only the owner removes.
    File::create(dir.join("of root")).unwrap();
    assert_ne!(as_nobody("rm -f \"$1/of root\"", &dir).status, 0);
    as_nobody("rm \"$1/new\" && rmdir \"$1/made\"", &dir).ok();
    // A directory with the bit of the group hands its group down.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777)).unwrap();
    chown(&dir, None, Some(12345)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777)).unwrap();
    as_nobody("touch \"$1/new\" && mkdir \"$1/made\"", &dir).ok();
    assert_eq!(fs::metadata(dir.join("new")).unwrap().gid(), 12345);
    let made = fs::metadata(dir.join("made")).unwrap();
    assert_eq!((made.gid(), made.mode() & 0o2000), (12345, 0o2000));
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
}

#[test]
fn fifos_sockets_and_devices_are_kept_as_root() {
    let cluster = Cluster::start();
    let mount = Mount::with(&cluster, "mnt", &["dev"]);
    run(Command::new("mkfifo").arg(mount.path("fifo"))).ok();
    run(Command::new("mknod").arg(mount.path("null")).args(["c", "1", "3"])).ok();
    let _socket = std::os::unix::net::UnixListener::bind(mount.path("socket")).unwrap();
    let kind = |name: &str| fs::symlink_metadata(mount.path(name)).unwrap().file_type();
    assert!(kind("fifo").is_fifo() && kind("null").is_char_device() && kind("socket").is_socket());
    assert_eq!(fs::metadata(mount.path("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    fs::write(mount.path("null"), b"gone").unwrap();
    let fifo = mount.path("fifo");
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&fifo, b"through").unwrap());
        assert_eq!(fs::read(&fifo).unwrap(), b"through");
    });
}

#[test]
fn all_names_of_a_file_are_one_file_until_the_last_is_gone() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("first"), b"bytes").unwrap();
    let names: Vec<_> = (0..50).map(|number| mount.path(&format!("dir/{number}"))).collect();
    names.iter().for_each(|name| fs::hard_link(mount.path("first"), name).unwrap());
    let ino = fs::metadata(mount.path("first")).unwrap().ino();
    for name in &names {
        let meta = fs::metadata(name).unwrap();
        assert_eq!((meta.ino(), meta.nlink()), (ino, 51));
    }
    fs::write(&names[7], b"changed through one of them").unwrap();
    fs::remove_file(mount.path("first")).unwrap();
    for (left, name) in (1..=names.len()).rev().zip(&names) {
        assert_eq!(fs::read(name).unwrap(), b"changed through one of them");
        assert_eq!(fs::metadata(name).unwrap().nlink(), left as u64);
        fs::remove_file(name).unwrap();
    }
}

#[test]
fn changes_move_the_times_that_posix_says_and_no_others() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let path = mount.path("file");
    fs::write(&path, b"bytes").unwrap();
    let times = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        let at = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        (at(meta.mtime(), meta.mtime_nsec()), at(meta.ctime(), meta.ctime_nsec()))
    };
    let first = times(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let second = times(&path);
    assert!(second.0 == first.0 && second.1 > first.1, "chmod: {first:?} {second:?}");
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    let third = times(&path);
    assert!(third.0 > second.0 && third.1 > second.1, "write: {second:?} {third:?}");
    assert_eq!(fs::read(&path).unwrap().len(), 9);
    assert_eq!(times(&path), third, "read");
    let dir = times(mount.dir());
    fs::rename(&path, mount.path("moved")).unwrap();
    let fourth = times(&mount.path("moved"));
    assert!(fourth.0 == third.0, "rename keeps mtime: {third:?} {fourth:?}");
    let after = times(mount.dir());
    assert!(after.0 > dir.0 && after.1 > dir.1, "of the directory: {dir:?} {after:?}");
    fs::hard_link(mount.path("moved"), mount.path("linked")).unwrap();
    let fifth = times(&mount.path("moved"));
    assert!(fifth.0 == fourth.0 && fifth.1 > fourth.1, "link: {fourth:?} {fifth:?}");
}

/// "Capabilities of a program go when its bytes change", whoever changes them, and what was written before they were given
/// does not take them.
#[test]
fn capabilities_of_a_program_go_when_it_is_written_and_only_then_as_root() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let path = mount.path("program");
    let other = Mount::new(&cluster, "other");
    // cap_net_raw, permitted and effective: version 2 of the format.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = "security.capability";
    let has = |mount: &Mount| lgetxattr(mount.path("program"), name, &mut [0_u8; 64][..]).is_ok();
    for append in [false, true] {
        fs::write(&path, b"bytes").unwrap();
        lsetxattr(&path, name, &capability, XattrFlags::empty()).unwrap();
        assert!(has(&mount) && has(&other));
        // Whatever is under way is stored now.
        File::open(&path).unwrap().sync_all().unwrap();
        assert!(has(&other), "what was written before took what was given afterwards");
        let mut file = OpenOptions::new().write(true).append(append).open(&path).unwrap();
        file.write_all(b"x").unwrap();
        assert!(!has(&mount), "as long as nobody else asks, append: {append}");
        assert!(!has(&other), "append: {append}");
        assert!(!has(&mount), "after others have asked, append: {append}");
    }
}

#[test]
fn extended_attributes_are_many_of_known_kinds_and_the_administrators_are_for_him_alone_as_root() {
    let cluster = Cluster::start();
    let mount = open_to_others(&cluster);
    let path = mount.path("file");
    fs::write(&path, b"bytes").unwrap();
    for number in 0..1000 {
        lsetxattr(&path, format!("user.attribute_{number}"), b"value", XattrFlags::CREATE).unwrap();
    }
    lsetxattr(&path, "trusted.secret", b"value", XattrFlags::CREATE).unwrap();
    let unknown = lsetxattr(&path, "unknown.kind", b"value", XattrFlags::CREATE);
    assert_eq!(unknown, Err(rustix::io::Errno::OPNOTSUPP));
    let names = |names: &[u8]| names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).count();
    let mut all = vec![0_u8; 64 << 10];
    let len = llistxattr(&path, &mut all[..]).unwrap();
    assert_eq!(names(&all[..len]), 1001);
    let line = "import os, sys; print(len(os.listxattr(sys.argv[1])))";
    let mut command = Command::new("python3");
    let seen = run(command.uid(NOBODY).gid(NOBODY).args(["-c", line]).arg(&path)).ok();
    assert_eq!(seen.trim(), "1000");
    fs::remove_file(&path).unwrap();
}

#[test]
fn times_before_the_epoch_are_kept_to_the_nanosecond() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let path = mount.path("file");
    fs::write(&path, b"bytes").unwrap();
    for (seconds, nanoseconds) in [(-1, 500_000_000), (-2, 0), (-86_400, 1), (-1, 999_999_999), (5, 7)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mtime(), found.mtime_nsec()), (seconds, nanoseconds));
        assert_eq!((found.atime(), found.atime_nsec()), (seconds, nanoseconds));
    }
}
