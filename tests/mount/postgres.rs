//! PostgreSQL keeps its books while the leader dies and after it was killed itself.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use harness::{Cluster, Mount, cluster::run, wait::until};

/// The user `nobody`: the server refuses to run as root.
const NOBODY: u32 = 65534;

/// How long the server may take to be made and started.
const READY_DEADLINE: Duration = Duration::from_secs(120);

/// `$1`: a directory of its own on this machine; `$2`: where the database is. Two servers one after the other: the first is
/// killed once all transactions have ended. Prints the sums that every transaction keeps equal, and how many there were.
const SCRIPT: &str = r#"
server() { pg_ctl -D "$2/data" -l "$1/log" -o "-k $1 -c listen_addresses=''" -w -t 60 start >"$1/said" || { cat "$1/log"; exit 1; }; }
trap 'pg_ctl -D "$2/data" -m immediate stop >/dev/null 2>&1' EXIT
export PGHOST=$1 PGUSER=books PGDATABASE=postgres
initdb -D "$2/data" -U books --no-locale -E UTF8 >"$1/made"
server "$@"
pgbench -i -q 2>"$1/filled"
touch "$1/ready"
pgbench -n -c 4 -t 100 >"$1/counted" 2>&1 || { cat "$1/counted"; exit 1; }
pg_ctl -D "$2/data" -m immediate stop >/dev/null
server "$@"
psql -At -c "select (select sum(abalance) from pgbench_accounts) - (select sum(delta) from pgbench_history),
  (select sum(bbalance) from pgbench_branches) - (select sum(delta) from pgbench_history),
  (select sum(tbalance) from pgbench_tellers) - (select sum(delta) from pgbench_history),
  (select count(*) from pgbench_history)"
"#;

/// Where the programs of the server are: Debian keeps them out of `PATH`.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.flatten().map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian.chain(std::env::split_paths(&path)).find(|dir| dir.join("initdb").exists() && dir.join("pgbench").exists())
}

fn keep_books(programs: &Path, local: &Path, remote: &Path) -> String {
    let path = std::env::join_paths([programs, Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    // Ends the programs, and the script then the server, before the test itself is ended.
    let mut shell = Command::new("timeout");
    shell.uid(NOBODY).gid(NOBODY).current_dir(local).env("PATH", path).env("HOME", local);
    run(shell.args(["200", "bash", "-euc", SCRIPT, "bash"]).arg(local).arg(remote)).ok()
}

#[test]
fn postgres_loses_no_transaction_when_the_leader_dies_and_when_it_is_killed_as_root() {
    let Some(programs) = programs() else {
        eprintln!("left out: PostgreSQL is not installed");
        return;
    };
    let mut cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    fs::set_permissions(cluster.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let (local, remote) = (cluster.path("local"), mount.path("books"));
    for dir in [&local, &remote] {
        fs::create_dir(dir).unwrap();
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let leader = cluster.leader();
    let counted = std::thread::scope(|scope| {
        let counting = scope.spawn(|| keep_books(&programs, &local, &remote));
        until("the server counts", READY_DEADLINE, || local.join("ready").exists() || counting.is_finished());
        cluster.nodes[leader].kill();
        counting.join().unwrap()
    });
    assert_eq!(counted, "0|0|0|400\n");
}
