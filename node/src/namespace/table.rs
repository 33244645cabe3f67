//! Keys of the rows: one byte of table, then big-endian fields, so that byte order is the order of the fields.
//!
//! | table | key | value |
//! |---|---|---|
//! | `INODE` | inode | [`super::row::InodeRow`] |
//! | `INLINE` | inode | [`wire::namespace::InlineData`]: content of a small file, target of a link |
//! | `DENTRY` | directory, name | [`super::row::Dentry`] |
//! | `ENTRY` | directory, cookie | [`super::row::DirEntry`] |
//! | `EXTENT` | inode, offset of the *last* byte | [`super::row::ExtentRow`] |
//! | `INODE_CHUNK` | inode, chunk | number of its extents |
//! | `CHUNK` | chunk | number of inodes |
//! | `XATTR` | inode, name | bytes |
//! | `LOCK` | inode | [`wire::namespace::LockSet`] |
//! | `SESSION` | session | [`super::row::SessionRow`] |
//! | `NONCE` | client, nonce | session |
//! | `RANGE` | session, first inode | bitmap of the numbers used |
//! | `OUTCOME` | session, number | [`super::row::Outcome`] |
//! | `UNNAMED` | session, inode | nothing |
//! | `LOCK_OF` | session, inode | nothing: the session holds locks there |
//! | `MOUNT` | session | nothing: the session may hold leases |
//! | `ORPHAN` | log index, inode | nothing |
//! | `DEAD` | chunk | [`super::dead::DeadRow`] |
//! | `JOURNALED` | chunk | [`super::journal::JournaledRow`] |
//! | `CUT` | inode | nothing: a cut is under way |
//! | `ENDING` | session | nothing: a close is under way |
//! | `COUNTERS` | | [`super::row::Counters`] |
//! | `USAGE` | | [`wire::namespace::Usage`] |
//! | `DEAD_TALLY` | | [`super::dead::DeadTally`] |
//! | `JOURNAL_TALLY` | | [`super::journal::JournalTally`] |
//! | `META` | | [`super::row::MetaRow`] |
//! | `NODE` | node | [`super::row::MemberRow`] |
//! | `RING` | | [`ring::Ring`] |
//! | `MAY_HOLD` | node | partitions that it may hold beside what it owns |
//! | `FENCE` | partition | epoch |
//! | `TOKEN` | hash | [`super::row::TokenRow`] |
//! | `CLIENT` | client | [`super::command::ClientRow`] |
//! | `AUTHORITY` | | [`super::row::SealedAuthority`] |
//! | `TRANSITION` | | [`ring::Transition`] |
//! | `LEAVING` | node | [`wire::moves::Leaving`] |
//! | `REMOVED` | node | nothing: it was a member, and never is one again |
//! | `AWAY` | node | [`wire::stand_in::StandIn`]s |
//!
//! Extents are keyed by their last byte, so that a scan from an offset begins with the extent that holds it: the
//! store scans forward only.

use ring::{ChunkKey, NodeId, Partition};
use wire::{
    cluster::{ClientId, Peer},
    namespace::{Cookie, Inode, Name, OpNumber, SessionId, SessionNonce, XattrName},
};

/// First bytes of the keys of the state machine: others in the same keyspace keep out of them.
pub const TABLES: std::ops::RangeInclusive<u8> = 0x10..=0x5f;

