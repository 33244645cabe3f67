//! What cannot be: one clear line and the right status from commands, the right errno from the kernel.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use harness::{Cluster, Mount, cluster::run, wait::until};
use rustix::io::Errno;

fn assert_errno<T: std::fmt::Debug>(result: io::Result<T>, errno: Errno) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(errno.raw_os_error()));
}

fn mounts_at(dir: &Path) -> usize {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
    list.lines().filter(|line| line.split(' ').nth(4) == dir.to_str()).count()
}

#[test]
fn a_mount_that_cannot_be_made_is_refused_in_one_line() {
    let cluster = Cluster::start();
    let dir = cluster.path("dir");
    fs::create_dir(&dir).unwrap();
    let path = dir.to_str().unwrap();
    let gone = cluster.path("gone");
    for more in [&[][..], &["--foreground"]] {
        let mount = |arguments: &[&str]| cluster.dfs([&["mount"], arguments, more].concat());
        mount(&[gone.to_str().unwrap()]).fails(1, &["gone", "No such file or directory", "mkdir"]);
        let file = cluster.path("file");
        fs::write(&file, b"").unwrap();
        mount(&[file.to_str().unwrap()]).fails(1, &["file", "not a directory"]);
        mount(&[cluster.dir().to_str().unwrap()]).fails(1, &["not empty", "nonempty"]);
        mount(&[path, "-o", "nonsense"]).fails(2, &["unknown mount option", "nonsense"]);
        mount(&[path, "-o", "subdir="]).fails(2, &["unknown mount option", "subdir"]);
        mount(&[path, "-o", "subdir=/none"]).fails(1, &["/none", "no such file or directory"]);
        mount(&[path, "-o", "profile=office"]).fails(1, &["no profile office"]);
        assert_eq!(mounts_at(&dir), 0);
    }
}

#[test]
fn a_directory_with_a_mount_is_refused_and_umount_refuses_one_without() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let path = mount.dir().to_str().unwrap().to_owned();
    cluster.dfs(["mount", &path]).fails(1, &[&path, "mounted there already", "umount"]);
    assert_eq!(mounts_at(mount.dir()), 1);
    let held = File::create(mount.path("file")).unwrap();
    cluster.dfs(["umount", &path]).fails(1, &[&path, "somebody uses it", "--lazy"]);
    fs::write(mount.path("file"), b"goes on").unwrap();
    drop(held);
    mount.unmount(&cluster);
    cluster.dfs(["umount", &path]).fails(1, &[&path, "nothing is mounted there"]);
}

#[test]
fn a_mount_in_the_background_is_there_when_the_command_returns_and_gone_when_umount_does() {
    let cluster = Cluster::start();
    let dir = cluster.path("dir");
    fs::create_dir(&dir).unwrap();
    let path = dir.to_str().unwrap();
    cluster.dfs(["mount", path]).ok();
    fs::write(dir.join("file"), b"bytes").unwrap();
    cluster.dfs(["umount", path]).ok();
    assert_eq!((mounts_at(&dir), fs::read_dir(&dir).unwrap().count()), (0, 0));
    assert_eq!(cluster.dfs(["cat", "/file"]).ok(), "bytes");
}

#[test]
fn a_subdirectory_can_be_the_root_of_a_mount_and_nothing_else_is_seen() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "-p", "/a/b"]).ok();
    let whole = Mount::new(&cluster, "whole");
    fs::write(whole.path("a/b/inside"), b"inside").unwrap();
    fs::write(whole.path("a/outside"), b"outside").unwrap();
    let part = Mount::with(&cluster, "part", &["subdir=/a/b"]);
    let names: Vec<_> = fs::read_dir(part.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["inside"]);
    fs::write(part.path("new"), b"new").unwrap();
    assert_eq!(fs::read(whole.path("a/b/new")).unwrap(), b"new");
    assert_eq!(fs::read(part.path("../inside")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn nothing_can_be_changed_through_a_mount_that_is_read_only() {
    let cluster = Cluster::start();
    let writable = Mount::new(&cluster, "writable");
    fs::write(writable.path("file"), b"bytes").unwrap();
    let mount = Mount::with(&cluster, "ro", &["ro"]);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"bytes");
    assert_errno(fs::write(mount.path("new"), b""), Errno::ROFS);
    assert_errno(OpenOptions::new().write(true).open(mount.path("file")), Errno::ROFS);
    assert_errno(fs::remove_file(mount.path("file")), Errno::ROFS);
    assert_errno(fs::create_dir(mount.path("dir")), Errno::ROFS);
    let mode = fs::Permissions::from_mode(0o600);
    assert_errno(fs::set_permissions(mount.path("file"), mode), Errno::ROFS);
    fs::write(writable.path("file"), b"changed").unwrap();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"changed");
}

/// A mount with a file, and one by a profile that may only read.
fn writer_and_reader(cluster: &Cluster) -> (Mount, Mount) {
    let writable = Mount::new(cluster, "writable");
    fs::write(writable.path("file"), b"bytes").unwrap();
    let token = cluster.dfs(["token", "create", "--for", "client", "--read-only"]).ok();
    let profile = cluster.path("reader");
    run(cluster.command().arg("login").arg(token.trim()).arg("--profile").arg(&profile)).ok();
    let reader = Mount::with(cluster, "mnt", &[&format!("profile={}", profile.display())]);
    (writable, reader)
}

