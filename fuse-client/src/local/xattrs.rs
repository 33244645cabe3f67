//! Extended attributes `user.*` of local files: those that anybody may have.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

use rustix::io::Errno;
use wire::namespace::{XATTR_VALUE_LEN_MAX, Xattr, XattrName};

/// What the namespace takes of one inode.
const XATTRS_MAX: usize = 64;

/// What the kernel gives at most.
const NAMES_LEN_MAX: usize = 64 << 10;

/// All `user.*` attributes; none where the file system has no such thing.
pub(super) fn read(path: &Path) -> io::Result<Vec<Xattr>> {
    let mut probe = [0u8; 0];
    match rustix::fs::llistxattr(path, &mut probe[..]) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut names = vec![0u8; NAMES_LEN_MAX];
    let len = rustix::fs::llistxattr(path, names.as_mut_slice())?;
    let names = names.get(..len).unwrap_or_default().split(|&byte| byte == 0);
    let mut xattrs = Vec::new();
    for name in names.filter(|name| name.starts_with(b"user.")).take(XATTRS_MAX) {
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

/// Sets `user.*` attributes; a file system that has no such thing keeps none.
pub(super) fn write(path: &Path, xattrs: &[Xattr]) -> io::Result<()> {
    for xattr in xattrs.iter().filter(|xattr| xattr.name.as_bytes().starts_with(b"user.")) {
        let name = OsStr::from_bytes(xattr.name.as_bytes());
        match rustix::fs::lsetxattr(path, name, &xattr.value, rustix::fs::XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
