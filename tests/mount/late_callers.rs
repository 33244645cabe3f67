//! P3 for programs that get the processor late: what the kernel is told waits until the caller runs again, and others
//! change the file meanwhile. Whatever the kernel was told before must not count afterwards.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, Mount};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

/// Rounds of each call; of those that go wrong a good part does so.
const ROUNDS: u32 = 10;

/// How long the others wait before they change the file, at most: until the call of the late one is answered.
const ANSWERED_MAX: Duration = Duration::from_millis(20);

/// How long the late one gets no processor, at most.
const HELD_MAX: Duration = Duration::from_millis(100);

/// How long its call may take to be seen.
const SEEN_MAX: Duration = Duration::from_millis(50);

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

/// What the late one does with a file of its mount.
struct Call {
    name: &'static str,
    call: fn(&Path, Option<&File>) -> io::Result<Option<File>>,
    /// Where in the kernel it waits for the answer.
    waits_in: &'static str,
    before: Before,
}

/// What there is before the call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Before {
    /// Nothing of that name.
    Nothing,
    /// A file, of which the late one's mount knows nothing.
    Unknown,
    /// A file that the late one has open.
    Open,
}

fn list(dir: &Path) -> io::Result<()> {
    fs::read_dir(dir)?.try_for_each(|entry| entry.map(drop))
}

const CALLS: &[Call] = &[
    Call {
        name: "open with O_CREAT",
        call: |path, _| open(path).map(Some),
        waits_in: "fuse_create_open",
        before: Before::Nothing,
    },
    Call {
        name: "stat",
        call: |path, _| fs::metadata(path).map(|_| None),
        waits_in: "fuse_lookup",
        before: Before::Unknown,
    },
    Call {
        name: "ls",
        call: |path, _| list(path.parent().unwrap()).map(|()| None),
        waits_in: "fuse_readdir",
        before: Before::Unknown,
    },
    Call {
        name: "fchmod",
        call: |_, file| file.unwrap().set_permissions(Permissions::from_mode(0o600)).map(|()| None),
        waits_in: "fuse_do_setattr",
        before: Before::Open,
    },
    Call {
        name: "link",
        call: |path, _| fs::hard_link(path, path.with_extension("link")).map(|()| None),
        waits_in: "fuse_link",
        before: Before::Open,
    },
];

/// Which processors a thread may run on.
#[derive(Clone, Copy)]
enum Where {
    First,
    Others,
}

fn stay(place: Where) {
    let count = thread::available_parallelism().unwrap().get();
    let mut set = CpuSet::new();
    match place {
        Where::First => set.set(0),
        Where::Others => (1..count.max(2)).for_each(|at| set.set(at)),
    }
    // With one processor there are no others.
    let _stays = sched_setaffinity(None, &set).is_ok();
}

/// Keeps everybody else from the first processor while it is wanted, for [`HELD_MAX`] at a time.
struct Hog {
    wanted: AtomicBool,
    end: AtomicBool,
}

impl Hog {
    fn run(&self) {
        stay(Where::First);
        let id = gettid().as_raw_nonzero().to_string();
        assert!(Command::new("chrt").args(["--fifo", "--pid", "1", &id]).status().unwrap().success());
        while !self.end.load(Ordering::SeqCst) {
            let until = Instant::now() + HELD_MAX;
            while self.wanted.load(Ordering::SeqCst) && Instant::now() < until {
                std::hint::spin_loop();
            }
            self.wanted.store(false, Ordering::SeqCst);
            thread::park_timeout(Duration::from_millis(100));
        }
    }
}

/// Until the thread waits for an answer to a call; false if that was not seen.
fn waits_for_answer(thread: i32, call: &Call) -> bool {
    let path = format!("/proc/self/task/{thread}/stack");
    let until = Instant::now() + SEEN_MAX;
    while Instant::now() < until {
        let stack = fs::read_to_string(&path).unwrap();
        if stack.contains("request_wait_answer") && stack.contains(call.waits_in) {
            return true;
        }
    }
    false
}

/// The rounds in which the late one's mount shows another length than the file has.
fn wrong_rounds(call: &Call, [one, late]: &[Mount; 2]) -> Vec<String> {
    let hog = Hog { wanted: AtomicBool::new(false), end: AtomicBool::new(false) };
    let (turn, id) = (Barrier::new(2), AtomicI32::new(0));
    let path = |mount: &Mount, round: u32| -> PathBuf { mount.path(&format!("dir-{round}/file")) };
    let mut held = 0;
    let wrong = thread::scope(|scope| {
        let hogging = scope.spawn(|| hog.run());
        let caller = scope.spawn(|| {
            stay(Where::First);
            id.store(gettid().as_raw_nonzero().get(), Ordering::SeqCst);
            let seen = |round: u32| {
                turn.wait();
                let opened = (call.before == Before::Open).then(|| open(&path(late, round)).unwrap());
                turn.wait();
                let kept = (call.call)(&path(late, round), opened.as_ref()).unwrap();
                turn.wait();
                let open = opened.iter().chain(&kept).map(|file| file.metadata().unwrap().len());
                let seen: Vec<u64> = open.chain([fs::metadata(path(late, round)).unwrap().len()]).collect();
                (seen.iter().any(|len| *len != 7))
                    .then(|| format!("{}, round {round}: {seen:?} bytes, not 7", call.name))
            };
            (0..ROUNDS).filter_map(seen).collect()
        });
        for round in 0..ROUNDS {
            fs::create_dir(one.path(&format!("dir-{round}"))).unwrap();
            if call.before != Before::Nothing {
                drop(open(&path(one, round)).unwrap());
            }
            fs::metadata(late.path(&format!("dir-{round}"))).unwrap();
            turn.wait();
            turn.wait();
            if waits_for_answer(id.load(Ordering::SeqCst), call) {
                hog.wanted.store(true, Ordering::SeqCst);
                hogging.thread().unpark();
                held += 1;
            }
            thread::park_timeout(ANSWERED_MAX * round / ROUNDS);
            let mut file = open(&path(one, round)).unwrap();
            file.write_all(b"changed").unwrap();
            file.sync_all().unwrap();
            hog.wanted.store(false, Ordering::SeqCst);
            turn.wait();
        }
        hog.end.store(true, Ordering::SeqCst);
        caller.join().unwrap()
    });
    eprintln!("{}: late {held} times of {ROUNDS}, wrong: {wrong:?}", call.name);
    assert!(held > 0, "{}: nobody was ever late", call.name);
    wrong
}

#[test]
fn what_was_answered_before_a_change_does_not_count_after_it_though_the_caller_runs_later_as_root() {
    let cluster = Cluster::start();
    let mounts = ["one", "late"].map(|name| Mount::new(&cluster, name));
    let mut wrong = Vec::new();
    stay(Where::Others);
    for call in CALLS {
        let found = wrong_rounds(call, &mounts);
        for round in 0..ROUNDS {
            fs::remove_dir_all(mounts[0].path(&format!("dir-{round}"))).unwrap();
        }
        wrong.extend(found);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
