//! Claims about trees and proofs; `blake3::hash` is the judge.

use proptest::prelude::*;

use super::*;

const GROUP: usize = GROUP_LEN as usize;

/// Bytes that differ from group to group and leaf to leaf.
fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Hasher::new().update(&(len as u64).to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Lengths around every border up to nine groups, and around the largest chunk.
fn lengths() -> Vec<usize> {
    let mut lengths = vec![0, 1, 1023, 1024, 1025];
    for groups in 1..=9 {
        lengths.extend([groups * GROUP - 1, groups * GROUP, groups * GROUP + 1, groups * GROUP + 1025]);
    }
    let max = CHUNK_LEN_MAX as usize;
    lengths.extend([max / 2 + 1, max - GROUP - 1, max - 1, max]);
    lengths
}

#[test]
fn the_key_of_a_tree_is_the_blake3_of_the_bytes() {
    for len in lengths() {
        let bytes = bytes(len);
        let (key, tree) = ChunkTree::build(&bytes);
        assert_eq!(key.as_bytes(), blake3::hash(&bytes).as_bytes(), "{len} bytes");
        assert_eq!(tree.chunk_len() as usize, len);
        assert_eq!(tree.to_stored().len(), ChunkTree::stored_len(tree.chunk_len()));
    }
}

#[test]
fn a_stored_tree_comes_back_and_knows_its_chunk() {
    for len in lengths() {
        let (key, tree) = ChunkTree::build(&bytes(len));
        let stored = tree.to_stored();
        let back = ChunkTree::from_stored(len as u32, &stored).unwrap();
        assert_eq!(back, tree);
        assert!(back.leads_to(&key));
        if !stored.is_empty() {
            let mut rotten = stored.clone();
            *rotten.last_mut().unwrap() ^= 1;
            assert!(!ChunkTree::from_stored(len as u32, &rotten).unwrap().leads_to(&key));
            assert!(ChunkTree::from_stored(len as u32, &stored[1..]).is_err());
        }
    }
    assert!(ChunkTree::from_stored(u32::MAX, &[]).is_err());
}

#[test]
fn every_range_of_small_chunks_is_proved_and_nothing_else_is() {
    for len in (1..=7 * GROUP).step_by(GROUP / 2 + 13) {
        let bytes = Bytes::from(bytes(len));
        let (key, tree) = ChunkTree::build(&bytes);
        for start in (0..len).step_by(GROUP) {
            for end in (start + GROUP..len).step_by(GROUP).chain([len]) {
                let range = start as u32..end as u32;
                let proof = tree.proof(&range);
                assert!(proof.len() <= PROOF_LEN_MAX);
                assert_eq!(proof.is_empty(), (start, end) == (0, len), "only a whole chunk needs no proof");
                let verified = verify(key, len as u32, range.start, bytes.slice(start..end), &proof).unwrap();
                assert_eq!(verified.bytes(), &bytes.slice(start..end));
                refuses_what_is_not_so(key, &bytes, start..end, &proof);
            }
        }
    }
}

/// Every other offset and length, a longer or shorter proof, and another chunk's key are refused.
fn refuses_what_is_not_so(key: ChunkKey, bytes: &Bytes, range: Range<usize>, proof: &[u8]) {
    let len = bytes.len() as u32;
    let data = bytes.slice(range.clone());
    for offset in (0..len).step_by(GROUP).filter(|&offset| offset as usize != range.start) {
        assert!(verify(key, len, offset, data.clone(), proof).is_err(), "moved to {offset}");
    }
    assert!(verify(key, len, range.start as u32 + 1, data.clone(), proof).is_err());
    assert!(verify(key, len, u32::MAX, data.clone(), proof).is_err());
    assert!(verify(key, len, range.start as u32, data.slice(1..), proof).is_err());
    assert!(verify(key, len, range.start as u32, data.slice(..data.len() - 1), proof).is_err());
    assert!(verify(key, len, range.start as u32, [&data[..], &[0]].concat().into(), proof).is_err());
    assert!(verify(key, len, range.start as u32, data.clone(), &[proof, &[0; 32]].concat()).is_err());
    assert!(verify(key, len, range.start as u32, data.clone(), &[proof, &[0]].concat()).is_err());
    assert!(verify(key, len, range.start as u32, Bytes::new(), proof).is_err());
    assert!(verify(ChunkKey::of(b"another"), len, range.start as u32, data.clone(), proof).is_err());
    if !proof.is_empty() {
        assert!(verify(key, len, range.start as u32, data.clone(), &proof[32..]).is_err());
        assert!(verify(key, len, range.start as u32, data.clone(), &proof[..proof.len() - 1]).is_err());
        assert!(verify(key, len, range.start as u32, data, &[]).is_err());
    }
}

#[test]
fn every_flipped_bit_of_the_proof_is_refused() {
    let bytes = Bytes::from(bytes(13 * GROUP + 77));
    let (key, tree) = ChunkTree::build(&bytes);
    let range = 5 * GROUP_LEN..6 * GROUP_LEN;
    let proof = tree.proof(&range);
    let data = bytes.slice(5 * GROUP..6 * GROUP);
    for bit in 0..proof.len() * 8 {
        let mut bad = proof.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(key, bytes.len() as u32, range.start, data.clone(), &bad).is_err(), "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_of_the_last_short_group_is_refused() {
    let bytes = Bytes::from(bytes(3 * GROUP + 77));
    let (key, tree) = ChunkTree::build(&bytes);
    let range = 3 * GROUP_LEN..bytes.len() as u32;
    let proof = tree.proof(&range);
    for bit in 0..77 * 8 {
        let mut bad = bytes.slice(3 * GROUP..).to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(key, bytes.len() as u32, range.start, bad.into(), &proof).is_err(), "bit {bit}");
    }
}

#[test]
fn a_lie_about_the_length_of_the_chunk_neither_panics_nor_passes_other_bytes() {
    let bytes = Bytes::from(bytes(4 * GROUP));
    let (key, tree) = ChunkTree::build(&bytes);
    let proof = tree.proof(&(0..GROUP_LEN));
    for chunk_len in [0, 1, GROUP_LEN, 2 * GROUP_LEN, 3 * GROUP_LEN, 5 * GROUP_LEN, CHUNK_LEN_MAX + 1, u32::MAX] {
        if let Ok(verified) = verify(key, chunk_len, 0, bytes.slice(..GROUP), &proof) {
            assert_eq!(verified.bytes(), &bytes.slice(..GROUP));
        }
    }
}

#[test]
fn a_received_chunk_verifies_only_under_its_own_key() {
    let bytes = Bytes::from(bytes(100_000));
    let chunk = VerifiedChunk::seal(bytes.clone());
    let verified = ReceivedChunk::new(bytes.clone()).verify(chunk.key()).unwrap();
    assert_eq!((verified.bytes(), verified.tree()), (&bytes, chunk.tree()));
    assert_eq!(ReceivedChunk::new(bytes.slice(1..)).verify(chunk.key()).unwrap_err(), Corrupt { key: chunk.key() });
    let long = Bytes::from(vec![0; CHUNK_LEN_MAX as usize + 1]);
    let key = ChunkKey::of(&long);
    assert_eq!(ReceivedChunk::new(long).verify(key).unwrap_err(), Corrupt { key });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_widened_range_holds_what_was_asked_and_is_proved(
        len in 1u32..=20 * GROUP_LEN, offset in 0u32..20 * GROUP_LEN, want in 1u32..20 * GROUP_LEN,
    ) {
        let chunk = VerifiedChunk::seal(bytes(len as usize).into());
        let Some(range) = widen(len, offset, want) else {
            prop_assert!(offset >= len);
            return Ok(());
        };
        let end = (offset + want).min(len);
        prop_assert!(range.start <= offset && end <= range.end && range.end <= len);
        prop_assert!(offset - range.start < GROUP_LEN && range.end - end < GROUP_LEN);
        let proof = chunk.tree().proof(&range);
        let data = chunk.bytes().slice(range.start as usize..range.end as usize);
        let verified = verify(chunk.key(), len, range.start, data, &proof).unwrap();
        prop_assert_eq!(verified.slice(offset, end - offset).unwrap(), chunk.bytes().slice(offset as usize..end as usize));
        prop_assert_eq!(verified.slice(range.start, range.end - range.start + 1), None);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused(len in GROUP_LEN + 1..=40 * GROUP_LEN, group in 0u32..40, flip in any::<u64>()) {
        let chunk = VerifiedChunk::seal(bytes(len as usize).into());
        let Some(range) = widen(len, group * GROUP_LEN, 1) else { return Ok(()) };
        let mut proof = chunk.tree().proof(&range);
        let mut data = chunk.bytes()[range.start as usize..range.end as usize].to_vec();
        let bit = usize::try_from(flip % ((proof.len() + data.len()) as u64 * 8)).unwrap();
        let byte = if bit / 8 < proof.len() { &mut proof[bit / 8] } else { &mut data[bit / 8 - proof.len()] };
        *byte ^= 1 << (bit % 8);
        prop_assert!(verify(chunk.key(), len, range.start, data.into(), &proof).is_err());
    }
}
