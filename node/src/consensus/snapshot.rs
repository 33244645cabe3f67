//! Snapshots on their way: rows in pages, pages in a file, the file into the store.
//!
//! A page is a run of rows, each `key length u32 | value length u32 | key | value` (little endian). A spooled file is a
//! run of pages, each behind its length as `u32`.
//!
//! # Invariants
//! - Memory is bounded by a page, whatever the snapshot's length.
//! - A snapshot is installed only after its file and the note on it are durable and its digest has been checked, so an
//!   installation that a crash cuts short begins again at the next start.
//! - While it is installed, rows that the old and the new state share never go away: a node goes on knowing its peers.
//! - The first change takes away the word on how far the rows reach, the last one brings it back.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::error::OpenError;
use super::raft_types::SnapshotMeta;
use super::state_machine::{ROWS_FROM, ROWS_TO, STATE_KEY, encode_state};
use super::words::StateWords;
use crate::append_log::slots::Slots;
use crate::disk::{Disk, DiskFile, Durability, OpenMode};
use crate::kv::{KvError, KvRead, KvStore, WriteBatch};

/// A page is closed when it has reached this: with its last row (a ring, at most some 100 KiB) it stays below a message
/// of 1 MiB.
const PAGE_LEN: usize = 768 << 10;

/// Pages beyond this are refused: a lie about their length must not take our memory.
pub(super) const PAGE_LEN_MAX: usize = 4 << 20;

/// Rows deleted in one batch.
const DELETE_ROWS_MAX: usize = 4096;

/// A snapshot in the spool, whole and checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SpooledSnapshot {
    pub(super) state: StateWords,
    len: u64,
    digest: [u8; 32],
}

impl SpooledSnapshot {
    pub(super) fn meta(&self) -> Option<SnapshotMeta> {
        self.state.clone().into_meta()
    }
}

/// The pages of a view, one after the other.
pub(super) struct Pages {
    rows: Box<dyn KvRead>,
    from: Option<Vec<u8>>,
}

impl Pages {
    pub(super) fn new(rows: Box<dyn KvRead>) -> Self {
        Self { rows, from: Some(ROWS_FROM.to_vec()) }
    }

    /// The next page; none after the last.
    pub(super) fn next_page(&mut self) -> Result<Option<Bytes>, KvError> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let mut page = Vec::with_capacity(PAGE_LEN + (64 << 10));
        let mut next = None;
        self.rows.scan(&from, ROWS_TO, &mut |key, value| {
            push_row(&mut page, key, value);
            if page.len() < PAGE_LEN {
                return ControlFlow::Continue(());
            }
            next = Some(successor(key));
            ControlFlow::Break(())
        })?;
        self.from = next;
        Ok((!page.is_empty()).then(|| page.into()))
    }
}

fn push_row(page: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        let len = u32::try_from(part.len()).expect("rows are far below 4 GiB");
        page.extend_from_slice(&len.to_le_bytes());
    }
    page.extend_from_slice(key);
    page.extend_from_slice(value);
}

/// The smallest key behind `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

fn take_row<'a>(page: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (key_len, rest) = page.split_first_chunk()?;
    let (value_len, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
    *page = rest;
    Some((key, value))
}

/// Where received snapshots wait until they are installed: one at a time.
#[derive(Debug)]
pub(super) struct Spool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The note on a whole snapshot. Empty: there is none.
    note: Mutex<Slots>,
}

/// A snapshot that is being received.
#[derive(Debug)]
pub(super) struct Incoming {
    file: Arc<dyn DiskFile>,
    len: u64,
    hasher: Box<blake3::Hasher>,
}

