//! Everything that the rows claim about each other, counted again from nothing.

use std::collections::{BTreeMap, BTreeSet};

use ring::ChunkKey;
use serde::de::DeserializeOwned;
use wire::namespace::{Cookie, FileType, InlineData, Inode, Name, SessionId, Usage};

use super::harness::Machine;
use crate::{
    kv::MemoryKv,
    namespace::{
        JournalTally, LogIndex,
        dead::{DeadRow, dead_tally},
        edit::collect,
        extents::extent_at,
        journal::{journal_page, journal_tally},
        row::{self, Body, Dentry, DirEntry, ExtentRow, InodeRow, Outcome, SessionRow, Standing, Storage},
        table,
    },
};

fn rows(kv: &MemoryKv, table: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (from, to) = table::rows_of_table(table);
    collect(kv, &from, &to, usize::MAX).unwrap()
}

fn decoded<T: DeserializeOwned>(kv: &MemoryKv, table: u8) -> Vec<(Vec<u8>, T)> {
    let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
        let row = row::decode(&key, &value).unwrap();
        (key, row)
    };
    rows(kv, table).into_iter().map(decode).collect()
}

fn first(key: &[u8]) -> u64 {
    table::first_number(key).unwrap()
}

fn last(key: &[u8]) -> u64 {
    table::last_number(key).unwrap()
}

fn chunk_of(key: &[u8]) -> ChunkKey {
    ChunkKey::from_bytes(*key.last_chunk().unwrap())
}

/// Counts all again; `ever` are the chunks that were ever referred to, `put` those of them that replicas have.
pub(super) fn recount(machine: &Machine, ever: &BTreeSet<ChunkKey>, put: &BTreeSet<ChunkKey>) {
    let kv = &machine.rows;
    let inodes: BTreeMap<u64, InodeRow> =
        decoded(kv, table::INODE).into_iter().map(|(key, row)| (first(&key), row)).collect();
    recount_names(kv, &inodes);
    recount_standing(kv, &inodes);
    recount_contents(kv, &inodes);
    recount_chunks(kv, ever);
    recount_journal(kv, put);
    recount_sessions(kv);
    let usage: Vec<(_, Usage)> = decoded(kv, table::USAGE);
    let bytes = inodes.values().map(|row| row.allocated).sum();
    assert_eq!(usage[0].1, Usage { inodes: inodes.len() as u64, bytes });
}

fn recount_names(kv: &MemoryKv, inodes: &BTreeMap<u64, InodeRow>) {
    let dentries: Vec<(_, Dentry)> = decoded(kv, table::DENTRY);
    let entries: BTreeMap<(u64, Cookie), DirEntry> =
        decoded(kv, table::ENTRY).into_iter().map(|(key, row)| ((first(&key), Cookie(last(&key))), row)).collect();
    assert_eq!(dentries.len(), entries.len());
    let (mut names, mut sizes, mut subdirectories) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (key, dentry) in &dentries {
        let (dir, name) = (first(key), Name::new(&key[9..]).unwrap());
        let child = &inodes[&dentry.inode.0];
        assert_eq!(child.file_type(), dentry.file_type);
        let Dentry { inode, file_type, cookie } = *dentry;
        assert_eq!(entries[&(dir, cookie)], DirEntry { name, inode, file_type });
        *names.entry(inode.0).or_insert(0) += 1;
        *sizes.entry(dir).or_insert(0) += 1;
        let Body::Directory { next_cookie, .. } = inodes[&dir].body else { panic!("{dir} has entries") };
        assert!(cookie < next_cookie);
        if let Body::Directory { parent, .. } = child.body {
            assert_eq!(parent, Inode(dir));
            *subdirectories.entry(dir).or_insert(0) += 1;
        }
    }
    for (inode, row) in inodes {
        let links = match (row.is_directory(), row.standing) {
            (true, Standing::Named) => 2 + subdirectories.get(inode).copied().unwrap_or(0),
            (true, _) => 0,
            (false, _) => names.get(inode).copied().unwrap_or(0),
        };
        assert_eq!(row.links, links, "links of {inode}");
        if row.is_directory() {
            assert_eq!(row.size, sizes.get(inode).copied().unwrap_or(0), "entries of {inode}");
            let mut at = *inode;
            for _ in 0..=inodes.len() {
                let Body::Directory { parent, .. } = inodes[&at].body else { panic!("{at} is a parent") };
                if row.standing != Standing::Named || parent.0 == at {
                    break;
                }
                at = parent.0;
            }
            assert!(at == 1 || row.standing != Standing::Named, "{inode} hangs on the root");
        }
    }
}

