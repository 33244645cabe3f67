//! What changes the namespace: `mkdir`, `rm`, `mv`, `cp`, `ln`; and that every command teaches.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use harness::{Cluster, cluster::run, node::program, tree, wait::until};
use serde_json::Value;

const MIB: usize = 1 << 20;

pub(crate) fn put(cluster: &Cluster, path: &str, bytes: &[u8]) {
    let local = cluster.path("put");
    fs::write(&local, bytes).unwrap();
    cluster.dfs(["upload", "-qT", local.to_str().unwrap(), path]).ok();
}

pub(crate) fn names(cluster: &Cluster, path: &str) -> Vec<String> {
    cluster.dfs(["ls", path]).ok().lines().map(str::to_owned).collect()
}

pub(crate) fn stat(cluster: &Cluster, path: &str) -> Value {
    let all: Value = serde_json::from_str(&cluster.dfs(["stat", "--json", path]).ok()).unwrap();
    all[0].clone()
}

/// Chunks that the nodes hold between them.
fn chunks(cluster: &Cluster) -> u64 {
    let status = cluster.status();
    status["nodes"].as_array().unwrap().iter().map(|node| node["store"]["chunks"].as_u64().unwrap()).sum()
}

#[test]
fn mkdir_makes_one_directory_or_with_p_all_above() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "/a", "/b"]).ok();
    cluster.dfs(["mkdir", "/a"]).fails(1, &["cannot mkdir '/a'", "exists"]);
    cluster.dfs(["mkdir", "/x/y/z"]).fails(1, &["cannot mkdir '/x/y/z'", "no such file or directory"]);
    cluster.dfs(["mkdir", "-p", "/x/y/z", "/x/y/z", "/a"]).ok();
    cluster.dfs(["mkdir", "-m", "1750", "/private"]).ok();
    assert_eq!(stat(&cluster, "/private")["mode"], "1750");
    assert_eq!(names(&cluster, "/"), ["a", "b", "private", "x"]);
    put(&cluster, "/file", b"x");
    cluster.dfs(["mkdir", "-p", "/file/below"]).fails(1, &["cannot mkdir '/file/below'", "not a directory"]);
    cluster.dfs(["mkdir", "-m", "9", "/never"]).status(2);
    // Whoever keeps what is theirs from others means what is made on the way as well.
    let mut shell = Command::new("sh");
    let dfs = format!(
        "umask 077 && exec {} --profile {} mkdir -p /mine/on/the/way",
        program("dfs").display(),
        cluster.profile().display()
    );
    run(shell.env("XDG_CONFIG_HOME", cluster.path("config")).args(["-c", &dfs])).ok();
    for path in ["/mine", "/mine/on", "/mine/on/the/way"] {
        assert_eq!(stat(&cluster, path)["mode"], "0700", "{path}");
    }
    cluster.dfs(["rm", "-r", "/mine"]).ok();
}

#[test]
fn rm_takes_a_directory_only_when_told_to_and_f_forgives_what_is_missing() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "-p", "/tree/sub/deeper", "/empty"]).ok();
    for name in ["/tree/a", "/tree/sub/b", "/tree/sub/deeper/c", "/file"] {
        put(&cluster, name, b"x");
    }
    cluster.dfs(["ln", "-s", "/tree", "/link"]).ok();
    cluster.dfs(["rm", "/tree"]).fails(1, &["cannot remove '/tree'", "is a directory", "use -r"]);
    cluster.dfs(["rm", "-d", "/tree"]).fails(1, &["cannot remove '/tree'", "not empty"]);
    cluster.dfs(["rm", "/missing"]).fails(1, &["cannot remove '/missing'", "no such file or directory"]);
    cluster.dfs(["rm", "-f", "/missing", "/file/below"]).ok();
    cluster.dfs(["rm", "-d", "/empty"]).ok();
    cluster.dfs(["rm", "-r", "/"]).fails(1, &["cannot remove '/'"]);
    cluster.dfs(["rm", "-r", "/link"]).ok();
    assert_eq!(names(&cluster, "/"), ["file", "tree"], "a link is removed, not what it leads to");
    cluster.dfs(["rm", "-r", "/tree", "/file"]).ok();
    assert_eq!(names(&cluster, "/"), Vec::<String>::new());
    // What has lost its last name is given back when no session holds it any more.
    until("only the root is left", Duration::from_secs(20), || cluster.status()["usage"]["inodes"] == 1);
}

