//! Extended attributes, and those that tell where the bytes of a file are.

use std::{fmt::Write as _, sync::Arc};

use wire::namespace::{
    CAPABILITY_XATTR, Content, ExtentBody, Inode, Op, OpError, Query, QueryAnswer, Xattr, XattrMode, XattrName,
};

use super::{FileSystem, FsError, Shared};
use crate::cluster::ClusterError;

/// Tells which nodes hold the chunks of a file.
const LOCATIONS: &[u8] = b"user.dfs.locations";

/// Tells which chunks hold the bytes of a file.
const CHUNKS: &[u8] = b"user.dfs.chunks";

/// Tells which inode of which cluster a file or directory is: who copies between a mount and the store must not meet its own
/// copy.
pub(crate) const IDENTITY: &str = "user.dfs.inode";

/// Kinds of attributes that are kept; of the system's own, access control lists are not built.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

impl FileSystem {
    /// All extended attributes of an inode, as they are when what is written here is committed.
    pub async fn xattrs(&self, inode: Inode) -> Result<Arc<Vec<Xattr>>, FsError> {
        let xattrs = self.committed_xattrs(inode).await?;
        if xattrs.iter().any(|xattr| xattr.name.as_bytes() == CAPABILITY_XATTR) && self.shared.is_ahead(inode) {
            let left = xattrs.iter().filter(|xattr| xattr.name.as_bytes() != CAPABILITY_XATTR);
            return Ok(Arc::new(left.cloned().collect()));
        }
        Ok(xattrs)
    }

    async fn committed_xattrs(&self, inode: Inode) -> Result<Arc<Vec<Xattr>>, FsError> {
        if self.shared.ttl().is_some() {
            let table = self.shared.table.lock();
            let node = table.get(inode).filter(|node| node.is_leased());
            if let Some(xattrs) = node.and_then(|node| node.xattrs.clone()) {
                return Ok(xattrs);
            }
        }
        match self.shared.ask_one(Query::Xattrs { inode }).await? {
            QueryAnswer::Xattrs(xattrs) => Ok(Arc::new(xattrs)),
            _ => Err(ClusterError::Confused.into()),
        }
    }

    /// Value of an extended attribute.
    pub async fn xattr(&self, inode: Inode, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if name == LOCATIONS || name == CHUNKS {
            return self.whereabouts(inode, name).await;
        }
        if name == IDENTITY.as_bytes() {
            return Ok(format!("{} {}", self.shared.cluster.map().cluster, inode.0).into_bytes());
        }
        let xattrs = self.xattrs(inode).await?;
        let found = xattrs.iter().find(|xattr| xattr.name.as_bytes() == name);
        Ok(found.ok_or(OpError::NoXattr)?.value.clone())
    }

    /// Sets an extended attribute.
    pub async fn set_xattr(&self, inode: Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), FsError> {
        if name.starts_with(b"user.dfs.") {
            return Err(OpError::NotPermitted.into());
        }
        let after = NAMESPACES.iter().find_map(|namespace| name.strip_prefix(*namespace));
        if after.ok_or(FsError::Unsupported)?.is_empty() {
            return Err(FsError::Invalid);
        }
        let name = XattrName::new(name).map_err(|_| FsError::Invalid)?;
        // What was written before must not take rights that are given now.
        self.shared.flush_if_dirty(inode).await?;
        self.shared.change(Op::SetXattr { inode, xattr: Xattr { name, value: value.to_vec() }, mode }).await?;
        Ok(())
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(&self, inode: Inode, name: &[u8]) -> Result<(), FsError> {
        let name = XattrName::new(name).map_err(|_| OpError::NoXattr)?;
        self.shared.change(Op::RemoveXattr { inode, name }).await?;
        Ok(())
    }

    /// A line for each extent of a file (the first thousand): offset, length, and its chunk or the nodes that hold it.
    async fn whereabouts(&self, inode: Inode, what: &[u8]) -> Result<Vec<u8>, FsError> {
        self.shared.flush_if_dirty(inode).await?;
        let answer = self.shared.ask_one(Query::Content { inode, offset: 0, len: u64::MAX }).await?;
        let QueryAnswer::Content { content, .. } = answer else { return Err(ClusterError::Confused.into()) };
        let map = self.shared.cluster.map();
        let mut text = String::new();
        match content {
            Content::Inline(data) => {
                let whose = if what == CHUNKS { "inline" } else { "namespace" };
                writeln!(text, "0 {} {whose}", data.bytes.len()).expect("a string takes everything");
            }
            Content::Extents { extents, .. } => {
                for extent in extents {
                    let ExtentBody::Chunk(slice) = extent.body else { continue };
                    write!(text, "{} {}", extent.offset, slice.len).expect("a string takes everything");
                    if what == CHUNKS {
                        writeln!(text, " {}+{}", slice.key, slice.offset).expect("a string takes everything");
                        continue;
                    }
                    if let Some(placement) = map.placement() {
                        for node in placement.owners(placement.bits().partition_of(&slice.key)) {
                            let address = map.node(node).map(|row| row.address.to_string()).unwrap_or_default();
                            write!(text, " {address}").expect("a string takes everything");
                        }
                    }
                    text.push('\n');
                }
            }
            Content::Symlink(_) | Content::None => return Err(OpError::NoXattr.into()),
        }
        text.truncate(wire::namespace::XATTR_VALUE_LEN_MAX);
        Ok(text.into_bytes())
    }
}

impl Shared {
    /// Whether bytes of a file were written here that the namespace does not know of.
    fn is_ahead(&self, inode: Inode) -> bool {
        let table = self.table.lock();
        let node = table.get(inode);
        node.is_some_and(|node| node.deferred > 0 || node.file.as_ref().is_some_and(|file| file.is_dirty()))
    }
}
