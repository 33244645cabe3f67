//! The file that grows: which bytes go where, and how far they have come. Pure: the writer moves the bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::file_header::FILE_HEADER_LEN;
use super::record::{HEADER_LEN, Header, PAGE_LEN, RECORD_ALIGN, record_end, record_start};
use super::{Align, FileId, Footer, NewRecord, Position, RecordInfo, RecordKind, Room, TAG_LEN, footer};
use crate::disk::DiskFile;

static ZEROS: [u8; PAGE_LEN as usize] = [0; PAGE_LEN as usize];

/// Most bytes in one write: more would only make the first of them wait for the last.
const BATCH_LEN_MAX: u64 = 8 << 20;

/// Most parts in one write: what the kernel takes in one call.
const BATCH_PARTS_MAX: usize = 1024;

/// Most records of a file that ends with an index: their list stays in memory until then, 8 MiB of it, and is written
/// and read in one piece.
pub(super) const INDEXED_RECORDS_MAX: usize = 128 << 10;

/// A record whose payload has been measured and summed, by the task that brought it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) record: NewRecord,
    payload_len: u32,
    payload_crc: u32,
}

/// What waits to be written: one record, or the filler in front of it.
#[derive(Debug)]
struct Queued {
    parts: Vec<Bytes>,
    end: u64,
    /// Its share of the queue's bytes, given back once it is written.
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// One write.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) offset: u64,
    pub(super) end: u64,
    pub(super) parts: Vec<Bytes>,
    pub(super) permits: Vec<Arc<OwnedSemaphorePermit>>,
}

/// The last file. `synced ≤ written ≤ next`, each the beginning of a record or of what will be one.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) id: FileId,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) generation: u64,
    session: u32,
    pub(super) next: u64,
    pub(super) written: u64,
    pub(super) synced: u64,
    /// The highest synced mark that some record carries.
    pub(super) recorded: u64,
    /// End of the last record of a tenant: the mark should come to lie here.
    pub(super) data_end: u64,
    pub(super) footer: Footer,
    /// The records for which it was begun; those that may use less room ask before they go in.
    pub(super) room: Room,
    /// What the footer will list; empty without one.
    pub(super) entries: Vec<RecordInfo>,
    queue: VecDeque<Queued>,
}

impl Prepared {
    /// `payload_len` is the sum of the parts, which the caller has found small enough.
    pub(super) fn new(record: NewRecord, payload_len: u32) -> Self {
        let payload_crc = record.parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        Self { record, payload_len, payload_crc }
    }
}

impl Active {
    pub(super) fn new(id: FileId, file: Arc<dyn DiskFile>, generation: u64, session: u32, end: u64) -> Self {
        Self {
            id,
            file,
            generation,
            session,
            next: end,
            written: end,
            synced: end,
            recorded: FILE_HEADER_LEN,
            data_end: FILE_HEADER_LEN,
            footer: Footer::None,
            room: Room::All,
            entries: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    /// Whether the file keeps to its length with this record, and with the index that will follow. (Its first record it
    /// takes in any case: see [`payload_len_max`].)
    pub(super) fn fits(&self, prepared: &Prepared, file_len: u64) -> bool {
        let start = record_start(self.next, prepared.record.align);
        let index_len = match (self.footer, self.entries.len()) {
            (Footer::None, _) | (Footer::Index, 0) => 0,
            (Footer::Index, before) => footer::len_of(before + 1),
        };
        self.entries.len() < INDEXED_RECORDS_MAX && record_end(start, prepared.payload_len) + index_len <= file_len
    }

    /// Gives the record its place, and queues it.
    pub(super) fn push(&mut self, prepared: Prepared, permit: Option<Arc<OwnedSemaphorePermit>>) -> Position {
        let Prepared { record, payload_len, payload_crc } = prepared;
        let start = record_start(self.next, record.align);
        if start > self.next {
            let gap = (start - self.next - HEADER_LEN) as usize;
            let zeros = Bytes::from_static(&ZEROS[..gap]);
            let filler = Header { payload_crc: crc32c::crc32c(&zeros), ..self.header(RecordKind::FILLER, gap as u32) };
            self.enqueue(&filler, vec![zeros], None);
        }
        let header = Header { payload_crc, tag: record.tag, ..self.header(record.kind, payload_len) };
        self.enqueue(&header, record.parts, permit);
        if self.footer == Footer::Index {
            self.entries.push(header.info(self.id));
        }
        self.data_end = self.next;
        Position { file: self.id, offset: start }
    }

    /// Queues a record that says how far the file is synced.
    pub(super) fn push_mark(&mut self) {
        let mark = self.header(RecordKind::MARK, 0);
        self.enqueue(&mark, Vec::new(), None);
    }

    /// Whether a crash now would leave synced records above every mark, with nothing on its way to carry one.
    pub(super) fn needs_mark(&self) -> bool {
        self.recorded < self.data_end
    }

    pub(super) fn is_settled(&self) -> bool {
        self.synced == self.next
    }

    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
    }

    /// What to write next, without gaps.
    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        let offset = self.queue.front().map(|_| self.written)?;
        let mut batch = Batch { offset, end: offset, parts: Vec::new(), permits: Vec::new() };
        while let Some(queued) = self.queue.front() {
            let is_first = batch.parts.is_empty();
            let fits =
                queued.end - offset <= BATCH_LEN_MAX && batch.parts.len() + queued.parts.len() <= BATCH_PARTS_MAX;
            if !is_first && !fits {
                break;
            }
            let queued = self.queue.pop_front().expect("there is a front");
            batch.end = queued.end;
            batch.parts.extend(queued.parts);
            batch.permits.extend(queued._permit);
        }
        Some(batch)
    }

    fn header(&self, kind: RecordKind, payload_len: u32) -> Header {
        Header {
            kind,
            payload_len,
            payload_crc: 0,
            offset: self.next,
            generation: self.generation,
            synced: self.synced,
            session: self.session,
            tag: [0; TAG_LEN],
        }
    }

    fn enqueue(&mut self, header: &Header, payload: Vec<Bytes>, permit: Option<Arc<OwnedSemaphorePermit>>) {
        let end = header.end();
        let padding = (end - header.offset - HEADER_LEN) as usize - header.payload_len as usize;
        assert!(padding < RECORD_ALIGN as usize, "a record is padded to the next one, no further");
        let mut parts = Vec::with_capacity(payload.len() + 2);
        parts.push(Bytes::copy_from_slice(&header.encode()));
        parts.extend(payload.into_iter().filter(|part| !part.is_empty()));
        if padding > 0 {
            parts.push(Bytes::from_static(&ZEROS[..padding]));
        }
        self.queue.push_back(Queued { parts, end, _permit: permit });
        self.recorded = self.recorded.max(header.synced);
        self.next = end;
    }
}

/// Longest payload that an empty file of this length can hold, wherever it is aligned.
pub(super) fn payload_len_max(file_len: u64) -> u64 {
    let first = record_start(FILE_HEADER_LEN, Align::Page);
    file_len.saturating_sub(first + HEADER_LEN) / RECORD_ALIGN * RECORD_ALIGN
}
