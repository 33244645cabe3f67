use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::{DirtyRanges, Taken, WINDOW, pack};

/// A file of 3 windows' borders seen through a lens: offsets near the borders, so that ranges cross them.
fn near_border(at: u64) -> u64 {
    WINDOW - 50 + at
}

proptest! {
    #[test]
    fn ranges_are_what_a_plain_array_of_bytes_says(
        steps in proptest::collection::vec((0u64..120, 1usize..60, any::<u8>(), 0u8..4), 1..60),
    ) {
        let mut ranges = DirtyRanges::default();
        let mut model: Vec<Option<u8>> = vec![None; 200];
        for (at, len, byte, what) in steps {
            let offset = near_border(at);
            let slots = at as usize..at as usize + len;
            if what == 0 {
                ranges.cut(offset..offset + len as u64);
                model[slots].fill(None);
            } else {
                ranges.write(offset, &vec![byte; len]);
                model[slots].fill(Some(byte));
            }
            let held = model.iter().flatten().count() as u64;
            prop_assert_eq!(ranges.len(), held);
            let mut buffer = vec![7; 200];
            ranges.overlay(near_border(0), &mut buffer);
            let expected: Vec<u8> = model.iter().map(|byte| byte.unwrap_or(7)).collect();
            prop_assert_eq!(&buffer, &expected);
            let end = model.iter().rposition(Option::is_some).map_or(0, |last| near_border(last as u64 + 1));
            prop_assert_eq!(ranges.end(), end);
            let gaps: u64 = ranges.gaps(near_border(0)..near_border(200)).iter().map(|gap| gap.end - gap.start).sum();
            prop_assert_eq!(gaps, 200 - held);
            prop_assert_eq!(ranges.covers(offset..offset + len as u64), what != 0);
        }
        let taken = ranges.take_all();
        prop_assert!(ranges.is_empty());
        prop_assert_eq!(ranges.len(), 0);
        let mut seen: Vec<Option<u8>> = vec![None; 200];
        for packed in pack(taken) {
            for part in packed.parts {
                for step in 0..u64::from(part.len) {
                    let slot = (part.offset + step - near_border(0)) as usize;
                    prop_assert!(seen[slot].is_none());
                    seen[slot] = Some(packed.bytes[(u64::from(part.chunk_offset) + step) as usize]);
                }
            }
        }
        prop_assert_eq!(seen, model);
    }
}

/// What a file of a border's surroundings holds, and which writes it saw.
struct Scene {
    written: Vec<[u8; 200]>,
    committed: [u8; 200],
    ranges: DirtyRanges,
    flushing: Vec<Taken>,
}

impl Scene {
    /// Each piece of a write is one: those on two sides of a border may be committed one after the other.
    fn write(&mut self, at: u64, len: usize, byte: u8) {
        let (start, end) = (at as usize, at as usize + len);
        let border = 50.clamp(start, end);
        for piece in [start..border, border..end].into_iter().filter(|piece| !piece.is_empty()) {
            let mut next = *self.written.last().unwrap();
            next[piece].fill(byte);
            self.written.push(next);
        }
        self.ranges.write(near_border(at), &vec![byte; len]);
    }

    fn commit(&mut self) {
        for taken in self.flushing.drain(..) {
            let at = (taken.offset - near_border(0)) as usize;
            self.committed[at..at + taken.bytes.len()].copy_from_slice(&taken.bytes);
        }
    }

    fn give_up(&mut self) {
        for taken in self.flushing.drain(..) {
            self.ranges.put_back(&taken);
        }
    }
}

