//! Nodes that die or hang while programs use the mount.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Mount, cluster::run, tree, wait::until};
use rustix::process::Signal;

/// P5: "namespace reads, writes and operations within 5 seconds"; twice that on a machine shared with other tests.
const OPERATION_MAX: Duration = Duration::from_secs(10);

/// "Each ends by itself, with an error after at most 20 s", also those that wait for one another in one directory; and a
/// moment, on a machine shared with other tests.
const ERROR_MAX: Duration = Duration::from_secs(26);

/// Works in a directory of its own until told to stop: files of all sizes written, renamed, read back, removed, every
/// answer compared. How often, and how long the slowest round took.
fn work(root: &Path, stop: &AtomicBool) -> (u64, Duration) {
    let kept = tree::bytes(99, 6 << 20);
    fs::write(root.join("kept"), &kept).unwrap();
    let kept_file = File::open(root.join("kept")).unwrap();
    let (mut rounds, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let (name, moved) = (root.join(format!("f{rounds}")), root.join(format!("m{rounds}")));
        let bytes = tree::bytes(rounds, usize::try_from(rounds % 5 * 50_000 + 17).unwrap());
        let file = File::create(&name).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        if rounds % 2 == 0 {
            file.sync_all().unwrap();
        }
        drop(file);
        fs::rename(&name, &moved).unwrap();
        assert!(fs::read(&moved).unwrap() == bytes, "round {rounds}");
        let mut piece = vec![0; 50_000];
        let offset = rounds * 77_777 % (6 << 20) / 2;
        kept_file.read_exact_at(&mut piece, offset).unwrap();
        let at = usize::try_from(offset).unwrap();
        assert!(piece == kept[at..at + 50_000], "round {rounds}: at {offset}");
        if rounds >= 10 {
            fs::remove_file(root.join(format!("m{}", rounds - 10))).unwrap();
        }
        rounds += 1;
        slowest = slowest.max(begun.elapsed());
    }
    (rounds, slowest)
}

/// Lets two mounts work while `disturb` does; says how slow the slowest round was.
fn while_they_work(mounts: &[Mount; 2], disturb: impl FnOnce(&dyn Fn(u64))) -> Duration {
    let stop = AtomicBool::new(false);
    for (number, mount) in mounts.iter().enumerate() {
        fs::create_dir(mount.path(&format!("worker-{number}"))).unwrap();
    }
    thread::scope(|scope| {
        let workers: Vec<_> = mounts
            .iter()
            .enumerate()
            .map(|(number, mount)| {
                let (root, stop) = (mount.path(&format!("worker-{number}")), &stop);
                scope.spawn(move || work(&root, stop))
            })
            .collect();
        // Each worker has gone some rounds further than it had.
        let go_on = |rounds: u64| {
            for (number, mount) in mounts.iter().enumerate() {
                let root = mount.path(&format!("worker-{number}"));
                let last = || {
                    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
                    let names = entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned));
                    names.filter_map(|name| name.strip_prefix('m')?.parse::<u64>().ok()).max().unwrap_or(0)
                };
                let begun = last();
                until("the workers go on", Duration::from_secs(60), || last() >= begun + rounds);
            }
        };
        // The workers must end also when the disturbance fails.
        let disturbed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disturb(&go_on)));
        stop.store(true, Ordering::Relaxed);
        let worked: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        eprintln!("rounds and the slowest: {worked:?}");
        disturbed.unwrap();
        worked.into_iter().map(|(_, slowest)| slowest).max().unwrap()
    })
}

fn two_mounts(cluster: &Cluster) -> [Mount; 2] {
    ["one", "two"].map(|name| Mount::new(cluster, name))
}

#[test]
fn a_node_killed_during_reads_and_writes_is_hidden_from_programs() {
    let mut cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let follower = (cluster.leader() + 1) % 3;
    let slowest = while_they_work(&mounts, |go_on| {
        go_on(3);
        cluster.nodes[follower].kill();
        go_on(15);
        cluster.nodes[follower].start();
        go_on(5);
    });
    assert!(slowest < OPERATION_MAX, "{slowest:?}");
}