fn recount_standing(kv: &MemoryKv, inodes: &BTreeMap<u64, InodeRow>) {
    let orphans: BTreeSet<_> = rows(kv, table::ORPHAN).iter().map(|(key, _)| (first(key), last(key))).collect();
    let unnamed: BTreeSet<_> = rows(kv, table::UNNAMED).iter().map(|(key, _)| (first(key), last(key))).collect();
    let cuts: BTreeSet<_> = rows(kv, table::CUT).iter().map(|(key, _)| first(key)).collect();
    let (mut orphans_found, mut unnamed_found, mut cuts_found) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (inode, row) in inodes {
        match row.standing {
            Standing::Named => assert!(row.links > 0),
            Standing::Unnamed(session) => assert!(unnamed_found.insert((session.0, *inode)) && row.links == 0),
            Standing::Orphan(index) => assert!(orphans_found.insert((index, *inode)) && row.links == 0),
            Standing::Reclaiming => assert!(cuts.contains(inode), "{inode} is being released"),
        }
        if matches!(row.body, Body::File { cut_from: Some(_), .. }) {
            cuts_found.insert(*inode);
        }
    }
    assert_eq!((orphans, unnamed, cuts), (orphans_found, unnamed_found, cuts_found));
}

fn recount_contents(kv: &MemoryKv, inodes: &BTreeMap<u64, InodeRow>) {
    let mut inline: BTreeMap<u64, InlineData> =
        decoded(kv, table::INLINE).into_iter().map(|(key, row)| (first(&key), row)).collect();
    let mut extents: BTreeMap<u64, Vec<(u64, ExtentRow)>> = BTreeMap::new();
    for (key, value) in rows(kv, table::EXTENT) {
        extents.entry(first(&key)).or_default().push(extent_at(&key, &value).unwrap());
    }
    for (inode, row) in inodes {
        let (inline, extents) = (inline.remove(inode), extents.remove(inode).unwrap_or_default());
        let mut reached = 0;
        for (begin, extent) in &extents {
            assert!(*begin >= reached, "extents of {inode} overlap");
            reached = begin + extent.len();
            let Body::File { cut_from, .. } = row.body else { panic!("{inode} has extents") };
            assert!(extent.chunk().is_none() || reached <= row.size || cut_from.is_some(), "{inode} ends too early");
        }
        let mapped: u64 = extents.iter().map(|(_, extent)| extent.len()).sum();
        let inline_len = inline.as_ref().map_or(0, |data| data.bytes.len() as u64);
        assert!(inline.iter().all(InlineData::is_sound));
        match row.body {
            Body::File { storage, cut_from } => {
                assert_eq!(row.allocated, mapped + inline_len, "allocation of {inode}");
                assert!(cut_from.is_some() || storage == Storage::Extents || extents.is_empty());
                match storage {
                    Storage::Empty => assert_eq!((row.size, inline_len), (0, 0)),
                    Storage::Inline => assert!(row.size == inline_len && inline_len > 0),
                    Storage::Extents => assert!(inline.is_none()),
                }
            }
            Body::Symlink => assert_eq!(row.size, inline_len),
            _ => assert!(inline.is_none() && extents.is_empty()),
        }
    }
    assert!(inline.is_empty() && extents.is_empty(), "content of no inode");
    assert!(rows(kv, table::XATTR).iter().all(|(key, _)| inodes.contains_key(&first(key))));
}

