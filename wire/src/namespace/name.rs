//! Names of directory entries and of extended attributes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest target of a symbolic link, in bytes, as `PATH_MAX` less its NUL.
pub const SYMLINK_LEN_MAX: usize = 4095;

/// Longest value of an extended attribute, in bytes, as the kernel's `XATTR_SIZE_MAX`.
pub const XATTR_VALUE_LEN_MAX: usize = 65_536;

/// The attribute that gives a program rights of the administrator's (`capabilities(7)`): it goes when the bytes change.
pub const CAPABILITY_XATTR: &[u8] = b"security.capability";

/// Name of a directory entry: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Name(Vec<u8>);

/// The bytes cannot name a directory entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name is not empty")]
    Empty,
    /// More than [`Name::LEN_MAX`] bytes.
    #[error("a name is at most 255 bytes long, not {len}")]
    TooLong {
        /// Length found.
        len: usize,
    },
    /// `.`, `..`, or a name with `/` or NUL in it.
    #[error("a name is not . or .. and has no / and no NUL in it")]
    Reserved,
}

impl Name {
    /// As on every Unix file system.
    pub const LEN_MAX: usize = 255;

    /// A name from its bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > Self::LEN_MAX {
            return Err(NameError::TooLong { len: bytes.len() });
        }
        if bytes == b"." || bytes == b".." || bytes.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(NameError::Reserved);
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = NameError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, NameError> {
        Self::new(bytes)
    }
}

impl From<Name> for Vec<u8> {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// As text, with bytes that are not UTF-8 replaced.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Name of an extended attribute with its namespace (`user.color`): 1 to 255 bytes, no NUL.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct XattrName(Vec<u8>);

impl XattrName {
    /// A name from its bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(NameError::Empty),
            len if len > Name::LEN_MAX => Err(NameError::TooLong { len }),
            _ if bytes.contains(&0) => Err(NameError::Reserved),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for XattrName {
    type Error = NameError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, NameError> {
        Self::new(bytes)
    }
}

impl From<XattrName> for Vec<u8> {
    fn from(name: XattrName) -> Self {
        name.0
    }
}
