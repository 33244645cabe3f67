//! A stream's bytes as a node reads them: however they arrive, they are the same frame or the same error, and a
//! request that is read is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::frame::{Frame, FrameDecoder, FrameError, RequestHeader, encode_request};

fn decode(bytes: &[u8], step: usize) -> Result<Option<Frame>, FrameError> {
    let mut decoder = FrameDecoder::default();
    let mut rest = bytes;
    loop {
        if let Some(frame) = decoder.poll_frame() {
            return Ok(Some(frame));
        }
        let (piece, behind) = rest.split_at(rest.len().min(step.min(decoder.wanted())));
        if piece.is_empty() {
            return Ok(None);
        }
        decoder.handle_bytes(piece)?;
        rest = behind;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes, usize::MAX);
    assert_eq!(whole, decode(bytes, 1));
    let Ok(Some(frame)) = whole else { return };
    let Ok(header) = frame.message::<RequestHeader>() else { return };
    let again = encode_request(&header.request, header.deadline_ms, frame.body_len() as usize).expect("it was read");
    let frame = decode(&again, usize::MAX).expect("it was written").expect("whole");
    assert_eq!(frame.message::<RequestHeader>().expect("it was written"), header);
});
