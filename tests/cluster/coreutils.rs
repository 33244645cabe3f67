//! What who knows `cp` and `rm` expects of trees that do not go as planned.

use std::{fs, fs::Permissions, os::unix::fs::PermissionsExt};

use harness::{Cluster, Mount, cluster::run};

use crate::{
    bad_input::{NOBODY, for_everybody, nobody},
    commands::names,
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
