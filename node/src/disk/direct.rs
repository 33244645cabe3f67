//! Past the page cache: the bytes of chunks, which are written once, synced at once, and rarely read soon.
//!
//! A large write through the page cache costs a copy and a page for each 4 KiB, and throws out what is worth keeping
//! there. Large pieces that lie on page borders of their file go straight to the medium instead; what is around them
//! (headers, trees, small records) stays buffered. The two never share a page, so neither overwrites the other.
//!
//! # Invariants
//! - A direct write is no more durable than a buffered one: only a sync makes it so.
//! - A direct read sees every write that ended before it, buffered or direct: the kernel writes out what it holds.
//! - Where the file system cannot write directly, everything is buffered.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use wire::buffer::{self, Caching};

/// What offsets, lengths and memory of a direct write are multiples of: a page is enough for every block device.
const ALIGN: usize = 4096;

/// Shorter pieces are not worth a write of their own.
const LEN_MIN: usize = 64 << 10;

/// Bytes that arrive from the network lie anywhere: they are copied into a piece of memory that is used again and again.
const BOUNCE_LEN: usize = 1 << 20;

/// Most parts in one `pwritev`: the kernel's `IOV_MAX`.
const PARTS_MAX: usize = 1024;

/// The memory that all files of a disk share: one thread writes. Guards itself alone.
pub(super) type Bounce = Arc<Mutex<Vec<u8>>>;

/// A file, through the page cache and past it.
pub(super) struct DirectFile {
    buffered: Arc<File>,
    direct: Option<File>,
    works: AtomicBool,
    bounce: Bounce,
}

impl DirectFile {
    /// `path` is open as `buffered`; opened once more for direct access, where that is possible.
    pub(super) fn new(buffered: Arc<File>, path: &Path, bounce: Bounce) -> Self {
        let flags = i32::try_from(OFlags::DIRECT.bits()).expect("open flags are an int");
        // What is read through the page cache is headers and small records, wherever they lie: nothing beside them. Without
        // the advice the kernel reads 128 KiB for each.
        let _taken = rustix::fs::fadvise(&*buffered, 0, None, rustix::fs::Advice::Random).is_ok();
        let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok();
        Self { buffered, direct, works: AtomicBool::new(true), bounce }
    }

    /// Writes the parts one after the other from `offset`.
    pub(super) fn write_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut at = offset;
        let mut waiting = (offset, Vec::new());
        for part in parts {
            let whole = match &self.direct {
                Some(_) if part.len() >= LEN_MIN && at.is_multiple_of(ALIGN as u64) => part.len() - part.len() % ALIGN,
                _ => 0,
            };
            if whole > 0 {
                write_buffered(&self.buffered, waiting.0, &waiting.1)?;
                self.write_direct(at, part.slice(..whole))?;
                waiting = (at + whole as u64, Vec::new());
            }
            waiting.1.push(part.slice(whole..));
            at += part.len() as u64;
        }
        write_buffered(&self.buffered, waiting.0, &waiting.1)
    }

    /// Reads up to `len` bytes at `offset`, past the page cache where that can be done.
    pub(super) fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let direct = self.direct.as_ref().filter(|_| self.works.load(Ordering::Relaxed));
        match direct.map(|file| buffer::read_direct(file, offset, len)).transpose()?.flatten() {
            Some(bytes) => Ok(bytes),
            None => buffer::read_at(&*self.buffered, offset, len, Caching::Pass),
        }
    }

    fn write_direct(&self, offset: u64, piece: Bytes) -> io::Result<()> {
        if let Some(file) = self.direct.as_ref().filter(|_| self.works.load(Ordering::Relaxed)) {
            match self.write_bounced(file, offset, &piece) {
                // This file system opens for direct writes and then refuses them.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.works.store(false, Ordering::Relaxed),
                done => return done,
            }
        }
        write_buffered(&self.buffered, offset, &[piece])
    }

    fn write_bounced(&self, file: &File, offset: u64, piece: &[u8]) -> io::Result<()> {
        if piece.as_ptr().align_offset(ALIGN) == 0 {
            return write_whole(file, offset, piece);
        }
        let mut bounce = self.bounce.lock();
        if bounce.is_empty() {
            bounce.resize(BOUNCE_LEN + ALIGN, 0);
        }
        let start = bounce.as_ptr().align_offset(ALIGN);
        let aligned = bounce.get_mut(start..start + BOUNCE_LEN).expect("a page more was taken");
        let mut at = offset;
        for part in piece.chunks(BOUNCE_LEN) {
            let copy = aligned.get_mut(..part.len()).expect("a chunk is at most as long");
            copy.copy_from_slice(part);
            write_whole(file, at, copy)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// Writes all of an aligned piece. A direct write that stops early stops on a block border.
fn write_whole(file: &File, mut offset: u64, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match rustix::io::pwrite(file, piece, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                piece = piece.get(written..).unwrap_or_default();
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes the parts one after the other through the page cache.
pub(super) fn write_buffered(file: &File, mut offset: u64, parts: &[Bytes]) -> io::Result<()> {
    for parts in parts.chunks(PARTS_MAX) {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut slices = &mut slices[..];
        // Parts of length 0 would make the kernel answer 0, which is an error elsewhere.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match rustix::io::pwritev(file, slices, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_every_shape_are_written_where_they_belong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let writer = DirectFile::new(Arc::new(file), &path, Bounce::default());
        let mut expected = vec![0u8; 16 << 20];
        let mut seed = 7u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for round in 0..60 {
            // Some begin on a page, some lengths are whole pages, some memory is aligned.
            let at = if round % 2 == 0 { next(2000) * ALIGN } else { next(8 << 20) };
            let lens = [next(200), 128, next(3) * BOUNCE_LEN + next(2) * 5000 + ALIGN, next(LEN_MIN), LEN_MIN * 2];
            let parts: Vec<Bytes> = lens
                .iter()
                .map(|len| {
                    let shift = next(3);
                    let bytes: Vec<u8> = (0..len + shift).map(|_| next(256) as u8).collect();
                    Bytes::from(bytes).slice(shift..)
                })
                .collect();
            writer.write_at(at as u64, &parts).unwrap();
            let whole = parts.concat();
            expected[at..at + whole.len()].copy_from_slice(&whole);
        }
        for (offset, len) in [(0, 4 << 20), (4096, 300_000), (8 << 20, 1 << 20), (4097, 300_000), (1 << 30, 1 << 20)] {
            let read = writer.read_at(offset as u64, len).unwrap();
            let file_len = std::fs::metadata(&path).unwrap().len() as usize;
            let there = expected[..file_len].get(offset..file_len.min(offset + len)).unwrap_or_default();
            assert!(read == there, "{len} bytes at {offset}");
        }
        let found = std::fs::read(&path).unwrap();
        assert!(found == expected[..found.len()], "the file is what was written");
        assert!(expected[found.len()..].iter().all(|byte| *byte == 0));
    }
}
