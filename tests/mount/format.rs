//! The data directory of a node as the first release left it, kept in `tests/fixtures`: today's programs open it.
//!
//! `DFS_FIXTURE=write` makes it anew, with its manifest; that is for a new format only, beside the old one
//! (`tests/fixtures/README.md`).

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use harness::{Cluster, Mount, NodeProcess, cluster::run, node::free_address};
use rustix::{
    fs::{FlockOperation, XattrFlags, flock},
    io::Errno,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// One line for each entry: what must be as it was.
fn manifest(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut line = format!(
            "inode {} mode {:o} owner {}:{} links {} size {} modified {}.{:09} changed {}.{:09}",
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        );
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_symlink() {
            write!(line, " to {}", fs::read_link(&path).unwrap().display()).unwrap();
        } else {
            write!(line, " blake3 {}", blake3::hash(&fs::read(&path).unwrap()).to_hex()).unwrap();
        }
        if !meta.is_symlink() {
            xattrs(&path).iter().for_each(|(name, value)| write!(line, " {name}={value}").unwrap());
        }
        lines.insert(path.strip_prefix(root).unwrap().display().to_string(), line);
    }
    lines
}

fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::getxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(name), text(&value[..len]))
        })
        .collect()
}

fn text(manifest: &BTreeMap<String, String>) -> String {
    manifest.iter().map(|(path, line)| format!("/{path} {line}\n")).collect()
}

/// Bytes that are like no others, and pack well.
fn pattern(number: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| if at % 65_536 < 8 { (at >> 16) as u8 ^ number } else { number }).collect()
}

