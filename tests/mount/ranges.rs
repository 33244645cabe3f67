//! Ranges of files: holes and what they weigh, clones, where bytes are; and ways to open that promise more.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use harness::{Cluster, Mount, tree, wait::until};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, getxattr, seek};

const MIB: u64 = 1 << 20;

fn create(mount: &Mount, name: &str) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(mount.path(name)).unwrap()
}

fn bytes_held(file: &File) -> u64 {
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

fn xattr(mount: &Mount, name: &str, which: &str) -> String {
    let mut value = vec![0; 65536];
    let len = getxattr(mount.path(name), which, &mut value).unwrap();
    String::from_utf8(value[..len].to_vec()).unwrap()
}

#[test]
fn a_hole_weighs_nothing_and_seeking_finds_where_data_begins_and_ends() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let file = create(&mount, "sparse");
    file.set_len(100 * MIB).unwrap();
    assert_eq!(bytes_held(&file), 0);
    assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap_err(), rustix::io::Errno::NXIO);
    assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 0);
    let data = tree::bytes(1, 2 << 20);
    file.write_all_at(&data, 40 * MIB).unwrap();
    // Before anything of it is stored, and afterwards.
    for _ in 0..2 {
        assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap(), 40 * MIB);
        assert_eq!(seek(&file, SeekFrom::Hole(40 * MIB + 5)).unwrap(), 42 * MIB);
        assert_eq!(seek(&file, SeekFrom::Data(42 * MIB)).unwrap_err(), rustix::io::Errno::NXIO);
        assert_eq!(bytes_held(&file), 2 * MIB);
    }
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 40 * MIB, MIB).unwrap();
    assert_eq!((bytes_held(&file), file.metadata().unwrap().len()), (MIB, 100 * MIB));
    assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap(), 41 * MIB);
    fallocate(&file, FallocateFlags::empty(), 100 * MIB, MIB).unwrap();
    let more_than_there_is = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 60);
    assert_eq!(more_than_there_is, Err(rustix::io::Errno::NOSPC));
    assert_eq!(file.metadata().unwrap().len(), 101 * MIB);
    let mut found = vec![1; 3 << 20];
    file.read_exact_at(&mut found, 40 * MIB).unwrap();
    let expected = [vec![0; 1 << 20], data[1 << 20..].to_vec(), vec![0; 1 << 20]].concat();
    assert!(found == expected);
}

#[test]
fn copy_file_range_shares_chunks_and_moves_no_bytes() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let bytes = tree::bytes(1, 20 << 20);
    let from = create(&mount, "from");
    from.write_all_at(&bytes, 0).unwrap();
    from.sync_all().unwrap();
    let to = create(&mount, "to");
    to.write_all_at(b"in the way", 0).unwrap();
    let (mut from_at, mut to_at) = (0, 0);
    while from_at < bytes.len() as u64 {
        let rest = bytes.len() - usize::try_from(from_at).unwrap();
        let count = rustix::fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), rest).unwrap();
        assert!(count > 0);
    }
    assert!(fs::read(mount.path("to")).unwrap() == bytes);
    assert_eq!(xattr(&mount, "to", "user.dfs.chunks"), xattr(&mount, "from", "user.dfs.chunks"));
    // Both go their own ways.
    from.write_all_at(b"changed", 5 * MIB).unwrap();
    assert!(fs::read(mount.path("to")).unwrap() == bytes);
    drop(from);
    fs::remove_file(mount.path("from")).unwrap();
    assert!(fs::read(mount.path("to")).unwrap() == bytes);
}

/// Ends whoever looks at it, also when a test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn who_needs_what_is_written_by_now_does_not_wait_for_what_somebody_goes_on_to_write() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let [file, copy] = ["file", "copy"].map(|name| create(&mount, name));
    file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut at = 0;
            while !ended.load(Ordering::Acquire) {
                file.write_all_at(&[2; 64 << 10], MIB + at * (64 << 10)).unwrap();
                at = (at + 7) % 512;
            }
        });
        let _ended = Ending(&ended);
        for _ in 0..3 {
            let (mut from, mut to) = (0, 0);
            assert_eq!(
                rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), 1 << 20).unwrap(),
                1 << 20
            );
            assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap(), 0);
            assert!(!xattr(&mount, "file", "user.dfs.chunks").is_empty());
            fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100 * MIB, MIB).unwrap();
            file.set_len(200 * MIB).unwrap();
            file.sync_all().unwrap();
        }
        assert!(!writer.is_finished());
    });
    assert!(fs::read(mount.path("copy")).unwrap() == vec![1; 1 << 20]);
}

