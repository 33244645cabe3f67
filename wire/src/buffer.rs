//! Memory for the bytes of chunks: aligned to pages, of huge pages where the system has them, used again and again.
//!
//! A chunk is 4 MiB and lives for milliseconds. From the allocator it would be a thousand page faults each time, which
//! cost more than hashing it, and it would lie anywhere, so that it would have to be copied before it can be written
//! past the page cache. Short pieces come from the allocator. Files are read into it with [`read_at`].
//!
//! # Invariants
//! - Pieces that are free are bounded by [`FREE_MAX`], those in use by [`USED_MAX`]; what is more comes from the
//!   allocator. A piece takes the memory of a whole chunk, whatever its holder counts it as, so short ones never do.
//! - A [`Buffer`] shows nothing of what was in it before beyond what its holder reads before writing: it is never
//!   handed out as [`Bytes`] beyond the length that was filled.

use std::{
    fmt, io,
    io::IoSliceMut,
    ops::{Deref, DerefMut},
    os::fd::AsFd,
};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;
use rustix::io::{Errno, ReadWriteFlags};

use crate::CHUNK_LEN_MAX;

/// Shorter ones come from the allocator: pools and caches count lengths, and would take up much more than they count.
const LEN_MIN: usize = 3 << 20;

/// Pieces of [`CHUNK_LEN_MAX`] bytes that are kept when nobody needs them: as many as are under way on a busy machine.
const FREE_MAX: usize = 8;

/// Pieces in use at once: 96 MiB.
const USED_MAX: usize = 24;

/// Guards itself alone.
static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), used: 0 });

struct Pool {
    /// The last used first: its lines may still be in a cache of the CPU.
    free: Vec<MmapMut>,
    used: usize,
}

/// What offset and length of a direct read are multiples of: a page is enough for every block device.
const PAGE: usize = 4096;

/// `RWF_DONTCACHE` of Linux 6.14: what is in the page cache is used, what is not does not stay there.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Whether what is read from a file stays in the page cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Caching {
    /// It does.
    Keep,
    /// Only what was there before. Older kernels, and file systems that cannot do it, keep it all the same.
    Pass,
}

