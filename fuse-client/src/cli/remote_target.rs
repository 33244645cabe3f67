//! Destinations in the store: what is there, and the paths that sources get.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use fuse_client::{FilePath, Namespace, namespace::Follow};
use wire::namespace::{FileType, Name};

use super::{
    failure::{Failure, Line},
    invocation::{cannot, parse_path},
    target::{Destination, IntoDirectory, Target, TargetError, targets},
    text::quote::quoted,
};

/// Paths in the store for `sources`, given as they were written. `action` is what is done to them.
pub(crate) async fn remote_targets(
    action: &str,
    files: &Namespace,
    sources: &[OsString],
    dst: &OsString,
    into: IntoDirectory,
) -> Result<Vec<FilePath>, Failure> {
    let path = parse_path(action_to(action).as_str(), dst)?;
    let attr = files.lookup(&path, Follow::Yes).await;
    let attr = attr.map_err(|error| cannot(&action_to(action), &path, &error).failed())?;
    let destination = match attr.map(|attr| attr.file_type) {
        Some(FileType::Directory) => Destination::Directory,
        Some(_) => Destination::File,
        None => Destination::Missing,
    };
    let written: Vec<&[u8]> = sources.iter().map(|source| source.as_bytes()).collect();
    let targets = targets(&written, dst.as_bytes(), destination, into).map_err(|error| {
        let line = Line::new(format!("cannot {action}")).because(&error);
        if matches!(error, TargetError::TooMany { .. }) {
            line.usage()
        } else if destination == Destination::Missing {
            line.advice("make it with dfs mkdir -p").failed()
        } else {
            line.failed()
        }
    })?;
    let in_path = |target: Target| match target {
        Target::Itself => Ok(path.clone()),
        Target::Inside(name) => Name::new(name.as_slice())
            .map(|name| path.join(name))
            .map_err(|error| Line::new(format!("cannot {action} {}", quoted(&name))).because(&error).failed()),
    };
    targets.into_iter().map(in_path).collect()
}

/// `upload to`, `copy to`.
fn action_to(action: &str) -> String {
    format!("{action} to")
}
