//! Locks across mounts: `fcntl` and `flock`, one lock space for each inode.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    process::Command,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Mount, cluster::run, wait::until};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};
use rustix::process::Signal;

/// Length 0 reaches to the end, whatever it is.
const TO_THE_END: i64 = 0;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Read,
    Write,
    None,
}

fn range_lock(kind: Kind, start: i64, len: i64) -> libc::flock {
    let kind = match kind {
        Kind::Read => libc::F_RDLCK,
        Kind::Write => libc::F_WRLCK,
        Kind::None => libc::F_UNLCK,
    };
    libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

/// `fcntl(F_SETLK)`.
fn try_range(file: &File, kind: Kind, start: i64, len: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_SETLK(&range_lock(kind, start, len))).map(drop)
}

/// `fcntl(F_SETLKW)`.
fn wait_range(file: &File, kind: Kind, start: i64, len: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_SETLKW(&range_lock(kind, start, len))).map(drop)
}

/// `fcntl(F_GETLK)`: what is in the way.
fn in_the_way(file: &File, kind: Kind, start: i64, len: i64) -> Option<(i64, i64)> {
    let mut lock = range_lock(kind, start, len);
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).unwrap();
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some((lock.l_start, lock.l_len))
}

fn is_locked(result: Result<(), std::fs::TryLockError>) -> bool {
    match result {
        Ok(()) => false,
        Err(std::fs::TryLockError::WouldBlock) => true,
        Err(std::fs::TryLockError::Error(error)) => panic!("{error}"),
    }
}

fn open(mount: &Mount) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(mount.path("file")).unwrap()
}

fn two_mounts(cluster: &Cluster) -> [Mount; 2] {
    ["one", "two"].map(|name| Mount::new(cluster, name))
}

#[test]
fn locks_of_whole_files_exclude_each_other_across_mounts_as_on_one_machine() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let [one, two] = [0, 1].map(|at: usize| open(&mounts[at]));
    one.try_lock().unwrap();
    assert!(is_locked(two.try_lock()) && is_locked(two.try_lock_shared()), "exclusive");
    one.unlock().unwrap();
    two.try_lock_shared().unwrap();
    one.try_lock_shared().unwrap();
    assert!(is_locked(two.try_lock()), "another holds it shared");
    one.unlock().unwrap();
    two.try_lock().unwrap();
    assert!(is_locked(one.try_lock_shared()));
    // The last close of an opening lets go.
    drop(two);
    until("the lock is free", Duration::from_secs(5), || !is_locked(one.try_lock()));
}

#[test]
fn locks_of_ranges_exclude_each_other_byte_for_byte_across_mounts() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let [one, two] = [0, 1].map(|at: usize| open(&mounts[at]));
    try_range(&one, Kind::Write, 10, 10).unwrap();
    assert_eq!(try_range(&two, Kind::Write, 19, 5), Err(Errno::EAGAIN));
    assert_eq!(try_range(&two, Kind::Read, 0, 11), Err(Errno::EAGAIN));
    try_range(&two, Kind::Write, 0, 10).unwrap();
    try_range(&two, Kind::Write, 20, TO_THE_END).unwrap();
    assert_eq!(in_the_way(&one, Kind::Read, 0, 5), Some((0, 10)));
    assert_eq!(in_the_way(&one, Kind::Read, 30, 5), Some((20, TO_THE_END)));
    assert_eq!(in_the_way(&two, Kind::Read, 0, 100), Some((10, 10)));
    // The middle of a lock given up.
    try_range(&one, Kind::None, 14, 2).unwrap();
    try_range(&two, Kind::Write, 14, 2).unwrap();
    assert_eq!(try_range(&two, Kind::Read, 13, 1), Err(Errno::EAGAIN));
    assert_eq!(try_range(&two, Kind::Read, 16, 1), Err(Errno::EAGAIN));
    // To shared, which others may have, too.
    try_range(&one, Kind::Read, 10, 4).unwrap();
    try_range(&two, Kind::Read, 10, 4).unwrap();
    assert_eq!(try_range(&one, Kind::Write, 10, 1), Err(Errno::EAGAIN));
    // Any close of the file by the process lets go of everything it holds there.
    drop(open(&mounts[1]));
    try_range(&one, Kind::Write, 0, TO_THE_END).unwrap();
    // Of a file that this mount has just made, and the cluster may not have heard of.
    for number in 0..20 {
        let made = File::create_new(mounts[0].path(&format!("made-{number}"))).unwrap();
        assert_eq!(in_the_way(&made, Kind::Write, 0, 1), None);
    }
}

