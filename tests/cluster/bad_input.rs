//! Bad input, bad days: one clear line, the right status, nothing lost.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use harness::{Cluster, Mount, cluster::run, node::program, tree};

/// The user `nobody`.
pub(crate) const NOBODY: u32 = 65534;

fn local(cluster: &Cluster, name: &str, bytes: &[u8]) -> String {
    let path = cluster.path(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_is_missing_in_the_way_or_too_long_is_said_in_one_line() {
    let cluster = Cluster::start();
    let file = local(&cluster, "file", b"bytes");
    let gone = cluster.path("gone");
    let gone = gone.to_str().unwrap();
    cluster.dfs(["upload", &file, "/file"]).ok();
    cluster.dfs(["mkdir", "/dir"]).ok();

    cluster.dfs(["upload", gone, "/x"]).fails(1, &[gone, "No such file or directory"]);
    cluster.dfs(["upload", &file, "/missing/x"]).fails(1, &["/missing/x", "no such file or directory"]);
    cluster.dfs(["upload", &file, "/missing/"]).fails(1, &["'/missing/' does not exist", "dfs mkdir"]);
    cluster.dfs(["upload", &file, "/file/x"]).fails(1, &["'/file/x'", "not a directory"]);
    cluster.dfs(["upload", &file, &file, "/file"]).fails(1, &["'/file' is not a directory"]);
    cluster.dfs(["upload", "-T", &file, "/dir"]).fails(1, &["/dir", "a directory is in the way of a file"]);
    cluster.dfs(["upload", "-rT", cluster.dir().to_str().unwrap(), "/file"]).fails(1, &["/file", "in the way"]);
    let long = format!("/{}", "n".repeat(256));
    cluster.dfs(["upload", &file, &long]).fails(1, &["a name is at most 255 bytes long, not 256"]);
    let dir = cluster.path("dir");
    fs::create_dir(&dir).unwrap();
    cluster.dfs(["upload", dir.to_str().unwrap(), "/x"]).fails(1, &["is a directory", "-r"]);

    cluster.dfs(["download", "/gone", gone]).fails(1, &["/gone", "no such file or directory"]);
    cluster.dfs(["download", "/dir", gone]).fails(1, &["/dir is a directory", "-r"]);
    cluster.dfs(["download", "/file", &format!("{gone}/")]).fails(1, &["does not exist", "mkdir"]);
    cluster.dfs(["download", "/file", &format!("{gone}/x")]).fails(1, &[gone, "No such file or directory"]);
    cluster.dfs(["download", "/file", &format!("{file}/x")]).fails(1, &["ot a directory"]);
    cluster.dfs(["download", "-T", "/file", dir.to_str().unwrap()]).fails(1, &["a directory is in the way of a file"]);
    cluster.dfs(["download", "-rT", "/dir", &file]).fails(1, &[&file, "a file is in the way of a directory"]);
    let null = cluster.path("null");
    std::os::unix::fs::symlink("/dev/null", &null).unwrap();
    cluster.dfs(["download", "/file", null.to_str().unwrap()]).fails(1, &["null: a device is in the way of a file"]);

    assert_eq!(cluster.dfs(["ls", "/"]).ok(), "dir\nfile\n");
    assert_eq!(cluster.dfs(["cat", "/file"]).ok(), "bytes");
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
}

#[test]
fn one_file_that_fails_does_not_stop_the_others_and_the_status_tells() {
    let cluster = Cluster::start();
    let dir = cluster.path("tree");
    fs::create_dir(&dir).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(dir.join(name), name).unwrap();
    }
    cluster.dfs(["mkdir", "-p", "/tree/b"]).ok();
    let ran = cluster.dfs(["upload", "-rT", dir.to_str().unwrap(), "/tree"]);
    assert!(ran.stdout.contains("1 failed"), "{}", ran.stdout);
    ran.fails(1, &["/tree/b", "a directory is in the way of a file"]);
    assert_eq!(cluster.dfs(["cat", "/tree/a", "/tree/c"]).ok(), "ac");
}

#[test]
fn a_source_that_changes_while_it_is_uploaded_is_not_stored() {
    let cluster = Cluster::start();
    let path = cluster.path("log");
    fs::write(&path, tree::bytes(1, 64 << 20)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"one more line\n").unwrap();
                std::thread::yield_now();
            }
        });
        let ran = cluster.dfs(["upload", path.to_str().unwrap(), "/log"]);
        stop.store(true, Ordering::Relaxed);
        ran.fails(1, &["log", "changed while it was uploaded"]);
    });
    assert_eq!(cluster.dfs(["ls", "/"]).ok(), "", "nothing half under its name");
    cluster.dfs(["upload", path.to_str().unwrap(), "/log"]).ok();
    let copy = cluster.path("copy");
    cluster.dfs(["download", "/log", copy.to_str().unwrap()]).ok();
    assert!(fs::read(&copy).unwrap() == fs::read(&path).unwrap());
}