/// Some of everything that the formats can say.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("tree/of/directories")).unwrap();
    fs::create_dir(root.join("tree/empty")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("inline"), b"a small file lives with its name").unwrap();
    for (number, len) in [(1, 5000), (2, 70_000), (3, 4 << 20), (4, (9 << 20) + 17)] {
        fs::write(root.join(format!("tree/of/{len}")), pattern(number, len)).unwrap();
    }
    let sparse = File::create(root.join("tree/sparse")).unwrap();
    sparse.write_all_at(&pattern(5, 100_000), 6 << 20).unwrap();
    sparse.write_all_at(&pattern(6, 3000), 1 << 20).unwrap();
    sparse.sync_all().unwrap();
    let overwritten = File::options().write(true).open(root.join("tree/of/4194304")).unwrap();
    overwritten.write_all_at(&pattern(7, 50_000), 1 << 20).unwrap();
    overwritten.sync_all().unwrap();
    fs::hard_link(root.join("tree/of/70000"), root.join("tree/link")).unwrap();
    symlink("of/70000", root.join("tree/symlink")).unwrap();
    fs::set_permissions(root.join("tree/of/5000"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(root.join("tree/of/5000"), Some(1000), Some(100)).unwrap();
    rustix::fs::setxattr(root.join("inline"), "user.color", b"red", XattrFlags::CREATE).unwrap();
    rustix::fs::setxattr(root.join("tree"), "user.note", b"of a directory", XattrFlags::CREATE).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::options().write(true).open(root.join("inline")).unwrap().set_modified(then).unwrap();
    fs::write(root.join("renamed-later"), b"moved").unwrap();
    fs::rename(root.join("renamed-later"), root.join("tree/renamed")).unwrap();
    fs::write(root.join("deleted"), pattern(8, 300_000)).unwrap();
    fs::write(root.join("locked"), b"whoever held this lock was killed").unwrap();
    rustix::fs::sync();
    fs::remove_file(root.join("deleted")).unwrap();
    File::open(root).unwrap().sync_all().unwrap();
}

/// A cluster of one node, and the fixture made of it.
fn write_fixture() {
    assert!(rustix::process::geteuid().is_root(), "owners are part of it");
    let mut cluster = Cluster::empty(1);
    let node = NodeProcess::new(cluster.path("node-1"), free_address(), None);
    cluster.add_node_with(node, &["--capacity", "64MiB"]);
    cluster.wait_healthy();
    let mut mount = Mount::new(&cluster, "mount");
    fill(mount.dir());
    fs::write(fixture("v1.manifest"), text(&manifest(mount.dir()))).unwrap();
    let locked = File::open(mount.path("locked")).unwrap();
    flock(&locked, FlockOperation::NonBlockingLockExclusive).unwrap();
    mount.kill();
    cluster.nodes[0].stop();
    let mut pack = Command::new("sh");
    // Zeros take no room in it: each file is made sparse before.
    let script = r#"cp -a --sparse=always "$1" "$1.sparse" && tar --sparse --sort=name --owner=0 --group=0 -C "$1.sparse" -cf - . | gzip -9n >"$2""#;
    run(pack.args(["-c", script, "pack"]).arg(cluster.path("node-1")).arg(fixture("v1.tar.gz"))).ok();
}

/// The node of the fixture, listening where nobody else does.
fn unpack(name: &str) -> Cluster {
    let mut cluster = Cluster::empty(1);
    let data = cluster.path("node-1");
    fs::create_dir(&data).unwrap();
    run(Command::new("tar").arg("--no-same-owner").arg("-xzf").arg(fixture(name)).arg("-C").arg(&data)).ok();
    let address = free_address();
    let profile = data.join("admin/profile.toml");
    let told = fs::read_to_string(&profile).unwrap();
    let (before, after) = told.split_once("seeds = [\"").unwrap();
    let (_, after) = after.split_once('"').unwrap();
    fs::write(&profile, format!("{before}seeds = [\"{address}\"{after}")).unwrap();
    let mut node = NodeProcess::new(data, address, None);
    node.arguments = vec!["--listen".to_owned(), address.to_string()];
    node.start();
    cluster.nodes.push(node);
    cluster.wait_healthy();
    cluster
}

#[test]
fn a_data_directory_of_the_first_release_is_opened_read_and_written_on() {
    if std::env::var_os("DFS_FIXTURE").is_some_and(|value| value == "write") {
        write_fixture();
    }
    let kept = fs::read_to_string(fixture("v1.manifest")).unwrap();
    let mut cluster = unpack("v1.tar.gz");
    let mount = Mount::new(&cluster, "mount");
    let found = manifest(mount.dir());
    for (kept, found) in kept.lines().zip(text(&found).lines()) {
        assert_eq!(found, kept);
    }
    assert_eq!(text(&found), kept, "entries came or went");
    let locked = File::open(mount.path("locked")).unwrap();
    let refused = flock(&locked, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(Errno::WOULDBLOCK), "its holder's session has not ended yet");
    drop(locked);

    let more = pattern(9, (5 << 20) + 1);
    fs::write(mount.path("tree/more"), &more).unwrap();
    let old = File::options().write(true).open(mount.path("tree/of/9437201")).unwrap();
    old.write_all_at(b"changed", 5 << 20).unwrap();
    old.sync_all().unwrap();
    File::open(mount.path("tree/more")).unwrap().sync_all().unwrap();
    drop((old, mount));
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.wait_healthy();
    let mount = Mount::new(&cluster, "again");
    assert!(fs::read(mount.path("tree/more")).unwrap() == more);
    let mut changed = pattern(4, (9 << 20) + 17);
    changed[5 << 20..][..7].copy_from_slice(b"changed");
    assert!(fs::read(mount.path("tree/of/9437201")).unwrap() == changed);
    let now = manifest(mount.dir());
    let touched = ["tree", "tree/more", "tree/of/9437201"];
    for (path, line) in found.iter().filter(|(path, _)| !touched.contains(&path.as_str())) {
        assert_eq!(now.get(path), Some(line), "{path}");
    }
    fs::remove_dir_all(mount.path("tree")).unwrap();
    assert_eq!(fs::read_dir(mount.dir()).unwrap().count(), 3);
}
