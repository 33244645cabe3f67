//! Where the disk of a node may change bytes: what was synced once. Behind that, damage and a torn tail cannot be told
//! apart.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// Bytes that change at a time, at most.
const FLIPS_MAX: usize = 12;

/// Records begin at multiples of this (`node/DISK.md`).
const RECORD_ALIGN: usize = 128;

/// Records of a file begin behind its header.
const FILE_HEADER_LEN: usize = 1024;

/// Up to where a file of an append log is known as synced, by what its records say.
fn synced_len(bytes: &[u8]) -> usize {
    let Some(generation) = bytes.get(24..32) else { return 0 };
    let number = |at: usize| bytes.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let mut mark = 0;
    for at in (FILE_HEADER_LEN..bytes.len()).step_by(RECORD_ALIGN) {
        let is_header = bytes[at..].starts_with(b"dfsR") && bytes.get(at + 24..at + 32) == Some(generation);
        if is_header && number(at + 16) == Some(at as u64) {
            mark = mark.max(number(at + 32).unwrap_or(0));
        }
    }
    usize::try_from(mark).unwrap()
}

fn files(dir: &Path, is_wanted: impl Fn(&Path) -> bool + Copy) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, is_wanted));
        } else if is_wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Turns over the bits of some bytes in the files of an append log; says where.
pub(crate) fn spoil_log(dir: &Path, seed: u64) -> Vec<(PathBuf, u64)> {
    let mut random = StdRng::seed_from_u64(seed);
    let logs = files(dir, |path| path.extension().is_some_and(|kind| kind == "log"));
    let known = logs.into_iter().map(|path| (synced_len(&fs::read(&path).unwrap_or_default()), path));
    let known: Vec<_> = known.filter(|(len, _)| *len > FILE_HEADER_LEN).collect();
    let mut spoilt = Vec::new();
    for _ in 0..random.random_range(1..=FLIPS_MAX) {
        if let Some((len, path)) = known.choose(&mut random) {
            let at = random.random_range(0..*len) as u64;
            flip(path, at);
            spoilt.push((path.clone(), at));
        }
    }
    spoilt
}

/// Turns over the bits of some bytes in any files below `dir`.
pub(crate) fn spoil_files(dir: &Path, seed: u64) -> Vec<(PathBuf, u64)> {
    let mut random = StdRng::seed_from_u64(seed);
    let all = files(dir, |path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0));
    let mut spoilt = Vec::new();
    for _ in 0..random.random_range(1..=FLIPS_MAX) {
        if let Some(path) = all.choose(&mut random) {
            let len = fs::metadata(path).unwrap().len();
            // Journals have room ahead, of which nobody reads anything.
            let at = random.random_range(0..len.min(1 << 20));
            flip(path, at);
            spoilt.push((path.clone(), at));
        }
    }
    spoilt
}

fn flip(path: &Path, at: u64) {
    // A segment may have gone meanwhile.
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return };
    let mut byte = [0];
    if file.read_exact_at(&mut byte, at).is_ok() {
        file.write_all_at(&[!byte[0]], at).unwrap();
    }
}