/// Programs and profile where anybody may use them.
pub(crate) fn for_everybody(cluster: &Cluster) -> (PathBuf, PathBuf) {
    fs::set_permissions(cluster.dir(), Permissions::from_mode(0o755)).unwrap();
    let dfs = cluster.path("dfs");
    if fs::hard_link(program("dfs"), &dfs).is_err() {
        fs::copy(program("dfs"), &dfs).unwrap();
    }
    let profile = cluster.path("profile");
    fs::create_dir(&profile).unwrap();
    for entry in fs::read_dir(cluster.profile()).unwrap() {
        let entry = entry.unwrap();
        let copy = profile.join(entry.file_name());
        fs::copy(entry.path(), &copy).unwrap();
        std::os::unix::fs::chown(&copy, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    std::os::unix::fs::chown(&profile, Some(NOBODY), Some(NOBODY)).unwrap();
    (dfs, profile)
}

pub(crate) fn nobody(dfs: &Path, profile: &Path) -> Command {
    let mut command = Command::new(dfs);
    command.uid(NOBODY).gid(NOBODY).current_dir("/").arg("--profile").arg(profile);
    command
}

/// A copy of a program has its rights only if who copies may give them; how long the program is makes no difference.
#[test]
fn copies_keep_the_capabilities_of_a_program_for_root_alone_as_root() {
    let cluster = Cluster::start();
    // cap_net_raw, permitted and effective: version 2 of the format.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cluster.dfs(["mkdir", "-m", "1777", "/open"]).ok();
    let (dfs, profile) = for_everybody(&cluster);
    let mount = Mount::new(&cluster, "mnt");
    for (name, len) in [("short", 1000), ("long", 100_000)] {
        fs::write(mount.path(name), vec![7; len]).unwrap();
        fs::set_permissions(mount.path(name), Permissions::from_mode(0o755)).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(mount.path(name), "security.capability", &capability, flags).unwrap();
        rustix::fs::setxattr(mount.path(name), "user.origin", b"here", flags).unwrap();
        cluster.dfs(["cp", &format!("/{name}"), &format!("/{name}-of-root")]).ok();
        run(nobody(&dfs, &profile).args(["cp", &format!("/{name}"), &format!("/open/{name}")])).ok();
        for (copy, is_kept) in [(format!("{name}-of-root"), true), (format!("open/{name}"), false)] {
            let mut value = [0; 64];
            let found = rustix::fs::getxattr(mount.path(&copy), "security.capability", &mut value[..]).ok();
            assert_eq!(found.map(|len| value[..len].to_vec()), is_kept.then(|| capability.to_vec()), "{copy}");
            assert!(rustix::fs::getxattr(mount.path(&copy), "user.origin", &mut value[..]).is_ok(), "{copy}");
        }
    }
}

#[test]
fn an_ordinary_user_may_what_modes_and_owners_say_as_root() {
    let cluster = Cluster::start();
    let file = local(&cluster, "file", b"bytes");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    cluster.dfs(["mkdir", "-m", "755", "/theirs"]).ok();
    cluster.dfs(["mkdir", "-m", "1777", "/open"]).ok();
    cluster.dfs(["mkdir", "-m", "700", "/closed"]).ok();
    cluster.dfs(["upload", &file, "/theirs/readable"]).ok();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    cluster.dfs(["upload", &file, "/theirs/secret"]).ok();
    cluster.dfs(["upload", &file, "/open/of-root"]).ok();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let (dfs, profile) = for_everybody(&cluster);
    let nobody = |arguments: &[&str]| run(nobody(&dfs, &profile).args(arguments));

    nobody(&["upload", &file, "/theirs/x"]).fails(1, &["/theirs/x", "permission denied"]);
    nobody(&["mkdir", "/x"]).fails(1, &["'/x'", "permission denied"]);
    nobody(&["rm", "/theirs/readable"]).fails(1, &["'/theirs/readable'", "permission denied"]);
    nobody(&["rm", "/open/of-root"]).fails(1, &["'/open/of-root'", "permission denied"]);
    nobody(&["cat", "/theirs/secret"]).fails(1, &["'/theirs/secret'", "permission denied"]);
    nobody(&["ls", "/closed"]).fails(1, &["'/closed'", "permission denied"]);
    nobody(&["cp", "/theirs/secret", "/open/x"]).fails(1, &["permission denied"]);
    assert_eq!(nobody(&["cat", "/theirs/readable"]).ok(), "bytes");
    nobody(&["upload", &file, "/open/mine"]).ok();
    let all: serde_json::Value = serde_json::from_str(&cluster.dfs(["stat", "--json", "/open/mine"]).ok()).unwrap();
    assert_eq!((&all[0]["uid"], &all[0]["gid"]), (&NOBODY.into(), &NOBODY.into()));
    nobody(&["rm", "/open/mine"]).ok();

    let secret = local(&cluster, "secret", b"x");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    nobody(&["upload", &secret, "/open/x"]).fails(1, &[&secret, "Permission denied"]);
    let target = cluster.path("copy");
    nobody(&["download", "/theirs/readable", target.to_str().unwrap()]).fails(1, &["Permission denied"]);
    assert!(!target.exists());
}

#[test]
fn an_ordinary_user_downloads_read_only_files_into_a_directory_of_somebody_else_as_root() {
    let cluster = Cluster::start();
    let tree = cluster.path("tree");
    fs::create_dir(&tree).unwrap();
    for (name, len) in [("small", 5), ("large", 50_000)] {
        fs::write(tree.join(name), tree::bytes(1, len)).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(tree.join(name), "user.origin", b"here", flags).unwrap();
        fs::set_permissions(tree.join(name), Permissions::from_mode(0o444)).unwrap();
    }
    cluster.dfs(["upload", "-r", tree.to_str().unwrap(), "/"]).ok();
    let (dfs, profile) = for_everybody(&cluster);
    let copy = cluster.path("copy");
    fs::create_dir(&copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o1777)).unwrap();
    run(nobody(&dfs, &profile).args(["download", "-rT", "/tree", copy.to_str().unwrap()])).ok();
    for name in ["small", "large"] {
        let mut value = [0; 100];
        let len = rustix::fs::getxattr(copy.join(name), "user.origin", &mut value[..]).unwrap();
        assert_eq!(&value[..len], b"here");
        assert_eq!(fs::metadata(copy.join(name)).unwrap().permissions().mode() & 0o7777, 0o444);
    }
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o7777, 0o1777);
}