proptest! {
    #[test]
    fn what_is_committed_is_at_each_moment_what_the_file_was_after_one_of_its_writes(
        steps in proptest::collection::vec((0u64..120, 1usize..60, any::<u8>(), 0u8..8), 1..60),
    ) {
        let ranges = DirtyRanges::default();
        let mut scene = Scene { written: vec![[0; 200]], committed: [0; 200], ranges, flushing: Vec::new() };
        for (at, len, byte, what) in steps {
            match what {
                0 if scene.flushing.is_empty() => scene.flushing = scene.ranges.take(60),
                1 if scene.flushing.is_empty() => scene.flushing = scene.ranges.take(1),
                2 => scene.give_up(),
                3 => scene.commit(),
                _ => scene.write(at, len, byte),
            }
            prop_assert!(scene.written.contains(&scene.committed));
        }
        scene.give_up();
        while !scene.ranges.is_empty() {
            prop_assert!(scene.ranges.holds_of(scene.ranges.newest()));
            scene.flushing = scene.ranges.take(100);
            prop_assert!(!scene.flushing.is_empty());
            scene.commit();
            prop_assert!(scene.written.contains(&scene.committed));
        }
        prop_assert_eq!(scene.written.last(), Some(&scene.committed));
    }
}

#[test]
fn a_stream_gives_whole_chunks_and_what_is_put_back_lies_under_later_writes() {
    let mut ranges = DirtyRanges::default();
    let due: Vec<bool> = (0..5).map(|step| ranges.write(step << 20, &vec![step as u8; 1 << 20])).collect();
    assert_eq!(due, [false, false, false, true, false]);
    let full = ranges.take_full(u64::MAX);
    assert_eq!((full.len(), full[0].offset, full[0].bytes.len() as u64), (1, 0, WINDOW));
    assert_eq!(ranges.len(), 1 << 20);
    ranges.write(10, b"new");
    ranges.put_back(&full[0]);
    let mut start = [9; 16];
    ranges.overlay(0, &mut start);
    assert_eq!(start, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'n', b'e', b'w', 0, 0, 0]);
    assert_eq!(ranges.len(), 5 << 20);
}

fn offsets(taken: &[Taken]) -> Vec<u64> {
    taken.iter().map(|taken| taken.offset).collect()
}

#[test]
fn what_was_written_before_a_whole_chunk_goes_with_it_and_what_is_written_meanwhile_does_not() {
    let mut ranges = DirtyRanges::default();
    ranges.write(9 * WINDOW, b"first");
    let chunk = vec![1; WINDOW as usize];
    assert!(ranges.write(2 * WINDOW, &chunk));
    ranges.write(0, b"later");
    assert!(ranges.write(WINDOW, &chunk));
    ranges.write(5 * WINDOW, b"last");
    assert_eq!(offsets(&ranges.take_full(u64::MAX)), [0, WINDOW, 2 * WINDOW, 9 * WINDOW]);
    assert!(!ranges.holds_of(4) && ranges.holds_of(5));

    // A stream, and beside it a place that is written again and again: it was begun before, and ends after.
    ranges.clear();
    for step in 0..4 {
        ranges.write(7 * WINDOW, b"again and again");
        ranges.write(step << 20, &vec![1; 1 << 20]);
    }
    assert!(ranges.take_full(u64::MAX).is_empty());
    assert_eq!(offsets(&ranges.take(1)).len(), 4, "all but the last piece belongs together");
}

#[test]
fn several_streams_in_turn_are_taken_once_they_are_much() {
    let mut ranges = DirtyRanges::default();
    let mut due = Vec::new();
    for step in 0..16 {
        due.extend((0..2).map(|stream| ranges.write(stream * 100 * WINDOW + (step << 19), &vec![7; 1 << 19])));
    }
    assert_eq!(due.iter().position(|due| *due), Some(31), "16 MiB");
    let taken = ranges.take_full(u64::MAX);
    assert_eq!((taken.len(), ranges.is_empty()), (32, true));
    assert_eq!(
        pack(taken).iter().map(|packed| (packed.bytes.len(), packed.parts.len())).collect::<Vec<_>>(),
        [(4 << 20, 1); 4]
    );
}
