//! Which name each source gets, by the rules of `cp`. Pure.
//!
//! - `DST` is a directory: each source goes into it, under its own last name.
//! - `DST` does not exist, or is a file: one source, which gets this very name.
//! - A source without a last name of its own (`.`, `dir/.`, `/`) means its contents: they are merged into `DST`.
//! - With `-T`, `DST` is the name itself even if it is a directory: running a command again does the same again.

use std::collections::BTreeSet;

use super::text::quote::quoted;

/// What stands at the destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Destination {
    /// A directory, or a link to one.
    Directory,
    /// Something else.
    File,
    /// Nothing.
    Missing,
}

/// Whether a directory at the destination takes the sources in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum IntoDirectory {
    /// As `cp` does.
    Yes,
    /// As `cp -T` does: it is the target itself.
    No,
}

/// Where one source goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// To the destination itself.
    Itself,
    /// Into the destination, under this name.
    Inside(Vec<u8>),
}

/// The sources cannot go to the destination.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum TargetError {
    /// Several sources need a directory, or the destination was written as one (`DST/`).
    #[error("{dst} is not a directory")]
    NotDirectory {
        /// The destination, quoted.
        dst: String,
    },
    /// Likewise, and there is nothing.
    #[error("{dst} does not exist")]
    Missing {
        /// The destination, quoted.
        dst: String,
    },
    /// `-T` leaves room for one source.
    #[error("-T takes one source, not {count}")]
    TooMany {
        /// Sources given.
        count: usize,
    },
    /// The second would overwrite the first.
    #[error("two sources are called {name}")]
    SameName {
        /// The name, quoted.
        name: String,
    },
}

/// Targets of `sources`, in order. `dst` is the destination as it was written.
pub(crate) fn targets(
    sources: &[&[u8]],
    dst: &[u8],
    destination: Destination,
    into: IntoDirectory,
) -> Result<Vec<Target>, TargetError> {
    let not_directory = || match destination {
        Destination::Missing => TargetError::Missing { dst: quoted(dst) },
        Destination::File | Destination::Directory => TargetError::NotDirectory { dst: quoted(dst) },
    };
    if into == IntoDirectory::No && sources.len() != 1 {
        return Err(TargetError::TooMany { count: sources.len() });
    }
    if destination != Destination::Directory || into == IntoDirectory::No {
        // `cp file new/` would otherwise make a file where a directory was meant.
        let meant_directory = dst.ends_with(b"/") && !sources.iter().all(|source| means_directory(source));
        if sources.len() != 1 || (meant_directory && destination != Destination::Directory) {
            return Err(not_directory());
        }
        return Ok(vec![Target::Itself]);
    }
    let mut names = BTreeSet::new();
    let mut targets = Vec::with_capacity(sources.len());
    for source in sources {
        targets.push(match last_name(source) {
            None => Target::Itself,
            Some(name) if names.insert(name) => Target::Inside(name.to_vec()),
            Some(name) => return Err(TargetError::SameName { name: quoted(name) }),
        });
    }
    Ok(targets)
}

/// The last name of a path as it was written; none for `.`, `..`, `/`, and what ends in them.
pub(crate) fn last_name(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|&byte| byte != b'/')? + 1;
    let name = path.get(..end)?.rsplit(|&byte| byte == b'/').next()?;
    (name != b"." && name != b"..").then_some(name)
}

/// Whether the path was written as that of a directory.
fn means_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || last_name(path).is_none()
}

#[cfg(test)]
mod tests {
    use super::{Destination, IntoDirectory, Target, TargetError, last_name, targets};

    fn inside(name: &str) -> Target {
        Target::Inside(name.into())
    }

    fn plan(sources: &[&str], dst: &str, destination: Destination) -> Result<Vec<Target>, TargetError> {
        let sources: Vec<&[u8]> = sources.iter().map(|source| source.as_bytes()).collect();
        targets(&sources, dst.as_bytes(), destination, IntoDirectory::Yes)
    }

    #[test]
    fn sources_go_into_a_directory_under_their_last_names() {
        let plan = plan(&["a", "/x/b/", "./c//"], "d", Destination::Directory).unwrap();
        assert_eq!(plan, [inside("a"), inside("b"), inside("c")]);
    }

    #[test]
    fn one_source_gets_a_new_name_or_replaces_a_file() {
        assert_eq!(plan(&["a"], "new", Destination::Missing).unwrap(), [Target::Itself]);
        assert_eq!(plan(&["a"], "old", Destination::File).unwrap(), [Target::Itself]);
    }

    #[test]
    fn the_contents_of_dot_are_merged_into_the_destination() {
        for source in [".", "src/.", "..", "/"] {
            assert_eq!(plan(&[source], "d", Destination::Directory).unwrap(), [Target::Itself], "{source}");
            assert_eq!(plan(&[source], "d/", Destination::Missing).unwrap(), [Target::Itself], "{source}");
        }
    }

    #[test]
    fn what_needs_a_directory_does_not_make_a_file() {
        let dst = || "'d'".to_owned();
        let slash = || "'d/'".to_owned();
        assert_eq!(plan(&["a", "b"], "d", Destination::Missing), Err(TargetError::Missing { dst: dst() }));
        assert_eq!(plan(&["a", "b"], "d", Destination::File), Err(TargetError::NotDirectory { dst: dst() }));
        assert_eq!(plan(&["a"], "d/", Destination::Missing), Err(TargetError::Missing { dst: slash() }));
        assert_eq!(plan(&["a"], "d/", Destination::File), Err(TargetError::NotDirectory { dst: slash() }));
        assert_eq!(plan(&["a/"], "d/", Destination::Missing).unwrap(), [Target::Itself], "a directory makes one");
    }

    #[test]
    fn two_sources_never_get_one_name() {
        assert_eq!(
            plan(&["x/a", "y/a/"], "d", Destination::Directory),
            Err(TargetError::SameName { name: "'a'".into() })
        );
    }

    #[test]
    fn with_t_a_directory_is_the_target_itself() {
        let into = IntoDirectory::No;
        assert_eq!(targets(&[b"a"], b"d", Destination::Directory, into).unwrap(), [Target::Itself]);
        assert_eq!(targets(&[b"a"], b"d/", Destination::Directory, into).unwrap(), [Target::Itself]);
        assert_eq!(targets(&[b"a", b"b"], b"d", Destination::Directory, into), Err(TargetError::TooMany { count: 2 }));
    }

    #[test]
    fn the_last_name_is_read_from_the_path_as_it_was_written() {
        assert_eq!(last_name(b"a/b"), Some(&b"b"[..]));
        assert_eq!(last_name(b"a/b///"), Some(&b"b"[..]));
        assert_eq!(last_name(b"b"), Some(&b"b"[..]));
        assert_eq!(last_name(b"a/."), None);
        assert_eq!(last_name(b"//"), None);
        assert_eq!(last_name(b""), None);
    }
}
