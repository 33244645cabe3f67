//! Several writers of one file, several makers of one name.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use harness::{Cluster, Mount};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
};
use rustix::process::Signal;

fn two_mounts(cluster: &Cluster) -> [Mount; 2] {
    ["one", "two"].map(|name| Mount::new(cluster, name))
}

#[test]
fn writers_that_take_turns_on_two_mounts_see_every_byte_of_each_other() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    File::create(mounts[0].path("file")).unwrap().set_len(8 * 4096).unwrap();
    let files =
        [0, 1].map(|at: usize| OpenOptions::new().read(true).write(true).open(mounts[at].path("file")).unwrap());
    for turn in 0..200_u32 {
        let file = &files[turn as usize % 2];
        let offset = u64::from(turn % 8) * 4096 + 10;
        let mut bytes = [0; 4];
        if turn > 0 {
            let last = u64::from((turn - 1) % 8) * 4096 + 10;
            file.read_exact_at(&mut bytes, last).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), turn - 1);
        }
        file.write_all_at(&turn.to_le_bytes(), offset).unwrap();
    }
}

/// "an append … `apply` decides the offset, never the kernel": records of all writers are there, whole, in the order of
/// each writer.
#[test]
fn appends_from_two_mounts_at_once_lose_nothing_and_tear_nothing() {
    const RECORDS: u32 = 300;
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    File::create(mounts[0].path("log")).unwrap();
    thread::scope(|scope| {
        for (writer, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).open(mount.path("log")).unwrap();
                for number in 0..RECORDS {
                    let record = format!("{writer} {number:05} {}\n", "x".repeat(number as usize % 90));
                    assert_eq!(log.write(record.as_bytes()).unwrap(), record.len());
                }
            });
        }
    });
    let text = fs::read_to_string(mounts[0].path("log")).unwrap();
    assert_eq!(text, fs::read_to_string(mounts[1].path("log")).unwrap());
    for writer in 0..2 {
        let of_writer = text.lines().filter_map(|line| line.strip_prefix(&format!("{writer} ")));
        let expected: Vec<_> =
            (0..RECORDS).map(|number| format!("{number:05} {}", "x".repeat(number as usize % 90))).collect();
        assert_eq!(of_writer.collect::<Vec<_>>(), expected, "records of writer {writer}");
    }
    assert_eq!(text.lines().count(), 2 * RECORDS as usize);
}

#[test]
fn writers_of_disjoint_ranges_on_two_mounts_at_once_both_find_their_bytes() {
    const LEN: usize = 1 << 20;
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    File::create(mounts[0].path("file")).unwrap().set_len(2 * LEN as u64).unwrap();
    thread::scope(|scope| {
        for (writer, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let file = OpenOptions::new().write(true).open(mount.path("file")).unwrap();
                // Interleaved, in pieces that share pages.
                for piece in 0..LEN / 5000 {
                    let offset = (2 * piece + writer) * 5000;
                    file.write_all_at(&[writer as u8 + 1; 5000], offset as u64).unwrap();
                }
            });
        }
    });
    let bytes = [fs::read(mounts[0].path("file")).unwrap(), fs::read(mounts[1].path("file")).unwrap()];
    assert!(bytes[0] == bytes[1]);
    for (at, piece) in bytes[0].chunks(5000).take(2 * (LEN / 5000)).enumerate() {
        assert!(piece.iter().all(|byte| usize::from(*byte) == at % 2 + 1), "piece {at}: {:?}", &piece[..8]);
    }
}

#[test]
fn of_those_who_create_one_name_exclusively_exactly_one_wins() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    for round in 0..40 {
        let name = format!("name-{round}");
        let won: Vec<bool> = thread::scope(|scope| {
            let makers: Vec<_> = [&mounts[0], &mounts[1], &mounts[0], &mounts[1]]
                .into_iter()
                .map(|mount| {
                    let name = &name;
                    scope.spawn(move || match File::create_new(mount.path(name)) {
                        Ok(_) => true,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
                            false
                        }
                    })
                })
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}: {won:?}");
    }
}

/// Raises a flag at the end, also of a test that fails: whoever looks at it ends as well.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Saved by rename, as editors do: the first name is free again at once, and the file is whole at every moment, whoever looks
/// meanwhile, on either mount.
#[test]
fn a_file_that_is_replaced_again_and_again_is_never_empty_and_the_first_name_is_free_each_time() {
    const ROUNDS: usize = 80;
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let text = |number: usize| format!("{number} ").repeat(50);
    fs::write(mounts[0].path("file"), text(0)).unwrap();
    let is_over = AtomicBool::new(false);
    let text_of =
        |path: &Path| fs::read_to_string(path).map(|found| (found.split(' ').next().unwrap().to_owned(), found));
    thread::scope(|scope| {
        for mount in [&mounts[0], &mounts[0], &mounts[1]] {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    // It may have been replaced between the look at its name and the opening.
                    let Ok((number, found)) = text_of(&mount.path("file")) else { continue };
                    assert!(number.parse().is_ok_and(|number| found == text(number)), "{found:?}");
                }
            });
        }
        let _over = Raise(&is_over);
        for number in 1..ROUNDS {
            let new = mounts[0].path("new");
            File::create_new(&new).and_then(|mut file| file.write_all(text(number).as_bytes())).unwrap();
            fs::rename(new, mounts[0].path("file")).unwrap();
        }
    });
    assert_eq!(fs::read_to_string(mounts[1].path("file")).unwrap(), text(ROUNDS - 1));
}

