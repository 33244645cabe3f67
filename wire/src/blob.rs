//! Byte strings through serde in one piece: `#[serde(with = "crate::blob")]`. Pure.
//!
//! Serde takes a `Vec<u8>` for a list of numbers and moves it byte by byte. In postcard both are a length and the
//! bytes, so this changes the time only: a batch of small files in the Raft log is megabytes of them.

use std::fmt;

use serde::{
    Deserializer, Serializer,
    de::{Error, SeqAccess, Visitor},
};

/// Most that is set aside before the bytes are there.
const CAPACITY_MAX: usize = 4096;

pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_byte_buf(BlobVisitor)
}

struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    /// Formats without byte strings, JSON among them.
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::with_capacity(sequence.size_hint().unwrap_or(0).min(CAPACITY_MAX));
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::namespace::InlineData;

    #[test]
    fn a_blob_is_what_postcard_makes_of_a_list_of_bytes() {
        for len in [0, 1, 127, 128, 4096] {
            let data = InlineData::new(vec![0xab; len]);
            let bytes = postcard::to_stdvec(&data).unwrap();
            assert_eq!(bytes, postcard::to_stdvec(&(&data.bytes, data.hash)).unwrap());
            assert_eq!(postcard::from_bytes::<InlineData>(&bytes).unwrap(), data);
        }
    }
}