/// "One lock space per inode as on NFS."
#[test]
fn locks_of_fcntl_and_of_flock_exclude_each_other() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let [one, two] = [0, 1].map(|at: usize| open(&mounts[at]));
    try_range(&one, Kind::Write, 5, 1).unwrap();
    assert!(is_locked(two.try_lock_shared()));
    try_range(&one, Kind::None, 0, TO_THE_END).unwrap();
    two.try_lock().unwrap();
    assert_eq!(try_range(&one, Kind::Read, 5, 1), Err(Errno::EAGAIN));
}

#[test]
fn who_waits_for_a_lock_gets_it_when_it_is_given_up_and_not_before() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let [one, two] = [0, 1].map(|at: usize| open(&mounts[at]));
    for round in 0..6 {
        let ranges = round % 2 == 0;
        if ranges {
            try_range(&one, Kind::Write, 0, 100).unwrap()
        } else {
            one.try_lock().unwrap()
        }
        let stage = AtomicU32::new(0);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                stage.store(1, Ordering::SeqCst);
                if ranges {
                    wait_range(&two, Kind::Write, 50, 1).unwrap()
                } else {
                    two.lock().unwrap()
                }
                stage.swap(3, Ordering::SeqCst)
            });
            until("somebody waits", Duration::from_secs(5), || stage.load(Ordering::SeqCst) == 1);
            // What is written before a lock is given up is there for whom gets it.
            one.write_all_at(&[round; 100], 0).unwrap();
            stage.store(2, Ordering::SeqCst);
            if ranges {
                try_range(&one, Kind::None, 0, TO_THE_END).unwrap()
            } else {
                one.unlock().unwrap()
            }
            assert_eq!(waiter.join().unwrap(), 2, "round {round}: got before it was given up");
        });
        let mut bytes = [255; 100];
        two.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [round; 100]);
        if ranges { try_range(&two, Kind::None, 0, TO_THE_END).unwrap() } else { two.unlock().unwrap() }
    }
}

/// `flock -w` waits in the kernel until an alarm, a signal with a handler, interrupts it.
#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let one = open(&mounts[0]);
    one.try_lock().unwrap();
    let start = Instant::now();
    let path = mounts[1].path("file");
    run(Command::new("flock").args(["-w", "1", "-E", "99"]).arg(&path).arg("true")).status(99);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // And one that ends the program does end it.
    let mut waiter = Command::new("flock").arg(&path).arg("true").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&waiter);
    let stat = format!("/proc/{}/wchan", waiter.id());
    until("it waits", Duration::from_secs(10), || {
        fs::read_to_string(&stat).is_ok_and(|at| at.contains("fuse") || at.contains("request_wait"))
    });
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    until("it ends", Duration::from_secs(5), || waiter.try_wait().unwrap().is_some());
    // Whoever was interrupted holds nothing.
    one.unlock().unwrap();
    run(Command::new("flock").args(["-n", "-E", "99"]).arg(&path).arg("true")).ok();
}

#[test]
fn a_counter_under_a_lock_misses_no_step_whoever_counts() {
    const STEPS: u32 = 40;
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    fs::write(mounts[0].path("file"), 0_u32.to_le_bytes()).unwrap();
    let count = |file: &File| -> io::Result<u32> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(u32::from_le_bytes(bytes))
    };
    thread::scope(|scope| {
        for mount in [&mounts[0], &mounts[1], &mounts[0], &mounts[1]] {
            scope.spawn(move || {
                let file = open(mount);
                for _ in 0..STEPS {
                    file.lock().unwrap();
                    let next = count(&file).unwrap() + 1;
                    file.write_all_at(&next.to_le_bytes(), 0).unwrap();
                    file.unlock().unwrap();
                }
            });
        }
    });
    assert_eq!(count(&open(&mounts[1])).unwrap(), 4 * STEPS);
}

#[test]
fn locks_go_with_the_mount_that_held_them() {
    let cluster = Cluster::start();
    let [mut one, two] = two_mounts(&cluster);
    let (held, waiting) = (open(&one), open(&two));
    held.try_lock().unwrap();
    assert!(is_locked(waiting.try_lock()));
    drop(held);
    // Whoever closes a file does not wait for the end of its locks, and the next to open it does not feel that.
    for turn in 0..40 {
        let held = open(&one);
        held.try_lock().unwrap_or_else(|error| panic!("turn {turn}: {error}"));
    }
    let held = open(&one);
    try_range(&held, Kind::Write, 0, 10).unwrap();
    drop(held);
    one.unmount(&cluster);
    waiting.try_lock().unwrap();
}

