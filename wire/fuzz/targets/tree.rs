//! A range with its proof from a node that lies: what is accepted is what the chunk holds.
#![no_main]

use std::sync::OnceLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wire::tree::{ChunkTree, GROUP_LEN, VerifiedChunk, verify, widen};

const CHUNK_LEN: u32 = 5 * GROUP_LEN + 77;

fn chunk() -> &'static VerifiedChunk {
    static CHUNK: OnceLock<VerifiedChunk> = OnceLock::new();
    CHUNK.get_or_init(|| VerifiedChunk::seal((0..CHUNK_LEN).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_first_chunk::<12>() else { return };
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *head;
    let (chunk_len, offset) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    let len = u32::from_le_bytes([i, j, k, l]);
    let chunk = chunk();
    // Bytes of the chunk with a proof that the input bends, as the sender says they are.
    if let Some(range) = widen(CHUNK_LEN, offset % CHUNK_LEN, len) {
        let mut proof = chunk.tree().proof(&range);
        let bent = proof.iter_mut().zip(rest).fold(false, |bent, (byte, change)| {
            *byte ^= change;
            bent || *change != 0
        });
        let data = chunk.bytes().slice(range.start as usize..range.end as usize);
        let verified = verify(chunk.key(), CHUNK_LEN, range.start, data.clone(), &proof);
        assert_eq!(verified.is_err(), bent);
        if let Ok(verified) = verify(chunk.key(), chunk_len, offset, data, &proof) {
            let start = verified.offset() as usize;
            assert_eq!(*verified.bytes(), chunk.bytes()[start..start + verified.bytes().len()]);
        }
    }
    let (data, proof) = rest.split_at(rest.len() / 2);
    assert!(verify(chunk.key(), chunk_len, offset, Bytes::copy_from_slice(data), proof).is_err());
    if let Ok(tree) = ChunkTree::from_stored(chunk_len, rest) {
        assert!(chunk_len <= GROUP_LEN || !tree.leads_to(&chunk.key()));
    }
});
