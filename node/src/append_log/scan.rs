//! Reading a file's headers in order, and finding the next good one behind a bad one.

use std::io;

use bytes::Bytes;

use super::file_header::FILE_HEADER_LEN;
use super::record::{HEADER_LEN, Header, RECORD_ALIGN};
use crate::disk::DiskFile;

/// Bytes per read: many small records for one call, and not much waste for a large one.
const WINDOW_LEN: usize = 256 << 10;

/// Where a window cannot be read, the good sectors around the bad one still can: this much is tried at a time.
const GRANULE_LEN: usize = 512;

/// What a file holds, from its headers alone.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Valid headers, in order, the log's own ones included.
    pub(super) headers: Vec<Header>,
    /// Where no valid header was: from there to the next valid one.
    pub(super) gaps: Vec<Gap>,
    /// Highest position known synced when some record was written.
    pub(super) mark: u64,
    /// Highest session of any header, leftovers included.
    pub(super) session: u32,
    /// The last place that the medium would not read, taken as holding no header.
    pub(super) unreadable: Option<(u64, io::Error)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Reads the headers below `end`. What lies behind the last valid one is not a gap.
pub(super) async fn scan(file: &dyn DiskFile, generation: u64, end: u64) -> io::Result<Scan> {
    let mut window = Window { file, generation, end, start: 0, bytes: Bytes::new(), unreadable: None };
    let mut scan = Scan { mark: FILE_HEADER_LEN, ..Scan::default() };
    let mut at = FILE_HEADER_LEN;
    let mut session = 0;
    while at + HEADER_LEN <= end {
        let (found, highest) = window.next_header(at, session).await?;
        scan.session = scan.session.max(highest);
        let Some(header) = found else { break };
        if header.offset > at {
            scan.gaps.push(Gap { from: at, to: header.offset });
        }
        session = header.session;
        scan.mark = scan.mark.max(header.synced);
        scan.headers.push(header);
        at = header.end();
    }
    scan.unreadable = window.unreadable;
    Ok(scan)
}

impl Scan {
    /// End of the last valid record.
    pub(super) fn end(&self) -> u64 {
        self.headers.last().map_or(FILE_HEADER_LEN, Header::end)
    }
}

struct Window<'a> {
    file: &'a dyn DiskFile,
    generation: u64,
    end: u64,
    start: u64,
    bytes: Bytes,
    unreadable: Option<(u64, io::Error)>,
}

impl Window<'_> {
    /// The first header at or behind `at` that is not of an earlier session and ends within the file, and the highest
    /// session of those passed over.
    async fn next_header(&mut self, mut at: u64, session: u32) -> io::Result<(Option<Header>, u32)> {
        let mut highest = 0;
        while at + HEADER_LEN <= self.end {
            let generation = self.generation;
            let bytes = self.bytes_at(at).await?;
            if bytes.len() < HEADER_LEN as usize {
                break;
            }
            if let Some(header) = Header::decode(bytes, at, generation) {
                highest = highest.max(header.session);
                if header.session >= session && header.end() <= self.end {
                    return Ok((Some(header), highest));
                }
            }
            at += RECORD_ALIGN;
        }
        Ok((None, highest))
    }

    async fn bytes_at(&mut self, at: u64) -> io::Result<&[u8]> {
        let inside = at >= self.start && at + HEADER_LEN <= self.start + self.bytes.len() as u64;
        if !inside {
            self.bytes = match self.file.read_at(at, WINDOW_LEN).await {
                Ok(bytes) => bytes,
                Err(error) if is_bad_sector(&error) => self.read_granule(at).await?,
                Err(error) => return Err(error),
            };
            self.start = at;
        }
        Ok(&self.bytes[(at - self.start) as usize..])
    }
}

impl Window<'_> {
    /// The bytes up to the next granule's end; zeros, which are no header, if even that cannot be read.
    async fn read_granule(&mut self, at: u64) -> io::Result<Bytes> {
        let len = GRANULE_LEN - at as usize % GRANULE_LEN;
        match self.file.read_at(at, len).await {
            Ok(bytes) => Ok(bytes),
            Err(error) if is_bad_sector(&error) => {
                self.unreadable = Some((at, error));
                Ok(Bytes::from(vec![0; len]))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the medium, rather than the way to it, has failed.
pub(super) fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
