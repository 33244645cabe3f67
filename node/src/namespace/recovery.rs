//! What a recovery by force does to the rows: a history ends here that went on elsewhere.
//!
//! # Invariants
//! - No number that the lost part of the history may have handed out is handed out again: of inodes, of sessions.
//! - No map of the lost part is taken for newer than one of this history, and no two maps have one epoch.
//! - No chunk that was put before becomes part of a file afterwards without being put again: who acknowledged it may be
//!   among the lost.
//! - What nodes have confirmed in the lost part counts no longer.
//! - No session goes on: what its client believes to be done may be undone.
//! - No copy counts as left over: in the lost part a partition may have gone over to others. Every member may hold
//!   something of every partition, until the owners of this history have confirmed that they have it.

use std::collections::BTreeSet;

use ring::{Epoch, GcEpoch};

use super::{
    cluster::cluster_map,
    edit::{Edit, Fault},
    row::{Counters, MetaRow},
    session::session_list,
    table,
};
use crate::generation::Generation;

/// Sessions that one command ends: three rows each, within the bound of a command.
pub const ENDED_MAX: usize = 1_000;

const _: () = assert!(3 * ENDED_MAX + 8 <= super::ROWS_MAX);

impl Edit<'_> {
    /// Begins a generation, unless it has begun, and ends sessions; the epoch of the map afterwards.
    pub(super) fn recover(&mut self, meta: MetaRow, generation: u64) -> Result<Epoch, Fault> {
        let generation = Generation::new(generation);
        let mut epoch = meta.epoch;
        if Generation::of_epoch(epoch) < generation {
            epoch = Epoch(generation.first());
            self.put(table::single(table::META), &MetaRow { epoch, acting: epoch, ..meta })?;
            if let Some(counters) = self.counters()? {
                self.put(table::single(table::COUNTERS), &jumped(counters))?;
            }
            self.suspect_everybody()?;
        }
        for summary in session_list(self)?.into_iter().take(ENDED_MAX) {
            if let Some(row) = self.session(summary.session)? {
                self.begin_end(summary.session, &row)?;
            }
        }
        Ok(epoch)
    }

    /// Any member may hold what is missing elsewhere, whatever the map of this history says.
    fn suspect_everybody(&mut self) -> Result<(), Fault> {
        let Some(map) = cluster_map(self)? else { return Ok(()) };
        let Some(placement) = map.placement() else { return Ok(()) };
        let all: BTreeSet<_> = placement.bits().partitions().collect();
        self.note_holders(map.nodes.iter().map(|row| (row.id, all.clone())).collect())
    }
}

/// Beyond everything that the lost part of the history may have used. Raising the lowest stamp as well makes every put of
/// before worthless.
fn jumped(counters: Counters) -> Counters {
    let gc = GcEpoch(Generation::beyond(counters.gc_current.0));
    Counters {
        next_inode: Generation::beyond(counters.next_inode),
        next_session: Generation::beyond(counters.next_session),
        gc_current: gc,
        gc_safe: gc,
        orphans_index: counters.orphans_index,
    }
}