#[test]
fn nothing_can_be_changed_with_a_profile_that_may_only_read() {
    let cluster = Cluster::start();
    let (writable, mount) = writer_and_reader(&cluster);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"bytes");
    assert_errno(fs::create_dir(mount.path("dir")), Errno::ROFS);
    assert_errno(File::create(mount.path("new")).map(drop), Errno::ROFS);
    assert_errno(fs::remove_file(mount.path("file")), Errno::ROFS);
    let written = OpenOptions::new().write(true).open(mount.path("file"));
    let written = written.and_then(|file| file.write_all_at(b"x", 0).and_then(|()| file.sync_all()));
    assert_errno(written, Errno::ROFS);
    assert_eq!(fs::read(writable.path("file")).unwrap(), b"bytes");
}

/// Programs that only read lock too, a database for one; and others must know.
#[test]
fn with_a_profile_that_may_only_read_locks_are_had_and_given_up() {
    let cluster = Cluster::start();
    let (writable, mount) = writer_and_reader(&cluster);
    let theirs = OpenOptions::new().read(true).write(true).open(writable.path("file")).unwrap();
    for _round in 0..3 {
        let ours = File::open(mount.path("file")).unwrap();
        ours.try_lock_shared().unwrap();
        assert!(matches!(theirs.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(ours);
        until("the lock is free", Duration::from_secs(5), || theirs.try_lock().is_ok());
        theirs.unlock().unwrap();
    }
}

#[test]
fn the_kernel_gets_the_errno_that_posix_names() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let at = |name: &str| mount.path(name);
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::write(at("file"), b"bytes").unwrap();
    fs::write(at(&"n".repeat(255)), b"").unwrap();
    assert_errno(fs::write(at(&"n".repeat(256)), b""), Errno::NAMETOOLONG);
    assert_errno(fs::metadata(at(&"n".repeat(256))), Errno::NAMETOOLONG);
    assert_errno(fs::rename(at("file"), at(&"m".repeat(256))), Errno::NAMETOOLONG);
    assert_errno(fs::remove_dir(at("dir")), Errno::NOTEMPTY);
    assert_errno(fs::rename(at("dir"), at("dir/sub/below")), Errno::INVAL);
    assert_errno(fs::rename(at("dir"), at("file")), Errno::NOTDIR);
    assert_errno(fs::rename(at("file"), at("dir")), Errno::ISDIR);
    assert_errno(fs::hard_link(at("dir"), at("linked")), Errno::PERM);
    assert_errno(fs::read(at("file/below")), Errno::NOTDIR);
    assert_errno(fs::metadata(at("none")), Errno::NOENT);
    assert_errno(File::create_new(at("file")), Errno::EXIST);
    assert_errno(fs::remove_file(at("dir")), Errno::ISDIR);
    assert_errno(fs::remove_dir(at("file")), Errno::NOTDIR);
    let file = OpenOptions::new().read(true).write(true).open(at("file")).unwrap();
    // The largest file there is, and one byte more.
    let end = i64::MAX as u64;
    file.set_len(end).unwrap();
    let mut append = OpenOptions::new().append(true).open(at("file")).unwrap();
    assert_errno(append.write_all(b"x"), Errno::FBIG);
    let beyond = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end - 1, 10);
    assert_errno(beyond.map_err(Into::into), Errno::FBIG);
    file.set_len(5).unwrap();
    assert_errno(rustix::fs::ftruncate(&file, i64::MAX as u64 + 1).map_err(Into::into), Errno::INVAL);
    let target = "t".repeat(4096);
    assert_errno(std::os::unix::fs::symlink(target, at("link")), Errno::NAMETOOLONG);
    let xattr = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(at("file"), name, value, rustix::fs::XattrFlags::empty()).map_err(io::Error::from)
    };
    assert_errno(xattr("system.posix_acl_access", b"\x02\0\0\0"), Errno::OPNOTSUPP);
    assert_errno(xattr("user.dfs.chunks", b""), Errno::PERM);
    assert_errno(xattr("user.", b"nameless"), Errno::INVAL);
    let label = || rustix::fs::getxattr(at("file"), "security.selinux", &mut [0_u8; 10]).map_err(io::Error::from);
    assert_errno(label(), Errno::OPNOTSUPP);
    if rustix::process::geteuid().is_root() {
        xattr("security.selinux", b"label").unwrap();
        assert_eq!(label().unwrap(), 5);
    }
    let found = rustix::fs::getxattr(at("file"), "user.none", &mut [0_u8; 10]).map_err(io::Error::from);
    assert_errno(found, Errno::NODATA);
    assert_eq!(fs::read(at("file")).unwrap(), b"bytes");
}

#[test]
fn fstab_words_mount_through_the_helper_of_mount_8() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "/photos"]).ok();
    let helper = cluster.path("mount.fuse.dfs");
    std::os::unix::fs::symlink(harness::node::program("dfs"), &helper).unwrap();
    let dir = cluster.path("dir");
    fs::create_dir(&dir).unwrap();
    let spec = format!("{}:/photos", cluster.profile().display());
    let mut command = Command::new(&helper);
    command.env("XDG_STATE_HOME", cluster.path("state")).arg(spec).arg(&dir).args(["-o", "rw,_netdev"]);
    run(&mut command).ok();
    fs::write(dir.join("picture"), b"picture").unwrap();
    run(cluster.command().arg("umount").arg(&dir)).ok();
    assert_eq!(cluster.dfs(["cat", "/photos/picture"]).ok(), "picture");
}
