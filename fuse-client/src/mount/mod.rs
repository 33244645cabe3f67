//! The mount: the kernel's questions to [`fs`](crate::fs), and its answers back.
//!
//! What is cached is answered on the thread that read the question; the rest moves, with its reply, to a task.
//!
//! # Invariants
//! - Every question is answered, within [`crate::fs::OP_DEADLINE`]; only a lock that somebody waits for may take longer.
//! - What the kernel may keep is told under the gate, for no longer than the lease lasts.
//!
//! # Not here
//! What an operation does (`fs`).

mod attach;
mod attrs;
mod callers;
mod convert;
mod errno;
mod files;
mod kernel;
mod names;
mod notices;

use std::{
    io,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use tracing::warn;
use wire::namespace::Inode;

use crate::{
    cluster::{Cluster, ClusterError},
    fs::{FileSystem, FsConfig, LOST},
};
use attach::{Unmounter, attach};
use convert::Numbers;
use kernel::Kernel;

/// Threads that read questions: each may wait for a gate or a lock for a moment, two cores keep four busy.
const THREADS: usize = 4;

/// How a mount is made.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// Which directory of the cluster is its root.
    pub root: Inode,
    /// Changes are refused.
    pub read_only: bool,
    /// Others than the one who mounts may use it, as the modes allow.
    pub allow_other: bool,
    /// Set-id bits count.
    pub suid: bool,
    /// Device files work.
    pub dev: bool,
    /// Programs may be run.
    pub exec: bool,
    /// What the list of mounts shows as its source.
    pub source: String,
    /// Memory and time.
    pub fs: FsConfig,
}

/// Why a mount cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The cluster does not open a session.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The kernel, or `fusermount3`, refuses.
    #[error("{0}")]
    Refused(#[source] io::Error),
}

/// A mount. Ends when it is unmounted, here or by somebody else.
#[derive(Debug)]
pub struct Mount {
    fs: FileSystem,
    path: PathBuf,
    kernel: JoinHandle<io::Result<()>>,
    unmounter: Unmounter,
}

impl Mount {
    /// Mounts the cluster at `path`; serves until it is unmounted. The runtime is the one of the caller.
    pub async fn begin(cluster: Cluster, path: &Path, config: MountConfig) -> Result<Self, MountError> {
        let (fs, forgets) = FileSystem::open(cluster, config.fs.clone()).await?;
        let numbers = Numbers { root: config.root };
        let kernel = Kernel::new(fs.clone(), numbers);
        let mount_path = path.to_owned();
        // Mounting talks to the kernel, and maybe to a program, and waits.
        let made = tokio::task::spawn_blocking(move || attach(kernel, &mount_path, &config)).await;
        let (session, unmounter) = match made {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => {
                fs.close().await;
                return Err(MountError::Refused(error));
            }
            Err(error) => return Err(MountError::Refused(io::Error::other(error))),
        };
        notices::start(forgets, &session, (path, numbers)).map_err(MountError::Refused)?;
        let threads = std::thread::Builder::new().name("dfs-mount".into());
        let kernel = threads.spawn(move || session.run()).map_err(MountError::Refused)?;
        read_further_ahead(path);
        Ok(Self { fs, path: path.to_owned(), kernel, unmounter })
    }

    /// Unmounts as soon as nobody uses it (at once, for those who come later), and makes everything durable.
    pub fn unmount(&mut self) -> io::Result<()> {
        self.unmounter.unmount()
    }

    /// Writes out what programs have written so far.
    pub async fn flush(&self) {
        // Tried again at the end, and told then.
        let _lost = self.fs.flush_everything().await;
    }

    /// Whether it has been unmounted.
    pub fn is_over(&self) -> bool {
        self.kernel.is_finished()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes everything out and says good-bye to the cluster, after the mount is over. An error if something was lost.
    pub async fn end(self) -> io::Result<()> {
        let Self { fs, kernel, unmounter, .. } = self;
        drop(unmounter);
        let served = tokio::task::spawn_blocking(move || kernel.join()).await;
        let is_stored = fs.close().await;
        match served {
            Ok(Ok(Ok(()))) if !is_stored => Err(io::Error::other(LOST)),
            Ok(Ok(served)) => served,
            _ => Err(io::Error::other("a thread of the mount has failed")),
        }
    }
}

/// The kernel reads 128 KiB ahead of programs unless it is told otherwise, which only root may do: larger requests cost
/// less, and hide the way to the nodes.
fn read_further_ahead(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = std::fs::symlink_metadata(path) else { return };
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if std::fs::write(&knob, "1024").is_err() && rustix::process::geteuid().is_root() {
        warn!(%knob, "cannot be set; reading ahead stays at the kernel's default");
    }
}
