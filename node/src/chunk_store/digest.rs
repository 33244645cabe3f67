//! What a store holds of a partition, in a few bytes: the index is walked in order of key, and hashed on the way.
//!
//! Nothing is kept between two walks, so there is nothing that could be wrong: a row is read and hashed in about a
//! microsecond, and who compares rests fifty times as long as that takes.
//!
//! # Invariants
//! - A digest covers every copy that was stable and in use from the beginning of the walk to its end, and none that was
//!   so at no time of it, or that was to be deleted before it began: exactly what a listing would show.

use std::ops::ControlFlow;

use ring::{ChunkKey, GcEpoch, Partition, PartitionBits};
use wire::chunk::PartitionDigest;

use super::error::ListError;
use super::keeper::Command;
use super::{ChunkStore, first_key};

/// Rows walked between two looks at whether somebody else wants to run: about a millisecond.
const ROWS_PER_TURN: usize = 1024;

/// Rows after which no other partition is begun, lest the answer come too late.
pub(super) const ROWS_MAX: usize = 1 << 16;

impl ChunkStore {
    pub(super) async fn digest_span(
        &self,
        bits: PartitionBits,
        first: Partition,
        last: Partition,
        rows_max: usize,
    ) -> Result<Vec<PartitionDigest>, ListError> {
        self.ask(|reply| Command::Settle { reply }).await.ok_or(ListError::Closed)??;
        let Some(mut from) = first_key(bits, first) else { return Ok(Vec::new()) };
        let last = last.min(Partition((bits.count() - 1).try_into().expect("a ring has at most 2^20 partitions")));
        let end = first_key(bits, Partition(last.0 + 1));
        let mut digester = Digester::new(bits, first);
        let mut walked = 0;
        loop {
            let (mut turn, mut next) = (0, None);
            self.shared().index.scan(&from, end.as_ref(), |key, row| {
                if turn == ROWS_PER_TURN {
                    next = Some(key);
                    return ControlFlow::Break(());
                }
                turn += 1;
                if let Some(held) = row.held().filter(|held| self.shared().counts_as_held(&key, held)) {
                    digester.handle_copy(&key, held.stamp);
                }
                ControlFlow::Continue(())
            })?;
            let Some(next) = next else { return Ok(digester.finish_before(Partition(last.0 + 1))) };
            walked += turn;
            let unfinished = bits.partition_of(&next);
            if walked >= rows_max && unfinished > first {
                return Ok(digester.finish_before(unfinished));
            }
            from = next;
            tokio::task::yield_now().await;
        }
    }
}

/// Makes digests of copies that it is told of in order of key.
#[derive(Debug)]
struct Digester {
    bits: PartitionBits,
    /// Of which `hasher` has taken in what came so far.
    partition: Partition,
    hasher: blake3::Hasher,
    finished: Vec<PartitionDigest>,
}

impl Digester {
    fn new(bits: PartitionBits, first: Partition) -> Self {
        Self { bits, partition: first, hasher: blake3::Hasher::new(), finished: Vec::new() }
    }

    fn handle_copy(&mut self, key: &ChunkKey, stamp: GcEpoch) {
        self.begin(self.bits.partition_of(key));
        self.hasher.update(key.as_bytes());
        self.hasher.update(&stamp.0.to_le_bytes());
    }

    fn begin(&mut self, partition: Partition) {
        while self.partition < partition {
            self.finished.push(PartitionDigest(self.hasher.finalize().into()));
            self.hasher.reset();
            self.partition.0 += 1;
        }
    }

    /// The digests of all partitions below this one.
    fn finish_before(mut self, partition: Partition) -> Vec<PartitionDigest> {
        self.begin(partition);
        self.finished
    }
}
