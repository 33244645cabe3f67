//! Records: the unit that is appended, found again, or found damaged. Pure.

use bytes::Bytes;

use super::{FileId, Position};

/// Length of a record's header, tag included, in bytes.
pub const HEADER_LEN: u64 = 128;

/// Length of a tag in bytes: a key of 32 bytes, two stamps of 8, a length, flags.
pub const TAG_LEN: usize = 64;

/// Records begin at multiples of this: any gap in front of an aligned record then has room for a filler's header.
pub(crate) const RECORD_ALIGN: u64 = HEADER_LEN;

/// Payloads of [`Align::Page`] begin at multiples of this.
pub(crate) const PAGE_LEN: u64 = 4096;

/// A chunk of 4 MiB and its BLAKE3 tree of 16 KiB groups (256 groups × 64 bytes = 16 KiB).
pub const PAYLOAD_LEN_MAX: u32 = (4 << 20) + (16 << 10);

/// What a tenant needs to know of a record without reading its payload.
pub type Tag = [u8; TAG_LEN];

/// Meaning of a record, chosen by the tenant below [`RecordKind::RESERVED`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RecordKind(pub u8);

impl RecordKind {
    /// Kinds from here up belong to the log itself.
    pub const RESERVED: u8 = 0xf0;
    /// Carries nothing but the synced mark.
    pub(crate) const MARK: Self = Self(0xf0);
    /// Fills the gap in front of an aligned record.
    pub(crate) const FILLER: Self = Self(0xf1);

    pub(crate) const fn is_reserved(self) -> bool {
        self.0 >= Self::RESERVED
    }
}

/// A record to append.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// What it is.
    pub kind: RecordKind,
    /// What a listing shows of it.
    pub tag: Tag,
    /// The payload: written in this order, never copied together.
    pub parts: Vec<Bytes>,
    /// Where the payload begins.
    pub align: Align,
    /// Whether it may use the reserve.
    pub room: Room,
}

/// Where a payload begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Align {
    /// Behind the record before it, at a multiple of 64 bytes.
    #[default]
    Packed,
    /// At a multiple of 4 KiB: worth the gap from 64 KiB up.
    Page,
}

/// Which room a record may use. The later ones may use more.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Room {
    /// Leaves the reserve alone.
    #[default]
    Ordinary,
    /// What is owed to records that are there: deletions say. Leaves half of the reserve.
    Upkeep,
    /// What gives room back in the end: compaction.
    All,
}

/// A record as listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordInfo {
    /// Where it is.
    pub position: Position,
    /// What it is.
    pub kind: RecordKind,
    /// Length of the payload in bytes.
    pub payload_len: u32,
    /// The tenant's own words.
    pub tag: Tag,
}

impl RecordInfo {
    /// Bytes that the record takes in its file, the gap before an aligned payload left out.
    pub fn span(&self) -> u64 {
        record_end(0, self.payload_len)
    }
}

const MAGIC: [u8; 4] = *b"dfsR";
const VERSION: u8 = 1;
const CRC_AT: usize = 60;

/// The fixed part of a record, as it lies in front of the payload. Byte table in `node/DISK.md`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) kind: RecordKind,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
    /// Where the record is: a header that was copied or misdirected is none.
    pub(crate) offset: u64,
    /// Of the file: a header that a recycled file kept from its former life is none.
    pub(crate) generation: u64,
    /// Everything in this file below was synced when this record was written.
    pub(crate) synced: u64,
    /// Rises with each open of the file: behind a record, one of a lower session is a leftover of a tail that was cut.
    pub(crate) session: u32,
    pub(crate) tag: Tag,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN as usize] {
        let mut out = [0; HEADER_LEN as usize];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.kind.0;
        out[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.generation.to_le_bytes());
        out[32..40].copy_from_slice(&self.synced.to_le_bytes());
        out[40..44].copy_from_slice(&self.session.to_le_bytes());
        out[64..].copy_from_slice(&self.tag);
        let crc = header_crc(&out);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at `offset` of a file of this generation; `None` if there is none.
    pub(crate) fn decode(bytes: &[u8], offset: u64, generation: u64) -> Option<Self> {
        if bytes.len() < HEADER_LEN as usize || bytes[..4] != MAGIC || bytes[4] != VERSION {
            return None;
        }
        let bytes = &bytes[..HEADER_LEN as usize];
        let header = Self {
            kind: RecordKind(bytes[5]),
            payload_len: u32_at(bytes, 8),
            payload_crc: u32_at(bytes, 12),
            offset: u64_at(bytes, 16),
            generation: u64_at(bytes, 24),
            synced: u64_at(bytes, 32),
            session: u32_at(bytes, 40),
            tag: bytes[64..].try_into().expect("64 bytes are left"),
        };
        let valid = u32_at(bytes, CRC_AT) == header_crc(bytes)
            && header.offset == offset
            && header.generation == generation
            && header.payload_len <= PAYLOAD_LEN_MAX
            && header.synced <= offset;
        valid.then_some(header)
    }

    /// Where the next record begins.
    pub(crate) fn end(&self) -> u64 {
        record_end(self.offset, self.payload_len)
    }

    pub(crate) fn info(&self, file: FileId) -> RecordInfo {
        RecordInfo {
            position: Position { file, offset: self.offset },
            kind: self.kind,
            payload_len: self.payload_len,
            tag: self.tag,
        }
    }
}

/// Where the record behind one at `offset` begins.
pub(crate) fn record_end(offset: u64, payload_len: u32) -> u64 {
    (offset + HEADER_LEN + u64::from(payload_len)).next_multiple_of(RECORD_ALIGN)
}

/// Where a record goes that would follow at `end`: its payload, not its header, is what is aligned.
pub(crate) fn record_start(end: u64, align: Align) -> u64 {
    match align {
        Align::Packed => end,
        Align::Page => (end + HEADER_LEN).next_multiple_of(PAGE_LEN) - HEADER_LEN,
    }
}

fn header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), &bytes[CRC_AT + 4..])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
