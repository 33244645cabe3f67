//! Attributes.

use std::{sync::Arc, time::Duration};

use fuser::{INodeNo, ReplyAttr};
use wire::namespace::{Attr, SetAttr};

use super::kernel::{At, failed};

impl At {
    pub(super) fn get_attr(self: &Arc<Self>, ino: INodeNo, reply: ReplyAttr) {
        let inode = self.numbers.inode(ino);
        {
            let gate = self.fs.gate();
            if let Some(told) = self.fs.attr_cached(&gate, inode) {
                return reply.attr(&told.attr_ttl, &self.numbers.attr(&told.attr));
            }
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.load_attr(inode).await {
                Ok(attr) => at.reply_attr(attr, reply),
                Err(error) => reply.error(failed("getattr", inode, &error)),
            }
        });
    }

    fn reply_attr(&self, attr: Attr, reply: ReplyAttr) {
        let gate = self.fs.gate();
        match self.fs.attr_cached(&gate, attr.inode) {
            Some(told) => reply.attr(&told.attr_ttl, &self.numbers.attr(&told.attr)),
            None => reply.attr(&Duration::ZERO, &self.numbers.attr(&attr)),
        }
    }

    pub(super) fn set_attr(self: &Arc<Self>, ino: INodeNo, set: SetAttr, reply: ReplyAttr) {
        let inode = self.numbers.inode(ino);
        if let Some(attr) = self.fs.set_attr_cached(inode, set) {
            return self.reply_set_attr(attr, reply);
        }
        let at = Arc::clone(self);
        self.spawn(async move {
            match at.fs.set_attr(inode, set).await {
                Ok(attr) => at.reply_set_attr(attr, reply),
                Err(error) => reply.error(failed("setattr", inode, &error)),
            }
        });
    }

    /// Before Linux 6.18 the kernel does not look whether it was told to forget the attributes meanwhile.
    fn reply_set_attr(&self, attr: Attr, reply: ReplyAttr) {
        let gate = self.fs.gate();
        let attr = self.fs.attr_cached(&gate, attr.inode).map_or(attr, |told| told.attr);
        reply.attr(&Duration::ZERO, &self.numbers.attr(&attr));
    }
}
