//! One small authoritative fact that changes: a vote, a purge point, an identity.
//!
//! Two checksummed slots in one file. Each write goes to both, one after the other, and each is synced before the next:
//! a power cut spoils at most one of them, and so does a bad sector. (Were only the older one written each time, a bad
//! sector under the newer would silently bring back an older vote.)
//!
//! # Invariants
//! - After [`Slots::write`] returns, every later open finds that value or a newer one, or says `Damaged`.
//! - What an open returns is durable: it has written the winner to both slots again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::record::{u32_at, u64_at};
use super::scan::is_bad_sector;
use crate::disk::{Disk, DiskFile, Durability, OpenMode};

const SLOT_LEN: usize = 4096;
const SLOT_HEADER_LEN: usize = 32;
const CRC_AT: usize = SLOT_HEADER_LEN - 4;
/// Its last byte is the version, a digit: that of the slot, and of the value in it.
const MAGIC: [u8; 8] = *b"dfsSLOT1";
const VERSION_AT: usize = 7;

/// Longest value, in bytes: a slot is one page.
pub const VALUE_LEN_MAX: usize = SLOT_LEN - SLOT_HEADER_LEN;

/// The file of one fact.
#[derive(Debug)]
pub struct Slots {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Of the value that both slots hold; 0 until the first write.
    sequence: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Good,
    Failed,
}

struct Slot {
    sequence: u64,
    value: Bytes,
}

impl Slots {
    /// Opens the fact in `path`, in a directory that exists. `None` if it was never written.
    pub async fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<(Self, Option<Bytes>), SlotError> {
        let disk_error = |source| SlotError::Disk { path: path.to_owned(), source };
        let file = match disk.open(path, OpenMode::Existing).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(&*disk, path).await.map_err(disk_error)?,
            Err(error) => return Err(disk_error(error)),
        };
        let (mut copies, mut unreadable) = (Vec::new(), None);
        for at in [0, SLOT_LEN] {
            match file.read_at(at as u64, SLOT_LEN).await {
                Ok(bytes) => copies.push(bytes),
                // The other one will do: a fact is told of only when both are written.
                Err(error) if is_bad_sector(&error) => unreadable = Some(error),
                Err(error) => return Err(disk_error(error)),
            }
        }
        if let Some(version) = copies.iter().find_map(|copy| other_version(copy)) {
            return Err(SlotError::Version { path: path.to_owned(), version });
        }
        let newest = copies.iter().filter_map(|copy| Slot::decode(copy)).max_by_key(|slot| slot.sequence);
        let Some(Slot { sequence, value }) = newest else {
            return Err(unreadable.map_or_else(|| SlotError::Damaged { path: path.to_owned() }, disk_error));
        };
        let slots = Self { file, path: path.to_owned(), sequence, state: State::Good };
        // The page cache may show what the medium never got, and one copy may be bad: both are made good before use.
        slots.write_both(sequence, &value).await.map_err(disk_error)?;
        Ok((slots, (sequence > 0).then_some(value)))
    }

    /// Replaces the fact; durable when it returns. After an error nothing may be said about the fact until it has been
    /// opened again: further writes are refused.
    pub async fn write(&mut self, value: Bytes) -> Result<(), SlotError> {
        if value.len() > VALUE_LEN_MAX {
            return Err(SlotError::TooLarge { len: value.len() });
        }
        if self.state == State::Failed {
            return Err(SlotError::Failed { path: self.path.clone() });
        }
        // Failed until it is done: a future that is dropped half way must not leave the two slots to the next write.
        self.state = State::Failed;
        let written = self.write_both(self.sequence + 1, &value).await;
        written.map_err(|source| SlotError::Disk { path: self.path.clone(), source })?;
        self.sequence += 1;
        self.state = State::Good;
        Ok(())
    }

    async fn write_both(&self, sequence: u64, value: &Bytes) -> io::Result<()> {
        let bytes = Slot::encode(sequence, value);
        self.file.write_at(0, vec![bytes.clone()], Durability::Synced).await?;
        self.file.write_at(SLOT_LEN as u64, vec![bytes], Durability::Synced).await
    }
}

impl Slot {
    fn encode(sequence: u64, value: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(SLOT_LEN);
        out.put_slice(&MAGIC);
        out.put_u64_le(sequence);
        out.put_u32_le(u32::try_from(value.len()).expect("a value fits into a slot"));
        out.put_bytes(0, SLOT_HEADER_LEN - out.len());
        out.put_slice(value);
        out.put_bytes(0, SLOT_LEN - out.len());
        let crc = slot_crc(&out);
        out[CRC_AT..SLOT_HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let valid = bytes.len() == SLOT_LEN && bytes[..8] == MAGIC && u32_at(bytes, CRC_AT) == slot_crc(bytes);
        if !valid {
            return None;
        }
        let value = bytes[SLOT_HEADER_LEN..].get(..u32_at(bytes, 16) as usize)?;
        Some(Self { sequence: u64_at(bytes, 8), value: Bytes::copy_from_slice(value) })
    }
}

/// The version that a sound slot of another one has. Its sum lies where it lies in this version.
fn other_version(slot: &[u8]) -> Option<char> {
    let sound =
        slot.len() == SLOT_LEN && slot[..VERSION_AT] == MAGIC[..VERSION_AT] && u32_at(slot, CRC_AT) == slot_crc(slot);
    (sound && slot[VERSION_AT] != MAGIC[VERSION_AT]).then(|| slot[VERSION_AT].into())
}

fn slot_crc(slot: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot[..CRC_AT]), &slot[SLOT_HEADER_LEN..])
}

/// Both slots hold "never written" before the file gets its name: a file without a good slot is damaged, not new.
async fn create(disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    let making = path.with_extension("new");
    if let Err(error) = disk.remove(&making).await
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let file = disk.open(&making, OpenMode::CreateNew).await?;
    let empty = Slot::encode(0, &[]);
    file.write_at(0, vec![empty.clone(), empty], Durability::Synced).await?;
    disk.rename(&making, path).await?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("."))).await?;
    Ok(file)
}

/// Why a fact cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Both copies are bad: the fact is lost.
    #[error("both copies in {} are damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Another version of the program wrote it: nothing was changed.
    #[error("{} has format version {version}, this program reads 1; run the version that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: char,
    },
    /// The value is longer than [`VALUE_LEN_MAX`]: a mistake of the caller.
    #[error("a value of {len} bytes does not fit into a slot")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The medium refused.
    #[error("cannot use {}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write failed: open the fact again.
    #[error("{} failed earlier and must be opened again", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
    },
}