#[test]
fn the_leader_killed_during_reads_and_writes_is_hidden_from_programs() {
    let mut cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let slowest = while_they_work(&mounts, |go_on| {
        for _ in 0..2 {
            go_on(3);
            let leader = cluster.leader();
            cluster.nodes[leader].kill();
            go_on(10);
            cluster.nodes[leader].start();
            cluster.wait_healthy();
        }
    });
    assert!(slowest < OPERATION_MAX, "{slowest:?}");
}

#[test]
fn a_leader_that_hangs_is_hidden_from_programs() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let slowest = while_they_work(&mounts, |go_on| {
        go_on(3);
        let leader = cluster.leader();
        cluster.nodes[leader].signal(Signal::STOP);
        go_on(10);
        cluster.nodes[leader].signal(Signal::CONT);
        go_on(3);
    });
    assert!(slowest < OPERATION_MAX, "{slowest:?}");
}

type Attempt = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Things that programs do, none of them answered from a cache.
fn attempts(root: PathBuf, open: File) -> Vec<(&'static str, Attempt)> {
    let at = move |name: &str| root.join(name);
    let (made, listed, statted, read, moved) = (at("made"), at(""), at("never asked for"), at("cold"), at("cold2"));
    let second = open.try_clone().unwrap();
    let [made2, made3, made4] = ["2", "3", "4"].map(|suffix| made.with_extension(suffix));
    vec![
        ("mkdir", Box::new(move || fs::create_dir(made))),
        ("another mkdir", Box::new(move || fs::create_dir(made2))),
        ("a third mkdir", Box::new(move || fs::create_dir(made3))),
        ("a fourth mkdir", Box::new(move || fs::create_dir(made4))),
        ("readdir", Box::new(move || fs::read_dir(listed)?.try_for_each(|entry| entry.map(drop)))),
        ("stat", Box::new(move || fs::metadata(statted).map(drop))),
        ("read", Box::new(move || fs::read(read).map(drop))),
        ("rename", Box::new(move || fs::rename(&moved, moved.with_extension("x")))),
        ("fsync", Box::new(move || open.write_all_at(b"more", 0).and_then(|()| open.sync_all()))),
        ("truncate", Box::new(move || second.set_len(10))),
    ]
}

/// Every operation answers with an error within the deadline; afterwards, with the cluster back, all is well again.
fn errors_while_it_is_gone(mut cluster: Cluster, go: impl FnOnce(&mut Cluster), come_back: impl FnOnce(&mut Cluster)) {
    let mut filler = Mount::new(&cluster, "filler");
    fs::write(filler.path("cold"), tree::bytes(1, 300_000)).unwrap();
    fs::write(filler.path("cold2"), b"cold").unwrap();
    filler.unmount(&cluster);
    let mount = Mount::new(&cluster, "mnt");
    let open = File::create(mount.path("open")).unwrap();
    open.write_all_at(b"some", 0).unwrap();
    open.sync_all().unwrap();
    go(&mut cluster);
    thread::scope(|scope| {
        let attempts: Vec<_> = attempts(mount.dir().to_owned(), open.try_clone().unwrap())
            .into_iter()
            .map(|(what, attempt)| {
                let timed = move || {
                    let begun = Instant::now();
                    (attempt(), begun.elapsed())
                };
                (what, scope.spawn(timed))
            })
            .collect();
        for (what, attempt) in attempts {
            let (result, elapsed) = attempt.join().unwrap();
            eprintln!("{what}: {result:?} after {elapsed:?}");
            assert!(elapsed < ERROR_MAX, "{what} took {elapsed:?}");
            let error = result.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{what}: {error}");
        }
    });
    come_back(&mut cluster);
    until("the mount goes on by itself", Duration::from_secs(30), || fs::metadata(mount.path("cold2")).is_ok());
    assert!(fs::read(mount.path("cold")).unwrap() == tree::bytes(1, 300_000));
    fs::write(mount.path("new"), b"new").unwrap();
    let again = File::create(mount.path("open")).unwrap();
    again.write_all_at(b"again", 0).unwrap();
    again.sync_all().unwrap();
    assert_eq!(fs::read(mount.path("open")).unwrap(), b"again");
}

