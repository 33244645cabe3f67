//! The directory of a log: names of files, making new ones, room for them.
//!
//! A new file is made under another name (`.new`, or `.spare` if it was recycled), written up to its header, synced, and
//! only then renamed: a file with a log's name always had a valid header once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use rustix::io::Errno;
use tracing::warn;

use super::file_header::FileHeader;
use super::{FileId, FileStyle, Fill, LogConfig, LogRng, Position, Room};
use crate::disk::{Disk, DiskFile, Durability, OpenMode};

/// Where the files of one log are, and which may be used again.
pub(super) struct Directory {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
    pub(super) config: LogConfig,
    spares: Vec<PathBuf>,
}

/// Why no file was made.
pub(super) enum CreateError {
    NoRoom { free: u64, needed: u64 },
    TooManyFiles,
    Disk(io::Error),
}

impl From<io::Error> for CreateError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Directory {
    /// Lists the directory, made if missing, removes what a crash left half made, and returns the files of the log.
    pub(super) async fn open(disk: Arc<dyn Disk>, path: PathBuf, config: LogConfig) -> io::Result<(Self, Vec<FileId>)> {
        disk.create_dir(&path).await?;
        let mut directory = Self { disk, path, config, spares: Vec::new() };
        let mut ids = Vec::new();
        for name in directory.disk.list(&directory.path).await? {
            let path = directory.path.join(&name);
            match name.split_once('.') {
                Some((stem, "log")) => ids.extend(u64::from_str_radix(stem, 16).ok().map(FileId)),
                Some((_, "spare")) if directory.is_usable_spare(&path).await => directory.spares.push(path),
                Some((_, "spare" | "new")) => directory.disk.remove(&path).await?,
                // Not ours: `LOCK`, or something a person put there.
                _ => {}
            }
        }
        ids.sort();
        Ok((directory, ids))
    }

    pub(super) fn file_path(&self, id: FileId) -> PathBuf {
        self.path.join(format!("{id}.log"))
    }

    fn spare_path(&self, id: FileId) -> PathBuf {
        self.path.join(format!("{id}.spare"))
    }

    /// Makes the next file, durable with its name, and empty but for its header. `used` is what the log takes already.
    pub(super) async fn create(
        &mut self,
        id: FileId,
        previous_end: Option<Position>,
        room: Room,
        used: u64,
        rng: &mut LogRng,
    ) -> Result<(FileHeader, Arc<dyn DiskFile>), CreateError> {
        self.check_room(room, used).await?;
        let header = FileHeader { id, generation: rng.next_u64(), previous_end };
        match self.create_unchecked(&header).await {
            Ok(file) => Ok((header, file)),
            Err(error) if is_full(&error) => {
                let free = self.disk.space(&self.path).await?.free;
                Err(CreateError::NoRoom { free, needed: self.config.file_len })
            }
            Err(error) if is_out_of_files(&error) => Err(CreateError::TooManyFiles),
            Err(error) => Err(error.into()),
        }
    }

    async fn create_unchecked(&mut self, header: &FileHeader) -> io::Result<Arc<dyn DiskFile>> {
        let (path, file) = match self.spares.pop() {
            Some(path) => {
                let file = self.disk.open(&path, OpenMode::Existing).await?;
                (path, file)
            }
            None => self.reserve(header.id).await?,
        };
        let bytes = Bytes::from(header.encode());
        file.write_at(0, vec![bytes], Durability::Synced).await?;
        self.disk.rename(&path, &self.file_path(header.id)).await?;
        self.disk.sync_dir(&self.path).await?;
        Ok(file)
    }

    /// A file with room but no name of the log yet.
    async fn reserve(&self, id: FileId) -> io::Result<(PathBuf, Arc<dyn DiskFile>)> {
        let path = self.path.join(format!("{id}.new"));
        self.remove_if_there(&path).await?;
        let file = self.disk.open(&path, OpenMode::CreateNew).await?;
        let reserved = match self.config.style {
            FileStyle::Allocated => file.allocate(self.config.file_len).await,
            FileStyle::ZeroFilled => file.zero_fill(0, self.config.file_len).await,
        };
        if let Err(error) = reserved {
            // Give back at once what a full disk could not hold.
            self.disk.remove(&path).await?;
            return Err(error);
        }
        Ok((path, file))
    }