/// Reads up to `len` bytes of a file at `offset`: fewer only where the file ends.
pub fn read_at(file: impl AsFd, offset: u64, len: usize, caching: Caching) -> io::Result<Bytes> {
    let mut buffer = Buffer::with_len(len);
    let mut flags = if caching == Caching::Pass { DONT_CACHE } else { ReadWriteFlags::empty() };
    let mut filled = 0;
    while filled < len {
        let rest = buffer.get_mut(filled..).unwrap_or_default();
        match rustix::io::preadv2(&file, &mut [IoSliceMut::new(rest)], offset + filled as u64, flags) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) if !flags.is_empty() => flags = ReadWriteFlags::empty(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(buffer.freeze(filled))
}

/// Reads up to `len` bytes at `offset` from a file that is open for direct reads (`O_DIRECT`): fewer only where the file
/// ends. None if that cannot be done here: the range does not begin on a page, or the file system refuses.
pub fn read_direct(file: impl AsFd, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
    let whole = len.next_multiple_of(PAGE);
    if !offset.is_multiple_of(PAGE as u64) || !(LEN_MIN..=CHUNK_LEN_MAX as usize).contains(&whole) {
        return Ok(None);
    }
    let mut buffer = Buffer::with_len(whole);
    let mut filled = 0;
    while filled < len {
        let rest = buffer.get_mut(filled..).unwrap_or_default();
        match rustix::io::pread(&file, rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            // Also what is left after a read that ended at the end of the file, within a page.
            Err(Errno::INVAL) if filled > 0 => break,
            Err(Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(buffer.freeze(filled.min(len))))
}

/// Bytes that are being filled.
pub struct Buffer {
    memory: Memory,
    len: usize,
}

enum Memory {
    Allocated(Vec<u8>),
    Pages(Pages),
}

/// Pages, which go back to where they came from.
struct Pages(Option<MmapMut>);

impl Buffer {
    /// Room for `len` bytes, of any content.
    pub fn with_len(len: usize) -> Self {
        let pages = (LEN_MIN..=CHUNK_LEN_MAX as usize).contains(&len).then(Pages::take).flatten();
        Self { memory: pages.map_or_else(|| Memory::Allocated(vec![0; len]), Memory::Pages), len }
    }

    /// Its first `len` bytes, to be read only from now on.
    ///
    /// # Panics
    /// If it is not so long.
    pub fn freeze(self, len: usize) -> Bytes {
        assert!(len <= self.len, "only what was filled is shown");
        let whole = match self.memory {
            Memory::Allocated(bytes) => Bytes::from(bytes),
            Memory::Pages(pages) => Bytes::from_owner(pages),
        };
        whole.slice(..len)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.bytes(self.len)
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut(self.len)
    }
}

/// Bytes that become more, up to [`CHUNK_LEN_MAX`] without being moved once there is room.
pub struct GrowingBuffer {
    memory: Memory,
    len: usize,
}

impl GrowingBuffer {
    /// Gives it room for a whole chunk.
    pub fn reserve_chunk(&mut self) {
        if let Memory::Allocated(bytes) = &mut self.memory {
            match Pages::take() {
                Some(mut pages) if bytes.len() <= CHUNK_LEN_MAX as usize => {
                    if let Some(start) = pages.0.as_mut().and_then(|map| map.get_mut(..bytes.len())) {
                        start.copy_from_slice(bytes);
                        self.memory = Memory::Pages(pages);
                    }
                }
                _ => bytes.reserve((CHUNK_LEN_MAX as usize).saturating_sub(bytes.len())),
            }
        }
    }

    /// Adds bytes at the end.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        let end = self.len + more.len();
        let fits = match &mut self.memory {
            Memory::Pages(pages) => pages.0.as_mut().and_then(|map| map.get_mut(self.len..end)),
            Memory::Allocated(bytes) => {
                bytes.extend_from_slice(more);
                self.len = end;
                return;
            }
        };
        match fits {
            Some(room) => room.copy_from_slice(more),
            None => self.memory = Memory::Allocated([&**self, more].concat()),
        }
        self.len = end;
    }

    /// Takes off what comes after the first `len` bytes.
    pub fn split_off(&mut self, len: usize) -> Vec<u8> {
        let rest = self.get(len..).unwrap_or_default().to_vec();
        if let Memory::Allocated(bytes) = &mut self.memory {
            bytes.truncate(len);
        }
        self.len = self.len.min(len);
        rest
    }

    /// All of it, to be read only from now on.
    pub fn freeze(self) -> Bytes {
        let Self { memory, len } = self;
        Buffer { memory, len }.freeze(len)
    }
}

impl From<Vec<u8>> for GrowingBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), memory: Memory::Allocated(bytes) }
    }
}

impl Deref for GrowingBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.bytes(self.len)
    }
}

impl DerefMut for GrowingBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut(self.len)
    }
}

