//! Ordinary programs, in a short form.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use harness::{Cluster, Mount, cluster::run, tree};

/// Whether a program is there; says what is left out if not.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = found.is_ok_and(|status| status.success());
    if !there {
        eprintln!("left out: {program} is not installed");
    }
    there
}

/// A line of shell that must succeed, in `dir`, with `$1`.
fn shell(line: &str, dir: &Path, argument: &Path) -> String {
    let mut command = Command::new("sh");
    command.current_dir(dir).env("HOME", dir).env("GIT_CONFIG_NOSYSTEM", "1");
    run(command.arg("-euc").arg(line).arg("sh").arg(argument)).ok()
}

/// A tree with everything that a copy must keep.
fn make_tree(root: &Path) {
    for dir in 0..8 {
        let path = root.join(format!("dir-{dir}/sub"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..12_u64 {
            let len = if file == 0 { 200_000 } else { usize::try_from(file * 911).unwrap() };
            fs::write(path.join(format!("file {file}")), tree::bytes(dir * 100 + file, len)).unwrap();
        }
        std::os::unix::fs::symlink("file 1", path.join("link")).unwrap();
        fs::hard_link(path.join("file 2"), path.join("another name")).unwrap();
    }
    fs::write(root.join("large"), tree::bytes(77, 6 << 20)).unwrap();
    shell(
        "chmod 751 dir-1; chmod 400 'dir-2/sub/file 3'; touch -d '2001-02-03 04:05:06.123456789' dir-3 large",
        root,
        root,
    );
}

#[test]
fn cp_keeps_everything_in_and_out_and_diff_finds_nothing() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let source = cluster.path("source");
    make_tree(&source);
    shell("cp -a \"$1\" copy && diff -r \"$1\" copy", mount.dir(), &source);
    tree::assert_same(&source, &mount.path("copy"));
    shell("cp -a copy again && diff -r copy again", mount.dir(), &source);
    shell("cp -a again \"$1\"", mount.dir(), &cluster.path("back"));
    tree::assert_same(&source, &cluster.path("back"));
    let found = shell(
        "find copy -type f | wc -l; grep -rl nothing-of-the-kind copy || true; du -s copy >/dev/null",
        mount.dir(),
        &source,
    );
    assert_eq!(found.trim(), "105");
}

#[test]
fn rsync_with_checksums_finds_nothing_left_to_do() {
    if !has("rsync") {
        return;
    }
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let source = cluster.path("source");
    make_tree(&source);
    // Or it takes times of one second for the same.
    shell("rsync -aH --modify-window=-1 \"$1/\" copy/", mount.dir(), &source);
    tree::assert_same(&source, &mount.path("copy"));
    assert_eq!(shell("rsync -aHi --modify-window=-1 --checksum \"$1/\" copy/", mount.dir(), &source), "");
    fs::write(source.join("large"), tree::bytes(78, 6 << 20)).unwrap();
    shell("rsync -aH --modify-window=-1 --inplace --no-whole-file \"$1/\" copy/", mount.dir(), &source);
    tree::assert_same(&source, &mount.path("copy"));
}

#[test]
fn tar_unpacks_and_packs_the_same_tree() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let source = cluster.path("source");
    make_tree(&source);
    shell("tar --format=posix -C \"$1\" -cf tree.tar . && mkdir out && tar -C out -xpf tree.tar", mount.dir(), &source);
    tree::assert_same(&source, &mount.path("out"));
    shell("tar -C out -df tree.tar && rm -r out && test ! -e out", mount.dir(), &source);
}

#[test]
fn git_makes_packs_and_checks_a_repository() {
    if !has("git") {
        return;
    }
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let source = cluster.path("source");
    make_tree(&source);
    let identity = "git config user.name t && git config user.email t@example.org";
    shell(
        &format!("git init -q repo && cd repo && {identity} && cp -a \"$1\"/. . && git add -A && git commit -qm one"),
        mount.dir(),
        &source,
    );
    shell(
        "cd repo && rm -r dir-1 && echo more >> large && git commit -qam two && git gc -q && git fsck --strict 2>&1",
        mount.dir(),
        &source,
    );
    shell(
        "git clone -q repo clone && diff -r -x .git repo clone && cd clone && git checkout -q HEAD~1 && test -d dir-1",
        mount.dir(),
        &source,
    );
    assert_eq!(shell("cd repo && git status --porcelain", mount.dir(), &source), "");
    assert_eq!(shell("cd repo && git log --format=%s", mount.dir(), &source), "two\none\n");
}

/// Two processes on two mounts count in one database, in rollback mode: locks, fsync and coherence together.
#[test]
fn sqlite_counts_right_from_two_mounts_at_once() {
    if !has("python3") {
        return;
    }
    if !run(Command::new("python3").args(["-c", "import sqlite3"])).stderr.is_empty() {
        eprintln!("left out: python3 has no sqlite3");
        return;
    }
    let cluster = Cluster::start();
    let mounts = ["one", "two"].map(|name| Mount::new(&cluster, name));
    let create = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('create table t (n integer)'); \
                  db.execute('insert into t values (0)'); db.commit()";
    run(Command::new("python3").args(["-c", create]).arg(mounts[0].path("db"))).ok();
    let count = "\
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for _ in range(30):
    db.execute('begin immediate')
    db.execute('update t set n = n + 1')
    db.execute('commit')
";
    std::thread::scope(|scope| {
        for mount in &mounts {
            scope.spawn(move || run(Command::new("python3").args(["-c", count]).arg(mount.path("db"))).ok());
        }
    });
    let check = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(db.execute('select n from t').fetchone()[0], \
                 db.execute('pragma integrity_check').fetchone()[0])";
    for mount in &mounts {
        assert_eq!(run(Command::new("python3").args(["-c", check]).arg(mount.path("db"))).ok(), "60 ok\n");
    }
}

#[test]
fn cargo_builds_a_crate_once_and_then_only_what_has_changed() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let root = mount.path("crate");
    fs::create_dir_all(root.join("src/bin")).unwrap();
    fs::write(root.join("Cargo.toml"), "[package]\nname = \"on-a-mount\"\nedition = \"2021\"\n").unwrap();
    for number in 0..4 {
        let program = format!("fn main() {{ println!(\"{{}}\", {number}) }}\n");
        fs::write(root.join(format!("src/bin/p{number}.rs")), program).unwrap();
    }
    let build = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(&root).args(["build", "--offline", "-v"]);
        let built = run(cargo.env("CARGO_TARGET_DIR", root.join("target")).env_remove("RUSTFLAGS"));
        assert_eq!(built.status, 0, "{}", built.stderr);
        built.stderr
    };
    // Programs of one crate are told apart by what their compiler is asked for.
    let compiled = |said: &str| said.lines().filter(|line| line.contains("--crate-name")).count();
    assert_eq!(compiled(&build()), 4);
    assert_eq!(compiled(&build()), 0, "nothing has changed");
    assert_eq!(run(&mut Command::new(root.join("target/debug/p3"))).ok(), "3\n");
    fs::write(root.join("src/bin/p3.rs"), "fn main() { println!(\"other\") }\n").unwrap();
    assert_eq!(compiled(&build()), 1);
    assert_eq!(run(&mut Command::new(root.join("target/debug/p3"))).ok(), "other\n");
}
