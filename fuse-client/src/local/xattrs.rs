//! Extended attributes `user.*` of local files: those that anybody may have.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

use rustix::{fs::XattrFlags, io::Errno};
use wire::{
    cluster::ClusterId,
    namespace::{Inode, XATTR_VALUE_LEN_MAX, Xattr, XattrName},
};

use crate::fs::IDENTITY;

/// What the namespace takes of one inode.
const XATTRS_MAX: usize = 1024;

/// What the kernel gives at most.
const NAMES_LEN_MAX: usize = 64 << 10;

/// All `user.*` attributes; none where the file system has no such thing.
pub(super) fn read(path: &Path) -> io::Result<Vec<Xattr>> {
    read_up_to(path, XATTRS_MAX)
}

fn read_up_to(path: &Path, count_max: usize) -> io::Result<Vec<Xattr>> {
    match rustix::fs::llistxattr_query(path) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut names = vec![0u8; NAMES_LEN_MAX];
    let len = rustix::fs::llistxattr(path, names.as_mut_slice())?;
    let names = names.get(..len).unwrap_or_default().split(|&byte| byte == 0);
    let mut xattrs = Vec::new();
    for name in names.filter(|name| name.starts_with(b"user.")) {
        if xattrs.len() == count_max {
            return Err(io::Error::other(format!("the store keeps at most {count_max} extended attributes")));
        }
        let mut value = vec![0u8; XATTR_VALUE_LEN_MAX];
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice()) {
            Ok(len) => value.truncate(len),
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        xattrs.push(Xattr { name: XattrName::new(name).map_err(io::Error::other)?, value });
    }
    Ok(xattrs)
}

/// Which inode of `cluster` stands at a path of this machine, by way of a mount; none if it is something else.
pub(super) fn inode_in(path: &Path, cluster: ClusterId) -> Option<Inode> {
    let mut value = [0u8; 64];
    let len = rustix::fs::lgetxattr(path, IDENTITY, &mut value[..]).ok()?;
    let (theirs, inode) = str::from_utf8(value.get(..len)?).ok()?.split_once(' ')?;
    (theirs == cluster.to_string()).then(|| inode.parse().ok().map(Inode)).flatten()
}

/// Sets `user.*` attributes of a new file; a file system that has no such thing keeps none.
pub(super) fn write(file: &File, xattrs: &[Xattr]) -> io::Result<()> {
    for xattr in of_users(xattrs) {
        let name = OsStr::from_bytes(xattr.name.as_bytes());
        match rustix::fs::fsetxattr(file, name, &xattr.value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sets those `user.*` attributes of what is there that it has not, or not so. Whether there were any: then its mode may be
/// another as well, and is to be set.
pub(super) fn add(path: &Path, xattrs: &[Xattr]) -> io::Result<bool> {
    if of_users(xattrs).next().is_none() {
        return Ok(false);
    }
    let there = read(path)?;
    let mut added = false;
    for xattr in of_users(xattrs).filter(|xattr| !there.contains(xattr)) {
        let name = OsStr::from_bytes(xattr.name.as_bytes());
        let set = || rustix::fs::lsetxattr(path, name, &xattr.value, XattrFlags::empty());
        let done = match set() {
            // Its owner may forbid to write into it; the mode that it is to have comes after this.
            Err(Errno::ACCESS) => {
                fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
                set()
            }
            done => done,
        };
        match done {
            Ok(()) => added = true,
            Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(added)
}

fn of_users(xattrs: &[Xattr]) -> impl Iterator<Item = &Xattr> {
    xattrs.iter().filter(|xattr| xattr.name.as_bytes().starts_with(b"user."))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use rustix::fs::XattrFlags;

    use super::read_up_to;

    #[test]
    fn more_attributes_than_the_store_keeps_are_an_error_and_not_a_silent_loss() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let set = |number: usize| {
            let name = format!("user.{number}");
            rustix::fs::lsetxattr(&path, OsStr::new(&name), b"", XattrFlags::empty())
        };
        for number in 0..7 {
            set(number).unwrap();
        }
        assert_eq!(read_up_to(&path, 7).unwrap().len(), 7);
        set(7).unwrap();
        assert!(read_up_to(&path, 7).unwrap_err().to_string().contains("at most 7"));
    }
}
