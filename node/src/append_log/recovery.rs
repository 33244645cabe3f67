//! Opening a log: which files there are, where the last one ends, and what of it is damaged.
//!
//! The last file is the only one that can have a torn tail, because a file is synced whole before the next one begins.
//! The highest synced mark found in it parts damage (below) from a torn tail (above). What is left above the mark is
//! written once more and synced: after a failed sync the page cache may show bytes that the medium never got, and
//! nothing may be handed out as durable on the word of the cache.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::active::Active;
use super::directory::Directory;
use super::file_header::{FILE_HEADER_LEN, FileHeader, HEADER_COPY_LEN, HeaderFault, VERSION};
use super::files::{OpenFile, Source, read_trailer, read_whole};
use super::footer::Trailer;
use super::record::Header;
use super::scan::{Gap, Scan, is_bad_sector, scan};
use super::{Cut, Damage, FileId, FileState, Footer, LogConfig, OpenError, Position};
use crate::disk::{Disk, DiskFile, Durability, OpenMode};

/// What the writer starts from.
pub(super) struct Opened {
    pub(super) directory: Directory,
    pub(super) files: BTreeMap<FileId, OpenFile>,
    pub(super) active: Option<Active>,
    pub(super) damage: Vec<Damage>,
    pub(super) cut: Option<Cut>,
}

/// The story of an open.
pub(super) async fn open(disk: Arc<dyn Disk>, dir: &Path, config: LogConfig) -> Result<Opened, OpenError> {
    let disk_error = |source| OpenError::Disk { dir: dir.to_owned(), source };
    let opening = Directory::open(disk, dir.to_owned(), config).await;
    let (directory, ids) = opening.map_err(disk_error)?;
    let mut opened = Opened { directory, files: BTreeMap::new(), active: None, damage: Vec::new(), cut: None };
    let last = ids.last().copied();
    let mut next_start = None;
    for id in ids.into_iter().rev() {
        let path = opened.directory.file_path(id);
        let file = opened.directory.disk.open(&path, OpenMode::Existing).await.map_err(disk_error)?;
        let header = match read_header(&*file, id).await.map_err(disk_error)? {
            Ok(header) => header,
            Err(version) => return Err(OpenError::Version { path, version, known: VERSION }),
        };
        let known_end = next_start.filter(|end: &Position| end.file == id).map(|end| end.offset);
        next_start = header.and_then(|header| header.previous_end);
        opened.open_file(id, file, header, known_end, last == Some(id)).await.map_err(disk_error)?;
    }
    Ok(opened)
}

