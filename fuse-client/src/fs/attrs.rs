//! Attributes of inodes, and how much room there is.

use std::{sync::Arc, time::Duration};

use wire::namespace::{Attr, Inode, Op, Query, QueryAnswer, SetAttr};

use super::{FileSystem, FsError, Gate, Shared, names::Told};
use crate::cluster::{ClusterError, now};

/// How often attributes are asked for again because the lease was lost meanwhile.
const LOOKS: u32 = 3;

/// How long figures of room are believed.
const SPACE_TTL: Duration = Duration::from_secs(1);

/// Room in the cluster, for files as a user counts them: one replica each.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes that fit in all.
    pub total: u64,
    /// Bytes that still fit.
    pub free: u64,
    /// Inodes that exist.
    pub inodes: u64,
}

impl FileSystem {
    /// Attributes, if they are known; the kernel is told.
    pub fn attr_cached(&self, _gate: &Gate<'_>, inode: Inode) -> Option<Told> {
        let ttl = self.shared.ttl()?;
        let mut table = self.shared.table.lock();
        table.get(inode).filter(|node| !node.pages_stale)?;
        let attr = self.shared.told_attr(&mut table, inode, now() + ttl)?;
        Some(Told { attr, attr_ttl: ttl, entry_ttl: ttl })
    }

    /// Attributes, if they stand under a lease.
    pub fn known_attr(&self, inode: Inode) -> Option<Attr> {
        let table = self.shared.table.lock();
        let node = table.get(inode).filter(|node| node.is_leased())?;
        let attr = node.attr?;
        Some(node.file.as_ref().map_or(attr, |file| file.state.lock().overlay(&attr)))
    }

    /// Attributes, asked anew: for this moment only.
    pub async fn load_attr(&self, inode: Inode) -> Result<Attr, FsError> {
        let stale = self.shared.table.lock().get(inode).is_some_and(|node| node.pages_stale);
        if stale {
            // The kernel asks before it uses a page: now they can go, and must.
            if !self.shared.forget_pages(inode, super::OP_DEADLINE / 2).await {
                return Err(FsError::Deadline);
            }
            self.shared.table.lock().entry(inode).pages_stale = false;
        }
        // What is being committed here must not be missing from the answer: the kernel would cut its pages.
        for _ in 1..LOOKS {
            self.shared.wait_settled(inode).await;
            let before = self.losses(inode);
            let attr = self.shared.ask_attr(inode).await?;
            if self.losses(inode) == before {
                return Ok(self.as_here(attr));
            }
        }
        Ok(self.as_here(self.shared.ask_attr(inode).await?))
    }

    fn losses(&self, inode: Inode) -> u64 {
        self.shared.table.lock().get(inode).map_or(0, |node| node.losses)
    }

    /// Attributes that the cluster told, with what is known here beyond that.
    pub fn as_here(&self, told: Attr) -> Attr {
        let table = self.shared.table.lock();
        let Some(node) = table.get(told.inode) else { return told };
        let known = node.attr.filter(|known| node.lease.is_some() && known.change >= told.change).unwrap_or(told);
        node.file.as_ref().map_or(known, |file| file.state.lock().overlay(&known))
    }

    /// Changes attributes, the length among them.
    pub async fn set_attr(&self, inode: Inode, set: SetAttr) -> Result<Attr, FsError> {
        match set.size {
            Some(size) => self.shared.set_len(inode, size, set).await,
            None => self.shared.set_attr(inode, set).await,
        }
    }

    /// How much room there is.
    pub async fn space(&self) -> Result<Space, FsError> {
        let kept = *self.shared.usage.lock();
        if let Some((_, space)) = kept.filter(|(at, _)| now().saturating_duration_since(*at) < SPACE_TTL) {
            return Ok(space);
        }
        let status = self.shared.cluster.status().await?;
        let replicas = u64::try_from(status.replicas.count()).unwrap_or(1).max(1);
        let stores = status.nodes.iter().filter_map(|node| node.store.as_ref().filter(|_| node.partitions > 0));
        let (used, free) = stores.fold((0_u64, 0_u64), |(used, free), store| (used + store.used, free + store.free));
        let usage = match self.shared.cluster.query(vec![Query::Usage]).await?.pop() {
            Some(Ok(QueryAnswer::Usage(usage))) => usage,
            _ => return Err(ClusterError::Confused.into()),
        };
        let space = Space { total: (used + free) / replicas, free: free / replicas, inodes: usage.inodes };
        *self.shared.usage.lock() = Some((now(), space));
        Ok(space)
    }
}

impl Shared {
    async fn set_attr(self: &Arc<Self>, inode: Inode, set: SetAttr) -> Result<Attr, FsError> {
        // What was written before must not undo this when it is committed.
        self.flush_if_dirty(inode).await?;
        if let Some(attr) = self.execute(Op::SetAttr { inode, set }) {
            return Ok(attr);
        }
        let answer = self.change(Op::SetAttr { inode, set }).await?;
        let file = self.table.lock().get(inode).and_then(|node| node.file.clone());
        let attr = match answer.attr {
            Some(attr) => attr,
            None => self.ask_attr(inode).await?,
        };
        Ok(file.map_or(attr, |file| file.state.lock().overlay(&attr)))
    }
}
