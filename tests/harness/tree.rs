//! Trees on the local disk: made from a seed, and compared in every property that must survive.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What of an entry must survive a round trip.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Modification time in ns; not of symbolic links, whose time many tools do not keep.
    pub modified: Option<(i64, i64)>,
    /// Names of the same inode.
    pub links: Option<u64>,
    /// Hash of the bytes of a file, bytes of a link's target.
    pub content: Vec<u8>,
    /// Device number of a device.
    pub device: u64,
}

/// Every entry below `root` by its path, `root` itself as the empty path.
pub fn read(root: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    read_into(root, root, &mut entries);
    entries
}

fn read_into(root: &Path, path: &Path, entries: &mut BTreeMap<Vec<u8>, Entry>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let content = if kind.is_file() {
        blake3::hash(&fs::read(path).unwrap()).as_bytes().to_vec()
    } else if kind.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let is_device = kind.is_block_device() || kind.is_char_device();
    let entry = Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        modified: (!kind.is_symlink()).then(|| (meta.mtime(), meta.mtime_nsec())),
        links: kind.is_file().then(|| meta.nlink()),
        content,
        device: if is_device { meta.rdev() } else { 0 },
    };
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
    entries.insert(name, entry);
    if kind.is_dir() {
        for child in fs::read_dir(path).unwrap() {
            read_into(root, &child.unwrap().path(), entries);
        }
    }
}

/// Fails the test, naming the first difference, unless both trees are the same.
pub fn assert_same(expected: &Path, found: &Path) {
    let (expected, found) = (read(expected), read(found));
    for (name, entry) in &expected {
        let Some(other) = found.get(name) else { panic!("{} is missing", String::from_utf8_lossy(name)) };
        let name = String::from_utf8_lossy(name);
        assert_eq!(entry, other, "{name}");
    }
    let more: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
    assert!(more.is_empty(), "there is more than expected: {more:?}");
}

/// `len` bytes that a seed decides.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}