/// Locks and unlocks a range while no node answers; whether that took no answer. The nodes go on by themselves after a while.
fn decides_alone(cluster: &Cluster, file: &File) -> bool {
    const SILENCE: Duration = Duration::from_secs(1);
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        cluster.nodes.iter().for_each(|node| node.signal(Signal::STOP));
        let begin = Instant::now();
        scope.spawn(move || {
            // Whatever the other thread waits for.
            let _is_done = is_done.recv_timeout(SILENCE);
            cluster.nodes.iter().for_each(|node| node.signal(Signal::CONT));
        });
        for _ in 0..10 {
            try_range(file, Kind::Write, 1000, 1).unwrap();
            try_range(file, Kind::None, 1000, 1).unwrap();
        }
        drop(done);
        begin.elapsed() < SILENCE
    })
}

/// Writes a file and locks it again and again, until the mount decides about its locks itself.
fn use_alone(cluster: &Cluster, file: &File) {
    until("the mount decides about locks itself", Duration::from_secs(60), || {
        file.write_all_at(b"mine", 2000).unwrap();
        for _ in 0..5 {
            try_range(file, Kind::Write, 1000, 1).unwrap();
            try_range(file, Kind::None, 1000, 1).unwrap();
        }
        decides_alone(cluster, file)
    });
}

/// "The locks of a file that one mount alone uses are decided there, until somebody else asks."
#[test]
fn locks_that_a_mount_decides_about_itself_hold_against_all_others() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let [one, again, two] = [0, 0, 1].map(|at: usize| open(&mounts[at]));
    use_alone(&cluster, &one);
    try_range(&one, Kind::Write, 10, 10).unwrap();
    try_range(&one, Kind::Read, 30, 10).unwrap();
    assert!(is_locked(again.try_lock()), "on the same mount");
    assert_eq!(try_range(&two, Kind::Write, 19, 5), Err(Errno::EAGAIN));
    assert_eq!(in_the_way(&two, Kind::Read, 0, 50), Some((10, 10)));
    try_range(&two, Kind::Read, 35, 1).unwrap();
    assert_eq!(try_range(&one, Kind::Write, 30, 10), Err(Errno::EAGAIN));
    // Somebody who waits gets it when it is given up, whoever decided when it was taken.
    try_range(&two, Kind::None, 0, TO_THE_END).unwrap();
    use_alone(&cluster, &one);
    let stage = AtomicU32::new(0);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            stage.store(1, Ordering::SeqCst);
            wait_range(&two, Kind::Write, 0, TO_THE_END).unwrap();
            stage.swap(3, Ordering::SeqCst)
        });
        until("somebody waits", Duration::from_secs(5), || stage.load(Ordering::SeqCst) == 1);
        one.write_all_at(b"last", 2000).unwrap();
        stage.store(2, Ordering::SeqCst);
        try_range(&one, Kind::None, 0, TO_THE_END).unwrap();
        assert_eq!(waiter.join().unwrap(), 2, "got before it was given up");
    });
    let mut bytes = [0; 4];
    two.read_exact_at(&mut bytes, 2000).unwrap();
    assert_eq!(&bytes, b"last");
    try_range(&two, Kind::None, 0, TO_THE_END).unwrap();
}

/// They outlive leaders, and mounts that are silent for less than a session.
#[test]
fn locks_that_a_mount_decides_about_itself_outlive_the_leader_and_a_pause_of_the_mount() {
    let mut cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let [one, two] = [0, 1].map(|at: usize| open(&mounts[at]));
    use_alone(&cluster, &one);
    try_range(&one, Kind::Write, 10, 10).unwrap();
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    assert_eq!(try_range(&two, Kind::Read, 10, 1), Err(Errno::EAGAIN));
    one.write_all_at(b"held", 10).unwrap();
    one.sync_all().unwrap();
    cluster.nodes[leader].start();
    cluster.wait_healthy();
    use_alone(&cluster, &one);
    mounts[0].signal(Signal::STOP);
    // Longer than any lease: nobody knows what is held, so it cannot be had.
    let begin = Instant::now();
    assert_eq!(try_range(&two, Kind::Read, 10, 1), Err(Errno::EAGAIN));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    mounts[0].signal(Signal::CONT);
    until("what is not locked can be had", Duration::from_secs(20), || try_range(&two, Kind::Write, 50, 1).is_ok());
    assert_eq!(try_range(&two, Kind::Read, 10, 1), Err(Errno::EAGAIN));
    try_range(&one, Kind::None, 0, TO_THE_END).unwrap();
    try_range(&two, Kind::Write, 0, TO_THE_END).unwrap();
}

