//! The mount of the cluster, if one was asked for: `dfs mount` and `dfs umount` with the cluster's own profile.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::{
    binary::Programs,
    folder::{DevFolder, DevState},
};
use crate::cli::{
    failure::{Failure, Line},
    umount::{self, MountPoint, look_at},
};

/// Notes where the cluster is to be mounted, if that is asked for.
pub(super) fn plan(folder: &DevFolder, state: &mut DevState, asked: Option<&Path>) -> Result<(), Failure> {
    let Some(asked) = asked else { return Ok(()) };
    let dir = real_path(asked)?;
    if let Some(old) = state.mount.as_ref().filter(|old| **old != dir && is_up(folder, old)) {
        let line = Line::new(format!("the cluster is mounted on {}", old.display()));
        return Err(line.advice(format!("dfs umount {} first, or leave out --mount", old.display())).usage());
    }
    state.mount = Some(dir);
    Ok(())
}

/// Refuses a directory that something else is mounted on, before anything is started.
pub(super) fn check(folder: &DevFolder, dir: &Path) -> Result<(), Failure> {
    match look_at(dir) {
        Ok(MountPoint::Mounted { kind, source }) if !is_ours(folder, &kind, &source) => {
            let line = Line::new(format!("cannot mount {}", dir.display()));
            let why = format!("another file system ({kind}) is mounted there already");
            Err(line.why(why).advice("unmount it, or choose another directory").failed())
        }
        // What else may be wrong with it, the mount says.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Mounts the cluster, if it is not mounted.
pub(super) async fn bring_up(programs: &Programs, folder: &DevFolder, dir: &Path) -> Result<(), Failure> {
    if is_up(folder, dir) {
        return Ok(());
    }
    let cannot = || Line::new(format!("cannot mount {}", dir.display()));
    // A mount whose program died has a directory that cannot even be looked at; `dfs mount` clears it.
    if !matches!(look_at(dir), Ok(MountPoint::Dead)) {
        fs::create_dir_all(dir).map_err(|error| cannot().because(&error).failed())?;
    }
    let profile = folder.profile();
    let words = [OsStr::new("--profile"), profile.as_os_str(), OsStr::new("mount"), dir.as_os_str()];
    programs.run_dfs(&words).await.map_err(|line| Failure::Failed(Line::new(line)))
}

/// Unmounts the cluster, with all that was written; refused while somebody uses it.
pub(super) async fn take_down(folder: &DevFolder, dir: &Path) -> Result<(), Failure> {
    match look_at(dir) {
        Ok(MountPoint::Mounted { kind, source }) if is_ours(folder, &kind, &source) => {}
        Ok(MountPoint::Dead) => {}
        // Not mounted, or not ours.
        Ok(_) | Err(_) => return Ok(()),
    }
    umount::run(umount::UmountArguments::of(dir)).await
}

/// A word for people.
pub(super) fn state(folder: &DevFolder, dir: &Path) -> &'static str {
    match look_at(dir) {
        Ok(MountPoint::Mounted { kind, source }) if is_ours(folder, &kind, &source) => "mounted",
        Ok(MountPoint::Mounted { .. }) => "something else is mounted there",
        Ok(MountPoint::Dead) => "dead",
        Ok(MountPoint::Free) | Err(_) => "not mounted",
    }
}

fn is_up(folder: &DevFolder, dir: &Path) -> bool {
    state(folder, dir) == "mounted"
}

/// Whether a mount is one of this cluster, made with its profile.
fn is_ours(folder: &DevFolder, kind: &str, source: &str) -> bool {
    kind == "fuse.dfs" && folder.profile().as_os_str() == source
}

/// The path without links, as the kernel lists mounts; the directory is made if it does not exist.
fn real_path(dir: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: &std::io::Error| Line::new(format!("cannot use {}", dir.display())).because(error).failed();
    let absolute = std::path::absolute(dir).map_err(|error| failed(&error))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Line::new(format!("cannot mount {}", dir.display())).why("it has no name").usage());
    };
    // A mount whose program died has a directory that answers nothing, but its name is known.
    if let Ok(parent) = fs::canonicalize(parent)
        && matches!(look_at(&parent.join(name)), Ok(MountPoint::Dead))
    {
        return Ok(parent.join(name));
    }
    fs::create_dir_all(&absolute).and_then(|()| fs::canonicalize(&absolute)).map_err(|error| failed(&error))
}