impl fmt::Debug for GrowingBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrowingBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Memory {
    fn bytes(&self, len: usize) -> &[u8] {
        let bytes = match self {
            Self::Allocated(bytes) => bytes,
            Self::Pages(pages) => pages.as_ref(),
        };
        bytes.get(..len).expect("there is room for its length")
    }

    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        let bytes: &mut [u8] = match self {
            Self::Allocated(bytes) => bytes,
            Self::Pages(Pages(map)) => map.as_deref_mut().unwrap_or_default(),
        };
        bytes.get_mut(..len).expect("there is room for its length")
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Pages {
    /// Pages that were used before, or new ones; none if enough are in use.
    fn take() -> Option<Self> {
        let mut pool = POOL.lock();
        if pool.used == USED_MAX {
            return None;
        }
        pool.used += 1;
        // From here on they count as used until they are dropped, also if there are none.
        let mut pages = Self(pool.free.pop());
        drop(pool);
        if pages.0.is_none() {
            let map = MmapMut::map_anon(CHUNK_LEN_MAX as usize).ok()?;
            // Without huge pages it is as good, only slower.
            let _huge = map.advise(Advice::HugePage).is_ok();
            pages.0 = Some(map);
        }
        Some(pages)
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let mut pool = POOL.lock();
        pool.used -= 1;
        if pool.free.len() < FREE_MAX {
            pool.free.extend(self.0.take());
        }
        // Unmapping what is left takes the kernel a moment: nobody waits for the lock meanwhile.
        drop(pool);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{Buffer, Caching, FREE_MAX, GrowingBuffer, LEN_MIN, POOL, USED_MAX, read_at, read_direct};
    use crate::CHUNK_LEN_MAX;

    #[test]
    fn a_file_is_read_up_to_its_end_whether_the_kernel_keeps_it_or_not() {
        let bytes: Vec<u8> = (0..LEN_MIN * 3).map(|index| (index % 253) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        for caching in [Caching::Pass, Caching::Keep] {
            for (offset, len) in [(0, LEN_MIN * 2), (5, 100), (LEN_MIN, LEN_MIN * 4), (LEN_MIN * 3, 10), (1 << 30, 1)] {
                let read = read_at(&file, offset as u64, len, caching).unwrap();
                assert_eq!(read, bytes.get(offset..bytes.len().min(offset + len)).unwrap_or_default());
            }
        }
    }

    #[test]
    fn bytes_of_every_length_are_kept_and_only_they_are_shown() {
        for len in [0, 1, LEN_MIN - 1, LEN_MIN, CHUNK_LEN_MAX as usize, CHUNK_LEN_MAX as usize + 1] {
            let mut buffer = Buffer::with_len(len);
            assert_eq!(buffer.len(), len);
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = (index % 251) as u8;
            }
            let part = len - len / 3;
            let bytes = buffer.freeze(part);
            assert_eq!(bytes.len(), part);
            assert!(bytes.iter().enumerate().all(|(index, byte)| *byte == (index % 251) as u8));
        }
    }

    #[test]
    fn what_grows_is_what_a_vec_would_be_whatever_room_it_was_given() {
        let mut seed = 9_u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for _ in 0..8 {
            let mut model: Vec<u8> = vec![7; next(1000)];
            let mut growing = GrowingBuffer::from(model.clone());
            for _ in 0..40 {
                match next(8) {
                    0 => growing.reserve_chunk(),
                    1 => {
                        let at = next(model.len() + 1);
                        assert_eq!(growing.split_off(at), model.split_off(at));
                    }
                    2 if !model.is_empty() => {
                        let at = next(model.len());
                        growing[at] ^= 0xff;
                        model[at] ^= 0xff;
                    }
                    _ => {
                        let more = vec![next(256) as u8; next(256 << 10)];
                        growing.extend_from_slice(&more);
                        model.extend_from_slice(&more);
                    }
                }
                assert!(*growing == *model);
            }
            assert!(growing.freeze() == model);
        }
    }

    #[test]
    fn large_ones_lie_on_pages_and_only_so_many_are_kept() {
        let first = Buffer::with_len(CHUNK_LEN_MAX as usize).freeze(1);
        assert!(first.as_ptr().addr().is_multiple_of(4096));
        let held: Vec<_> = (0..2 * USED_MAX)
            .map(|index| {
                let mut buffer = Buffer::with_len(CHUNK_LEN_MAX as usize);
                buffer.fill(index as u8);
                buffer.freeze(CHUNK_LEN_MAX as usize).slice(7..)
            })
            .collect();
        assert!(held.iter().enumerate().all(|(index, bytes)| bytes.iter().all(|byte| *byte == index as u8)));
        assert!(POOL.lock().used <= USED_MAX);
        drop((first, held));
        assert!(POOL.lock().free.len() <= FREE_MAX);
        let again = Buffer::with_len(CHUNK_LEN_MAX as usize);
        assert!(matches!(again.memory, super::Memory::Pages(_)), "what was given back is there again");
    }

    #[test]
    fn a_short_one_takes_no_memory_of_a_whole_chunk() {
        assert!(matches!(Buffer::with_len(LEN_MIN - 1).memory, super::Memory::Allocated(_)));
        let file = tempfile::tempfile().unwrap();
        assert_eq!(read_direct(&file, 0, LEN_MIN / 2).unwrap(), None, "somebody else reads it");
    }
}
