//! The changes that a command makes, while it makes them: reads go through what it has written.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Bound, ControlFlow},
};

use ring::GcEpoch;
use serde::{Serialize, de::DeserializeOwned};
use wire::namespace::{Attr, Inode, OpError, Timestamp};

use super::{LogIndex, reach, row, row::Counters, table};
use crate::kv::{KvError, KvRead, KvVisit, WriteBatch};

/// Rows that one command may change: bounds how long it holds up the others, and the size of its batch.
pub const ROWS_MAX: usize = 4096;

/// Why a step of a command ends early.
#[derive(Debug)]
pub(super) enum Fault {
    /// The operation is refused.
    Refused(OpError),
    /// The command would change more than [`ROWS_MAX`] rows.
    Overflow,
    /// The disk fails.
    Kv(KvError),
}

impl From<OpError> for Fault {
    fn from(error: OpError) -> Self {
        Self::Refused(error)
    }
}

impl From<KvError> for Fault {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// What was in the overlay before a change: to roll back.
type Undo = (Vec<u8>, Option<Option<Vec<u8>>>);

/// The rows as they are with the changes of a command so far.
pub(super) struct Edit<'a> {
    rows: &'a dyn KvRead,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    undo: Vec<Undo>,
    limit: usize,
    /// The leader's clock.
    pub(super) stamp: Timestamp,
    /// Position of the command.
    pub(super) index: LogIndex,
}

/// A point to come back to.
#[derive(Clone, Copy)]
pub(super) struct Savepoint(usize);

impl<'a> Edit<'a> {
    /// No changes yet.
    pub(super) fn new(rows: &'a dyn KvRead, index: LogIndex, stamp: Timestamp) -> Self {
        Self { rows, changes: BTreeMap::new(), undo: Vec::new(), limit: ROWS_MAX, stamp, index }
    }

    /// From now on a change of more rows than this is [`Fault::Overflow`].
    pub(super) fn limit_to(&mut self, limit: usize) {
        self.limit = limit.min(ROWS_MAX);
    }

    /// Rows that may still be changed.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.changes.len())
    }

    /// A point to come back to.
    pub(super) fn savepoint(&self) -> Savepoint {
        Savepoint(self.undo.len())
    }

    /// Takes back all changes since `savepoint`.
    pub(super) fn roll_back(&mut self, savepoint: Savepoint) {
        while self.undo.len() > savepoint.0 {
            let (key, before) = self.undo.pop().expect("the length was just looked at");
            match before {
                Some(value) => self.changes.insert(key, value),
                None => self.changes.remove(&key),
            };
        }
    }

    /// The row at `key`.
    pub(super) fn read<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, KvError> {
        row::read(self, key)
    }

    /// Whether there is a row at `key`.
    pub(super) fn exists(&self, key: &[u8]) -> Result<bool, KvError> {
        Ok(self.get(key)?.is_some())
    }

    /// Sets the row at `key`.
    pub(super) fn put<T: Serialize>(&mut self, key: Vec<u8>, row: &T) -> Result<(), Fault> {
        self.put_bytes(key, row::encode(row))
    }

    /// Sets the row at `key` to bytes that are not encoded as the others.
    pub(super) fn put_bytes(&mut self, key: Vec<u8>, bytes: Vec<u8>) -> Result<(), Fault> {
        self.change(key, Some(bytes))
    }

    /// Removes the row at `key`.
    pub(super) fn remove(&mut self, key: Vec<u8>) -> Result<(), Fault> {
        self.change(key, None)
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), Fault> {
        let room = self.changes.len() < self.limit;
        match self.changes.entry(key) {
            btree_map::Entry::Occupied(mut entry) => {
                let before = entry.insert(value);
                self.undo.push((entry.key().clone(), Some(before)));
            }
            btree_map::Entry::Vacant(entry) if room => {
                self.undo.push((entry.key().clone(), None));
                entry.insert(value);
            }
            btree_map::Entry::Vacant(_) => return Err(Fault::Overflow),
        }
        Ok(())
    }

    /// The first `limit` rows with `from <= key < to`.
    pub(super) fn rows(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        collect(self, from, to, limit)
    }

    /// The counters; none before the cluster is founded.
    pub(super) fn counters(&self) -> Result<Option<Counters>, KvError> {
        self.read(&table::single(table::COUNTERS))
    }

    /// The stamp that dead chunks get.
    pub(super) fn gc_current(&self) -> Result<GcEpoch, KvError> {
        Ok(self.counters()?.map_or_else(GcEpoch::default, |counters| counters.gc_current))
    }

    /// Attributes of every inode that was changed so far and can still be seen.
    pub(super) fn touched(&self) -> Result<Vec<Attr>, KvError> {
        let (from, to) = table::rows_of_table(table::INODE);
        let mut touched = Vec::new();
        for (key, value) in self.changes.range(from..to) {
            let Some(value) = value else { continue };
            let row: row::InodeRow = row::decode(key, value)?;
            if reach::is_visible(&row) {
                touched.push(row.attr(Inode(table::first_number(key).unwrap_or(0))));
            }
        }
        Ok(touched)
    }

    /// The changes to commit.
    pub(super) fn finish(self) -> WriteBatch {
        WriteBatch { changes: self.changes.into_iter().collect() }
    }
}

/// What `read` makes of each of the first `limit` pairs with `from <= key < to`, without a copy of the pairs.
pub(super) fn collect_with<T>(
    rows: &dyn KvRead,
    from: &[u8],
    to: &[u8],
    limit: usize,
    mut read: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, KvError>,
) -> Result<Vec<T>, KvError> {
    let (mut found, mut failed) = (Vec::new(), None);
    if limit == 0 {
        return Ok(found);
    }
    rows.scan(from, to, &mut |key, value| match read(key, value) {
        Ok(row) => {
            found.extend(row);
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(found), Err)
}

/// The first `limit` pairs with `from <= key < to`.
pub(super) fn collect(rows: &dyn KvRead, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
    collect_with(rows, from, to, limit, |key, value| Ok(Some((key.to_vec(), value.to_vec()))))
}

impl KvRead for Edit<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.rows.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) -> Result<(), KvError> {
        if from >= to {
            return Ok(());
        }
        let mut changes = self.changes.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        let mut broken = false;
        self.rows.scan(from, to, &mut |key, value| {
            while let Some((changed, new)) = changes.next_if(|(changed, _)| changed.as_slice() < key) {
                if new.as_ref().is_some_and(|new| visit(changed, new).is_break()) {
                    broken = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match changes.next_if(|(changed, _)| changed.as_slice() == key) {
                Some((changed, Some(new))) => visit(changed, new),
                Some((_, None)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            broken = flow.is_break();
            flow
        })?;
        if !broken {
            for (key, new) in changes {
                if new.as_ref().is_some_and(|new| visit(key, new).is_break()) {
                    break;
                }
            }
        }
        Ok(())
    }
}
