//! The mount of the cluster, if one was asked for: `dfs mount` and `dfs umount` with the cluster's own profile.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    binary::Programs,
    folder::{DevFolder, DevState},
};
use crate::cli::{
    failure::{Failure, Line},
    invocation::Invocation,
    umount::{self, MountPoint, is_worked_on, look_at, unmount_lazily},
};

/// How long a program that is about to mount there, or to end after an unmount, is waited for.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(25);

/// What is on the directory of the mount.
#[derive(Debug)]
pub(super) enum Found {
    /// This cluster.
    Ours,
    /// A mount whose program is gone.
    Dead,
    /// Another file system, or another cluster.
    Other {
        /// As the kernel names it: `ext4`.
        kind: String,
    },
    /// Nothing.
    Free,
}

/// Knows the mounts of one cluster from those of others.
pub(super) struct Mounter<'a> {
    pub(super) invocation: &'a Invocation,
    pub(super) folder: &'a DevFolder,
}

impl Mounter<'_> {
    /// Notes where the cluster is to be mounted: where it is asked for now, or was before. What would be refused in the
    /// end is refused here, before anything is noted or started.
    pub(super) fn plan(&self, state: &mut DevState, asked: Option<&Path>) -> Result<(), Failure> {
        let Some(wanted) = asked.or(state.mount.as_deref()) else { return Ok(()) };
        if let Some(old) = state.mount.as_deref().filter(|old| fs::canonicalize(wanted).ok().as_deref() != Some(*old)) {
            match self.look(old)? {
                Found::Ours => {
                    let line = Line::new(format!("the cluster is mounted on {}", old.display()));
                    let advice = format!("dfs umount {} first, or leave out --mount", old.display());
                    return Err(line.advice(advice).usage());
                }
                // Nobody would know of it any more.
                Found::Dead => unmount_lazily(old)?,
                Found::Other { .. } | Found::Free => {}
            }
        }
        let dir = real_dir(wanted).map_err(|error| cannot_mount(wanted).because(&error).failed())?;
        if dir.to_str().is_none() {
            return Err(cannot_mount(&dir).why("its name is not UTF-8").advice("choose another directory").usage());
        }
        self.check(&dir)?;
        state.mount = Some(dir);
        Ok(())
    }

    /// Mounts the cluster, if it is not mounted.
    pub(super) async fn bring_up(&self, programs: &Programs, dir: &Path) -> Result<(), Failure> {
        if matches!(self.settled(dir).await?, Found::Ours) {
            return Ok(());
        }
        self.check(dir)?;
        let profile = self.folder.profile();
        let words = [OsStr::new("--profile"), profile.as_os_str(), OsStr::new("mount"), dir.as_os_str()];
        programs.run_dfs(&words).await.map_err(|why| {
            let line = cannot_mount(dir);
            let why = why.strip_prefix(&format!("{line}: ")).unwrap_or(&why).to_owned();
            line.why(why).failed()
        })
    }

    /// Unmounts the cluster, with all that was written; refused while somebody uses it. Returns whether it was mounted.
    pub(super) async fn take_down(&self, dir: &Path) -> Result<bool, Failure> {
        match self.settled(dir).await? {
            Found::Ours | Found::Dead => umount::run(umount::UmountArguments::of(dir)).await.map(|()| true),
            Found::Other { .. } | Found::Free => Ok(false),
        }
    }

    /// What is on `dir`: a path without links.
    pub(super) fn look(&self, dir: &Path) -> Result<Found, Failure> {
        let found = look_at(dir)
            .map_err(|error| Line::new(format!("cannot look at {}", dir.display())).because(&error).failed())?;
        Ok(match found {
            MountPoint::Free => Found::Free,
            MountPoint::Dead => Found::Dead,
            MountPoint::Mounted { kind, source } if kind == umount::KIND && self.is_ours(&source) => Found::Ours,
            MountPoint::Mounted { kind, .. } => Found::Other { kind },
        })
    }

    /// What is on `dir` once nobody is about to change that: an `up` that was killed leaves a `dfs mount` that goes on.
    async fn settled(&self, dir: &Path) -> Result<Found, Failure> {
        let until = Instant::now() + SETTLE_MAX;
        loop {
            let found = self.look(dir)?;
            if !matches!(found, Found::Free) || !is_worked_on(dir) || Instant::now() >= until {
                return Ok(found);
            }
            sleep(LOOK_PERIOD).await;
        }
    }

    /// Whether the profile that a mount was made with is one of this cluster.
    fn is_ours(&self, source: &OsStr) -> bool {
        let found = self.invocation.profile_places().find(source);
        found.is_ok_and(|profile| profile == self.folder.profile() || self.folder.is_profile_of_cluster(&profile))
    }

    /// Refuses a directory that cannot be mounted on.
    fn check(&self, dir: &Path) -> Result<(), Failure> {
        let why = match self.look(dir)? {
            Found::Ours | Found::Dead => return Ok(()),
            Found::Other { kind } => format!("something else ({kind}) is mounted there"),
            Found::Free if !dir.is_dir() => "not a directory".to_owned(),
            Found::Free => {
                let mut entries = fs::read_dir(dir).map_err(|error| cannot_mount(dir).because(&error).failed())?;
                if entries.next().is_none() {
                    return Ok(());
                }
                "the directory is not empty".to_owned()
            }
        };
        Err(cannot_mount(dir).why(why).advice("choose another directory with --mount").failed())
    }
}

impl Found {
    /// A word for programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Ours => "mounted",
            Self::Dead => "dead",
            Self::Other { .. } => "other",
            Self::Free => "not mounted",
        }
    }

    /// A sentence for people.
    pub(super) fn sentence(&self, dir: &Path) -> String {
        let dir = dir.display();
        match self {
            Self::Ours => format!("Mounted on {dir}"),
            Self::Dead => format!("The mount on {dir} is dead; dfs dev up mounts it again"),
            Self::Other { kind } => format!("Not mounted on {dir}: something else ({kind}) is"),
            Self::Free => format!("Not mounted on {dir}; dfs dev up mounts it"),
        }
    }
}

fn cannot_mount(dir: &Path) -> Line {
    Line::new(format!("cannot mount {}", dir.display()))
}

/// The path without links, as the kernel lists mounts; the directory is made if it does not exist. That of a dead mount
/// answers nothing, but its name can be had.
fn real_dir(dir: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir)?;
            fs::canonicalize(dir)
        }
        found => found,
    }
}
