//! What this release writes, beside what the first one wrote.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// So many zeros and more are written as their number in brackets.
const ZEROS_MIN: usize = 16;

/// Bytes by name.
#[derive(Default)]
pub(crate) struct Golden(BTreeMap<String, Vec<u8>>);

impl Golden {
    /// Adds bytes.
    pub(crate) fn bytes(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        assert!(self.0.insert(name.to_owned(), bytes.into()).is_none(), "{name} twice");
    }

    /// Adds a value, once it has come back from its bytes as it was.
    pub(crate) fn value<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, value: &T) {
        let bytes = postcard::to_stdvec(value).unwrap();
        assert_eq!(&postcard::from_bytes::<T>(&bytes).unwrap(), value, "{name}");
        self.bytes(name, bytes);
    }

    /// Fails unless the bytes are those in `golden/NAME.hex`; with `DFS_GOLDEN=write` they are put there first.
    pub(crate) fn check(&self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{name}.hex"));
        let text: String = self.0.iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect();
        if std::env::var_os("DFS_GOLDEN").is_some_and(|value| value == "write") {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        for (kept, now) in kept.lines().zip(text.lines()) {
            assert_eq!(now, kept, "a directory of the first release is not read any more");
        }
        assert_eq!(text, kept, "lines were added or are missing");
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let [first, others @ ..] = rest {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        if zeros >= ZEROS_MIN {
            write!(text, "({zeros})").unwrap();
            rest = &rest[zeros..];
        } else {
            write!(text, "{first:02x}").unwrap();
            rest = others;
        }
    }
    text
}
