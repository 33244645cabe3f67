//! Cuts a stream into chunks at multiples of 4 MiB of its offset.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use wire::CHUNK_LEN_MAX;

use super::put::Sealed;

/// A source, and how far it was read.
#[derive(Debug)]
pub(super) struct Splitter<S> {
    source: S,
    offset: u64,
}

impl<S: AsyncRead + Unpin> Splitter<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, offset: 0 }
    }

    /// The next chunk and its offset; none at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<(u64, Sealed)>> {
        let len_max = CHUNK_LEN_MAX as usize;
        let mut bytes = BytesMut::with_capacity(len_max);
        while bytes.len() < len_max {
            let room = len_max - bytes.len();
            if (&mut self.source).take(room as u64).read_buf(&mut bytes).await? == 0 {
                break;
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        Ok(Some((offset, Sealed::new(bytes.freeze()))))
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}
