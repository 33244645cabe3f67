//! Destinations on this machine: what is there, and the paths that sources get.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{
    failure::{Failure, Line},
    target::{Destination, IntoDirectory, Target, targets},
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
        if destination == Destination::Missing { line.advice("make it with mkdir -p").failed() } else { line.failed() }
    })?;
    let in_path = |target| match target {
        Target::Itself => path.to_path_buf(),
        Target::Inside(name) => path.join(OsStr::from_bytes(&name)),
    };
    Ok(targets.into_iter().map(in_path).collect())
}