/// The header of a file, none if it is damaged; or the version of a program that this one is older than. Of copies that
/// cannot be read the other will do, or what the end of the file knows.
async fn read_header(file: &dyn DiskFile, id: FileId) -> io::Result<Result<Option<FileHeader>, u8>> {
    let (mut bytes, mut unreadable) = (Vec::with_capacity(FILE_HEADER_LEN as usize), None);
    for at in [0, HEADER_COPY_LEN] {
        match file.read_at(at, HEADER_COPY_LEN as usize).await {
            Ok(copy) => bytes.extend_from_slice(&copy),
            Err(error) if is_bad_sector(&error) => {
                warn!(file = %id, %error, "a copy of the header of a file cannot be read");
                bytes.resize((at + HEADER_COPY_LEN) as usize, 0);
                unreadable = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match FileHeader::decode(&bytes) {
        Err(HeaderFault::Version(version)) => return Ok(Err(version)),
        Ok(header) if header.id == id => return Ok(Ok(Some(header))),
        Ok(_) | Err(HeaderFault::Damaged) => {}
    }
    match (read_trailer(file, id, None).await?, unreadable) {
        (Some(Trailer { generation, .. }), _) => Ok(Ok(Some(FileHeader { id, generation, previous_end: None }))),
        (None, None) => Ok(Ok(None)),
        // What cannot be read may be good: to give it up would be a guess.
        (None, Some(error)) => Err(error),
    }
}

impl Opened {
    async fn open_file(
        &mut self,
        id: FileId,
        file: Arc<dyn DiskFile>,
        header: Option<FileHeader>,
        known_end: Option<u64>,
        is_last: bool,
    ) -> io::Result<()> {
        let len = file.length().await?;
        let mut open = OpenFile {
            file,
            generation: header.map(|header| header.generation),
            state: FileState::Sealed,
            assigned: len,
            written: len,
            room: len,
            trailer: None,
        };
        let Some(FileHeader { generation, .. }) = header else {
            self.damage.push(Damage { at: Position { file: id, offset: 0 }, len });
            self.files.insert(id, open);
            return Ok(());
        };
        open.trailer = read_trailer(&*open.file, id, Some(generation)).await?;
        if let Some(end) = known_end.or(open.trailer.map(|trailer| trailer.records_end)) {
            open.written = end;
        } else if is_last {
            return self.open_tail(id, open, generation).await;
        } else {
            // Sealed without a footer, and the file that knew its end has gone.
            open.written = scan(&*open.file, generation, len).await?.end();
        }
        open.assigned = open.written;
        self.files.insert(id, open);
        Ok(())
    }

    async fn open_tail(&mut self, id: FileId, mut open: OpenFile, generation: u64) -> io::Result<()> {
        let mut scan = scan(&*open.file, generation, open.written).await?;
        if let Some((offset, error)) = scan.unreadable.take()
            && offset >= scan.mark
        {
            // What cannot be read here may have been acknowledged: cutting it would be a guess.
            return Err(error);
        }
        let tail = Tail::resolve(&scan, &*open.file, generation).await?;
        if tail.rewritten {
            open.file.sync_data().await?;
        }
        let at = |offset| Position { file: id, offset };
        let lost = scan.end().saturating_sub(tail.end);
        if lost > 0 {
            warn!(file = %id, offset = tail.end, lost, "a torn tail was cut");
            self.cut = Some(Cut { at: at(tail.end), len: lost });
        }
        self.damage.extend(tail.damage.iter().map(|gap| Damage { at: at(gap.from), len: gap.to - gap.from }));
        (open.state, open.assigned, open.written) = (FileState::Active, tail.end, tail.end);
        open.room = open.room.max(self.directory.config.file_len);
        let mut active = Active::new(id, Arc::clone(&open.file), generation, scan.session + 1, tail.end);
        active.recorded = scan.mark;
        active.data_end = tail.headers.iter().rfind(|h| !h.kind.is_reserved()).map_or(FILE_HEADER_LEN, Header::end);
        // A file with damage gets no index: listing it must go on finding the damage.
        active.footer = match (self.directory.config.footer, tail.damage.is_empty()) {
            (Footer::Index, true) => Footer::Index,
            (Footer::Index, false) | (Footer::None, _) => Footer::None,
        };
        if active.footer == Footer::Index {
            active.entries = tail.headers.iter().filter(|h| !h.kind.is_reserved()).map(|h| h.info(id)).collect();
        }
        self.active = Some(active);
        self.files.insert(id, open);
        Ok(())
    }
}

/// The last file, once it is clear where it ends.
struct Tail {
    headers: Vec<Header>,
    damage: Vec<Gap>,
    end: u64,
    rewritten: bool,
}

impl Tail {
    async fn resolve(scan: &Scan, file: &dyn DiskFile, generation: u64) -> io::Result<Self> {
        let mut tail = Self { headers: Vec::new(), damage: Vec::new(), end: FILE_HEADER_LEN, rewritten: false };
        for header in &scan.headers {
            if header.offset > tail.end && !tail.accept_gap(Gap { from: tail.end, to: header.offset }, scan.mark) {
                return Ok(tail);
            }
            if header.offset >= scan.mark {
                let Some((_, bytes)) = read_whole(file, header.offset, generation, Source::Anywhere).await? else {
                    return Ok(tail);
                };
                rewrite(file, header.offset, bytes).await?;
                tail.rewritten = true;
            }
            tail.headers.push(*header);
            tail.end = header.end();
        }
        Ok(tail)
    }

    /// Takes a gap as damage as far as it was synced once; false if the log ends in it.
    fn accept_gap(&mut self, gap: Gap, mark: u64) -> bool {
        if gap.from >= mark {
            return false;
        }
        let to = gap.to.min(mark);
        self.damage.push(Gap { from: gap.from, to });
        self.end = to;
        to == gap.to
    }
}

async fn rewrite(file: &dyn DiskFile, offset: u64, bytes: Bytes) -> io::Result<()> {
    file.write_at(offset, vec![bytes], Durability::Buffered).await
}
