//! A local file being read: its data in chunks, its holes skipped, its changes noticed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use bytes::Bytes;
use rustix::io::Errno;
use wire::{
    CHUNK_LEN_MAX,
    buffer::{Caching, read_at},
    namespace::INLINE_LEN_MAX,
};

use super::{LocalMeta, UNCACHED_MIN};

/// An open local file.
#[derive(Debug)]
pub(crate) struct LocalSource {
    file: File,
    /// As it was when it was opened.
    pub(crate) meta: LocalMeta,
    has_holes: bool,
    /// Where it was found to end, before the end that was told.
    ended_at: Option<u64>,
}

impl LocalSource {
    /// Opens a regular file; `follow` a link only if it was named by a person.
    pub(crate) fn open(path: &Path, follow: bool) -> io::Result<Self> {
        // Not to block on a pipe that took the place of the file since it was looked at.
        let base = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let flags = if follow { base } else { base | rustix::fs::OFlags::NOFOLLOW };
        let flags = i32::try_from(flags.bits()).expect("open flags fit in an int");
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let meta = LocalMeta::new(&file.metadata()?)?;
        let has_holes = meta.allocated < meta.size;
        Ok(Self { file, meta, has_holes, ended_at: None })
    }

    /// Whether its bytes are perhaps made when they are read, as those below `/proc` and `/sys`: its length then says nothing.
    /// What holds bytes takes room; and of an empty file or one hole it makes no difference.
    pub(crate) fn is_made_up(&self) -> bool {
        self.meta.allocated == 0
    }

    /// Where the last byte is at most.
    pub(crate) fn end_max(&self) -> u64 {
        if self.is_made_up() && self.meta.size == 0 { u64::MAX } else { self.meta.size }
    }

    /// Its length, once it was read to its end; none if it ended before the end that was told.
    pub(crate) fn len_read(&self) -> Option<u64> {
        match self.ended_at {
            Some(end) => self.is_made_up().then_some(end),
            None => Some(self.meta.size),
        }
    }

    /// The data at or after `from`, up to the next multiple of 4 MiB, the next hole, or the end of the file as it was
    /// when it was opened; none at the end.
    pub(crate) fn read_chunk(&mut self, from: u64) -> io::Result<Option<(u64, Bytes)>> {
        let Some((start, end)) = self.next_data(from)? else {
            return Ok(None);
        };
        let chunk = u64::from(CHUNK_LEN_MAX);
        let end = end.min((start / chunk + 1) * chunk);
        let len = usize::try_from(end - start).expect("a chunk is at most 4 MiB");
        let caching = if self.meta.size >= UNCACHED_MIN { Caching::Pass } else { Caching::Keep };
        let bytes = read_at(&self.file, start, len, caching)?;
        if bytes.is_empty() {
            self.ended_at = Some(start);
            return Ok(None);
        }
        Ok(Some((start, bytes)))
    }

    /// All of a small file; one byte more than a small file has, if it is longer.
    pub(crate) fn read_small(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.meta.size as usize + 1);
        (&self.file).take(INLINE_LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Bytes at a place; fewer if the file has shrunk.
    pub(crate) fn read_range(&mut self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(offset))?;
        (&self.file).take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<(u64, u64)>> {
        if from >= self.end_max() {
            return Ok(None);
        }
        if !self.has_holes {
            return Ok(Some((from, self.end_max())));
        }
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // A file system that knows no holes has none.
            Err(Errno::INVAL) => return Ok(Some((from, self.meta.size))),
            Err(error) => return Err(error.into()),
        };
        if start >= self.meta.size {
            return Ok(None);
        }
        let end = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start))?;
        Ok(Some((start, end.min(self.meta.size))))
    }

    /// Whether the file may have changed since it was opened.
    pub(crate) fn has_changed(&self) -> io::Result<bool> {
        let now = LocalMeta::new(&self.file.metadata()?)?;
        Ok(self.meta.differs(&now))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::LocalSource;

    #[test]
    fn chunks_end_at_multiples_of_four_mebibytes_and_holes_are_skipped() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("sparse");
        let file = File::create(&path).unwrap();
        let mib = 1u64 << 20;
        file.write_all_at(&vec![1; 6 << 20], 0).unwrap();
        file.write_all_at(&vec![2; 1 << 20], 30 * mib).unwrap();
        file.set_len(40 * mib).unwrap();
        let mut source = LocalSource::open(&path, false).unwrap();
        let mut at = 0;
        let mut found = Vec::new();
        while let Some((offset, bytes)) = source.read_chunk(at).unwrap() {
            at = offset + bytes.len() as u64;
            found.push((offset / mib, bytes.len() as u64 / mib, bytes[0]));
        }
        assert_eq!(found, [(0, 4, 1), (4, 2, 1), (30, 1, 2)]);
        assert!(!source.has_changed().unwrap());
        file.write_all_at(b"x", 0).unwrap();
        file.set_len(41 * mib).unwrap();
        assert!(source.has_changed().unwrap());
    }

    #[test]
    fn a_link_is_followed_only_if_asked() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("file"), b"x").unwrap();
        std::os::unix::fs::symlink("file", place.path().join("link")).unwrap();
        assert!(LocalSource::open(&place.path().join("link"), false).is_err());
        assert!(LocalSource::open(&place.path().join("link"), true).is_ok());
    }
}
