//! The only table from failures to errno.

use fuser::Errno;
use wire::{Refusal, namespace::OpError};

use crate::{cluster::ClusterError, fs::FsError, upload::PutError};

/// The errno of a failure.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::Op(error) => of_op(*error),
        FsError::Cluster(error) => match &**error {
            ClusterError::Refused(Refusal::ReadOnly) => Errno::EROFS,
            ClusterError::Refused(Refusal::DiskFull) => Errno::ENOSPC,
            _ => Errno::EIO,
        },
        FsError::Put(error) => match &**error {
            PutError::NoSpace => Errno::ENOSPC,
            PutError::Refused(Refusal::ReadOnly) => Errno::EROFS,
            _ => Errno::EIO,
        },
        FsError::Read(_) | FsError::SessionEnded | FsError::LocksLost | FsError::Overtaken | FsError::Deadline => {
            Errno::EIO
        }
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Invalid => Errno::EINVAL,
        FsError::Unsupported => Errno::EOPNOTSUPP,
        FsError::Interrupted => Errno::EINTR,
        FsError::Deadlock => Errno::EDEADLK,
        FsError::NothingThere => Errno::ENXIO,
        FsError::TooMuchAsked => Errno::ENOSPC,
        FsError::TooManyOpen => Errno::ENFILE,
    }
}

fn of_op(error: OpError) -> Errno {
    match error {
        OpError::NotFound => Errno::ENOENT,
        OpError::StaleInode => Errno::ESTALE,
        OpError::Exists => Errno::EEXIST,
        OpError::NotDirectory => Errno::ENOTDIR,
        OpError::IsDirectory => Errno::EISDIR,
        OpError::NotEmpty => Errno::ENOTEMPTY,
        OpError::TooManyLinks => Errno::EMLINK,
        OpError::FileTooLarge => Errno::EFBIG,
        OpError::Invalid => Errno::EINVAL,
        OpError::NotPermitted => Errno::EPERM,
        OpError::NoXattr => Errno::ENODATA,
        OpError::TooManyXattrs => Errno::ENOSPC,
        OpError::Locked | OpError::LocksDelegated => Errno::EAGAIN,
        OpError::TooManyLocks => Errno::ENOLCK,
        OpError::LeaseEnded => Errno::EIO,
        OpError::StaleEpoch
        | OpError::StaleGc
        | OpError::VersionChanged
        | OpError::InlineInTheWay
        | OpError::NotInline
        | OpError::Unsound
        | OpError::NotReserved
        | OpError::CutPending
        | OpError::OutOfOrder
        | OpError::BelowWindow
        | OpError::TooLarge
        | OpError::JournalFull => Errno::EIO,
    }
}

/// Whether a person should hear of it: everything that is not an ordinary answer to a program.
pub(super) fn is_trouble(error: &FsError) -> bool {
    let code = errno(error).code();
    (code == Errno::EIO.code() || code == Errno::ENOSPC.code()) && !matches!(error, FsError::TooMuchAsked)
}