/// More extents than one change cuts: the rest goes a little later.
#[test]
fn what_a_large_truncation_frees_weighs_nothing_any_more_on_any_mount() {
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    let file = create(&one, "sparse");
    for at in 0..3000 {
        file.write_all_at(&[7; 4096], at * 8192).unwrap();
    }
    assert_eq!(bytes_held(&file), 3000 * 4096);
    let files = [file, File::open(two.path("sparse")).unwrap()];
    files[0].set_len(4096).unwrap();
    until("the rest has gone", Duration::from_secs(20), || {
        files.iter().all(|file| file.metadata().unwrap().blocks() == 8)
    });
}

#[test]
fn extended_attributes_tell_which_chunks_hold_a_file_and_where_they_are() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    fs::write(mount.path("large"), tree::bytes(1, 9 << 20)).unwrap();
    fs::write(mount.path("small"), b"small").unwrap();
    let xattr = |name: &str, which: &str| xattr(&mount, name, which);
    assert_eq!(xattr("small", "user.dfs.chunks"), "0 5 inline\n");
    let chunks = xattr("large", "user.dfs.chunks");
    let total: u64 = chunks.lines().map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(total, 9 << 20, "{chunks}");
    let key = blake3::hash(&tree::bytes(1, 9 << 20)[..4 << 20]).to_hex();
    assert!(chunks.lines().next().unwrap().starts_with(&format!("0 4194304 {key}")), "{chunks} is not {key}");
    let locations = xattr("large", "user.dfs.locations");
    for line in locations.lines() {
        for node in &cluster.nodes {
            assert!(line.contains(&node.address.to_string()), "{} in {locations}", node.address);
        }
    }
}

#[test]
fn an_o_sync_write_survives_sigkill_and_o_direct_reads_what_was_written() {
    let cluster = Cluster::start();
    let mut mount = Mount::new(&cluster, "mnt");
    let flags = i32::try_from(OFlags::SYNC.bits()).unwrap();
    let synced =
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(mount.path("synced"));
    let synced = synced.unwrap();
    let mut expected = Vec::new();
    for number in 0..10_u64 {
        let bytes = tree::bytes(number, 10_000);
        synced.write_all_at(&bytes, number * 10_000).unwrap();
        expected.extend_from_slice(&bytes);
    }
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap();
    let file = OpenOptions::new().read(true).write(true).custom_flags(direct).open(mount.path("synced")).unwrap();
    let mut found = vec![0; 4096];
    file.read_exact_at(&mut found, 8192).unwrap();
    assert!(found == expected[8192..8192 + 4096]);
    file.write_all_at(&[7; 4096], 0).unwrap();
    expected[..4096].fill(7);
    assert!(fs::read(mount.path("synced")).unwrap() == expected);
    file.sync_all().unwrap();
    mount.kill();
    mount.start(&cluster, &[]);
    assert!(fs::read(mount.path("synced")).unwrap() == expected);
}

#[test]
fn the_size_of_the_file_system_and_what_is_free_are_told() {
    let cluster = Cluster::start();
    let mount = Mount::new(&cluster, "mnt");
    let space = rustix::fs::statvfs(mount.dir()).unwrap();
    let (all, free, available) = (space.f_blocks, space.f_bfree, space.f_bavail);
    assert!(all >= free && free >= available && available > 0, "{all} {free} {available}");
    assert!(space.f_ffree > 1_000_000, "{}", space.f_ffree);
    assert_eq!(space.f_namemax, 255);
}

/// As a program leaves one that writes records here and there.
#[test]
fn a_file_in_thousands_of_pieces_is_read_and_written_over_whole() {
    const LEN: usize = 64 << 10;
    let cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| Mount::new(&cluster, name));
    let mut expected = tree::bytes(1, LEN);
    fs::write(one.path("file"), &expected).unwrap();
    let file = File::options().write(true).open(one.path("file")).unwrap();
    file.sync_all().unwrap();
    for at in (0..LEN).step_by(16) {
        let piece = tree::bytes(at as u64, 8);
        file.write_all_at(&piece, at as u64).unwrap();
        expected[at..at + 8].copy_from_slice(&piece);
    }
    file.sync_all().unwrap();
    // In one piece: nothing is read ahead by and by.
    let read = |mount: &Mount| {
        let file =
            File::options().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(mount.path("file")).unwrap();
        let mut seen = vec![0; LEN];
        file.read_exact_at(&mut seen, 0).unwrap();
        seen
    };
    assert!(read(&two) == expected && read(&one) == expected);
    // Over all the pieces at once: more than one command may replace.
    let whole = tree::bytes(2, LEN);
    file.write_all_at(&whole, 0).unwrap();
    file.sync_all().unwrap();
    assert!(read(&two) == whole && read(&one) == whole);
}