#[test]
fn one_path_that_fails_does_not_keep_the_others_from_being_removed() {
    let cluster = Cluster::start();
    put(&cluster, "/a", b"x");
    put(&cluster, "/b", b"x");
    cluster.dfs(["rm", "/a", "/missing", "/b"]).fails(1, &["'/missing'"]);
    assert_eq!(names(&cluster, "/"), Vec::<String>::new());
}

#[test]
fn mv_renames_replaces_and_moves_into_directories() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "-p", "/dir/sub", "/other"]).ok();
    put(&cluster, "/a", b"of a");
    put(&cluster, "/b", b"of b");
    let inode = stat(&cluster, "/a")["inode"].clone();
    cluster.dfs(["mv", "-nT", "/a", "/b"]).fails(1, &["cannot move '/a' to '/b'", "exists"]);
    assert_eq!(cluster.dfs(["cat", "/b"]).ok(), "of b");
    cluster.dfs(["mv", "/a", "/b"]).ok();
    assert_eq!((cluster.dfs(["cat", "/b"]).ok().as_str(), &stat(&cluster, "/b")["inode"]), ("of a", &inode));
    cluster.dfs(["mv", "/b", "/dir"]).ok();
    assert_eq!(names(&cluster, "/dir"), ["b", "sub"]);
    cluster.dfs(["mv", "/dir", "/dir/sub/dir"]).fails(1, &["cannot move '/dir'", "cannot go into itself"]);
    cluster.dfs(["mv", "-T", "/other", "/dir"]).fails(1, &["cannot move '/other' to '/dir'", "not empty"]);
    cluster.dfs(["mv", "-T", "/dir", "/other"]).ok();
    assert_eq!(names(&cluster, "/other"), ["b", "sub"]);
    cluster.dfs(["mv", "-T", "/other/b", "/other/sub"]).fails(1, &["cannot move", "is a directory"]);
    cluster.dfs(["mv", "/missing", "/new"]).fails(1, &["/missing", "no such file or directory"]);
    put(&cluster, "/c", b"of c");
    cluster.dfs(["mv", "--exchange", "/c", "/other"]).ok();
    assert_eq!((names(&cluster, "/c").len(), cluster.dfs(["cat", "/other"]).ok().as_str()), (2, "of c"));
}

