//! The last bytes of a sealed file: an index of its records, and a trailer that finds it. Pure.

use super::record::{RECORD_ALIGN, TAG_LEN, u32_at, u64_at};
use super::{FileId, Position, RecordInfo, RecordKind};

pub(crate) const TRAILER_LEN: u64 = 128;
const ENTRY_LEN: usize = 16 + TAG_LEN;
const MAGIC: [u8; 8] = *b"dfsFOOT1";
const CRC_AT: usize = TRAILER_LEN as usize - 4;

/// Says where the records end and the index begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trailer {
    /// End of the records; the index follows, and the trailer follows that.
    pub(crate) records_end: u64,
    /// Of the file.
    pub(crate) generation: u64,
    entry_count: u64,
    entries_crc: u32,
}

impl Trailer {
    /// The trailer of a file of this id and length, and of this generation if that is known, if these are its last bytes.
    pub(crate) fn decode(bytes: &[u8], id: FileId, generation: Option<u64>, file_len: u64) -> Option<Self> {
        if bytes.len() != TRAILER_LEN as usize || bytes[..8] != MAGIC {
            return None;
        }
        let trailer = Self {
            records_end: u64_at(bytes, 24),
            generation: u64_at(bytes, 16),
            entry_count: u64_at(bytes, 32),
            entries_crc: u32_at(bytes, 40),
        };
        let fits = trailer.records_end.checked_add(trailer.entries_len()?)?.checked_add(TRAILER_LEN)? == file_len;
        let valid = u32_at(bytes, CRC_AT) == crc32c::crc32c(&bytes[..CRC_AT])
            && FileId(u64_at(bytes, 8)) == id
            && generation.is_none_or(|generation| generation == trailer.generation)
            && fits;
        valid.then_some(trailer)
    }

    pub(crate) fn entries_len(&self) -> Option<u64> {
        Some(self.entry_count.checked_mul(ENTRY_LEN as u64)?.next_multiple_of(RECORD_ALIGN))
    }

    /// The index, if these bytes are it.
    pub(crate) fn entries(&self, bytes: &[u8], file: FileId) -> Option<Vec<RecordInfo>> {
        if crc32c::crc32c(bytes) != self.entries_crc {
            return None;
        }
        let entries = bytes.chunks_exact(ENTRY_LEN).take(usize::try_from(self.entry_count).ok()?);
        Some(entries.map(|entry| decode_entry(entry, file)).collect())
    }
}

/// Bytes of index and trailer of a file of so many records.
pub(crate) fn len_of(records: usize) -> u64 {
    (records as u64 * ENTRY_LEN as u64).next_multiple_of(RECORD_ALIGN) + TRAILER_LEN
}

/// Index and trailer, as they follow the records.
pub(crate) fn encode(id: FileId, generation: u64, records_end: u64, records: &[RecordInfo]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * ENTRY_LEN + TRAILER_LEN as usize);
    for record in records {
        out.extend_from_slice(&record.position.offset.to_le_bytes());
        out.extend_from_slice(&record.payload_len.to_le_bytes());
        out.extend_from_slice(&[record.kind.0, 0, 0, 0]);
        out.extend_from_slice(&record.tag);
    }
    out.resize(out.len().next_multiple_of(RECORD_ALIGN as usize), 0);
    let mut trailer = [0; TRAILER_LEN as usize];
    trailer[..8].copy_from_slice(&MAGIC);
    for (at, word) in [(8, id.0), (16, generation), (24, records_end), (32, records.len() as u64)] {
        trailer[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    trailer[40..44].copy_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    let crc = crc32c::crc32c(&trailer[..CRC_AT]);
    trailer[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&trailer);
    out
}

fn decode_entry(entry: &[u8], file: FileId) -> RecordInfo {
    RecordInfo {
        position: Position { file, offset: u64_at(entry, 0) },
        payload_len: u32_at(entry, 8),
        kind: RecordKind(entry[12]),
        tag: entry[16..].try_into().expect("an entry ends with its tag"),
    }
}
