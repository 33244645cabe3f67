//! Frames: a prefix of eight bytes, a header in postcard, a body of raw bytes. Pure.
//!
//! ```text
//! 0        4        8                 8+header_len            8+header_len+body_len
//! ├ header_len u32 LE ┼ body_len u32 LE ┼ header (postcard) ┼ body (raw) ┤
//! ```
//!
//! # Invariants
//! - Both lengths are checked before anything is allocated for them, and a header's memory grows with what arrives,
//!   not with what is promised.
//! - A header is read to its last byte: bytes left over after its message make it malformed.
//!
//! # Not here
//! Streams (`quic`); what the headers say ([`crate::Request`], [`crate::Reply`]).

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{CHUNK_LEN_MAX, Request};

/// Longest header: a page of a directory with contents ends at 1 MiB, a cluster map of a thousand nodes with its
/// ring stays below 1 MiB; four times that is still nothing to allocate.
pub const FRAME_LEN_MAX: u32 = 4 << 20;

/// Longest header of a peer that has not been welcomed yet: a redemption is its request for a certificate and some words.
pub const FIRST_WORDS_LEN_MAX: u32 = 16 << 10;

/// Longest body: a whole chunk, and what goes before it (a proof, a piece of a snapshot's own header).
pub const BODY_LEN_MAX: u32 = CHUNK_LEN_MAX + (64 << 10);

/// Bytes of the prefix.
pub const PREFIX_LEN: usize = 8;

/// Memory set aside for a header before any of it has arrived.
const HEADER_CAPACITY: usize = 4 << 10;

const _: () = assert!(CHUNK_LEN_MAX < BODY_LEN_MAX && crate::tree::PROOF_LEN_MAX < (64 << 10));
const _: () = assert!(HEADER_CAPACITY < FRAME_LEN_MAX as usize);

/// The bytes are no frame, or break a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// The header is longer than [`FRAME_LEN_MAX`], or than its sender may send, or empty.
    #[error("a header of {len} bytes")]
    HeaderLen {
        /// Length announced, or length of what was to be sent.
        len: u64,
    },
    /// The body is longer than [`BODY_LEN_MAX`].
    #[error("a body of {len} bytes")]
    BodyLen {
        /// Length announced, or length of what was to be sent.
        len: u64,
    },
    /// The header is no message, or more than one.
    #[error("a header that is no message")]
    Message,
}

/// A header that has arrived, and how long the body behind it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    header: Vec<u8>,
    body_len: u32,
}

/// A request as it travels: with what is left of the asker's deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestHeader {
    /// Milliseconds that the asker will still wait.
    pub deadline_ms: u32,
    /// What is asked.
    pub request: Request,
}

/// The same, to be sent without copying the request.
#[derive(Serialize)]
struct RequestHeaderRef<'a> {
    deadline_ms: u32,
    request: &'a Request,
}

/// Takes bytes as they arrive and gives the frame's header once it is whole. Never takes a byte of the body.
#[derive(Debug)]
pub struct FrameDecoder {
    header_len_max: u32,
    state: DecoderState,
}

#[derive(Debug)]
enum DecoderState {
    Prefix { bytes: [u8; PREFIX_LEN], filled: usize },
    Header { header: Vec<u8>, header_len: usize, body_len: u32 },
}

/// Prefix and header of a frame whose body of `body_len` bytes is sent behind it.
pub fn encode(message: &impl Serialize, body_len: usize) -> Result<Vec<u8>, FrameError> {
    let body_len = u32::try_from(body_len)
        .ok()
        .filter(|&len| len <= BODY_LEN_MAX)
        .ok_or(FrameError::BodyLen { len: body_len as u64 })?;
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&[0; PREFIX_LEN]);
    let mut bytes = postcard::to_extend(message, bytes).map_err(|_| FrameError::Message)?;
    let len = bytes.len() - PREFIX_LEN;
    let header_len = u32::try_from(len)
        .ok()
        .filter(|&len| (1..=FRAME_LEN_MAX).contains(&len))
        .ok_or(FrameError::HeaderLen { len: len as u64 })?;
    let (prefix, _) = bytes.split_at_mut(PREFIX_LEN);
    let (header_place, body_place) = prefix.split_at_mut(4);
    header_place.copy_from_slice(&header_len.to_le_bytes());
    body_place.copy_from_slice(&body_len.to_le_bytes());
    Ok(bytes)
}

/// Prefix and header of a request.
pub fn encode_request(request: &Request, deadline_ms: u32, body_len: usize) -> Result<Vec<u8>, FrameError> {
    encode(&RequestHeaderRef { deadline_ms, request }, body_len)
}

impl Frame {
    /// The message in the header.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        match postcard::take_from_bytes(&self.header) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => Err(FrameError::Message),
        }
    }

    /// Bytes that follow the header.
    pub fn body_len(&self) -> u32 {
        self.body_len
    }
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::with_header_max(FRAME_LEN_MAX)
    }
}

impl FrameDecoder {
    /// Takes headers of at most `header_len_max` bytes: for those who are not trusted with more yet.
    pub fn with_header_max(header_len_max: u32) -> Self {
        Self { header_len_max, state: DecoderState::Prefix { bytes: [0; PREFIX_LEN], filled: 0 } }
    }

    /// Bytes that the prefix or the header still lacks: read at most so many. 0 once the header is whole.
    pub fn wanted(&self) -> usize {
        match &self.state {
            DecoderState::Prefix { filled, .. } => PREFIX_LEN - filled,
            DecoderState::Header { header, header_len, .. } => header_len - header.len(),
        }
    }