#[test]
fn cp_moves_no_data_and_each_copy_lives_on_its_own() {
    let cluster = Cluster::start();
    let bytes = tree::bytes(1, 9 * MIB);
    cluster.dfs(["mkdir", "/tree"]).ok();
    put(&cluster, "/tree/big", &bytes);
    put(&cluster, "/tree/small", b"small");
    cluster.dfs(["ln", "-s", "big", "/tree/link"]).ok();
    // Nodes tell what they hold now and then.
    until("three chunks are on three nodes", Duration::from_secs(20), || chunks(&cluster) == 9);
    cluster.dfs(["cp", "/tree/big", "/copy"]).ok();
    cluster.dfs(["cp", "-r", "/tree", "/again"]).ok();
    assert_eq!(chunks(&cluster), 9);
    let keys = |path: &str| {
        let extents = stat(&cluster, path)["extents"].as_array().unwrap().clone();
        extents.iter().map(|extent| extent["chunk"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((keys("/copy"), keys("/again/big")), (keys("/tree/big"), keys("/tree/big")));

    put(&cluster, "/tree/big", b"changed");
    cluster.dfs(["rm", "/tree/small"]).ok();
    let local = cluster.path("local");
    cluster.dfs(["download", "-r", "/again", local.to_str().unwrap()]).ok();
    assert_eq!(fs::read(local.join("big")).unwrap(), bytes);
    assert_eq!(fs::read(local.join("small")).unwrap(), b"small");
    assert_eq!(fs::read_link(local.join("link")).unwrap().to_str(), Some("big"));
    assert_eq!(names(&cluster, "/again"), ["big", "link", "small"]);
}

#[test]
fn cp_refuses_directories_without_r_and_a_copy_into_itself() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "-p", "/tree/sub"]).ok();
    put(&cluster, "/tree/file", b"x");
    cluster.dfs(["ln", "-s", "/tree/sub", "/way-in"]).ok();
    cluster.dfs(["cp", "/tree", "/copy"]).fails(1, &["cannot copy '/tree' to '/copy'", "is a directory", "use -r"]);
    cluster.dfs(["cp", "-r", "/tree", "/tree/sub/"]).fails(1, &["cannot copy '/tree'", "cannot go into itself"]);
    cluster.dfs(["cp", "-r", "/tree", "/way-in/x"]).fails(1, &["cannot copy '/tree'", "cannot go into itself"]);
    cluster.dfs(["cp", "/missing", "/copy"]).fails(1, &["/missing", "no such file or directory"]);
    cluster.dfs(["cp", "-rT", "/tree", "/tree/file"]).status(1);
    assert_eq!(names(&cluster, "/tree"), ["file", "sub"]);
}

#[test]
fn ln_makes_second_names_and_symbolic_links() {
    let cluster = Cluster::start();
    put(&cluster, "/file", b"bytes");
    cluster.dfs(["mkdir", "/dir"]).ok();
    cluster.dfs(["ln", "/file", "/second"]).ok();
    let (file, second) = (stat(&cluster, "/file"), stat(&cluster, "/second"));
    assert_eq!((&file["inode"], &file["links"]), (&second["inode"], &2.into()));
    cluster.dfs(["ln", "/dir", "/no"]).fails(1, &["cannot link '/no'", "/dir", "a directory has no hard links"]);
    cluster.dfs(["ln", "-s", "../file", "/dir/link"]).ok();
    assert_eq!(cluster.dfs(["cat", "/dir/link"]).ok(), "bytes");
    cluster.dfs(["ln", "-s", "elsewhere", "/dir/link"]).fails(1, &["cannot link '/dir/link'", "exists"]);
    cluster.dfs(["ln", "-sf", "elsewhere", "/dir/link"]).ok();
    let link = stat(&cluster, "/dir/link");
    assert_eq!((&link["type"], &link["target"]), (&"symlink".into(), &"elsewhere".into()));
    cluster.dfs(["cat", "/dir/link"]).fails(1, &["cannot read '/dir/link'", "no such file or directory"]);
    cluster.dfs(["ln", "-s", "loop", "/loop"]).ok();
    cluster.dfs(["cat", "/loop"]).fails(1, &["cannot read '/loop'", "too many levels of symbolic links"]);
    cluster.dfs(["rm", "/file"]).ok();
    assert_eq!(cluster.dfs(["cat", "/second"]).ok(), "bytes");
}

#[test]
fn every_command_teaches_with_an_example_and_wrong_usage_is_2() {
    let dfs = |arguments: &[&str]| run(std::process::Command::new(program("dfs")).args(arguments));
    let commands = "upload download ls tree stat cat mkdir rm mv cp ln du df status nodes ring token login dev";
    for command in commands.split(' ') {
        let help = dfs(&[command, "--help"]).ok();
        assert!(help.contains("Example") && help.contains(&format!("\n  dfs {command}")), "{command}: {help}");
        dfs(&[command, "--no-such-option"]).status(2);
    }
    for command in ["upload", "download", "cat", "mkdir", "rm", "mv", "cp", "ln", "login", "stat"] {
        dfs(&[command]).status(2);
    }
    for command in [["dev", "up"], ["dev", "down"], ["dev", "status"], ["token", "create"]] {
        let help = dfs(&[command[0], command[1], "--help"]).ok();
        assert!(help.contains("Example"), "{command:?}: {help}");
    }
    for command in ["init", "join", "run", "recover"] {
        let help = run(std::process::Command::new(program("dfs-node")).args([command, "--help"])).ok();
        assert!(help.contains(&format!("dfs-node {command} --data")), "{help}");
    }
    dfs(&["no-such-command"]).status(2);
    dfs(&["--help"]).ok();
    dfs(&["--version"]).ok();
}

