//! Bytes of a simulated file: sparse pages, so that a reserved file costs nothing. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

pub(super) const PAGE_LEN: u64 = 4096;

/// What the medium writes whole or not at all.
pub(super) const SECTOR_LEN: u64 = 512;

/// Contents of a file; clones share pages until they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) len: u64,
    pages: BTreeMap<u64, Arc<[u8]>>,
}

/// One change of a file.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Bytes },
    Zero { offset: u64, len: u64 },
    Truncate { len: u64 },
}

/// How much of what was not synced reaches the medium.
#[derive(Clone, Copy, Debug)]
pub(super) enum Survival {
    Nothing,
    Everything,
    /// Each sector by a throw of the dice: this many in 256 survive.
    Sectors(u8),
}

impl Survival {
    pub(super) fn choose(rng: &mut StdRng) -> Self {
        match rng.random_range(0..4) {
            0 => Self::Nothing,
            1 => Self::Everything,
            _ => Self::Sectors(rng.random_range(1..=255)),
        }
    }

    fn keeps(self, rng: &mut StdRng) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Sectors(odds) => rng.random_range(0..=255) < odds,
        }
    }
}

impl Content {
    pub(super) fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    /// How many pages a write would add.
    pub(super) fn pages_missing(&self, offset: u64, len: u64) -> u64 {
        let pages = offset / PAGE_LEN..(offset + len).div_ceil(PAGE_LEN);
        pages.end.saturating_sub(pages.start) - self.pages.range(pages).count() as u64
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = (offset + len as u64).min(self.len);
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        let mut at = offset;
        while at < end {
            let next = page_end(at).min(end);
            if let Some(page) = self.pages.get(&(at / PAGE_LEN)) {
                let from = (at % PAGE_LEN) as usize;
                let count = (next - at) as usize;
                out[(at - offset) as usize..][..count].copy_from_slice(&page[from..from + count]);
            }
            at = next;
        }
        out
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            let next = page_end(at).min(end);
            let page = self.pages.entry(at / PAGE_LEN).or_insert_with(|| Arc::from([0; PAGE_LEN as usize]));
            let from = (at % PAGE_LEN) as usize;
            let count = (next - at) as usize;
            Arc::make_mut(page)[from..from + count].copy_from_slice(&bytes[(at - offset) as usize..][..count]);
            at = next;
        }
        self.len = self.len.max(end);
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let next = page_end(at).min(end);
            if next - at == PAGE_LEN {
                self.pages.remove(&(at / PAGE_LEN));
            } else if self.pages.contains_key(&(at / PAGE_LEN)) {
                self.write(at, &vec![0; (next - at) as usize]);
            }
            at = next;
        }
        self.len = self.len.max(end);
    }

    fn truncate(&mut self, len: u64) {
        self.pages.retain(|page, _| page * PAGE_LEN < len);
        if len < self.len && !len.is_multiple_of(PAGE_LEN) {
            self.zero(len, page_end(len) - len);
        }
        self.len = len;
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => self.write(*offset, bytes),
            Change::Zero { offset, len } => self.zero(*offset, *len),
            Change::Truncate { len } => self.truncate(*len),
        }
    }

    /// Applies what survives of a change that was never synced.
    pub(super) fn apply_some(&mut self, change: &Change, survival: Survival, rng: &mut StdRng) {
        match change {
            Change::Truncate { len } if survival.keeps(rng) => self.truncate(*len),
            Change::Truncate { .. } => {}
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len() as u64;
                for (from, to) in sectors(*offset, end) {
                    if survival.keeps(rng) {
                        self.write(from, &bytes[(from - offset) as usize..(to - offset) as usize]);
                    }
                }
                self.keep_len(end, survival, rng);
            }
            Change::Zero { offset, len } => {
                for (from, to) in sectors(*offset, offset + len) {
                    if survival.keeps(rng) {
                        self.zero(from, to - from);
                    }
                }
                self.keep_len(offset + len, survival, rng);
            }
        }
    }

    /// The length of a file may reach the medium without its bytes.
    fn keep_len(&mut self, end: u64, survival: Survival, rng: &mut StdRng) {
        if survival.keeps(rng) {
            self.len = self.len.max(end);
        }
    }
}

fn page_end(at: u64) -> u64 {
    (at / PAGE_LEN + 1) * PAGE_LEN
}

fn sectors(offset: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let first = offset / SECTOR_LEN;
    let last = end.div_ceil(SECTOR_LEN);
    (first..last).map(move |sector| ((sector * SECTOR_LEN).max(offset), ((sector + 1) * SECTOR_LEN).min(end)))
}