/// Table of inodes.
pub(super) const INODE: u8 = 0x10;
/// Table of inline content and targets of links.
pub(super) const INLINE: u8 = 0x11;
/// Table of names.
pub(super) const DENTRY: u8 = 0x12;
/// Table of entries in the order of listing.
pub(super) const ENTRY: u8 = 0x13;
/// Table of extents.
pub(super) const EXTENT: u8 = 0x14;
/// Table of the chunks of each inode.
pub(super) const INODE_CHUNK: u8 = 0x15;
/// Table of the inodes of each chunk.
pub(super) const CHUNK: u8 = 0x16;
/// Table of extended attributes.
pub(super) const XATTR: u8 = 0x17;
/// Table of locks.
pub(super) const LOCK: u8 = 0x18;
/// Table of sessions.
pub(super) const SESSION: u8 = 0x20;
/// Table of the nonces of sessions.
pub(super) const NONCE: u8 = 0x21;
/// Table of reserved inode numbers.
pub(super) const RANGE: u8 = 0x22;
/// Table of outcomes.
pub(super) const OUTCOME: u8 = 0x23;
/// Table of unnamed inodes.
pub(super) const UNNAMED: u8 = 0x24;
/// Table of the inodes that each session has locked.
pub(super) const LOCK_OF: u8 = 0x25;
/// Table of sessions that may hold leases.
pub(super) const MOUNT: u8 = 0x26;
/// Table of orphans.
pub(super) const ORPHAN: u8 = 0x30;
/// Table of dead chunks.
pub(super) const DEAD: u8 = 0x31;
/// Table of cuts under way.
pub(super) const CUT: u8 = 0x32;
/// Table of closes under way.
pub(super) const ENDING: u8 = 0x33;
/// Table of journaled chunks.
pub(super) const JOURNALED: u8 = 0x34;
/// Row of counters.
pub(super) const COUNTERS: u8 = 0x40;
/// Row of usage.
pub(super) const USAGE: u8 = 0x41;
/// Row of what the dead chunks amount to.
pub(super) const DEAD_TALLY: u8 = 0x42;
/// Row of what the journaled chunks amount to.
pub(super) const JOURNAL_TALLY: u8 = 0x43;
/// Row of the cluster.
pub(super) const META: u8 = 0x50;
/// Table of members.
pub(super) const NODE: u8 = 0x51;
/// Row of the ring.
pub(super) const RING: u8 = 0x52;
/// Table of nodes that may hold chunks of partitions that they do not own.
pub(super) const MAY_HOLD: u8 = 0x53;
/// Table of fences.
pub(super) const FENCE: u8 = 0x54;
/// Table of tokens.
pub(super) const TOKEN: u8 = 0x55;
/// Table of clients.
pub(super) const CLIENT: u8 = 0x56;
/// Row of the authority.
pub(super) const AUTHORITY: u8 = 0x57;
/// Row of the change of the ring that is under way.
pub(super) const TRANSITION: u8 = 0x58;
/// Table of members that are to hold nothing.
pub(super) const LEAVING: u8 = 0x59;
/// Table of nodes that were removed.
pub(super) const REMOVED: u8 = 0x5a;
/// Table of nodes whose writes others take.
pub(super) const AWAY: u8 = 0x5b;

/// Key of a row.
pub(super) type Key = Vec<u8>;

fn key(table: u8, fields: &[&[u8]]) -> Key {
    let mut key = Vec::with_capacity(1 + fields.iter().map(|field| field.len()).sum::<usize>());
    key.push(table);
    for field in fields {
        key.extend_from_slice(field);
    }
    key
}

/// A table that has one row.
pub(super) fn single(table: u8) -> Key {
    vec![table]
}

/// A row, or the beginning of the rows, of a number.
pub(super) fn number(table: u8, number: u64) -> Key {
    key(table, &[&number.to_be_bytes()])
}

/// A row of two numbers.
pub(super) fn numbers(table: u8, first: u64, second: u64) -> Key {
    key(table, &[&first.to_be_bytes(), &second.to_be_bytes()])
}

/// The rows of a table whose first field is `number`: from, to.
pub(super) fn rows_of(table: u8, number: u64) -> (Key, Key) {
    (self::number(table, number), after_prefix(self::number(table, number)))
}

/// All rows of a table: from, to.
pub(super) fn rows_of_table(table: u8) -> (Key, Key) {
    (vec![table], vec![table + 1])
}

/// The first key after those that begin with `prefix`.
fn after_prefix(mut prefix: Key) -> Key {
    for at in (0..prefix.len()).rev() {
        if let Some(byte) = prefix.get_mut(at).filter(|byte| **byte < u8::MAX) {
            *byte += 1;
            prefix.truncate(at + 1);
            return prefix;
        }
    }
    unreachable!("the number of a table is below 255")
}

pub(super) fn inode(inode: Inode) -> Key {
    number(INODE, inode.0)
}

pub(super) fn inline(inode: Inode) -> Key {
    number(INLINE, inode.0)
}

