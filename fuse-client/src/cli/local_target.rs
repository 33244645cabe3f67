//! Destinations on this machine: what is there, and the paths that sources get.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{
    failure::{Failure, Line},
    target::{Destination, IntoDirectory, Target, TargetError, targets},
    text::quote::quoted,
};

/// Local paths for `sources`, given as they were written.
pub(crate) fn local_targets(
    sources: &[OsString],
    dst: &OsString,
    into: IntoDirectory,
) -> Result<Vec<PathBuf>, Failure> {
    let path = Path::new(dst);
    let destination = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Destination::Directory,
        Ok(_) => Destination::File,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Destination::Missing,
        Err(error) => {
            return Err(Line::new(format!("cannot download to {}", quoted(dst.as_bytes()))).because(&error).failed());
        }
    };
    let written: Vec<&[u8]> = sources.iter().map(|source| source.as_bytes()).collect();
    let targets = targets(&written, dst.as_bytes(), destination, into).map_err(|error| {
        let line = Line::new("cannot download").because(&error);
        if matches!(error, TargetError::TooMany { .. }) {
            return line.usage();
        }
        if destination == Destination::Missing { line.advice("make it with mkdir -p").failed() } else { line.failed() }
    })?;
    let in_path = |target| match target {
        Target::Itself => through_link(path, destination),
        // A link in a directory is replaced: it may be somebody else's.
        Target::Inside(name) => Ok(path.join(OsStr::from_bytes(&name))),
    };
    targets.into_iter().map(in_path).collect()
}

/// What a link leads to that a person names: the link stays, as with `cp`. The kernel has followed it before, which it
/// refuses where it may be a trap.
fn through_link(path: &Path, destination: Destination) -> Result<PathBuf, Failure> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_symlink());
    let real = match (is_link, destination) {
        (false, _) | (_, Destination::Directory) => return Ok(path.to_path_buf()),
        (true, Destination::File) => fs::canonicalize(path).ok(),
        (true, Destination::Missing) => None,
    };
    match real {
        Some(real) => Ok(real),
        // A pipe has no path; it is in the way as what it is.
        None if fs::metadata(path).is_ok_and(|there| !there.is_file()) => Ok(path.to_path_buf()),
        None => {
            let line = Line::new(format!("cannot download to {}", quoted(path.as_os_str().as_bytes())));
            Err(line.why("a link that leads nowhere is in the way").failed())
        }
    }
}