#[test]
fn without_a_cluster_operations_end_with_an_error_and_with_it_the_mount_goes_on() {
    let kill = |cluster: &mut Cluster| cluster.nodes.iter_mut().for_each(harness::NodeProcess::kill);
    let start = |cluster: &mut Cluster| {
        cluster.nodes.iter_mut().for_each(harness::NodeProcess::spawn);
        cluster.wait_healthy();
    };
    errors_while_it_is_gone(Cluster::start(), kill, start);
}

#[test]
fn with_a_cluster_that_hangs_operations_end_with_an_error_and_afterwards_the_mount_goes_on() {
    let all = |cluster: &mut Cluster, signal| cluster.nodes.iter().for_each(|node| node.signal(signal));
    errors_while_it_is_gone(
        Cluster::start(),
        |cluster| all(cluster, Signal::STOP),
        |cluster| {
            all(cluster, Signal::CONT);
            cluster.wait_healthy();
        },
    );
}

#[test]
fn umount_works_while_the_cluster_is_gone() {
    let mut cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    fs::write(mount.path("file"), b"bytes").unwrap();
    cluster.nodes.iter_mut().for_each(harness::NodeProcess::kill);
    let begun = Instant::now();
    run(cluster.command().args(["umount", "--lazy"]).arg(mount.dir())).ok();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(fs::read_dir(mount.dir()).unwrap().count(), 0, "nothing is mounted");
    // What cannot be stored any more is given up within a deadline; its program ends, and says so.
    assert_eq!(mount.wait().code(), Some(1), "{}", mount.last_words());
}

/// "Returns when everything that programs have written is stored": also what was on its way when the mount went.
#[test]
fn umount_stores_what_was_on_its_way_after_a_short_outage_and_says_what_is_lost_in_a_long_one() {
    let mut cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    // So many that some are on their way when the nodes stop.
    let bytes = tree::bytes(5, 24 << 20);
    let umount = |cluster: &Cluster, mount: &Mount| {
        let mut command = cluster.command();
        command.arg("umount").arg(mount.dir());
        thread::spawn(move || run(&mut command))
    };
    fs::write(mount.path("file"), &bytes).unwrap();
    cluster.nodes.iter().for_each(|node| node.signal(Signal::STOP));
    let ended = umount(&cluster, &mount);
    until("a flush has failed", Duration::from_secs(60), || mount.last_words().contains("could not be stored yet"));
    cluster.nodes.iter().for_each(|node| node.signal(Signal::CONT));
    ended.join().unwrap().ok();
    assert!(mount.wait().success());
    let copy = cluster.path("copy");
    run(cluster.command().args(["download", "/file"]).arg(&copy)).ok();
    assert!(fs::read(copy).unwrap() == bytes);

    mount.start(&cluster, &[]);
    fs::write(mount.path("lost"), &bytes).unwrap();
    cluster.nodes.iter_mut().for_each(harness::NodeProcess::kill);
    let ended = umount(&cluster, &mount).join().unwrap();
    ended.fails(1, &["is unmounted, but not all that programs had written could be stored", "says what is lost"]);
    assert_eq!(mount.wait().code(), Some(1));
}

#[test]
fn the_profile_of_a_mount_follows_the_members_while_it_is_mounted() {
    let mut cluster = Cluster::start();
    // A profile that no command uses: what changes it is the mount.
    let profile = cluster.path("profile");
    run(std::process::Command::new("cp").arg("-r").arg(cluster.profile()).arg(&profile)).ok();
    let written = profile.join("profile.toml");
    let first = format!("\"{}\"", cluster.nodes[0].address);
    let text = fs::read_to_string(&written).unwrap();
    let mut seeds = text.find("seeds = [").unwrap();
    seeds += "seeds = [".len();
    fs::write(&written, format!("{}{first}]\n", &text[..seeds])).unwrap();
    let knows =
        |address: std::net::SocketAddr| fs::read_to_string(&written).unwrap().contains(&format!("\"{address}\""));
    let mut mount = Mount::with(&cluster, "mnt", &[&format!("profile={}", profile.display())]);
    assert!(cluster.nodes.iter().all(|node| knows(node.address)), "followed at once");
    let joined = cluster.add_node().address;
    until("the profile names the new member", Duration::from_secs(60), || {
        fs::write(mount.path("file"), b"what is written tells of the new map").unwrap();
        File::open(mount.path("file")).unwrap().sync_all().unwrap();
        knows(joined)
    });
    mount.unmount(&cluster);
}
