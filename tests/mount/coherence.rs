//! P3: "A read on any mount sees every write, create, rename or delete that returned before it began on any other mount."
//!
//! The observer has looked at everything just before, so that whatever can be cached is, and looks once, at once.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use harness::{Cluster, Mount, tree};
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags, getxattr, renameat_with, utimensat};

use crate::mapping::Mapping;

/// Everything a program can see of an entry, times in ns and inode included.
type Entry = (u64, u32, (u32, u32), u64, u64, (i64, i64), Vec<u8>, Option<Vec<u8>>);

/// Everything below `root` by its path.
fn see(root: &Path) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
        for name in names.collect::<Vec<_>>() {
            let path = dir.join(name);
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                fs::read(&path).unwrap()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                dirs.push(path.clone());
                Vec::new()
            };
            let mut value = vec![0; 100];
            let xattr = getxattr(&path, "user.mark", &mut value).ok().map(|len| value[..len].to_vec());
            let time = (meta.mtime(), meta.mtime_nsec());
            let owner = (meta.uid(), meta.gid());
            let entry = (meta.ino(), meta.mode(), owner, meta.nlink(), meta.size(), time, content, xattr);
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), entry);
        }
    }
    found
}

/// What differs, without the bytes.
fn difference(one: &BTreeMap<String, Entry>, other: &BTreeMap<String, Entry>) -> Vec<String> {
    let brief = |entry: Option<&Entry>| {
        entry.map(|(ino, mode, owner, links, size, time, content, xattr)| {
            let hash = blake3::hash(content).to_hex();
            format!("ino {ino} mode {mode:o} {owner:?} links {links} size {size} {time:?} {} {xattr:?}", &hash[..8])
        })
    };
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differing = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
    differing.map(|name| format!("{name}: {:?} ≠ {:?}", brief(one.get(name)), brief(other.get(name)))).collect()
}

/// Files that stay open while other changes go on.
type Held = Vec<File>;