    /// Whether a file should be filled ahead of its use.
    pub(super) fn wants_spare(&self) -> bool {
        let config = &self.config;
        config.fill == Fill::Ahead
            && config.style == FileStyle::ZeroFilled
            && config.spares_max > 0
            && self.spares.is_empty()
    }

    /// Fills a file of zeros for file `id`, or a later one. Nothing is left of it after an error,
    /// nor after the next open if it is dropped half-way.
    pub(super) fn fill_spare(&self, id: FileId) -> BoxFuture<'static, io::Result<PathBuf>> {
        let (disk, dir, file_len) = (Arc::clone(&self.disk), self.path.clone(), self.config.file_len);
        let (making, spare) = (self.path.join("filling.new"), self.path.join(format!("filled-{id}.spare")));
        // The file that is needed next comes first.
        let room = 2 * file_len + self.config.reserve;
        Box::pin(async move {
            if disk.space(&dir).await?.free < room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            match disk.remove(&making).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let file = disk.open(&making, OpenMode::CreateNew).await?;
            let filled = async {
                file.zero_fill(0, file_len).await?;
                file.sync_data().await?;
                disk.rename(&making, &spare).await?;
                disk.sync_dir(&dir).await
            };
            if let Err(error) = filled.await {
                disk.remove(&making).await.ok();
                return Err(error);
            }
            Ok(spare)
        })
    }

    pub(super) fn add_spare(&mut self, path: PathBuf) {
        self.spares.push(path);
    }

    pub(super) async fn check_room(&self, room: Room, used: u64) -> Result<(), CreateError> {
        let free = self.free(used).await?;
        let needed = if self.spares.is_empty() { self.config.file_len } else { 0 };
        self.leaves_reserve(room, free, needed)
    }

    /// As [`Directory::check_room`], for a file that is there, begun with more of the reserve than `room` may use.
    pub(super) async fn check_room_beside(&self, room: Room, used: u64) -> Result<(), CreateError> {
        self.leaves_reserve(room, self.free(used).await?, 0)
    }

    fn leaves_reserve(&self, room: Room, free: u64, needed: u64) -> Result<(), CreateError> {
        let reserve = match room {
            Room::Ordinary => self.config.reserve,
            Room::Upkeep => self.config.reserve / 2,
            Room::All => 0,
        };
        if needed + reserve > free {
            return Err(CreateError::NoRoom { free: free.saturating_sub(reserve), needed });
        }
        Ok(())
    }

    /// What the medium and the configured capacity leave.
    pub(super) async fn free(&self, used: u64) -> io::Result<u64> {
        let space = self.disk.space(&self.path).await?;
        let spared = self.spares.len() as u64 * self.config.file_len;
        let allowed = self.config.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used + spared));
        Ok(space.free.min(allowed))
    }

    /// A second try after an error finds the name gone, and only syncs.
    pub(super) async fn remove(&self, id: FileId) -> io::Result<()> {
        self.remove_if_there(&self.file_path(id)).await?;
        self.disk.sync_dir(&self.path).await
    }

    async fn remove_if_there(&self, path: &Path) -> io::Result<()> {
        match self.disk.remove(path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Keeps the room of a file, if there is use for it.
    pub(super) async fn recycle(&mut self, id: FileId, file: &dyn DiskFile) -> io::Result<()> {
        let reusable = self.config.style == FileStyle::ZeroFilled && file.length().await? == self.config.file_len;
        if !reusable || self.spares.len() >= self.config.spares_max {
            return self.remove(id).await;
        }
        let spare = self.spare_path(id);
        match self.disk.rename(&self.file_path(id), &spare).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.remove(id).await,
            renamed => renamed?,
        }
        self.disk.sync_dir(&self.path).await?;
        self.spares.push(spare);
        Ok(())
    }

    async fn is_usable_spare(&self, path: &Path) -> bool {
        if self.config.style != FileStyle::ZeroFilled || self.spares.len() >= self.config.spares_max {
            return false;
        }
        let len = match self.disk.open(path, OpenMode::Existing).await {
            Ok(file) => file.length().await,
            Err(error) => Err(error),
        };
        len.inspect_err(|error| warn!(path = %path.display(), %error, "a spare file cannot be used"))
            .is_ok_and(|len| len == self.config.file_len)
    }
}

/// Whether the medium is full, rather than broken.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether this process, or the system, may open no more files.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