#[test]
fn a_full_local_disk_ends_a_download_in_one_line_and_leaves_no_part_as_root() {
    let cluster = Cluster::start();
    let big = local(&cluster, "big", &tree::bytes(1, 12 << 20));
    let small = local(&cluster, "small", b"small");
    cluster.dfs(["upload", &big, &small, "/"]).ok();
    let disk = cluster.path("disk");
    fs::create_dir(&disk).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&disk)).ok();
    let ran = cluster.dfs(["download", "/big", disk.to_str().unwrap()]);
    let left: Vec<_> = fs::read_dir(&disk).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let after = cluster.dfs(["download", "/small", disk.to_str().unwrap()]);
    run(Command::new("umount").arg(&disk)).ok();
    ran.fails(1, &["disk/big", "No space left on device"]);
    assert!(left.is_empty(), "{left:?}");
    after.ok();
}

#[test]
fn without_a_node_that_answers_there_is_an_error_within_a_deadline() {
    let mut cluster = Cluster::start();
    for node in &mut cluster.nodes {
        node.kill();
    }
    let file = local(&cluster, "file", b"bytes");
    for arguments in [&["ls", "/"][..], &["upload", &file, "/x"]] {
        let start = Instant::now();
        let ran = cluster.dfs(arguments);
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(20), "{arguments:?} took {elapsed:?}");
        ran.fails(1, &["cannot reach the cluster"]);
    }
}

#[test]
fn a_profile_that_is_missing_or_damaged_is_named_with_what_to_do() {
    let cluster = Cluster::start();
    let mut command = Command::new(program("dfs"));
    command.env("XDG_CONFIG_HOME", cluster.path("none")).env_remove("DFS_PROFILE");
    run(command.args(["--profile", "office", "ls"])).fails(1, &["no profile office", "dfs login TOKEN"]);
    let profile = cluster.path("profile");
    fs::create_dir(&profile).unwrap();
    for entry in fs::read_dir(cluster.profile()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), profile.join(entry.file_name())).unwrap();
    }
    fs::write(profile.join("certificate.der"), b"nonsense").unwrap();
    let ran = run(Command::new(program("dfs")).arg("--profile").arg(&profile).arg("ls"));
    ran.fails(1, &["cannot reach the cluster", "log in again"]);
}