/// A change, made in a furnished directory.
type Change = (&'static str, fn(&Path, &mut Held));

fn furnish(root: &Path) {
    fs::create_dir_all(root.join("dir/empty")).unwrap();
    fs::write(root.join("small"), b"small").unwrap();
    fs::write(root.join("large"), tree::bytes(3, 300_000)).unwrap();
    fs::write(root.join("other"), b"something else").unwrap();
    fs::write(root.join("dir/inner"), b"inner").unwrap();
    symlink("small", root.join("link")).unwrap();
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

const CHANGES_OF_BYTES: &[Change] = &[
    ("write and close", |root, _| fs::write(root.join("small"), b"changed").unwrap()),
    ("write of the same length and close", |root, _| open(&root.join("small")).write_all_at(b"SMALL", 0).unwrap()),
    ("write in the middle of a large file", |root, _| {
        open(&root.join("large")).write_all_at(&tree::bytes(5, 10_000), 77_777).unwrap();
    }),
    ("write without close", |root, held| {
        let file = open(&root.join("large"));
        file.write_all_at(b"held", 1000).unwrap();
        held.push(file);
    }),
    ("another write by the one who holds it open", |_, held| held[0].write_all_at(b"HELD AGAIN", 1002).unwrap()),
    ("a write beyond the end", |root, _| open(&root.join("small")).write_all_at(b"far", 100_000).unwrap()),
    ("append", |root, _| {
        OpenOptions::new().append(true).open(root.join("large")).unwrap().write_all(&tree::bytes(6, 5000)).unwrap();
    }),
    ("truncation to less", |root, _| open(&root.join("large")).set_len(1234).unwrap()),
    ("truncation to more", |root, _| open(&root.join("large")).set_len(50_000).unwrap()),
    ("truncation to nothing on open", |root, _| drop(File::create(root.join("large")).unwrap())),
    ("write after it", |root, _| fs::write(root.join("large"), tree::bytes(8, 100_000)).unwrap()),
    ("a hole", |root, _| {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(open(&root.join("large")), flags, 5000, 20_000).unwrap();
    }),
    ("a range of another file", |root, _| {
        let (from, to) = (open(&root.join("large")), open(&root.join("other")));
        rustix::fs::copy_file_range(from, Some(&mut 30_000), to, Some(&mut 3), 9000).unwrap();
    }),
    ("a mapping and msync", |root, _| {
        let mut mapping = Mapping::new(&open(&root.join("large")), 20_000);
        mapping.write(9_998, b"mapped");
        mapping.sync();
    }),
    ("a mapping, munmap and close", |root, _| {
        let file = open(&root.join("large"));
        let mut mapping = Mapping::new(&file, 20_000);
        mapping.write(9_990, b"through a mapping");
        drop(mapping);
        drop(file);
    }),
];

const CHANGES_OF_NAMES: &[Change] = &[
    ("create", |root, _| drop(File::create_new(root.join("new")).unwrap())),
    ("create with bytes", |root, _| fs::write(root.join("dir/new"), b"new").unwrap()),
    ("rename", |root, _| fs::rename(root.join("new"), root.join("renamed")).unwrap()),
    ("rename to another directory", |root, _| fs::rename(root.join("renamed"), root.join("dir/renamed")).unwrap()),
    ("rename onto another", |root, _| fs::rename(root.join("dir/new"), root.join("small")).unwrap()),
    ("replace by write and rename", |root, _| {
        fs::write(root.join("other.new"), tree::bytes(9, 9999)).unwrap();
        fs::rename(root.join("other.new"), root.join("other")).unwrap();
    }),
    ("exchange", |root, _| {
        renameat_with(CWD, root.join("other"), CWD, root.join("large"), RenameFlags::EXCHANGE).unwrap();
    }),
    ("link", |root, _| fs::hard_link(root.join("large"), root.join("dir/linked")).unwrap()),
    ("write through another name", |root, _| fs::write(root.join("dir/linked"), b"by another name").unwrap()),
    ("unlink of one of two names", |root, _| fs::remove_file(root.join("large")).unwrap()),
    ("unlink", |root, _| fs::remove_file(root.join("small")).unwrap()),
    ("create again", |root, _| fs::write(root.join("small"), b"again").unwrap()),
    ("mkdir", |root, _| fs::create_dir(root.join("made")).unwrap()),
    ("rename of a directory", |root, _| fs::rename(root.join("dir"), root.join("made/moved")).unwrap()),
    ("rmdir", |root, _| fs::remove_dir(root.join("made/moved/empty")).unwrap()),
    ("symlink", |root, _| symlink("other", root.join("another link")).unwrap()),
    ("symlink replaced", |root, _| {
        fs::remove_file(root.join("link")).unwrap();
        symlink("other", root.join("link")).unwrap();
    }),
];

const CHANGES_OF_ATTRIBUTES: &[Change] = &[
    ("chmod", |root, _| fs::set_permissions(root.join("small"), fs::Permissions::from_mode(0o640)).unwrap()),
    ("chmod of a directory", |root, _| {
        fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o711)).unwrap()
    }),
    ("utimes", |root, _| {
        let time = Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, root.join("large"), &times, AtFlags::empty()).unwrap();
    }),
    ("an extended attribute", |root, _| {
        rustix::fs::setxattr(root.join("small"), "user.mark", b"one", XattrFlags::CREATE).unwrap();
    }),
    ("another value", |root, _| {
        rustix::fs::setxattr(root.join("small"), "user.mark", b"two", XattrFlags::REPLACE).unwrap();
    }),
    ("its removal", |root, _| rustix::fs::removexattr(root.join("small"), "user.mark").unwrap()),
    ("times of a file being written", |root, held| {
        let file = open(&root.join("other"));
        file.write_all_at(b"bytes", 0).unwrap();
        let time = Timespec { tv_sec: 1_111_111_111, tv_nsec: 1 };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }).unwrap();
        held.push(file);
    }),
];

