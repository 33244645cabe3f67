//! Frames over the two halves of a stream.

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, WriteError};

use super::error::CODE_GIVEN_UP;
use crate::buffer::Buffer;
use crate::frame::{FIRST_WORDS_LEN_MAX, Frame, FrameDecoder, FrameError};

/// Why nothing more comes from a stream.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// The bytes are no frame.
    Malformed(FrameError),
    /// The stream ended within a frame.
    Short,
    /// The peer reset the stream.
    Reset,
    /// The connection is lost.
    Connection(quinn::ConnectionError),
}

/// Why nothing more goes into a stream.
#[derive(Debug)]
pub(super) enum WriteEnd {
    /// The peer reads no more of it.
    Stopped,
    /// The connection is lost.
    Connection(quinn::ConnectionError),
}

/// Sends. Dropped before [`SendHalf::settle`], it resets the stream:
/// quinn alone would end it as if all had been said.
#[derive(Debug)]
pub(super) struct SendHalf {
    stream: SendStream,
    settled: bool,
}

impl SendHalf {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream, settled: false }
    }

    /// Sends a header and the parts of a body, none of them copied here, and ends the stream.
    pub(super) async fn send(&mut self, header: Vec<u8>, body: &[Bytes]) -> Result<(), WriteEnd> {
        let mut parts: Vec<Bytes> = Vec::with_capacity(1 + body.len());
        parts.push(header.into());
        parts.extend(body.iter().filter(|part| !part.is_empty()).cloned());
        self.stream.write_all_chunks(&mut parts).await?;
        self.stream.finish().map_err(|_| WriteEnd::Stopped)
    }

    /// Nothing is to be reset any more: the other half has brought the answer, or what was sent is the answer.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// Waits until the peer has received all, or wants no more of it.
    pub(super) async fn received(&self) {
        self.stopped().await;
    }

    /// Resolves when the peer wants no more of it, or has received all, or is lost.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.stream.stopped();
        async move {
            // However it ended, it ended.
            let _outcome = stopped.await;
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.settled {
            // Fails if the peer has all of it or has stopped reading: then there is nothing to take back.
            let _outcome = self.stream.reset(CODE_GIVEN_UP);
        }
    }
}

/// The next frame's header; not a byte of the body behind it is read.
pub(super) async fn read_frame(stream: &mut RecvStream) -> Result<Frame, ReadEnd> {
    read_with(stream, FrameDecoder::default()).await
}

/// The same from a peer that has not been welcomed yet.
pub(super) async fn read_first_words(stream: &mut RecvStream) -> Result<Frame, ReadEnd> {
    read_with(stream, FrameDecoder::with_header_max(FIRST_WORDS_LEN_MAX)).await
}

async fn read_with(stream: &mut RecvStream, mut decoder: FrameDecoder) -> Result<Frame, ReadEnd> {
    loop {
        let chunk = stream.read_chunk(decoder.wanted(), true).await?.ok_or(ReadEnd::Short)?;
        decoder.handle_bytes(&chunk.bytes).map_err(ReadEnd::Malformed)?;
        if let Some(frame) = decoder.poll_frame() {
            return Ok(frame);
        }
    }
}

/// A body of `len` bytes, contiguous: what comes in pieces is copied together once, what came in one piece not at all.
pub(super) async fn read_body(stream: &mut RecvStream, len: u32) -> Result<Bytes, ReadEnd> {
    let len = len as usize;
    if len == 0 {
        return Ok(Bytes::new());
    }
    let first = stream.read_chunk(len, true).await?.ok_or(ReadEnd::Short)?.bytes;
    if first.len() == len {
        return Ok(first);
    }
    let mut body = Buffer::with_len(len);
    let mut filled = 0;
    let mut next = first;
    loop {
        let end = filled + next.len();
        body.get_mut(filled..end).expect("no more is asked for than there is room").copy_from_slice(&next);
        filled = end;
        if filled == len {
            return Ok(body.freeze(len));
        }
        next = stream.read_chunk(len - filled, true).await?.ok_or(ReadEnd::Short)?.bytes;
    }
}

/// Sees to it that the frame was the last.
pub(super) async fn read_end(stream: &mut RecvStream) -> Result<(), ReadEnd> {
    match stream.read_chunk(1, true).await? {
        None => Ok(()),
        Some(_) => Err(ReadEnd::Malformed(FrameError::Message)),
    }
}

impl From<ReadError> for ReadEnd {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Connection(error),
            ReadError::Reset(_) | ReadError::ClosedStream | ReadError::ZeroRttRejected => Self::Reset,
            ReadError::IllegalOrderedRead => unreachable!("streams are read in order only"),
        }
    }
}

impl From<WriteError> for WriteEnd {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Connection(error),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Stopped,
        }
    }
}