/// What is synced again and again travels with its commits, and goes as soon as it is written over: who reads at that moment
/// gets what was there, or what is there now, from this mount, another, and a command.
#[test]
fn pages_that_are_synced_again_and_again_are_read_by_all() {
    const ROUNDS: u8 = 80;
    const PAGE: usize = 4096;
    const PAGES: usize = 2;
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(mounts[0].path("file")).unwrap();
    file.write_all_at(&[0; PAGES * PAGE], 0).unwrap();
    file.sync_all().unwrap();
    let over = AtomicBool::new(false);
    // Pages are whole, and none goes back.
    let check = |who: &str, bytes: &[u8], last: &mut [u8; PAGES]| {
        assert_eq!(bytes.len(), PAGES * PAGE);
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            assert!(page.iter().all(|byte| *byte == page[0]), "{who}: page {number} is torn");
            assert!(page[0] >= last[number], "{who}: page {number} is {} after {}", page[0], last[number]);
            last[number] = page[0];
        }
    };
    thread::scope(|scope| {
        // Beside the writer, pages of the kernel show a write while it is made, as on any file system.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(fs::read(mounts[0].path("file")).unwrap().len(), PAGES * PAGE);
            }
        });
        scope.spawn(|| {
            let mut last = [0; PAGES];
            while !over.load(Ordering::Relaxed) {
                check("another mount", &fs::read(mounts[1].path("file")).unwrap(), &mut last);
            }
        });
        scope.spawn(|| {
            let mut last = [0; PAGES];
            while !over.load(Ordering::Relaxed) {
                check("a command", cluster.dfs(["cat", "/file"]).ok().as_bytes(), &mut last);
            }
        });
        for round in 1..=ROUNDS {
            // Below 128, for the command gives text; each twice, so that also what is there already is written.
            file.write_all_at(&[round / 2; PAGES * PAGE], 0).unwrap();
            file.sync_all().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read(mounts[1].path("file")).unwrap(), [ROUNDS / 2; PAGES * PAGE]);
}

fn set_flags(file: &File, flags: OFlag) {
    fcntl(file, FcntlArg::F_SETFL(flags)).unwrap();
}

/// How a descriptor is used counts, not how it was opened.
#[test]
fn whether_a_write_appends_is_said_by_the_descriptor_as_it_is_now() {
    let cluster = Cluster::start();
    let mounts = two_mounts(&cluster);
    fs::write(mounts[0].path("file"), b"0123").unwrap();
    let file = OpenOptions::new().append(true).open(mounts[0].path("file")).unwrap();
    set_flags(&file, OFlag::empty());
    file.write_all_at(b"x", 1).unwrap();
    assert_eq!(fs::read(mounts[1].path("file")).unwrap(), b"0x23");
    // As `fdopen(fd, "a")` does it.
    let logs = [0, 1].map(|at: usize| {
        let log = OpenOptions::new().write(true).create(true).truncate(false).open(mounts[at].path("log")).unwrap();
        set_flags(&log, OFlag::O_APPEND);
        log
    });
    let mut expected = String::new();
    for number in 0..100_usize {
        let record = format!("record {number}\n");
        (&logs[number % 2]).write_all(record.as_bytes()).unwrap();
        expected += &record;
    }
    for mount in &mounts {
        assert_eq!(fs::read_to_string(mount.path("log")).unwrap(), expected);
    }
}

/// "What could not be stored is told to `fsync` of every descriptor that was open, and to the first one of those opened
/// later; closing a descriptor takes it from none."
#[test]
fn bytes_that_are_lost_are_told_to_everybody_who_asks() {
    let cluster = Cluster::start();
    let [one, two] = two_mounts(&cluster);
    let write = |mount: &Mount| OpenOptions::new().write(true).create(true).truncate(false).open(mount.path("file"));
    let (writer, bystander) = (write(&one).unwrap(), write(&one).unwrap());
    writer.sync_all().unwrap();
    writer.write_all_at(b"of one", 0).unwrap();
    one.signal(Signal::STOP);
    // Once its lease has ended nobody waits for its bytes.
    let overtaking = write(&two).unwrap();
    overtaking.write_all_at(b"of two", 0).unwrap();
    overtaking.sync_all().unwrap();
    one.signal(Signal::CONT);
    let is_told = |what: &str, file: &File| {
        let error = file.sync_all().expect_err(what);
        assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32), "{what}: {error}");
    };
    drop(writer.try_clone().unwrap());
    is_told("the writer, though another descriptor was closed", &writer);
    writer.sync_all().expect("it was told");
    is_told("who had the file open, too", &bystander);
    write(&one).unwrap().sync_all().expect("who opens it afterwards has lost nothing");
    for mount in [&one, &two] {
        assert_eq!(fs::read(mount.path("file")).unwrap(), b"of two");
    }
}