/// Makes each change, on the one mount and on the other in turn, and looks at once on both.
fn each_is_seen_at_once(changes: &[Change]) {
    let cluster = Cluster::start();
    let mounts = [Mount::new(&cluster, "one"), Mount::new(&cluster, "two")];
    for writer in [0, 1] {
        let name = format!("by-{writer}");
        let (writer, observer) = (mounts[writer].path(&name), mounts[1 - writer].path(&name));
        furnish(&writer);
        let mut held = Held::new();
        for (what, change) in changes {
            let before = see(&observer);
            assert_eq!(difference(&see(&observer), &see(&writer)), [""; 0], "before: {what}");
            let still = see(&observer);
            assert_eq!(difference(&before, &still), [""; 0], "before: {what}");
            change(&writer, &mut held);
            let seen = see(&observer);
            let expected = see(&writer);
            assert_eq!(difference(&seen, &expected), [""; 0], "{what}: seen ≠ there");
            assert_ne!(difference(&before, &seen), [""; 0], "{what}: nothing changed");
        }
    }
}

#[test]
fn every_change_of_bytes_is_seen_at_once_on_another_mount() {
    each_is_seen_at_once(CHANGES_OF_BYTES);
}

#[test]
fn every_change_of_names_is_seen_at_once_on_another_mount() {
    each_is_seen_at_once(CHANGES_OF_NAMES);
}

#[test]
fn every_change_of_attributes_is_seen_at_once_on_another_mount() {
    each_is_seen_at_once(CHANGES_OF_ATTRIBUTES);
}

#[test]
fn a_name_that_was_not_there_is_found_as_soon_as_another_mount_has_made_it() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    for number in 0..50 {
        let name = format!("file-{number}");
        for _ in 0..3 {
            assert_eq!(fs::metadata(two.path(&name)).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        }
        match number % 4 {
            0 => fs::write(one.path(&name), b"here").unwrap(),
            1 => fs::create_dir(one.path(&name)).unwrap(),
            2 => symlink("/", one.path(&name)).unwrap(),
            _ => fs::rename(one.path(&format!("file-{}", number - 3)), one.path(&name)).unwrap(),
        }
        assert!(fs::symlink_metadata(two.path(&name)).is_ok(), "{name}");
        if number % 4 == 3 {
            assert!(fs::symlink_metadata(two.path(&format!("file-{}", number - 3))).is_err(), "{name} has moved");
        }
    }
}

#[test]
fn an_open_file_and_a_mapping_show_what_another_mount_writes_at_once() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    let len = 100_000;
    fs::write(one.path("file"), tree::bytes(1, len)).unwrap();
    let (writer, reader) = (open(&one.path("file")), open(&two.path("file")));
    let mapping = Mapping::new(&reader, len);
    let mut expected = tree::bytes(1, len);
    for round in 0..50 {
        let mut seen = vec![0; len];
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "before round {round}");
        assert!(mapping.read(0, len) == expected, "mapped, before round {round}");
        let (offset, bytes) = (round * 1901 % 99_000, tree::bytes(round as u64, 1000));
        writer.write_all_at(&bytes, offset as u64).unwrap();
        expected[offset..offset + 1000].copy_from_slice(&bytes);
        assert!(mapping.read(offset, 1000) == bytes, "mapped, round {round}");
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "round {round}");
        let mut file = &writer;
        file.flush().unwrap();
    }
}

/// Reads that are under way have pages locked, and may wait for the very lease that is wanted back.
#[test]
fn a_mapping_shows_what_another_mount_writes_at_once_while_programs_read_the_file() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    let len: usize = 2 << 20;
    fs::write(one.path("file"), tree::bytes(1, len)).unwrap();
    let (writer, reader) = (open(&one.path("file")), open(&two.path("file")));
    let mapping = Mapping::new(&reader, len);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (stop, file) = (&stop, open(&two.path("file")));
            scope.spawn(move || {
                let mut at: u64 = thread;
                while !stop.load(Ordering::Relaxed) {
                    at = (at * 7919 + 104_729) % 500;
                    // So that it is read anew.
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    file.read_exact_at(&mut [0; 4096], at * 4096).unwrap();
                }
            });
        }
        let written = std::panic::catch_unwind(|| {
            for round in 0..40 {
                let offset = len - 5000 + round;
                // It is in memory, and after most others.
                assert_eq!(mapping.read(offset, 1000).len(), 1000);
                let bytes = tree::bytes(round as u64, 1000);
                writer.write_all_at(&bytes, offset as u64).unwrap();
                assert!(mapping.read(offset, 1000) == bytes, "mapped, round {round}");
            }
        });
        stop.store(true, Ordering::Relaxed);
        written.unwrap();
    });
}

