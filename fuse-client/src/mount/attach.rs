//! The way to the kernel: as root by ourselves, so that the list of mounts shows our kind (`fuse.dfs`, as `/etc/fstab`
//! and `dfs umount` know it); else through `fusermount3`.

use std::{
    ffi::CString,
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags},
};

use super::{MountConfig, THREADS, kernel::Kernel};

/// What the list of mounts calls us.
const KIND: &str = "fuse.dfs";

/// Takes a mount away.
#[derive(Debug)]
pub(super) enum Unmounter {
    /// One that we made.
    Ours(PathBuf),
    /// One that `fusermount3` made.
    Helpers(SessionUnmounter),
}

impl Unmounter {
    /// Nobody comes in any more; it goes on for those who have something open.
    pub(super) fn unmount(&mut self) -> io::Result<()> {
        match self {
            Self::Ours(path) => Ok(rustix::mount::unmount(path.as_path(), UnmountFlags::DETACH)?),
            Self::Helpers(unmounter) => unmounter.unmount(),
        }
    }
}

/// Mounts.
pub(super) fn attach(kernel: Kernel, path: &Path, config: &MountConfig) -> io::Result<(Session<Kernel>, Unmounter)> {
    let options = options(config);
    if !rustix::process::geteuid().is_root() {
        let mut session = Session::new(kernel, path, &options)?;
        let unmounter = Unmounter::Helpers(session.unmount_callable());
        return Ok((session, unmounter));
    }
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        std::fs::metadata(path)?.mode(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if config.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data)?;
    rustix::mount::mount(config.source.as_str(), path, KIND, flags(config), data.as_c_str())?;
    let mut unmounter = Unmounter::Ours(path.to_owned());
    match Session::from_fd(kernel, device, options.acl, options) {
        Ok(session) => Ok((session, unmounter)),
        Err(error) => {
            unmounter.unmount()?;
            Err(error)
        }
    }
}

fn flags(config: &MountConfig) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, config.read_only);
    flags.set(MountFlags::NOSUID, !config.suid);
    flags.set(MountFlags::NODEV, !config.dev);
    flags.set(MountFlags::NOEXEC, !config.exec);
    flags
}

fn options(config: &MountConfig) -> Config {
    let mut options = vec![
        MountOption::FSName(config.source.clone()),
        MountOption::Subtype("dfs".to_owned()),
        MountOption::DefaultPermissions,
        if config.read_only { MountOption::RO } else { MountOption::RW },
        if config.suid { MountOption::Suid } else { MountOption::NoSuid },
        if config.dev { MountOption::Dev } else { MountOption::NoDev },
    ];
    if !config.exec {
        options.push(MountOption::NoExec);
    }
    let mut made = Config::default();
    made.mount_options = options;
    made.acl = if config.allow_other { SessionACL::All } else { SessionACL::Owner };
    made.n_threads = Some(THREADS);
    made
}