impl Spool {
    /// Opens the spool in `dir`, with the snapshot that still waits there.
    pub(super) async fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Self, Option<SpooledSnapshot>), OpenError> {
        let (note, value) = Slots::open(Arc::clone(&disk), &dir.join("snapshot")).await?;
        let waiting = match value.as_deref() {
            None | Some([]) => None,
            Some(bytes) => Some(
                postcard::from_bytes(bytes).map_err(|_| OpenError::Unreadable { what: "the note on a snapshot" })?,
            ),
        };
        Ok((Self { disk, dir: dir.to_owned(), note: Mutex::new(note) }, waiting))
    }

    fn path(&self) -> PathBuf {
        self.dir.join("snapshot.pages")
    }

    /// Begins a new snapshot; what was in the spool is gone.
    pub(super) async fn begin(&self) -> io::Result<Incoming> {
        self.clear().await?;
        let file = self.disk.open(&self.path(), OpenMode::CreateNew).await?;
        Ok(Incoming { file, len: 0, hasher: Box::default() })
    }

    /// Forgets what is in the spool.
    pub(super) async fn clear(&self) -> io::Result<()> {
        self.note.lock().await.write(Bytes::new()).await.map_err(io::Error::other)?;
        match self.disk.remove(&self.path()).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a received snapshot durable, with the note on it. None if its bytes are not what the sender sent.
    pub(super) async fn finish(
        &self,
        incoming: Incoming,
        state: StateWords,
        digest: [u8; 32],
    ) -> io::Result<Option<SpooledSnapshot>> {
        if *incoming.hasher.finalize().as_bytes() != digest {
            return Ok(None);
        }
        incoming.file.sync_data().await?;
        self.disk.sync_dir(&self.dir).await?;
        let spooled = SpooledSnapshot { state, len: incoming.len, digest };
        let note = postcard::to_stdvec(&spooled).map_err(io::Error::other)?;
        self.note.lock().await.write(note.into()).await.map_err(io::Error::other)?;
        Ok(Some(spooled))
    }

    /// Spools the rows of another store, as if they had been received.
    pub(super) async fn take(&self, rows: Box<dyn KvRead>, state: StateWords) -> io::Result<SpooledSnapshot> {
        let mut incoming = self.begin().await?;
        let mut pages = Pages::new(rows);
        while let Some(page) = pages.next_page().map_err(io::Error::other)? {
            incoming.push(page).await?;
        }
        self.finish_own(incoming, state).await
    }

    /// Makes a snapshot durable whose pages came whole, each with its own answer: there is no digest to compare.
    pub(super) async fn finish_own(&self, incoming: Incoming, state: StateWords) -> io::Result<SpooledSnapshot> {
        let digest = *incoming.hasher.finalize().as_bytes();
        let spooled = self.finish(incoming, state, digest).await?;
        Ok(spooled.expect("the digest is its own"))
    }

    /// Puts a snapshot in place of the rows of `kv`, durably.
    pub(super) async fn install(&self, spooled: &SpooledSnapshot, kv: &dyn KvStore) -> io::Result<()> {
        let file = self.disk.open(&self.path(), OpenMode::Existing).await?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the received snapshot is damaged");
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while let Some((page, next)) = read_page(&*file, at, spooled.len).await? {
            hasher.update(&page);
            at = next;
        }
        if *hasher.finalize().as_bytes() != spooled.digest {
            return Err(damaged());
        }
        let mut batch = WriteBatch::default();
        batch.remove(STATE_KEY);
        kv.commit(batch).map_err(io::Error::other)?;
        let (mut at, mut from) = (0, ROWS_FROM.to_vec());
        while let Some((page, next)) = read_page(&*file, at, spooled.len).await? {
            let to = match next < spooled.len {
                true => last_key(&page).map(successor).ok_or_else(damaged)?,
                false => ROWS_TO.to_vec(),
            };
            replace_rows(kv, &from, &to, &page)?;
            (at, from) = (next, to);
            tokio::task::yield_now().await;
        }
        if at == 0 {
            replace_rows(kv, ROWS_FROM, ROWS_TO, &[])?;
        }
        let meta = spooled.meta().ok_or_else(damaged)?;
        let mut batch = WriteBatch::default();
        batch.put(STATE_KEY, encode_state(&meta));
        kv.commit(batch).map_err(io::Error::other)?;
        kv.persist().await.map_err(io::Error::other)?;
        self.clear().await
    }
}

impl Incoming {
    /// Takes the next page.
    pub(super) async fn push(&mut self, page: Bytes) -> io::Result<()> {
        let len = u32::try_from(page.len()).map_err(io::Error::other)?;
        self.hasher.update(&page);
        let parts = vec![Bytes::copy_from_slice(&len.to_le_bytes()), page];
        self.file.write_at(self.len, parts, Durability::Buffered).await?;
        self.len += 4 + u64::from(len);
        Ok(())
    }
}

async fn read_page(file: &dyn DiskFile, at: u64, len: u64) -> io::Result<Option<(Bytes, u64)>> {
    if at >= len {
        return Ok(None);
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the received snapshot is damaged");
    let head = file.read_at(at, 4).await?;
    let page_len = u32::from_le_bytes(head.as_ref().try_into().map_err(|_| damaged())?) as usize;
    if page_len > PAGE_LEN_MAX {
        return Err(damaged());
    }
    let page = file.read_at(at + 4, page_len).await?;
    if page.len() != page_len {
        return Err(damaged());
    }
    Ok(Some((page, at + 4 + page_len as u64)))
}

fn last_key(page: &[u8]) -> Option<&[u8]> {
    let (mut rest, mut last) = (page, None);
    while !rest.is_empty() {
        last = Some(take_row(&mut rest)?.0);
    }
    last
}

/// Makes the rows between `from` and `to` those of `page`, and touches nothing that is the same in both.
fn replace_rows(kv: &dyn KvStore, from: &[u8], to: &[u8], page: &[u8]) -> io::Result<()> {
    let mut rows = BTreeMap::new();
    let mut rest = page;
    while !rest.is_empty() {
        let row = take_row(&mut rest)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the received snapshot is damaged"))?;
        rows.insert(row.0, row.1);
    }
    let mut from = from.to_vec();
    loop {
        let mut batch = WriteBatch::default();
        let mut next = None;
        kv.scan(&from, to, &mut |key, value| {
            match rows.get(key) {
                Some(&new) if new == value => drop(rows.remove(key)),
                Some(_) => {}
                None => batch.remove(key),
            }
            if batch.changes.len() < DELETE_ROWS_MAX {
                return ControlFlow::Continue(());
            }
            next = Some(successor(key));
            ControlFlow::Break(())
        })
        .map_err(io::Error::other)?;
        let last = next.is_none();
        if last {
            rows.iter().for_each(|(&key, &value)| batch.put(key, value));
        }
        kv.commit(batch).map_err(io::Error::other)?;
        match next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}
