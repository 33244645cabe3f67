//! What who knows `cp` and `rm` expects of trees that do not go as planned.

use std::{
    fs,
    fs::Permissions,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Stdio,
    time::Duration,
};

use harness::{Cluster, Mount, cluster::run, tree, wait::until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    bad_input::{NOBODY, for_everybody, nobody},
    commands::{names, put, stat},
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn rm_goes_on_after_what_cannot_be_removed_names_it_and_keeps_what_is_above_as_root() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    fs::create_dir(mount.path("tree")).unwrap();
    fs::set_permissions(mount.dir(), Permissions::from_mode(0o1777)).unwrap();
    let mine = |path: &str| std::os::unix::fs::chown(mount.path(path), Some(NOBODY), Some(NOBODY)).unwrap();
    for dir in ["tree/closed", "tree/a/locked", "tree/z/deep"] {
        fs::create_dir_all(mount.path(dir)).unwrap();
    }
    let files =
        ["tree/1", "tree/9", "tree/closed/x", "tree/a/2", "tree/a/locked/3", "tree/a/locked/4", "tree/z/deep/5"];
    files.iter().for_each(|file| fs::write(mount.path(file), b"x").unwrap());
    files.iter().chain(&["tree", "tree/a", "tree/z", "tree/z/deep"]).for_each(|path| mine(path));
    // The files in there cannot be taken out; what is in the other cannot even be listed.
    fs::set_permissions(mount.path("tree/a/locked"), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(mount.path("tree/closed"), Permissions::from_mode(0o700)).unwrap();
    let (dfs, profile) = for_everybody(&cluster);
    let ran = run(nobody(&dfs, &profile).args(["rm", "-r", "/tree"]));
    let mut told: Vec<_> = ran.stderr.lines().collect();
    told.sort_unstable();
    let denied = |path: &str| format!("dfs: cannot remove '{path}': permission denied");
    assert_eq!(told, [denied("/tree/a/locked/3"), denied("/tree/a/locked/4"), denied("/tree/closed")]);
    assert_eq!(ran.status, 1);
    assert_eq!(
        (names(&cluster, "/tree"), names(&cluster, "/tree/a")),
        (vec!["a".into(), "closed".into()], vec!["locked".into()])
    );
    cluster.dfs(["rm", "-r", "/tree"]).ok();
    assert_eq!(names(&cluster, "/"), Vec::<String>::new());
}

#[test]
fn a_link_that_is_named_is_written_through_and_one_that_leads_nowhere_refused() {
    let cluster = Cluster::start();
    let file = cluster.path("file");
    fs::write(&file, b"from here").unwrap();
    let file = file.to_str().unwrap();
    cluster.dfs(["mkdir", "/d"]).ok();
    put(&cluster, "/new", b"new");
    put(&cluster, "/d/real", b"old");
    cluster.dfs(["ln", "-s", "d/real", "/link"]).ok();
    cluster.dfs(["ln", "-s", "missing", "/dangling"]).ok();
    let is_link = |path: &str| stat(&cluster, path)["type"] == "symlink";
    let bytes = |path: &str| cluster.dfs(["cat", path]).ok();

    cluster.dfs(["cp", "/new", "/link"]).ok();
    assert_eq!((is_link("/link"), bytes("/d/real").as_str()), (true, "new"));
    put(&cluster, "/new", b"newer");
    cluster.dfs(["cp", "-r", "/new", "/link"]).ok();
    assert_eq!((is_link("/link"), bytes("/d/real").as_str()), (true, "newer"));
    cluster.dfs(["upload", file, "/link"]).ok();
    assert_eq!((is_link("/link"), bytes("/d/real").as_str()), (true, "from here"));
    cluster.dfs(["cp", "/link", "/d/real"]).fails(1, &["cannot copy '/link' to '/d/real'", "same file"]);
    cluster.dfs(["cp", "/d/real", "/link"]).fails(1, &["cannot copy '/d/real' to '/link'", "same file"]);
    assert_eq!(bytes("/d/real"), "from here");

    let leads_nowhere = "a link that leads nowhere is in the way";
    cluster.dfs(["cp", "/new", "/dangling"]).fails(1, &["cannot copy '/new' to '/dangling'", leads_nowhere]);
    cluster.dfs(["upload", file, "/dangling"]).fails(1, &["/dangling", leads_nowhere]);
    assert_eq!(
        (is_link("/dangling"), names(&cluster, "/")),
        (true, ["d", "dangling", "link", "new"].map(Into::into).into())
    );

    // A rename replaces the link, and so does a link.
    cluster.dfs(["mv", "/new", "/dangling"]).ok();
    assert_eq!((is_link("/dangling"), bytes("/dangling").as_str()), (false, "newer"));
    cluster.dfs(["ln", "-s", "missing", "/other"]).ok();
    cluster.dfs(["cp", "-r", "/other", "/link"]).ok();
    assert_eq!((stat(&cluster, "/link")["target"].as_str(), bytes("/d/real").as_str()), (Some("missing"), "from here"));
}

#[test]
fn a_link_that_is_uploaded_again_does_not_take_the_place_of_what_it_leads_to() {
    let cluster = Cluster::start();
    let (v1, latest) = (cluster.path("v1"), cluster.path("latest"));
    fs::write(&v1, b"the first").unwrap();
    std::os::unix::fs::symlink("v1", &latest).unwrap();
    for _ in 0..2 {
        cluster.dfs(["upload", "-r", v1.to_str().unwrap(), latest.to_str().unwrap(), "/"]).ok();
    }
    assert_eq!(cluster.dfs(["cat", "/v1"]).ok(), "the first");
    assert_eq!(stat(&cluster, "/latest")["target"], "v1");
}

#[test]
fn what_has_no_length_before_it_is_read_is_uploaded_as_it_is_read() {
    let cluster = Cluster::start();
    // Of the first and the last the system says that they are empty, of the second that it is longer than it is.
    for file in ["/proc/version", "/sys/class/net/lo/mtu", "/proc/kallsyms"] {
        cluster.dfs(["upload", file, "/copy"]).ok();
        let there = stat(&cluster, "/copy")["size"].as_u64().unwrap();
        let bytes = fs::read(file).unwrap();
        assert_eq!(
            (there, cluster.dfs(["cat", "/copy"]).ok().into_bytes() == bytes),
            (bytes.len() as u64, true),
            "{file}"
        );
    }
}

#[test]
fn a_download_that_is_interrupted_leaves_the_directory_that_was_named_with_its_mode() {
    let cluster = Cluster::start();
    let dir = cluster.path("tree");
    fs::create_dir(&dir).unwrap();
    for number in 0..40 {
        fs::write(dir.join(format!("{number}")), tree::bytes(number, 8 << 20)).unwrap();
    }
    fs::set_permissions(&dir, Permissions::from_mode(0o2775)).unwrap();
    cluster.dfs(["upload", "-r", dir.to_str().unwrap(), "/"]).ok();
    for (source, signal) in [("/tree/.", Signal::INT), ("/tree", Signal::KILL)] {
        let copy = cluster.path("copy");
        let download = ["download", "-r", source, copy.to_str().unwrap()];
        let mut child = cluster.command().args(download).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("a file is there", Duration::from_secs(20), || fs::read_dir(&copy).is_ok_and(|list| list.count() > 0));
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert!(!child.wait().unwrap().success(), "it was to be interrupted");
        assert_eq!(format!("{:o}", mode(&copy)), "2775", "{source}");
        cluster.dfs(["download", "-rT", source, copy.to_str().unwrap()]).ok();
        assert_eq!(format!("{:o}", mode(&copy)), "2775", "{source}");
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn other_names_of_a_file_come_even_if_its_first_cannot() {
    let cluster = Cluster::start();
    let dir = cluster.path("tree");
    fs::create_dir(&dir).unwrap();
    for (file, len) in [("small", 100), ("large", 5 << 20)] {
        let first = dir.join(format!("{file}-1"));
        fs::write(&first, tree::bytes(1, len)).unwrap();
        (2..=4).for_each(|number| fs::hard_link(&first, dir.join(format!("{file}-{number}"))).unwrap());
    }
    cluster.dfs(["upload", "-r", dir.to_str().unwrap(), "/"]).ok();
    // Whichever is met first: of each file one name cannot be made, in one round or another it is that one.
    for blocked in 1..=4 {
        let copy = cluster.path(&format!("copy-{blocked}"));
        let in_the_way = ["small", "large"].map(|file| format!("{file}-{blocked}"));
        in_the_way.iter().for_each(|name| fs::create_dir_all(copy.join(name)).unwrap());
        let ran = cluster.dfs(["download", "-rT", "/tree", copy.to_str().unwrap()]);
        assert_eq!((ran.status, ran.stderr.lines().count()), (1, 2), "{}", ran.stderr);
        assert!(ran.stderr.lines().all(|line| line.contains("a directory is in the way of a file")), "{}", ran.stderr);
        let there = format!("/there-{blocked}");
        cluster.dfs(["mkdir", "-p", &format!("{there}/{}", in_the_way[0]), &format!("{there}/{}", in_the_way[1])]).ok();
        let ran = cluster.dfs(["upload", "-rT", dir.to_str().unwrap(), &there]);
        assert_eq!((ran.status, ran.stderr.lines().count()), (1, 2), "{}", ran.stderr);
        let others = (1..=4).filter(|number| *number != blocked);
        for (file, number) in others.flat_map(|number| [("small", number), ("large", number)]) {
            let name = format!("{file}-{number}");
            assert_eq!(fs::read(copy.join(&name)).unwrap(), fs::read(dir.join(&name)).unwrap(), "{name}");
            assert_eq!(fs::metadata(copy.join(&name)).unwrap().nlink(), 3, "{name}");
            let attr = stat(&cluster, &format!("{there}/{name}"));
            assert_eq!(
                (&attr["links"], attr["size"].as_u64().unwrap()),
                (&3.into(), fs::metadata(dir.join(&name)).unwrap().len())
            );
        }
    }
}

#[test]
fn a_tree_does_not_go_into_itself_by_way_of_a_mount_and_all_else_is_copied() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "-p", "/x/y", "/x/sub"]).ok();
    put(&cluster, "/x/sub/file", b"bytes");
    let mount = Mount::new(&cluster, "outer/mnt");
    let part = Mount::with(&cluster, "part", &["subdir=/x/y"]);
    let (whole, y) = (mount.path("x"), mount.path("x/y"));
    let [x_there, y_there, part_there] = [whole.as_path(), &y, part.dir()].map(|path| path.to_str().unwrap());
    let (contents_there, outer) = (format!("{x_there}/."), cluster.path("outer"));
    for (command, copied_file) in [
        (["download", "-r", "/x", y_there], "/x/y/x/sub/file"),
        (["download", "-r", "/x/.", y_there], "/x/y/sub/file"),
        (["download", "-r", "/x", part_there], "/x/y/x/sub/file"),
        (["upload", "-r", x_there, "/x/y"], "/x/y/x/sub/file"),
        (["upload", "-r", &contents_there, "/x/y"], "/x/y/sub/file"),
        (["upload", "-r", outer.to_str().unwrap(), "/x/y"], "/x/y/outer/mnt/x/sub/file"),
    ] {
        cluster.dfs(command).fails(1, &["a directory cannot go into itself"]);
        assert_eq!(cluster.dfs(["cat", copied_file]).ok(), "bytes", "{command:?}");
        let listed = cluster.dfs(["ls", "-AR", "/x/y"]).ok();
        assert_eq!(listed.lines().filter(|line| *line == "file").count(), 1, "{command:?}: {listed}");
        for name in names(&cluster, "/x/y") {
            cluster.dfs(["rm", "-r", &format!("/x/y/{name}")]).ok();
        }
    }
    for command in [["download", "-rT", "/x", x_there], ["upload", "-rT", x_there, "/x"]] {
        cluster.dfs(command).fails(1, &["a directory cannot go into itself"]);
    }
    assert_eq!((names(&cluster, "/x"), names(&cluster, "/x/y").len()), (vec!["sub".into(), "y".into()], 0));
}
