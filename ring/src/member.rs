//! The machines that a ring is made of.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

/// Identity of a node: random, born with its data directory. A wiped disk is a new node.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// An identity from 16 bytes of randomness, or as read back.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// All 32 hexadecimal digits; [`NodeId::from_str`] reads them back.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "NodeId({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a node id is 32 hexadecimal digits")]
pub struct NodeIdError;

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NodeIdError);
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| NodeIdError)
    }
}

/// Failure domain of a node: a rack, a room. At most [`Zone::LEN_MAX`] bytes, not empty, no control characters.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

/// The text cannot name a zone.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a zone is 1 to {max} bytes without control characters, not {text:?}", max = Zone::LEN_MAX)]
pub struct ZoneError {
    /// The text that was refused.
    pub text: String,
}

impl Zone {
    /// Long enough for `site/room/row/rack`, short enough to print in a table.
    pub const LEN_MAX: usize = 64;

    /// The zone as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Zone {
    type Error = ZoneError;

    fn try_from(text: String) -> Result<Self, ZoneError> {
        let fits = (1..=Self::LEN_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(Self(text)) } else { Err(ZoneError { text }) }
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Share of the chunks that a node should hold, relative to the others; by convention its capacity in GiB.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Weight(pub NonZeroU32);

/// A node as the solver sees it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Who it is.
    pub id: NodeId,
    /// Where it stands. Nodes without a zone are each a zone of their own.
    pub zone: Option<Zone>,
    /// How much it should hold.
    pub weight: Weight,
}