/// P3, and "leases assume that monotonic clocks run, never that a mount answers": its caches end with its silence.
#[test]
fn a_mount_that_was_stopped_beyond_its_leases_shows_what_others_changed_meanwhile() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    fs::write(one.path("file"), tree::bytes(1, 50_000)).unwrap();
    let (writer, reader) = (open(&one.path("file")), open(&two.path("file")));
    for round in 2..5 {
        let mut seen = vec![0; 50_000];
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert!(fs::metadata(two.path(&format!("new-{round}"))).is_err());
        two.signal(rustix::process::Signal::STOP);
        // These wait until the silent one's leases are over.
        let expected = tree::bytes(round, 50_000);
        writer.write_all_at(&expected, 0).unwrap();
        fs::write(one.path(&format!("new-{round}")), b"new").unwrap();
        two.signal(rustix::process::Signal::CONT);
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == expected, "round {round}");
        assert_eq!(fs::read(two.path(&format!("new-{round}"))).unwrap(), b"new");
    }
}

#[test]
fn what_others_wrote_over_is_not_shown_by_the_mount_that_was_stopped_and_its_sync_says_that_it_is_lost() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    for round in 0..2 {
        let name = format!("file-{round}");
        fs::write(one.path(&name), tree::bytes(round, 50_000)).unwrap();
        let late = open(&two.path(&name));
        late.write_all_at(&[7; 300], 1000).unwrap();
        late.write_all_at(&[7; 300], 60_000).unwrap();
        two.signal(rustix::process::Signal::STOP);
        let expected = tree::bytes(round + 100, 50_000);
        fs::write(one.path(&name), &expected).unwrap();
        two.signal(rustix::process::Signal::CONT);
        let mut seen = vec![0; 70_000];
        let len = late.read_at(&mut seen, 0).unwrap();
        assert!(seen[..len] == expected, "round {round}");
        assert_eq!(late.metadata().unwrap().len(), 50_000, "round {round}");
        assert!(late.sync_all().is_err(), "round {round}");
        assert!(late.sync_all().is_ok(), "round {round}");
    }
}

#[test]
fn a_removed_file_stays_readable_and_writable_on_every_mount_that_has_it_open() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    fs::write(one.path("file"), tree::bytes(1, 50_000)).unwrap();
    let files = [open(&one.path("file")), open(&two.path("file"))];
    fs::remove_file(one.path("file")).unwrap();
    assert!(fs::symlink_metadata(two.path("file")).is_err());
    let mut expected = tree::bytes(1, 50_000);
    for round in 0..10 {
        for (file, other) in [(&files[0], &files[1]), (&files[1], &files[0])] {
            let bytes = tree::bytes(round, 700);
            file.write_all_at(&bytes, 1000 * round).unwrap();
            let at = usize::try_from(1000 * round).unwrap();
            expected[at..at + 700].copy_from_slice(&bytes);
            let mut seen = vec![0; expected.len()];
            other.read_exact_at(&mut seen, 0).unwrap();
            assert!(seen == expected, "round {round}");
            assert_eq!(other.metadata().unwrap().nlink(), 0);
        }
    }
    files.iter().for_each(|file| file.sync_all().unwrap());
    // A new file of the same name is another one.
    fs::write(two.path("file"), b"new").unwrap();
    assert_eq!(fs::read(one.path("file")).unwrap(), b"new");
    let mut seen = vec![0; expected.len()];
    files[0].read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == expected);
}