/// "A lock is lost with the session of its mount, after 60 s without any word from it; who held one hears of it."
#[test]
fn who_lost_locks_with_the_session_gets_errors_until_the_file_is_closed() {
    let cluster = Cluster::start();
    let [one, two] = two_mounts(&cluster);
    let (held, waiting) = (open(&one), open(&two));
    held.write_all_at(b"mine", 0).unwrap();
    held.sync_all().unwrap();
    let plain = File::create_new(one.path("plain")).unwrap();
    // Given up again: nothing is lost with it.
    try_range(&plain, Kind::Write, 0, 10).unwrap();
    try_range(&plain, Kind::None, 0, TO_THE_END).unwrap();
    held.try_lock().unwrap();
    one.signal(Signal::STOP);
    until("the locks of the silent mount are gone", Duration::from_secs(120), || !is_locked(waiting.try_lock()));
    waiting.write_all_at(b"your", 0).unwrap();
    one.signal(Signal::CONT);
    let is_lost = |result: io::Result<()>| {
        let error = result.expect_err("the lock is lost");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    };
    is_lost(held.write_all_at(b"mine", 0));
    is_lost(held.read_exact_at(&mut [0; 4], 0));
    is_lost(held.sync_all());
    plain.write_all_at(b"no lock, no loss", 0).unwrap();
    plain.sync_all().unwrap();
    drop(held);
    assert_eq!(fs::read(one.path("file")).unwrap(), b"your");
    waiting.unlock().unwrap();
    let again = open(&one);
    again.try_lock().unwrap();
    again.write_all_at(b"mine", 0).unwrap();
    assert_eq!(fs::read(two.path("file")).unwrap(), b"mine");
    assert_eq!(one.last_words().matches("locks were lost").count(), 1, "{}", one.last_words());
}

/// `F_OFD_SETLK` and `F_OFD_SETLKW`: of the open file, whoever uses it.
fn range_of_opening(file: &File, kind: Kind, start: i64, waits: bool) -> Result<(), Errno> {
    let lock = range_lock(kind, start, 1);
    fcntl(file, if waits { FcntlArg::F_OFD_SETLKW(&lock) } else { FcntlArg::F_OFD_SETLK(&lock) }).map(drop)
}

#[test]
fn locks_of_an_opening_end_with_its_last_descriptor() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let [one, other, two] = [0, 0, 1].map(|at: usize| open(&mounts[at]));
    range_of_opening(&one, Kind::Write, 7, false).unwrap();
    for (file, whose) in [(&other, "of the same process"), (&two, "of another mount")] {
        assert_eq!(range_of_opening(file, Kind::Read, 7, false), Err(Errno::EAGAIN), "another opening, {whose}");
    }
    // A close of the file by the process is not the end of it, nor is that of one of two descriptors.
    let same = one.try_clone().unwrap();
    drop(open(&mounts[0]));
    drop(one);
    assert_eq!(range_of_opening(&two, Kind::Read, 7, false), Err(Errno::EAGAIN));
    drop(same);
    until("the lock is free", Duration::from_secs(10), || range_of_opening(&two, Kind::Write, 7, false).is_ok());
    assert_eq!(range_of_opening(&other, Kind::Read, 7, false), Err(Errno::EAGAIN));
}

/// Two that wait for each other: one is told, lets go, and the other gets what it waits for.
fn assert_one_of_two_is_told(wait: impl Fn(usize) -> io::Result<()> + Sync, let_go: impl Fn(usize) + Sync) {
    let outcomes: Vec<io::Result<()>> = thread::scope(|scope| {
        let waiting = [0, 1].map(|at| {
            let (wait, let_go) = (&wait, &let_go);
            scope.spawn(move || {
                let waited = wait(at);
                if waited.is_err() {
                    let_go(at);
                }
                waited
            })
        });
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let told: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(told.len(), 1, "{outcomes:?}");
    assert_eq!(told[0].raw_os_error(), Some(libc::EDEADLK), "{outcomes:?}");
}

#[test]
fn of_two_on_a_mount_that_wait_for_each_other_one_is_told() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let files = [0, 1].map(|_| open(&mount));
    for (file, start) in files.iter().zip([0, 1]) {
        range_of_opening(file, Kind::Write, start, false).unwrap();
    }
    let wait = |at: usize| Ok(range_of_opening(&files[at], Kind::Write, 1 - at as i64, true)?);
    let let_go = |at: usize| range_of_opening(&files[at], Kind::None, at as i64, false).unwrap();
    assert_one_of_two_is_told(wait, let_go);
    // Both have it shared, and want it for themselves.
    let whole =
        [0, 1].map(|_| OpenOptions::new().write(true).create(true).truncate(false).open(mount.path("whole")).unwrap());
    whole.iter().for_each(|file| file.lock_shared().unwrap());
    assert_one_of_two_is_told(|at| whole[at].lock(), |at| whole[at].unlock().unwrap());
}
