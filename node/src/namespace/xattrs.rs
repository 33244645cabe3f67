//! Extended attributes.

use wire::namespace::{CAPABILITY_XATTR, Inode, NewInode, OpError, XATTR_VALUE_LEN_MAX, Xattr, XattrMode, XattrName};

use super::{
    edit::{Edit, Fault},
    row::InodeRow,
    table,
};
use crate::kv::{KvError, KvRead};

/// Extended attributes of one inode: so that changing and removing them is one step.
pub const XATTRS_MAX: usize = 1024;

/// Bytes of all names of one inode, each with the byte that ends it: what the kernel lists at most (`XATTR_LIST_MAX`).
const NAMES_LEN_MAX: usize = 64 << 10;

/// Bytes of all names and values of one inode: they travel in one answer, and one value may be 64 KiB long.
pub const XATTRS_LEN_MAX: usize = 128 << 10;

/// All extended attributes of `inode`, in order of name.
pub(super) fn xattrs_of(rows: &dyn KvRead, inode: Inode) -> Result<Vec<Xattr>, KvError> {
    let (from, to) = table::rows_of(table::XATTR, inode.0);
    let mut found = Vec::new();
    rows.scan(&from, &to, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        std::ops::ControlFlow::Continue(())
    })?;
    found.into_iter().map(|(key, value)| xattr_at(&key, value)).collect()
}

/// The extended attribute in a row.
pub(super) fn xattr_at(key: &[u8], value: Vec<u8>) -> Result<Xattr, KvError> {
    let name = key.get(1 + size_of::<Inode>()..).and_then(|name| XattrName::new(name).ok());
    let name = name.ok_or_else(|| KvError { reason: format!("the row {key:02x?} names no extended attribute") })?;
    Ok(Xattr { name, value })
}

impl Edit<'_> {
    /// Sets an extended attribute.
    pub(super) fn set_xattr(&mut self, inode: Inode, xattr: &Xattr, mode: XattrMode) -> Result<InodeRow, Fault> {
        let mut row = self.inode(inode)?;
        check_value(xattr)?;
        let mut others = xattrs_of(self, inode)?;
        let before = others.len();
        others.retain(|other| other.name != xattr.name);
        match (mode, others.len() < before) {
            (XattrMode::Create, true) => return Err(OpError::Exists.into()),
            (XattrMode::Replace, false) => return Err(OpError::NoXattr.into()),
            (XattrMode::Set | XattrMode::Create | XattrMode::Replace, _) => {}
        }
        check_all(others.iter().chain([xattr]))?;
        self.put_bytes(table::xattr(inode, &xattr.name), xattr.value.clone())?;
        self.touch(&mut row);
        self.put_inode(inode, &row)?;
        Ok(row)
    }

    /// Removes an extended attribute.
    pub(super) fn remove_xattr(&mut self, inode: Inode, name: &XattrName) -> Result<InodeRow, Fault> {
        let mut row = self.inode(inode)?;
        let key = table::xattr(inode, name);
        if !self.exists(&key)? {
            return Err(OpError::NoXattr.into());
        }
        self.remove(key)?;
        self.touch(&mut row);
        self.put_inode(inode, &row)?;
        Ok(row)
    }

    /// The bytes of a file change.
    pub(super) fn remove_capability(&mut self, inode: Inode) -> Result<(), Fault> {
        let name = XattrName::new(CAPABILITY_XATTR).expect("it is neither empty nor too long");
        let key = table::xattr(inode, &name);
        if self.exists(&key)? { self.remove(key) } else { Ok(()) }
    }

    /// Those of a new inode.
    pub(super) fn create_xattrs(&mut self, new: &NewInode) -> Result<(), Fault> {
        check_all(new.xattrs.iter())?;
        for (at, xattr) in new.xattrs.iter().enumerate() {
            check_value(xattr)?;
            if new.xattrs.iter().take(at).any(|other| other.name == xattr.name) {
                return Err(OpError::Invalid.into());
            }
            self.put_bytes(table::xattr(new.inode, &xattr.name), xattr.value.clone())?;
        }
        Ok(())
    }
}

fn check_value(xattr: &Xattr) -> Result<(), OpError> {
    if xattr.value.len() > XATTR_VALUE_LEN_MAX { Err(OpError::TooLarge) } else { Ok(()) }
}

fn check_all<'a>(xattrs: impl Iterator<Item = &'a Xattr>) -> Result<(), OpError> {
    let (mut count, mut names, mut values) = (0, 0, 0);
    for xattr in xattrs {
        count += 1;
        names += xattr.name.as_bytes().len() + 1;
        values += xattr.value.len();
    }
    if count > XATTRS_MAX || names > NAMES_LEN_MAX || names + values > XATTRS_LEN_MAX {
        Err(OpError::TooManyXattrs)
    } else {
        Ok(())
    }
}
