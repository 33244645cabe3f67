//! What who knows `cp` and `rm` expects of trees that do not go as planned.

use std::{fs, fs::Permissions, os::unix::fs::PermissionsExt};

use harness::{Cluster, Mount, cluster::run};

use crate::{
    bad_input::{NOBODY, for_everybody, nobody},
    commands::{names, put, stat},
};

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
