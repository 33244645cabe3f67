//! The journal of a fjall store after a power loss.
//!
//! Batches that nobody had synced are there in whichever pages had reached the disk. fjall cuts a journal where it meets what
//! it cannot parse, and fails where a batch parses and its checksum does not match; but that is how a batch looks of which
//! a page inside a long value is missing. Whatever was persisted lies before it, so such a journal is cut behind its last
//! whole batch as well.
//!
//! # Format
//! That of fjall 3 (`journal/entry.rs`), whose version is pinned for it, all little-endian. A batch is a start (tag 1, count
//! of entries u32, sequence number u64), its entries, and an end (tag 3, XXH3 of the bytes of the entries u64, `FJL\x03`). An
//! entry sets or removes a pair (tag 2, kind of value u8, compression u8, keyspace u64, lengths of key u16, value u32, stored
//! value u32, key, stored value) or clears a keyspace (tag 4, keyspace u64).

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use tracing::warn;
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// What a batch ends with.
const TRAILER: [u8; 4] = *b"FJL\x03";

/// Cuts the journal in use of the store in `dir` behind its last whole batch. Whether anything was cut.
pub(super) fn cut(dir: &Path) -> io::Result<bool> {
    let Some(path) = newest(dir)? else { return Ok(false) };
    let bytes = fs::read(&path)?;
    let whole = whole_batches(&bytes);
    // It was made with zeros, so that these are nothing that is there in part: the damage is in another.
    let Some(last) = bytes[whole..].iter().rposition(|byte| *byte != 0) else { return Ok(false) };
    let journal = OpenOptions::new().write(true).open(&path)?;
    journal.set_len(whole as u64)?;
    journal.sync_all()?;
    warn!(journal = %path.display(), whole, cut = last + 1, "what is behind the last whole batch of a journal is cut off");
    Ok(true)
}

/// The journal with the highest number: the others were synced before it was begun.
fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        let Some(number) = number.filter(|_| path.extension().is_some_and(|kind| kind == "jnl")) else { continue };
        if newest.as_ref().is_none_or(|(highest, _)| number > *highest) {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Length of the whole batches that a journal begins with.
fn whole_batches(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some(behind) = batch(rest) {
        rest = behind;
    }
    bytes.len() - rest.len()
}

/// What is behind the batch that `bytes` begin with, if that is whole.
fn batch(bytes: &[u8]) -> Option<&[u8]> {
    let (&[START, a, b, c, d, ..], mut rest) = bytes.split_first_chunk::<13>()? else { return None };
    let mut checksum = Xxh3::new();
    for _ in 0..u32::from_le_bytes([a, b, c, d]) {
        let (entry, behind) = rest.split_at_checked(entry_len(rest)?)?;
        checksum.update(entry);
        rest = behind;
    }
    let (&[END, end @ ..], behind) = rest.split_first_chunk::<13>()? else { return None };
    let (told, trailer) = end.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*told) == checksum.digest() && *trailer == TRAILER).then_some(behind)
}

/// How long the entry is that `bytes` begin with, according to its head.
fn entry_len(bytes: &[u8]) -> Option<usize> {
    const CLEAR_LEN: usize = 9;
    const HEAD_LEN: usize = 21;
    match *bytes.first()? {
        CLEAR => Some(CLEAR_LEN),
        ITEM => {
            let head = bytes.first_chunk::<HEAD_LEN>()?;
            let key = u16::from_le_bytes([head[11], head[12]]);
            let stored = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
            HEAD_LEN.checked_add(usize::from(key))?.checked_add(usize::try_from(stored).ok()?)
        }
        _ => None,
    }
}