fn recount_chunks(kv: &MemoryKv, ever: &BTreeSet<ChunkKey>) {
    let mut of_inodes: BTreeMap<(u64, ChunkKey), u64> = BTreeMap::new();
    for (key, value) in rows(kv, table::EXTENT) {
        if let (_, ExtentRow::Chunk { slice, .. }) = extent_at(&key, &value).unwrap() {
            *of_inodes.entry((first(&key), slice.key)).or_default() += 1;
        }
    }
    let mut of_chunks: BTreeMap<ChunkKey, u64> = BTreeMap::new();
    for (_, chunk) in of_inodes.keys() {
        *of_chunks.entry(*chunk).or_default() += 1;
    }
    let told: BTreeMap<(u64, ChunkKey), u64> = decoded(kv, table::INODE_CHUNK)
        .into_iter()
        .map(|(key, count)| ((first(&key), chunk_of(&key)), count))
        .collect();
    assert_eq!(told, of_inodes);
    let told: BTreeMap<ChunkKey, u64> =
        decoded(kv, table::CHUNK).into_iter().map(|(key, count)| (chunk_of(&key), count)).collect();
    assert_eq!(told, of_chunks);
    let dead = decoded::<DeadRow>(kv, table::DEAD);
    let tally = dead_tally(kv).unwrap();
    let bytes: u64 = dead.iter().map(|(_, row)| u64::from(row.len)).sum();
    assert_eq!((tally.chunks, tally.bytes), (dead.len() as u64, bytes));
    let dead: BTreeSet<ChunkKey> = dead.iter().map(|(key, _)| chunk_of(key)).collect();
    let alive: BTreeSet<ChunkKey> = of_chunks.into_keys().collect();
    assert!(dead.is_disjoint(&alive), "a chunk in use is listed dead");
    assert_eq!(&dead | &alive, *ever, "a chunk is neither in use nor dead");
}

fn recount_journal(kv: &MemoryKv, put: &BTreeSet<ChunkKey>) {
    let journal = journal_page(kv, None, (LogIndex(u64::MAX), LogIndex(u64::MAX)), usize::MAX).unwrap();
    let bytes = journal.iter().map(|journaled| journaled.chunk.bytes.len() as u64).sum();
    assert_eq!(journal_tally(kv).unwrap(), JournalTally { chunks: journal.len() as u64, bytes });
    let there: BTreeSet<ChunkKey> = journal.iter().map(|journaled| journaled.chunk.key).collect();
    assert!(journal.iter().all(|journaled| journaled.chunk.is_sound()));
    for (key, _) in rows(kv, table::CHUNK) {
        let chunk = chunk_of(&key);
        assert!(put.contains(&chunk) || there.contains(&chunk), "nobody has the bytes of {chunk}");
    }
}

fn recount_sessions(kv: &MemoryKv) {
    let sessions: BTreeMap<u64, SessionRow> =
        decoded(kv, table::SESSION).into_iter().map(|(key, row)| (first(&key), row)).collect();
    let nonces: Vec<(_, SessionId)> = decoded(kv, table::NONCE);
    assert_eq!(
        nonces.iter().map(|(_, session)| session.0).collect::<BTreeSet<_>>(),
        sessions.keys().copied().collect()
    );
    for (key, _) in decoded::<Outcome>(kv, table::OUTCOME) {
        assert!(last(&key) >= sessions[&first(&key)].trimmed);
    }
    for (session, row) in &sessions {
        let ranges = rows(kv, table::RANGE).iter().filter(|(key, _)| first(key) == *session).count();
        assert_eq!(row.ranges as usize, ranges);
    }
    assert!(rows(kv, table::RANGE).iter().all(|(key, _)| sessions.contains_key(&first(key))));
    assert!(
        decoded::<Dentry>(kv, table::DENTRY)
            .iter()
            .all(|(_, row)| row.file_type != FileType::Directory || row.inode.0 != 1)
    );
}
