//! On whose behalf, and what that allows. Pure.

use wire::namespace::{Attr, FileType, Mode};

/// A user with its groups. A read-write client is trusted for it, as with NFS `sys`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// User; 0 passes every check.
    pub uid: u32,
    /// Group of new files.
    pub gid: u32,
    /// Other groups.
    pub groups: Vec<u32>,
}

/// What is wanted of an inode, as the bits of one class of its mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Permission {
    Read,
    Write,
    /// Of a directory: to reach what is in it.
    Search,
    /// Of a directory: to change its entries.
    Change,
}

impl Caller {
    /// Who may do everything.
    pub const ROOT: Self = Self { uid: 0, gid: 0, groups: Vec::new() };

    /// Whether this is root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether this is root or owns the inode.
    pub(crate) fn owns(&self, attr: &Attr) -> bool {
        self.is_root() || self.uid == attr.uid
    }

    pub(crate) fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether the mode of the inode lets the caller.
    pub(crate) fn may(&self, permission: Permission, attr: &Attr) -> bool {
        if self.is_root() {
            return true;
        }
        let class = if self.uid == attr.uid {
            attr.mode.bits() >> 6
        } else if self.is_in_group(attr.gid) {
            attr.mode.bits() >> 3
        } else {
            attr.mode.bits()
        };
        let wanted = match permission {
            Permission::Read => 0o4,
            Permission::Write => 0o2,
            Permission::Search => 0o1,
            Permission::Change => 0o3,
        };
        class & wanted == wanted
    }

    /// Whether the caller may take the entry `entry` out of `dir`: in a sticky directory only its owner and that of
    /// the entry may.
    pub(crate) fn may_take_out(&self, dir: &Attr, entry: &Attr) -> bool {
        let sticky = dir.mode.bits() & Mode::STICKY != 0;
        self.may(Permission::Change, dir) && (!sticky || self.owns(dir) || self.owns(entry))
    }
}

/// Whether this is a directory. (Clearer at a call site than a comparison.)
pub fn is_directory(attr: &Attr) -> bool {
    attr.file_type == FileType::Directory
}

#[cfg(test)]
mod tests {
    use wire::namespace::{Attr, FileType, Inode, Mode, Timestamp};

    use super::{Caller, Permission};

    fn attr(uid: u32, gid: u32, mode: u16) -> Attr {
        Attr {
            inode: Inode(7),
            file_type: FileType::Directory,
            mode: Mode::new(mode),
            uid,
            gid,
            links: 2,
            size: 0,
            allocated: 0,
            device: 0,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            born: Timestamp::default(),
            change: 0,
            data_version: 0,
        }
    }

    #[test]
    fn the_first_class_that_fits_decides_even_against_the_caller() {
        let caller = Caller { uid: 5, gid: 50, groups: vec![60] };
        assert!(!caller.may(Permission::Read, &attr(5, 50, 0o077)), "an owner without rights has none");
        assert!(!caller.may(Permission::Read, &attr(6, 60, 0o707)), "nor has a group");
        assert!(caller.may(Permission::Change, &attr(6, 60, 0o730)));
        assert!(caller.may(Permission::Search, &attr(6, 61, 0o001)));
        assert!(Caller::ROOT.may(Permission::Change, &attr(6, 61, 0)));
    }

    #[test]
    fn in_a_sticky_directory_only_owners_take_entries_out() {
        let caller = Caller { uid: 5, gid: 50, groups: Vec::new() };
        assert!(!caller.may_take_out(&attr(0, 0, 0o1777), &attr(6, 6, 0o777)));
        assert!(caller.may_take_out(&attr(0, 0, 0o1777), &attr(5, 6, 0)));
        assert!(caller.may_take_out(&attr(5, 0, 0o1777), &attr(6, 6, 0)));
        assert!(caller.may_take_out(&attr(0, 0, 0o777), &attr(6, 6, 0)));
    }
}
