//! Attributes of local files in the words of the namespace.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use wire::namespace::{FileType, Mode, Times, Timestamp};

/// Attributes of a local file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LocalMeta {
    pub(crate) file_type: FileType,
    pub(crate) mode: Mode,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// Bytes on disk: fewer than the size if there are holes.
    pub(crate) allocated: u64,
    pub(crate) times: Times,
    pub(crate) changed: Timestamp,
    pub(crate) links: u64,
    /// Identity on this machine: the same for hard links.
    pub(crate) identity: (u64, u64),
    /// Device number of a device, in the kernel's 32-bit encoding.
    pub(crate) device: u32,
}

impl LocalMeta {
    pub(crate) fn new(metadata: &fs::Metadata) -> io::Result<Self> {
        let kind = metadata.file_type();
        let file_type = if kind.is_file() {
            FileType::File
        } else if kind.is_dir() {
            FileType::Directory
        } else if kind.is_symlink() {
            FileType::Symlink
        } else if kind.is_fifo() {
            FileType::Fifo
        } else if kind.is_socket() {
            FileType::Socket
        } else if kind.is_char_device() {
            FileType::CharDevice
        } else {
            FileType::BlockDevice
        };
        Ok(Self {
            file_type,
            mode: Mode::new((metadata.mode() & 0o7777) as u16),
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: metadata.size(),
            allocated: metadata.blocks().saturating_mul(512),
            times: Times {
                accessed: timestamp(metadata.atime(), metadata.atime_nsec())?,
                modified: timestamp(metadata.mtime(), metadata.mtime_nsec())?,
            },
            changed: timestamp(metadata.ctime(), metadata.ctime_nsec())?,
            links: metadata.nlink(),
            identity: (metadata.dev(), metadata.ino()),
            device: encode_device(metadata.rdev()),
        })
    }

    /// Whether the bytes may have changed between two looks.
    pub(crate) fn differs(&self, later: &Self) -> bool {
        (self.size, self.times.modified, self.changed, self.identity)
            != (later.size, later.times.modified, later.changed, later.identity)
    }
}

fn timestamp(seconds: i64, nanoseconds: i64) -> io::Result<Timestamp> {
    let nanoseconds = u32::try_from(nanoseconds).map_err(io::Error::other)?;
    Timestamp::new(seconds, nanoseconds).map_err(io::Error::other)
}

/// As the kernel's `new_encode_dev`.
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// As the kernel's `new_decode_dev`.
pub(super) fn decode_device(device: u32) -> u64 {
    rustix::fs::makedev((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & !0xff))
}

#[cfg(test)]
mod tests {
    use super::{decode_device, encode_device};

    #[test]
    fn device_numbers_survive_the_round_trip() {
        for (major, minor) in [(1, 3), (8, 0), (259, 300), (4095, (1 << 20) - 1)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(decode_device(encode_device(device)), device, "{major}:{minor}");
        }
        assert_eq!(encode_device(rustix::fs::makedev(1, 3)), 0x103);
    }
}
