//! Which inodes an answer tells of. Pure.

use wire::namespace::{FileLock, Inode, LockKind, OpError, Query, QueryAnswer};

/// Adds the inodes whose attributes, entries or content `answer` tells, or whose locks it does not know.
pub fn told(query: &Query, answer: &Result<QueryAnswer, OpError>, inodes: &mut Vec<Inode>) {
    let Ok(answer) = answer else { return };
    match answer {
        QueryAnswer::Walked(walked) => inodes.extend(walked.steps.iter().map(|step| step.inode)),
        QueryAnswer::Attr(attr) | QueryAnswer::Content { attr, .. } => inodes.push(attr.inode),
        QueryAnswer::Page(page) => {
            if let Query::List { dir, .. } = query {
                inodes.push(*dir);
            }
            inodes.extend(page.entries.iter().filter(|entry| entry.attr.is_some()).map(|entry| entry.inode));
        }
        QueryAnswer::Xattrs(_) => {
            if let Query::Xattrs { inode } = query {
                inodes.push(*inode);
            }
        }
        // Who decides about locks holds the inode exclusively, and returns them before that goes.
        QueryAnswer::Lock(Some(FileLock { kind: LockKind::Delegated, .. })) => inodes.extend(query.about()),
        QueryAnswer::Usage(_) | QueryAnswer::Lock(_) | QueryAnswer::Journaled(_) => {}
    }
}
