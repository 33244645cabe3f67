//! A tree in a map answers the walks.

use std::collections::BTreeMap;

use wire::namespace::{Attr, FileType, InlineData, Inode, Mode, Name, Query, Timestamp, WalkEnd, Walked};

use super::{Resolution, Resolver};
use crate::{
    namespace::{Caller, Follow},
    path::FilePath,
};

/// path → (type, mode, link target); inodes are the positions.
struct Tree(BTreeMap<&'static str, (FileType, u16, &'static str)>);

impl Tree {
    fn attr(&self, path: &str) -> Option<Attr> {
        let (file_type, mode, _) = *self.0.get(path)?;
        let index = self.0.keys().position(|known| *known == path)?;
        Some(Attr {
            inode: Inode(index as u64 + 1),
            file_type,
            mode: Mode::new(mode),
            uid: 1,
            gid: 1,
            links: 1,
            size: 0,
            allocated: 0,
            device: 0,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            born: Timestamp::default(),
            change: 0,
            data_version: 0,
        })
    }

    fn walk(&self, query: &Query) -> Walked {
        let Query::Walk { from, path } = query else { panic!("only walks are asked") };
        let mut here = (*self.0.keys().nth(from.0 as usize - 1).unwrap()).to_owned();
        let mut steps = vec![self.attr(&here).unwrap()];
        for name in path {
            match steps.last().unwrap().file_type {
                FileType::Directory => {}
                FileType::Symlink => break,
                _ => return Walked { steps, end: WalkEnd::NotDirectory },
            }
            let next = format!("{}/{name}", here.trim_end_matches('/'));
            match self.attr(&next) {
                Some(attr) => steps.push(attr),
                None => return Walked { steps, end: WalkEnd::Missing },
            }
            here = next;
        }
        let end = match steps.last().unwrap().file_type {
            FileType::Symlink => WalkEnd::Symlink(InlineData::new(self.0[here.as_str()].2.into())),
            _ => WalkEnd::Reached,
        };
        Walked { steps, end }
    }

    fn resolve(&self, path: &str, follow: Follow, caller: &Caller) -> Resolution {
        let mut resolver = Resolver::new(&FilePath::parse(path.as_bytes()).unwrap(), follow);
        for _ in 0..100 {
            let query = resolver.poll_query();
            if let Some(resolution) = resolver.handle_walked(self.walk(&query), caller) {
                return resolution;
            }
        }
        panic!("{path} takes more than 100 walks");
    }

    fn found(&self, path: &str, follow: Follow) -> Result<String, Box<Resolution>> {
        match self.resolve(path, follow, &Caller::ROOT) {
            Resolution::Found { attr, .. } => Ok((*self.0.keys().nth(attr.inode.0 as usize - 1).unwrap()).to_owned()),
            other => Err(Box::new(other)),
        }
    }
}

fn tree() -> Tree {
    use FileType::{Directory, File, Symlink};
    Tree(BTreeMap::from([
        ("/", (Directory, 0o755, "")),
        ("/a", (Directory, 0o755, "")),
        ("/a/b", (Directory, 0o755, "")),
        ("/a/b/f", (File, 0o644, "")),
        ("/a/up", (Symlink, 0o777, "../c/d")),
        ("/a/abs", (Symlink, 0o777, "/a/b")),
        ("/a/file", (Symlink, 0o777, "b/f")),
        ("/a/gone", (Symlink, 0o777, "new")),
        ("/a/loop", (Symlink, 0o777, "loop")),
        ("/c", (Directory, 0o755, "")),
        ("/c/d", (Directory, 0o755, "")),
        ("/c/d/g", (File, 0o644, "")),
        ("/shut", (Directory, 0o700, "")),
        ("/shut/in", (File, 0o644, "")),
    ]))
}

#[test]
fn paths_lead_where_the_kernel_would_lead() {
    let tree = tree();
    for (path, follow, target) in [
        ("/", Follow::Yes, "/"),
        ("/a/b/f", Follow::Yes, "/a/b/f"),
        ("/a/up/g", Follow::No, "/c/d/g"),
        ("/a/up", Follow::No, "/a/up"),
        ("/a/up/", Follow::No, "/c/d"),
        ("/a/up", Follow::Yes, "/c/d"),
        ("/a/up/..", Follow::Yes, "/c"),
        ("/a/abs/f", Follow::Yes, "/a/b/f"),
        ("/a/file", Follow::Yes, "/a/b/f"),
        ("/../../a", Follow::Yes, "/a"),
        ("/a/b/../b/../../c", Follow::Yes, "/c"),
    ] {
        assert_eq!(tree.found(path, follow).unwrap(), target, "{path}");
    }
}

#[test]
fn what_is_missing_is_told_apart_from_what_is_in_the_way() {
    let tree = tree();
    let missing = |path: &str| match tree.resolve(path, Follow::Yes, &Caller::ROOT) {
        Resolution::Missing { dir, name } => (dir.inode, name),
        other => panic!("{path}: {other:?}"),
    };
    let inode = |path: &str| tree.attr(path).unwrap().inode;
    assert_eq!(missing("/a/x"), (inode("/a"), Name::new("x").unwrap()));
    assert_eq!(missing("/a/gone"), (inode("/a"), Name::new("new").unwrap()), "where a dangling link would lead");
    assert_eq!(tree.found("/a/x/y", Follow::Yes), Err(Box::new(Resolution::NoWay)));
    assert_eq!(tree.found("/a/b/f/g", Follow::Yes), Err(Box::new(Resolution::NotDirectory)));
    assert_eq!(tree.found("/a/b/f/..", Follow::Yes), Err(Box::new(Resolution::NotDirectory)));
    assert_eq!(tree.found("/a/b/f/", Follow::Yes), Err(Box::new(Resolution::NotDirectory)));
    assert_eq!(tree.found("/a/loop", Follow::Yes), Err(Box::new(Resolution::Loop)));
}

#[test]
fn a_directory_that_may_not_be_searched_hides_what_is_below_and_whether_it_exists() {
    let tree = tree();
    let caller = Caller { uid: 2, gid: 2, groups: Vec::new() };
    for path in ["/shut/in", "/shut/nothing", "/shut/.."] {
        assert_eq!(tree.resolve(path, Follow::Yes, &caller), Resolution::Denied, "{path}");
    }
    assert!(matches!(tree.resolve("/shut", Follow::Yes, &caller), Resolution::Found { .. }));
}
