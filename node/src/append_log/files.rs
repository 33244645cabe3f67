//! The files of an open log, shared between the writer, which changes them, and readers.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::footer::{TRAILER_LEN, Trailer};
use super::record::{HEADER_LEN, Header};
use super::scan::{is_bad_sector, scan};
use super::{Damage, FileId, FileInfo, FileState, Listing, Position, ReadError, RecordInfo};
use crate::disk::DiskFile;

/// A range that begins this near to the header is read with it in one call.
const NEAR_LEN: u32 = 64 << 10;

/// But not if it is this long: then it is read alone, into memory that lies on page borders.
const LONG_LEN: usize = 256 << 10;

/// Most records are small: this much is read of one whose length is not known yet.
const FIRST_LEN: usize = 4096;

/// One file, as readers see it.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    pub(super) file: Arc<dyn DiskFile>,
    /// `None` if the file's own header is damaged: nothing in it can be told from garbage.
    pub(super) generation: Option<u64>,
    pub(super) state: FileState,
    /// End of the records to which positions were given.
    pub(super) assigned: u64,
    /// End of the records that can be read.
    pub(super) written: u64,
    /// Bytes that the file takes on the medium.
    pub(super) room: u64,
    pub(super) trailer: Option<Trailer>,
}

/// The files of an open log.
#[derive(Debug)]
pub(super) struct Files {
    /// Guards the table alone; never held across an await.
    table: Mutex<BTreeMap<FileId, OpenFile>>,
    /// Rises whenever more can be read, or it is clear that some never will.
    progress: watch::Sender<u64>,
}

impl Files {
    pub(super) fn new(table: BTreeMap<FileId, OpenFile>) -> Self {
        Self { table: Mutex::new(table), progress: watch::Sender::new(0) }
    }

    pub(super) fn insert(&self, id: FileId, file: OpenFile) {
        self.table.lock().insert(id, file);
    }

    pub(super) fn remove(&self, id: FileId) {
        self.table.lock().remove(&id);
    }

    pub(super) fn update(&self, id: FileId, change: impl FnOnce(&mut OpenFile)) {
        if let Some(file) = self.table.lock().get_mut(&id) {
            change(file);
        }
        self.progress.send_modify(|count| *count += 1);
    }

    pub(super) fn infos(&self) -> Vec<FileInfo> {
        let info = |(id, file): (&FileId, &OpenFile)| FileInfo { id: *id, len: file.written, state: file.state };
        self.table.lock().iter().map(info).collect()
    }

    pub(super) fn used(&self) -> u64 {
        self.table.lock().values().map(|file| file.room).sum()
    }

    pub(super) fn last(&self) -> Option<(FileId, OpenFile)> {
        self.table.lock().last_key_value().map(|(id, file)| (*id, file.clone()))
    }

    pub(super) fn find(&self, id: FileId) -> Result<OpenFile, ReadError> {
        self.table.lock().get(&id).cloned().ok_or(ReadError::NoFile { file: id })
    }

    pub(super) fn find_sealed(&self, id: FileId) -> Result<OpenFile, ReadError> {
        let file = self.find(id)?;
        match file.state {
            FileState::Sealed => Ok(file),
            FileState::Active => Err(ReadError::Active { file: id }),
        }
    }

    /// The file of a record, once the record has been written.
    async fn find_written(&self, at: Position) -> Result<OpenFile, ReadError> {
        let mut progress = self.progress.subscribe();
        loop {
            progress.borrow_and_update();
            let file = self.find(at.file)?;
            if at.offset < file.written {
                return Ok(file);
            }
            if at.offset >= file.assigned {
                return Err(ReadError::Damaged { position: at });
            }
            progress.changed().await.map_err(|_| ReadError::Closed)?;
        }
    }

    pub(super) async fn read(&self, at: Position, range: Range<u32>) -> Result<Bytes, ReadError> {
        assert!(range.start <= range.end, "a range does not end before it begins");
        let file = self.find_written(at).await?;
        let generation = file.generation.ok_or(ReadError::Damaged { position: at })?;
        let disk_error = |source| ReadError::Disk { file: at.file, source };
        let len = (range.end - range.start) as usize;
        let payload = at.offset + HEADER_LEN;
        let (header, bytes) = if range.start <= NEAR_LEN && len < LONG_LEN {
            let lead = HEADER_LEN as usize + range.start as usize;
            let bytes = file.file.read_at(at.offset, lead + len).await.map_err(disk_error)?;
            (bytes.slice(..bytes.len().min(HEADER_LEN as usize)), bytes.slice(bytes.len().min(lead)..))
        } else {
            let header = file.file.read_at(at.offset, HEADER_LEN as usize);
            let bytes = file.file.read_at(payload + u64::from(range.start), len);
            futures::future::try_join(header, bytes).await.map_err(disk_error)?
        };
        let header = Header::decode(&header, at.offset, generation).ok_or(ReadError::Damaged { position: at })?;
        if range.end > header.payload_len {
            return Err(ReadError::OutOfRange { position: at, end: range.end });
        }
        if bytes.len() < len {
            return Err(ReadError::Damaged { position: at });
        }
        Ok(bytes)
    }

