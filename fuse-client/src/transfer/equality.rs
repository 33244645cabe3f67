//! What to do about an entry that may be there already. Pure.

use wire::namespace::{Attr, FileType};

use crate::local::LocalMeta;

/// What is done about one entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Decision {
    /// Nothing is there, or something to be replaced.
    Write,
    /// The same bytes are there, or so it looks; attributes may differ.
    Same {
        /// Whether mode, owner or times have to be set.
        touch: bool,
    },
    /// A directory where a file should be, or the other way round.
    InTheWay {
        /// In words.
        reason: &'static str,
    },
}

/// Who decides about owners.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owners {
    /// Those of the source, exactly.
    Kept,
    /// The caller's.
    Own,
}

/// What to do about `local`, where `there` is.
pub(super) fn decide(local: &LocalMeta, there: Option<&Attr>, owners: Owners) -> Decision {
    let Some(there) = there else { return Decision::Write };
    match (local.file_type, there.file_type) {
        (FileType::Directory, FileType::Directory) => Decision::Same { touch: true },
        (FileType::Directory, _) => Decision::InTheWay { reason: "a file is in the way of a directory" },
        (_, FileType::Directory) => Decision::InTheWay { reason: "a directory is in the way of a file" },
        (ours, theirs) if ours != theirs => Decision::Write,
        (FileType::File, _) if local.size != there.size || local.times.modified != there.modified => Decision::Write,
        (FileType::CharDevice | FileType::BlockDevice, _) if local.device != there.device => Decision::Write,
        _ => Decision::Same { touch: attributes_differ(local, there, owners) },
    }
}

/// What at a local path must not give way to something of another kind, in words.
pub(super) fn obstacle(here: FileType, wanted: FileType) -> Option<&'static str> {
    match here {
        FileType::File | FileType::Symlink => None,
        _ if here == wanted => None,
        FileType::Directory => Some("a directory is in the way of a file"),
        FileType::Fifo => Some("a pipe is in the way of a file"),
        FileType::Socket => Some("a socket is in the way of a file"),
        FileType::CharDevice | FileType::BlockDevice => Some("a device is in the way of a file"),
    }
}

fn attributes_differ(local: &LocalMeta, there: &Attr, owners: Owners) -> bool {
    let owner = owners == Owners::Kept && (local.uid, local.gid) != (there.uid, there.gid);
    let mode = local.file_type != FileType::Symlink && local.mode != there.mode;
    owner || mode || local.times.modified != there.modified
}

#[cfg(test)]
mod tests {
    use wire::namespace::{Attr, FileType, Inode, Mode, Times, Timestamp};

    use super::{Decision, Owners, decide, obstacle};
    use crate::local::LocalMeta;

    fn local(file_type: FileType) -> LocalMeta {
        let time = Timestamp::new(5, 7).unwrap();
        LocalMeta {
            file_type,
            mode: Mode::new(0o644),
            uid: 1,
            gid: 2,
            size: 10,
            allocated: 10,
            times: Times { accessed: time, modified: time },
            changed: time,
            links: 1,
            identity: (1, 1),
            device: 3,
        }
    }

    fn there(local: &LocalMeta) -> Attr {
        Attr {
            inode: Inode(9),
            file_type: local.file_type,
            mode: local.mode,
            uid: local.uid,
            gid: local.gid,
            links: 1,
            size: local.size,
            allocated: 0,
            device: local.device,
            accessed: Timestamp::default(),
            modified: local.times.modified,
            changed: Timestamp::default(),
            born: Timestamp::default(),
            change: 0,
            data_version: 0,
        }
    }

    #[test]
    fn a_file_is_skipped_only_if_type_size_and_mtime_to_the_nanosecond_are_the_same() {
        let file = local(FileType::File);
        let same = there(&file);
        assert_eq!(decide(&file, Some(&same), Owners::Kept), Decision::Same { touch: false });
        assert_eq!(decide(&file, None, Owners::Kept), Decision::Write);
        let later = Timestamp::new(5, 8).unwrap();
        for other in
            [Attr { size: 11, ..same }, Attr { modified: later, ..same }, Attr { file_type: FileType::Symlink, ..same }]
        {
            assert_eq!(decide(&file, Some(&other), Owners::Kept), Decision::Write);
        }
    }

    #[test]
    fn attributes_that_differ_are_set_without_moving_bytes_and_owners_only_where_they_are_kept() {
        let file = local(FileType::File);
        let mode = Attr { mode: Mode::new(0o600), ..there(&file) };
        let owner = Attr { uid: 77, ..there(&file) };
        assert_eq!(decide(&file, Some(&mode), Owners::Own), Decision::Same { touch: true });
        assert_eq!(decide(&file, Some(&owner), Owners::Kept), Decision::Same { touch: true });
        assert_eq!(decide(&file, Some(&owner), Owners::Own), Decision::Same { touch: false });
    }

    #[test]
    fn only_files_and_links_give_way_to_something_of_another_kind() {
        let all = [FileType::File, FileType::Symlink, FileType::Directory, FileType::Fifo, FileType::CharDevice];
        for wanted in all {
            let obstacles: Vec<_> = all.into_iter().filter(|here| obstacle(*here, wanted).is_some()).collect();
            let others = [FileType::Directory, FileType::Fifo, FileType::CharDevice];
            assert_eq!(obstacles, others.into_iter().filter(|other| *other != wanted).collect::<Vec<_>>());
        }
    }

    #[test]
    fn directories_and_files_never_replace_each_other() {
        let (file, dir) = (local(FileType::File), local(FileType::Directory));
        assert!(matches!(decide(&file, Some(&there(&dir)), Owners::Kept), Decision::InTheWay { .. }));
        assert!(matches!(decide(&dir, Some(&there(&file)), Owners::Kept), Decision::InTheWay { .. }));
        assert_eq!(decide(&dir, Some(&there(&dir)), Owners::Kept), Decision::Same { touch: true });
        let device = local(FileType::CharDevice);
        assert_eq!(decide(&device, Some(&Attr { device: 4, ..there(&device) }), Owners::Own), Decision::Write);
    }
}
