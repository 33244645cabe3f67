//! The first bytes of a file: which file this is, and where the one before it ended. Pure.

use super::record::{u32_at, u64_at};
use super::{FileId, Position};

/// Two copies, a sector each, so that one bad sector does not take the file's generation with it.
pub(crate) const FILE_HEADER_LEN: u64 = 2 * HEADER_COPY_LEN;
pub(crate) const HEADER_COPY_LEN: u64 = 512;
const COPY_LEN: usize = HEADER_COPY_LEN as usize;
const MAGIC: [u8; 8] = *b"dfsLOG\r\n";
pub(crate) const VERSION: u8 = 1;
const NO_FILE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FileHeader {
    pub(crate) id: FileId,
    /// Random: tells records of this file from those that its blocks held before.
    pub(crate) generation: u64,
    /// Where the file before this one ended: all of it was synced before this header was written.
    pub(crate) previous_end: Option<Position>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HeaderFault {
    Damaged,
    Version(u8),
}

impl FileHeader {
    /// Both copies.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = [0; COPY_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8] = VERSION;
        let previous = self.previous_end.unwrap_or(Position { file: FileId(NO_FILE), offset: 0 });
        for (at, word) in [(16, self.id.0), (24, self.generation), (32, previous.file.0), (40, previous.offset)] {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..COPY_LEN - 4]);
        out[COPY_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        out.repeat(2)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let copies = bytes.chunks_exact(COPY_LEN).take(2);
        let valid = copies
            .filter(|copy| copy[..8] == MAGIC && u32_at(copy, COPY_LEN - 4) == crc32c::crc32c(&copy[..COPY_LEN - 4]));
        let copy = valid.into_iter().next().ok_or(HeaderFault::Damaged)?;
        if copy[8] != VERSION {
            return Err(HeaderFault::Version(copy[8]));
        }
        let previous = Position { file: FileId(u64_at(copy, 32)), offset: u64_at(copy, 40) };
        Ok(Self {
            id: FileId(u64_at(copy, 16)),
            generation: u64_at(copy, 24),
            previous_end: (previous.file.0 != NO_FILE).then_some(previous),
        })
    }
}