pub(super) fn dentry(dir: Inode, name: &Name) -> Key {
    key(DENTRY, &[&dir.0.to_be_bytes(), name.as_bytes()])
}

pub(super) fn entry(dir: Inode, cookie: Cookie) -> Key {
    numbers(ENTRY, dir.0, cookie.0)
}

/// The extent of `inode` whose last byte is `last`.
pub(super) fn extent(inode: Inode, last: u64) -> Key {
    numbers(EXTENT, inode.0, last)
}

pub(super) fn inode_chunk(inode: Inode, chunk: &ChunkKey) -> Key {
    key(INODE_CHUNK, &[&inode.0.to_be_bytes(), chunk.as_bytes()])
}

pub(super) fn chunk(chunk: &ChunkKey) -> Key {
    key(CHUNK, &[chunk.as_bytes()])
}

pub(super) fn dead(chunk: &ChunkKey) -> Key {
    key(DEAD, &[chunk.as_bytes()])
}

pub(super) fn journaled(chunk: &ChunkKey) -> Key {
    key(JOURNALED, &[chunk.as_bytes()])
}

pub(super) fn xattr(inode: Inode, name: &XattrName) -> Key {
    key(XATTR, &[&inode.0.to_be_bytes(), name.as_bytes()])
}

pub(super) fn locks(inode: Inode) -> Key {
    number(LOCK, inode.0)
}

/// That a session holds locks on an inode.
pub(super) fn lock_of(session: SessionId, inode: Inode) -> Key {
    numbers(LOCK_OF, session.0, inode.0)
}

pub(super) fn session(session: SessionId) -> Key {
    number(SESSION, session.0)
}

pub(super) fn nonce(client: &Peer, nonce: &SessionNonce) -> Key {
    match client {
        Peer::Node(id) => key(NONCE, &[&[0], id.as_bytes(), &nonce.0]),
        Peer::Client(id) => key(NONCE, &[&[1], &id.0, &nonce.0]),
    }
}

pub(super) fn range(session: SessionId, first: Inode) -> Key {
    numbers(RANGE, session.0, first.0)
}

pub(super) fn outcome(session: SessionId, op: OpNumber) -> Key {
    numbers(OUTCOME, session.0, op.0)
}

pub(super) fn unnamed(session: SessionId, inode: Inode) -> Key {
    numbers(UNNAMED, session.0, inode.0)
}

pub(super) fn orphan(index: u64, inode: Inode) -> Key {
    numbers(ORPHAN, index, inode.0)
}

pub(super) fn node(node: NodeId) -> Key {
    key(NODE, &[node.as_bytes()])
}

pub(super) fn leaving(node: NodeId) -> Key {
    key(LEAVING, &[node.as_bytes()])
}

pub(super) fn removed(node: NodeId) -> Key {
    key(REMOVED, &[node.as_bytes()])
}

/// A row of a node in a table of nodes.
pub(super) fn of_node(table: u8, node: NodeId) -> Key {
    key(table, &[node.as_bytes()])
}

pub(super) fn partition(table: u8, partition: Partition) -> Key {
    key(table, &[&partition.0.to_be_bytes()])
}

pub(super) fn token(hash: &[u8; 32]) -> Key {
    key(TOKEN, &[hash])
}

pub(super) fn client(client: ClientId) -> Key {
    key(CLIENT, &[&client.0])
}

/// The last field of a key, as a number.
pub(super) fn last_number(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The chunk that is all of a key behind its table.
pub(super) fn last_chunk(key: &[u8]) -> Option<ChunkKey> {
    key.last_chunk().filter(|_| key.len() == 33).map(|bytes| ChunkKey::from_bytes(*bytes))
}

/// The first field of a key, as a number.
pub(super) fn first_number(key: &[u8]) -> Option<u64> {
    key.get(1..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::{EXTENT, after_prefix, number, rows_of};

    #[test]
    fn the_rows_of_a_number_end_before_those_of_the_next() {
        assert_eq!(rows_of(EXTENT, 7).1, number(EXTENT, 8));
        assert_eq!(rows_of(EXTENT, u64::MAX).1, vec![EXTENT + 1]);
        assert_eq!(after_prefix(vec![3, 0xff, 0xff]), vec![4]);
    }
}
