//! What is to be listed: asked, filtered, sorted.

use std::cmp::{Ordering, Reverse};

use fuse_client::{FilePath, Namespace, NamespaceError, namespace::Follow};
use wire::namespace::{Attr, Content, Entry, FileType, Inode, ListWant, OpError, Query, QueryAnswer};

use super::LsArguments;

/// Questions in one request for targets of links, as many as one may carry.
const QUERIES_MAX: usize = 256;

/// An entry to list.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// As it is shown: the name in its directory, or the path as it was given.
    pub(super) name: Vec<u8>,
    /// Where it is.
    pub(super) path: FilePath,
    /// What it is.
    pub(super) file_type: FileType,
    /// Which inode.
    pub(super) inode: Inode,
    /// If it was asked for.
    pub(super) attr: Option<Attr>,
    /// Of a symbolic link, if attributes were asked for.
    pub(super) target: Option<Vec<u8>>,
}

/// A directory and what is to be listed of it.
#[derive(Debug)]
pub(super) struct Listed {
    /// In the order in which they are shown.
    pub(super) items: Vec<Item>,
}

/// Whether what a path names is listed by its contents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Descend {
    /// It is a directory.
    Yes,
    /// It stands for itself.
    No,
}

impl LsArguments {
    /// Whether names alone are enough: a listing without attributes costs the cluster less.
    fn want(&self) -> ListWant {
        let attrs = self.long || self.json || self.by_time || self.by_size;
        if attrs { ListWant::Attrs } else { ListWant::Names }
    }

    /// Whether an entry of this name is left out.
    fn hides(&self, name: &[u8]) -> bool {
        name.starts_with(b".") && !self.all && !self.almost_all
    }
}

/// What a path given on the command line names. A link is followed unless it is shown itself.
pub(super) async fn named(
    files: &Namespace,
    path: &FilePath,
    arguments: &LsArguments,
) -> Result<(Item, Descend), NamespaceError> {
    let itself = (arguments.long || arguments.directory || arguments.json) && !path.wants_directory();
    let attr = match files.lookup(path, if itself { Follow::No } else { Follow::Yes }).await? {
        Some(attr) => attr,
        // A link that leads nowhere is listed as the link it is; what is missing says so.
        None => files.resolve(path, Follow::No).await?,
    };
    let target = match attr.file_type {
        FileType::Symlink => Some(files.read_link(path).await?),
        FileType::File
        | FileType::Directory
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharDevice
        | FileType::BlockDevice => None,
    };
    if path.wants_directory() && attr.file_type != FileType::Directory {
        return Err(NamespaceError::Op { path: path.clone(), source: OpError::NotDirectory });
    }
    let item = Item {
        name: path.to_bytes(),
        path: path.clone(),
        file_type: attr.file_type,
        inode: attr.inode,
        attr: Some(attr),
        target,
    };
    let descend = attr.file_type == FileType::Directory && !arguments.directory;
    Ok((item, if descend { Descend::Yes } else { Descend::No }))
}

/// Entries of a directory.
pub(super) async fn directory(
    files: &Namespace,
    path: &FilePath,
    arguments: &LsArguments,
) -> Result<Listed, NamespaceError> {
    let mut listing = files.list(path, arguments.want()).await?;
    let mut items = Vec::new();
    while let Some(page) = listing.next_page().await? {
        let shown = page.into_iter().filter(|entry| !arguments.hides(entry.name.as_bytes()));
        items.extend(shown.map(|entry| Item::of_entry(path, entry)));
    }
    if arguments.all && !arguments.json {
        let own = *listing.dir();
        let above = match path.parent() {
            Some(parent) => files.resolve(&parent, Follow::Yes).await?,
            None => own,
        };
        items.extend([Item::dots(b".", path, own), Item::dots(b"..", path, above)]);
    }
    if arguments.want() == ListWant::Attrs {
        link_targets(files, path, &mut items).await?;
    }
    sort(&mut items, arguments);
    Ok(Listed { items })
}

impl Item {
    fn of_entry(dir: &FilePath, entry: Entry) -> Self {
        let Entry { name, inode, file_type, attr, .. } = entry;
        Self { name: name.as_bytes().to_vec(), path: dir.join(name), file_type, inode, attr, target: None }
    }

    fn dots(name: &[u8], path: &FilePath, attr: Attr) -> Self {
        let path = path.clone();
        Self { name: name.to_vec(), path, file_type: attr.file_type, inode: attr.inode, attr: Some(attr), target: None }
    }
}

/// Asks for the targets of all links at once.
async fn link_targets(files: &Namespace, dir: &FilePath, items: &mut [Item]) -> Result<(), NamespaceError> {
    let mut links: Vec<&mut Item> = items.iter_mut().filter(|item| item.file_type == FileType::Symlink).collect();
    for links in links.chunks_mut(QUERIES_MAX) {
        let content = |inode| Query::Content { inode, offset: 0, len: u64::MAX };
        let queries = links.iter().map(|item| content(item.inode)).collect();
        let answers = files.cluster().query(queries).await.map_err(std::sync::Arc::new)?;
        for (item, answer) in links.iter_mut().zip(answers) {
            match answer {
                Ok(QueryAnswer::Content { content: Content::Symlink(target), .. }) if target.is_sound() => {
                    item.target = Some(target.bytes);
                }
                // It went, or became another, since the page was read: as with ls, it is shown as it was.
                Ok(_) | Err(OpError::StaleInode | OpError::NotFound) => {}
                Err(source) => return Err(NamespaceError::Op { path: dir.clone(), source }),
            }
        }
    }
    Ok(())
}

/// By name in order of bytes, as in the C locale; by time or size first if asked.
pub(super) fn sort(items: &mut [Item], arguments: &LsArguments) {
    let key = |a: &Item, b: &Item| -> Ordering {
        let first = if arguments.by_time {
            Reverse(a.attr.map(|attr| attr.modified)).cmp(&Reverse(b.attr.map(|attr| attr.modified)))
        } else if arguments.by_size {
            Reverse(a.attr.map(|attr| attr.size)).cmp(&Reverse(b.attr.map(|attr| attr.size)))
        } else {
            Ordering::Equal
        };
        first.then_with(|| a.name.cmp(&b.name))
    };
    items.sort_unstable_by(|a, b| if arguments.reverse { key(b, a) } else { key(a, b) });
}
