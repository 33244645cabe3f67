//! Paths in the store: absolute, made of bytes. Pure.

use std::fmt;

use wire::namespace::{Name, NameError};

/// One step of a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Component {
    /// Down, to an entry.
    Name(Name),
    /// Up, as `..`: to the directory that was really passed, so a link before it counts.
    Parent,
}

/// Path of a file in the store, from its root. `/a/./b//c` and `/a/b/c` are the same path; a relative one is taken
/// from the root.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FilePath {
    components: Vec<Component>,
    directory: bool,
}

/// The bytes are no path.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// One of the names cannot be.
    #[error("{path}: {source}")]
    Name {
        /// The path, as text.
        path: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// Longer than [`FilePath::LEN_MAX`].
    #[error("a path is at most {max} bytes long, not {len}", max = FilePath::LEN_MAX)]
    TooLong {
        /// Length found.
        len: usize,
    },
}

impl FilePath {
    /// Sixteen times what the kernel takes: trees that were moved below others stay reachable, and a walk bounded.
    pub const LEN_MAX: usize = 65_536;

    /// The root directory.
    pub const fn root() -> Self {
        Self { components: Vec::new(), directory: true }
    }

    /// A path from its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > Self::LEN_MAX {
            return Err(PathError::TooLong { len: bytes.len() });
        }
        let mut components = Vec::new();
        let mut directory = true;
        for part in bytes.split(|&byte| byte == b'/') {
            directory = matches!(part, b"" | b"." | b"..");
            match part {
                b"" | b"." => {}
                b".." => components.push(Component::Parent),
                name => components.push(Component::Name(Name::new(name).map_err(|source| PathError::Name {
                    path: String::from_utf8_lossy(bytes).into_owned(),
                    source,
                })?)),
            }
        }
        Ok(Self { components, directory })
    }

    /// The steps from the root.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// Whether the way it was written asks for a directory (`/a/`, `/a/.`, `/`).
    pub fn wants_directory(&self) -> bool {
        self.directory
    }

    /// The last step, if it is a name.
    pub fn file_name(&self) -> Option<&Name> {
        match self.components.last() {
            Some(Component::Name(name)) => Some(name),
            Some(Component::Parent) | None => None,
        }
    }

    /// All steps but the last; the root has none.
    pub fn parent(&self) -> Option<Self> {
        let (_, rest) = self.components.split_last()?;
        Some(Self { components: rest.to_vec(), directory: true })
    }

    /// The entry `name` of this directory.
    #[must_use]
    pub fn join(&self, name: Name) -> Self {
        let mut components = self.components.clone();
        components.push(Component::Name(name));
        Self { components, directory: false }
    }

    /// The path as bytes, in its shortest form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for component in &self.components {
            bytes.push(b'/');
            match component {
                Component::Name(name) => bytes.extend_from_slice(name.as_bytes()),
                Component::Parent => bytes.extend_from_slice(b".."),
            }
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes
    }
}

/// As text, with bytes that are not UTF-8 replaced.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::FilePath;

    #[test]
    fn a_path_has_one_shortest_form_however_it_was_written() {
        for (written, shortest, directory) in [
            (&b""[..], &b"/"[..], true),
            (b"/", b"/", true),
            (b"a/b", b"/a/b", false),
            (b"//a/./b/", b"/a/b", true),
            (b"/a/../b", b"/a/../b", false),
            (b"/a/..", b"/a/..", true),
            (b"/\xff", b"/\xff", false),
        ] {
            let path = FilePath::parse(written).unwrap();
            assert_eq!((path.to_bytes().as_slice(), path.wants_directory()), (shortest, directory), "{written:?}");
            assert_eq!(FilePath::parse(&path.to_bytes()).unwrap().to_bytes(), shortest);
        }
    }

    #[test]
    fn a_name_of_256_bytes_and_a_nul_are_refused_with_the_path_in_the_message() {
        let long = [&b"/"[..], &[b'x'; 256]].concat();
        assert!(FilePath::parse(&long).unwrap_err().to_string().contains("255"));
        assert!(FilePath::parse(b"/a\0b").is_err());
        assert!(FilePath::parse(&vec![b'/'; FilePath::LEN_MAX + 1]).is_err());
    }
}
