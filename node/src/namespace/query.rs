//! Questions: answered from the rows, changing nothing.

use wire::namespace::{
    Content, EXTENTS_MAX, InlineData, Inode, Name, OpError, Query, QueryAnswer, Usage, WALK_LEN_MAX, WalkEnd, Walked,
};

use super::{
    extents::extents_of,
    journal, list, locks, reach, row,
    row::{Body, Dentry, InodeRow, Storage},
    table, xattrs,
};
use crate::kv::{KvError, KvRead};

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum QueryFault {
    Refused(OpError),
    Kv(KvError),
}

impl From<OpError> for QueryFault {
    fn from(error: OpError) -> Self {
        Self::Refused(error)
    }
}

impl From<KvError> for QueryFault {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

/// What `query` finds.
pub(super) fn answer(rows: &dyn KvRead, query: &Query) -> Result<QueryAnswer, QueryFault> {
    Ok(match query {
        Query::Walk { from, path } => QueryAnswer::Walked(walk(rows, *from, path)?),
        Query::Attr { inode } => QueryAnswer::Attr(inode_row(rows, *inode)?.attr(*inode)),
        Query::Content { inode, offset, len } => {
            let row = inode_row(rows, *inode)?;
            let to = offset.saturating_add(*len);
            let content = content(rows, *inode, &row, *offset, to, EXTENTS_MAX)?;
            QueryAnswer::Content { attr: row.attr(*inode), content }
        }
        Query::List { dir, after, limit, want } => {
            let row = inode_row(rows, *dir)?;
            let Body::Directory { next_cookie, .. } = row.body else { return Err(OpError::NotDirectory.into()) };
            QueryAnswer::Page(list::page(rows, *dir, (row.data_version, next_cookie), *after, *limit, *want)?)
        }
        Query::Xattrs { inode } => {
            inode_row(rows, *inode)?;
            QueryAnswer::Xattrs(xattrs::xattrs_of(rows, *inode)?)
        }
        Query::Usage => {
            let usage: Option<Usage> = row::read(rows, &table::single(table::USAGE))?;
            QueryAnswer::Usage(usage.unwrap_or_default())
        }
        Query::Lock { inode, session, lock } => {
            inode_row(rows, *inode)?;
            QueryAnswer::Lock(locks::locks_of(rows, *inode)?.conflict(*session, lock))
        }
        Query::Journaled { key } => QueryAnswer::Journaled(journal::journaled(rows, *key)?),
    })
}

fn inode_row(rows: &dyn KvRead, inode: Inode) -> Result<InodeRow, QueryFault> {
    let row: Option<InodeRow> = row::read(rows, &table::inode(inode))?;
    Ok(row.filter(reach::is_visible).ok_or(OpError::StaleInode)?)
}

fn walk(rows: &dyn KvRead, from: Inode, path: &[Name]) -> Result<Walked, QueryFault> {
    if path.len() > WALK_LEN_MAX {
        return Err(OpError::TooLarge.into());
    }
    let mut at = from;
    let mut row = inode_row(rows, at)?;
    let mut steps = vec![row.attr(at)];
    let mut names = path.iter();
    loop {
        if row.body == Body::Symlink {
            return Ok(Walked { steps, end: WalkEnd::Symlink(inline(rows, at)?) });
        }
        let Some(name) = names.next() else { return Ok(Walked { steps, end: WalkEnd::Reached }) };
        if !row.is_directory() {
            return Ok(Walked { steps, end: WalkEnd::NotDirectory });
        }
        let dentry: Option<Dentry> = row::read(rows, &table::dentry(at, name))?;
        let Some(dentry) = dentry else { return Ok(Walked { steps, end: WalkEnd::Missing }) };
        at = dentry.inode;
        row = inode_row(rows, at)?;
        steps.push(row.attr(at));
    }
}

fn inline(rows: &dyn KvRead, inode: Inode) -> Result<InlineData, KvError> {
    let data: Option<InlineData> = row::read(rows, &table::inline(inode))?;
    data.ok_or_else(|| KvError { reason: format!("inode {inode} has lost its inline bytes") })
}

/// What `from..to` of an inode holds, in at most `limit` extents.
pub(super) fn content(
    rows: &dyn KvRead,
    inode: Inode,
    row: &InodeRow,
    from: u64,
    to: u64,
    limit: usize,
) -> Result<Content, KvError> {
    match row.body {
        Body::File { storage: Storage::Empty, .. } => Ok(Content::Inline(InlineData::new(Vec::new()))),
        Body::File { storage: Storage::Inline, .. } => Ok(Content::Inline(inline(rows, inode)?)),
        Body::File { storage: Storage::Extents, cut_from } => {
            // What lies beyond a cut is gone; its rows are only not released yet.
            let to = to.min(cut_from.unwrap_or(u64::MAX));
            let found = extents_of(rows, inode, from, to, limit + 1)?;
            let next = found.get(limit).map(|&(begin, _)| begin);
            let clipped = found.iter().take(limit).map(|&(begin, extent)| {
                let end = (begin + extent.len()).min(cut_from.unwrap_or(u64::MAX));
                extent.part(0, end - begin).extent(begin)
            });
            Ok(Content::Extents { extents: clipped.collect(), next })
        }
        Body::Symlink => Ok(Content::Symlink(inline(rows, inode)?)),
        Body::Directory { .. } | Body::Fifo | Body::Socket | Body::CharDevice { .. } | Body::BlockDevice { .. } => {
            Ok(Content::None)
        }
    }
}