    pub(super) async fn read_record(&self, at: Position, from: Source) -> Result<(RecordInfo, Bytes), ReadError> {
        let file = self.find_written(at).await?;
        let generation = file.generation.ok_or(ReadError::Damaged { position: at })?;
        match read_whole(&*file.file, at.offset, generation, from).await {
            Ok(Some((header, bytes))) => Ok((header.info(at.file), payload_of(&header, &bytes))),
            Ok(None) => Err(ReadError::Damaged { position: at }),
            Err(source) => Err(ReadError::Disk { file: at.file, source }),
        }
    }

    pub(super) async fn list(&self, id: FileId) -> Result<Listing, ReadError> {
        let file = self.find(id)?;
        list(id, &file).await.map_err(|source| ReadError::Disk { file: id, source })
    }
}

/// Where a record is read from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// The page cache, if it has it.
    Anywhere,
    /// The medium, where the page cache can be passed by: for whoever wants to know what is there.
    Medium,
}

/// Reads a record from its header to its padding, and checks both sums. `None` if it is not valid.
pub(super) async fn read_whole(
    file: &dyn DiskFile,
    offset: u64,
    generation: u64,
    from: Source,
) -> io::Result<Option<(Header, Bytes)>> {
    let read = |len| match from {
        Source::Anywhere => file.read_at(offset, len),
        Source::Medium => file.read_medium_at(offset, len),
    };
    let first = match read(FIRST_LEN).await {
        // Perhaps of a sector behind the record.
        Err(error) if is_bad_sector(&error) => read(HEADER_LEN as usize).await?,
        first => first?,
    };
    let Some(header) = Header::decode(&first, offset, generation) else { return Ok(None) };
    let len = (header.end() - offset) as usize;
    let bytes = if len <= first.len() { first.slice(..len) } else { read(len).await? };
    let needed = HEADER_LEN as usize + header.payload_len as usize;
    let valid = bytes.len() >= needed && crc32c::crc32c(&payload_of(&header, &bytes)) == header.payload_crc;
    Ok(valid.then_some((header, bytes)))
}

fn payload_of(header: &Header, record: &Bytes) -> Bytes {
    record.slice(HEADER_LEN as usize..HEADER_LEN as usize + header.payload_len as usize)
}

/// The trailer of a file, if it has one that can be read: without it, its headers are read. `generation`: of the file, if
/// its header tells.
pub(super) async fn read_trailer(
    file: &dyn DiskFile,
    id: FileId,
    generation: Option<u64>,
) -> io::Result<Option<Trailer>> {
    let len = file.length().await?;
    let Some(at) = len.checked_sub(TRAILER_LEN) else { return Ok(None) };
    match file.read_at(at, TRAILER_LEN as usize).await {
        Ok(bytes) => Ok(Trailer::decode(&bytes, id, generation, len)),
        Err(error) if is_bad_sector(&error) => {
            tracing::warn!(file = %id, %error, "the end of a sealed file cannot be read, its headers are read instead");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn list(id: FileId, file: &OpenFile) -> io::Result<Listing> {
    let Some(generation) = file.generation else {
        let at = Position { file: id, offset: 0 };
        return Ok(Listing { records: Vec::new(), damage: vec![Damage { at, len: file.written }] });
    };
    if let Some(trailer) = &file.trailer {
        let len = trailer.entries_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        let index = file.file.read_at(trailer.records_end, len).await;
        if let Some(records) = index.ok().and_then(|bytes| trailer.entries(&bytes, id)) {
            return Ok(Listing { records, damage: Vec::new() });
        }
        tracing::warn!(file = %id, "the index of a sealed file is damaged, its headers are read instead");
    }
    let scan = scan(&*file.file, generation, file.written).await?;
    let damage = |from, to| Damage { at: Position { file: id, offset: from }, len: to - from };
    let mut listing = Listing {
        records: scan.headers.iter().filter(|header| !header.kind.is_reserved()).map(|h| h.info(id)).collect(),
        damage: scan.gaps.iter().map(|gap| damage(gap.from, gap.to)).collect(),
    };
    if scan.end() < file.written {
        listing.damage.push(damage(scan.end(), file.written));
    }
    Ok(listing)
}