#[test]
fn what_was_written_before_a_file_was_removed_is_read_by_who_has_it_open_on_another_mount() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    for round in 0..40_u64 {
        fs::write(one.path("file"), tree::bytes(round, 5000)).unwrap();
        let file = open(&two.path("file"));
        // Until the directory is held by the one who changes it.
        for number in 0..6 {
            fs::write(one.path(&format!("{round}-{number}")), b"").unwrap();
        }
        let bytes = tree::bytes(round + 1000, 6000);
        fs::write(one.path("file"), &bytes).unwrap();
        fs::remove_file(one.path("file")).unwrap();
        let mut seen = vec![0; bytes.len()];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == bytes, "round {round}");
    }
}

/// `getcwd` of a program, and what it finds from there.
#[test]
fn who_works_in_a_directory_still_knows_where_it_is_when_another_mount_changes_names_above() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    fs::create_dir_all(one.path("project/src")).unwrap();
    fs::write(one.path("project/src/file"), b"here").unwrap();
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "while read -r line; do readlink /proc/self/cwd; cat file; echo; done"])
        .current_dir(one.path("project/src"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut asked, mut said) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()).lines());
    let expected = one.path("project/src").display().to_string();
    for round in 0..10 {
        fs::metadata(one.path("project/src/file")).unwrap();
        fs::write(two.path(&format!("project/new-{round}")), b"new").unwrap();
        fs::write(two.path(&format!("project/src/new-{round}")), b"new").unwrap();
        writeln!(asked, "where").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), expected, "round {round}");
        assert_eq!(said.next().unwrap().unwrap(), "here", "round {round}");
    }
    // What another does to the directory itself is seen all the same.
    fs::rename(two.path("project/src"), two.path("project/moved")).unwrap();
    assert_eq!(fs::metadata(one.path("project/src")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(fs::read(one.path("project/moved/file")).unwrap(), b"here");
    fs::create_dir(two.path("project/src")).unwrap();
    assert_eq!(fs::read_dir(one.path("project/src")).unwrap().count(), 0);
    drop(asked);
    assert!(shell.wait().unwrap().success());
}

/// Files that a mount creates in [`mounts_that_create_files_in_one_directory_at_once_do_not_wait_for_each_others_kernel`].
const FILES: usize = 50;

/// Creates files in a directory of whose names the kernel has been told; how long the slowest took.
fn create(mount: &Mount, dir: &str, writer: usize) -> Duration {
    let names = (0..FILES).map(|number| mount.path(&format!("{dir}/{writer}-{number}")));
    assert!(names.clone().all(|name| !name.exists()));
    let create = |name| {
        let begun = Instant::now();
        File::create_new(name).unwrap();
        begun.elapsed()
    };
    names.map(create).max().unwrap()
}

/// Each holds its kernel's lock of the directory while it waits for the other, who has to make its kernel forget names.
#[test]
fn mounts_that_create_files_in_one_directory_at_once_do_not_wait_for_each_others_kernel() {
    let cluster = Cluster::start();
    let mounts = ["one", "two"].map(|name| Mount::new(&cluster, name));
    for round in 0..5 {
        let dir = format!("dir-{round}");
        fs::create_dir(mounts[0].path(&dir)).unwrap();
        let slowest = std::thread::scope(|scope| {
            let other = scope.spawn(|| create(&mounts[1], &dir, 1));
            create(&mounts[0], &dir, 0).max(other.join().unwrap())
        });
        eprintln!("round {round}: the slowest took {slowest:?}");
        assert_eq!(fs::read_dir(mounts[0].path(&dir)).unwrap().count(), 2 * FILES);
        // Older kernels can only be waited for.
        assert!(slowest < Duration::from_secs(2) || is_older_than(6, 16), "{slowest:?}");
    }
}

fn is_older_than(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|at: char| !at.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) < (Some(major), Some(minor))
}
