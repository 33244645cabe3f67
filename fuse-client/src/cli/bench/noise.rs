//! Bytes that neither compress nor were stored before, made as they are read.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use fuse_client::transfer::Progress;
use tokio::io::{AsyncRead, ReadBuf};

use crate::cli::progress::Meter;

/// SplitMix64: eight bytes in three multiplications, so that what is measured is not the source.
#[derive(Clone, Debug)]
pub(super) struct Noise {
    state: u64,
}

impl Noise {
    /// Other bytes for every seed.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Fills `bytes` with what comes next.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        let last = self.next().to_le_bytes();
        rest.iter_mut().zip(last).for_each(|(byte, noise)| *byte = noise);
    }
}

/// So many bytes of noise, as the content of a file; tells the meter of each that was taken.
#[derive(Debug)]
pub(super) struct NoiseFile {
    noise: Noise,
    left: u64,
    meter: Arc<Meter>,
}

impl NoiseFile {
    /// A file of `len` bytes.
    pub(super) fn new(noise: Noise, len: u64, meter: Arc<Meter>) -> Self {
        Self { noise, left: len, meter }
    }
}

impl AsyncRead for NoiseFile {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.remaining());
        self.noise.fill(buffer.initialize_unfilled_to(len));
        buffer.advance(len);
        self.left -= len as u64;
        self.meter.advanced(len as u64);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::Noise;

    #[test]
    fn noise_is_its_seeds_alone_and_every_byte_comes_as_often_as_others() {
        let of = |seed| {
            let mut bytes = vec![0; 100_001];
            Noise::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let mut counts = [0_u32; 256];
        for byte in of(7) {
            counts[usize::from(byte)] += 1;
        }
        assert!(counts.iter().all(|count| (270..520).contains(count)), "{counts:?}");
    }
}