/// As coreutils: nothing takes its own place, and the last name of a file does not go by accident.
#[test]
fn no_file_is_replaced_by_itself() {
    let cluster = Cluster::start();
    cluster.dfs(["mkdir", "/d"]).ok();
    put(&cluster, "/d/c", b"the only copy");
    for target in ["/d/c", "c", "../d/c"] {
        cluster.dfs(["ln", "-sf", target, "/d/c"]).fails(1, &["cannot link '/d/c'", "same file"]);
    }
    cluster.dfs(["ln", "-s", "c", "/d/link"]).ok();
    cluster.dfs(["ln", "-sf", "link", "/d/link"]).fails(1, &["cannot link '/d/link'", "same file"]);
    cluster.dfs(["mv", "/d/c", "/d/../d/c"]).fails(1, &["cannot move '/d/c'", "same file"]);
    cluster.dfs(["mv", "-T", "/d/c", "/d/link", "/e"]).fails(2, &["-T takes one source"]);
    for written in ["/d/.", "/d/link/.."] {
        cluster.dfs(["mv", written, "/e"]).fails(1, &["cannot move", "name what is to go"]);
    }
    cluster.dfs(["ln", "/d/c", "/second"]).ok();
    cluster.dfs(["ln", "-f", "/d/c", "/second"]).ok();
    assert_eq!(stat(&cluster, "/second")["links"], 2);
    cluster.dfs(["mv", "/d/c", "/second"]).ok();
    assert_eq!(
        (names(&cluster, "/d"), stat(&cluster, "/second")["links"].clone()),
        (vec!["link".to_owned()], 1.into())
    );
    assert_eq!(cluster.dfs(["cat", "/second"]).ok(), "the only copy");
}

/// Of a variable that is not set, or of a pipe, no command makes something else than was meant.
#[test]
fn an_empty_path_is_not_the_root_and_a_pipe_is_not_an_empty_file() {
    let cluster = Cluster::start();
    put(&cluster, "/file", b"bytes");
    let there = cluster.path("there");
    fs::create_dir(&there).unwrap();
    for arguments in [vec!["ls", ""], vec!["rm", "-r", ""], vec!["du", ""], vec!["mv", "/file", ""]] {
        cluster.dfs(arguments).fails(1, &["''", "the path is empty"]);
    }
    cluster.dfs(["download", "-r", "", there.to_str().unwrap()]).fails(1, &["the path is empty"]);
    let mut piped = cluster.command();
    piped.args(["upload", "/dev/stdin", "/piped"]).stdin(Stdio::piped());
    run(&mut piped).fails(1, &["/dev/stdin", "not a regular file"]);
    assert_eq!(names(&cluster, "/"), ["file"]);

    // A link that a person names stays, and what it leads to is written.
    let (link, out) = (cluster.path("link"), cluster.path("out"));
    fs::write(&out, b"old").unwrap();
    std::os::unix::fs::symlink("out", &link).unwrap();
    cluster.dfs(["download", "/file", link.to_str().unwrap()]).ok();
    assert_eq!((fs::read_link(&link).unwrap(), fs::read(&out).unwrap()), ("out".into(), b"bytes".to_vec()));
    fs::remove_file(&out).unwrap();
    cluster.dfs(["download", "/file", link.to_str().unwrap()]).fails(1, &["a link that leads nowhere"]);
}