    /// Takes what has arrived.
    ///
    /// # Panics
    /// If it is more than [`FrameDecoder::wanted`].
    pub fn handle_bytes(&mut self, arrived: &[u8]) -> Result<(), FrameError> {
        assert!(arrived.len() <= self.wanted(), "a reader takes no byte of the body for one of the header");
        match &mut self.state {
            DecoderState::Prefix { bytes, filled } => {
                let end = *filled + arrived.len();
                bytes.get_mut(*filled..end).expect("at most as much as is wanted").copy_from_slice(arrived);
                *filled = end;
                if end == PREFIX_LEN {
                    self.state = check_prefix(*bytes, self.header_len_max)?;
                }
            }
            DecoderState::Header { header, .. } => header.extend_from_slice(arrived),
        }
        Ok(())
    }

    /// The header, once it is whole.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        match &mut self.state {
            DecoderState::Header { header, header_len, body_len } if header.len() == *header_len => {
                Some(Frame { header: std::mem::take(header), body_len: *body_len })
            }
            DecoderState::Prefix { .. } | DecoderState::Header { .. } => None,
        }
    }
}

fn check_prefix([a, b, c, d, e, f, g, h]: [u8; PREFIX_LEN], header_len_max: u32) -> Result<DecoderState, FrameError> {
    let (header_len, body_len) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if header_len == 0 || header_len > header_len_max {
        return Err(FrameError::HeaderLen { len: header_len.into() });
    }
    if body_len > BODY_LEN_MAX {
        return Err(FrameError::BodyLen { len: body_len.into() });
    }
    let header_len = header_len as usize;
    Ok(DecoderState::Header { header: Vec::with_capacity(header_len.min(HEADER_CAPACITY)), header_len, body_len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ChunkRequest;

    fn request() -> Request {
        Request::Chunk(ChunkRequest::Sync { epoch: ring::Epoch(300) })
    }

    /// Feeds `bytes` in pieces of at most `step`; what is left over is the body.
    fn decode(bytes: &[u8], step: usize) -> Result<(Option<Frame>, usize), FrameError> {
        let mut decoder = FrameDecoder::default();
        let mut at = 0;
        loop {
            if let Some(frame) = decoder.poll_frame() {
                return Ok((Some(frame), at));
            }
            let end = bytes.len().min(at + step.min(decoder.wanted()));
            if at == end {
                return Ok((None, at));
            }
            decoder.handle_bytes(&bytes[at..end])?;
            at = end;
        }
    }

    #[test]
    fn a_frame_is_the_same_however_it_is_cut_and_leaves_the_body_alone() {
        let mut bytes = encode_request(&request(), 1500, 3).unwrap();
        let head_len = bytes.len();
        bytes.extend_from_slice(b"abc");
        for step in 1..=bytes.len() {
            let (frame, end) = decode(&bytes, step).unwrap();
            let frame = frame.unwrap();
            assert_eq!((end, frame.body_len()), (head_len, 3));
            let header: RequestHeader = frame.message().unwrap();
            assert_eq!(header, RequestHeader { deadline_ms: 1500, request: request() });
        }
    }

    #[test]
    fn a_truncated_frame_is_no_frame() {
        let bytes = encode_request(&request(), 0, 0).unwrap();
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], 64).unwrap(), (None, len));
        }
    }

    #[test]
    fn a_lying_length_is_refused_before_memory_is_set_aside() {
        let prefix = |header: u32, body: u32| [header.to_le_bytes(), body.to_le_bytes()].concat();
        for (bytes, error) in [
            (prefix(0, 0), FrameError::HeaderLen { len: 0 }),
            (prefix(FRAME_LEN_MAX + 1, 0), FrameError::HeaderLen { len: u64::from(FRAME_LEN_MAX) + 1 }),
            (prefix(u32::MAX, 0), FrameError::HeaderLen { len: u64::from(u32::MAX) }),
            (prefix(1, BODY_LEN_MAX + 1), FrameError::BodyLen { len: u64::from(BODY_LEN_MAX) + 1 }),
        ] {
            assert_eq!(decode(&bytes, 8).unwrap_err(), error);
        }
        let mut decoder = FrameDecoder::default();
        decoder.handle_bytes(&prefix(FRAME_LEN_MAX, BODY_LEN_MAX)).unwrap();
        let DecoderState::Header { header, .. } = &decoder.state else { panic!("the prefix is whole") };
        assert!(header.capacity() <= HEADER_CAPACITY, "4 MiB promised are not 4 MiB set aside");
    }

    #[test]
    fn a_stranger_may_announce_no_more_than_first_words() {
        for (len, is_taken) in [(FIRST_WORDS_LEN_MAX, true), (FIRST_WORDS_LEN_MAX + 1, false)] {
            let mut decoder = FrameDecoder::with_header_max(FIRST_WORDS_LEN_MAX);
            let taken = decoder.handle_bytes(&[len.to_le_bytes(), [0; 4]].concat());
            assert_eq!(taken.is_ok(), is_taken, "{len}");
        }
    }

    #[test]
    fn bytes_after_the_message_make_a_header_malformed() {
        let mut bytes = encode_request(&request(), 1500, 0).unwrap();
        bytes.push(0);
        let header_len = (bytes.len() - PREFIX_LEN) as u32;
        bytes[..4].copy_from_slice(&header_len.to_le_bytes());
        let (frame, _) = decode(&bytes, 64).unwrap();
        assert_eq!(frame.unwrap().message::<RequestHeader>(), Err(FrameError::Message));
    }

    #[test]
    fn what_breaks_a_limit_is_not_sent() {
        let long = Request::Raft(vec![0; FRAME_LEN_MAX as usize]);
        assert!(matches!(encode_request(&long, 0, 0), Err(FrameError::HeaderLen { .. })));
        assert!(matches!(encode_request(&request(), 0, BODY_LEN_MAX as usize + 1), Err(FrameError::BodyLen { .. })));
    }
}
