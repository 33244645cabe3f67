//! `dfs stat`: all that is known of a file.

use std::{ffi::OsString, fmt::Write, sync::Arc};

use chrono::Local;
use clap::Args;
use fuse_client::{FilePath, Namespace, NamespaceError, namespace::Follow};
use ring::ChunkKey;
use serde_json::{Map, Value, json};
use wire::{
    cluster::ClusterMap,
    namespace::{Attr, Content, Extent, ExtentBody, FileType},
};

use super::{
    failure::Failure,
    invocation::{Invocation, parse_paths, tell},
    json::{insert_attr, insert_bytes},
    owners::Owners,
    ring::{describe, holders},
    text::{
        date::full_date,
        mode::{device_numbers, mode_text, type_word},
        number::{counted, long_size, thousands},
        quote::{quoted, shell},
    },
};

/// Arguments of `dfs stat`.
#[derive(Args, Debug)]
#[command(after_help = "\
Shows attributes, extents (ranges of the file), the key of each chunk (its
BLAKE3), and the nodes that hold it. A small file is kept in the namespace and
has no chunks.

Examples:
  dfs stat /photos/sea.jpg
  dfs stat --json /backup.tar | jq -r '.[].extents[].chunk'")]
pub(crate) struct StatArguments {
    /// Files
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
    /// What a symbolic link points to, not the link
    #[arg(short = 'L', long)]
    dereference: bool,
    /// As a JSON array
    #[arg(long)]
    json: bool,
}

/// A file with where its bytes are.
#[derive(Debug)]
struct Facts {
    attr: Attr,
    body: Body,
    xattrs: Vec<wire::namespace::Xattr>,
}

/// Where the bytes are.
#[derive(Debug)]
enum Body {
    /// In the namespace.
    Inline { hash: ChunkKey },
    /// In chunks.
    Extents(Vec<Extent>),
    /// A link's target.
    Symlink(Vec<u8>),
    /// It has none.
    None,
}

/// Shows files.
pub(crate) async fn run(invocation: &Invocation, arguments: StatArguments) -> Result<(), Failure> {
    let paths = parse_paths("stat", &arguments.paths)?;
    let follow = if arguments.dereference { Follow::Yes } else { Follow::No };
    invocation
        .with_files(async |files| {
            let owners = Owners::load();
            let map = super::ring::newest_map(files.cluster()).await?;
            let (mut failed, mut found) = (false, Vec::new());
            for path in &paths {
                match facts(files, path, follow).await {
                    Ok(facts) if arguments.json => found.push(facts.json(path, &map, &owners)),
                    Ok(facts) => invocation.screen.print(&facts.text(path, &map, &owners))?,
                    Err(error) => {
                        failed = true;
                        tell(invocation, "stat", path, &error)?;
                    }
                }
            }
            if arguments.json {
                invocation.screen.print_json(&Value::Array(found))?;
            }
            if failed { Err(Failure::Reported) } else { Ok(()) }
        })
        .await
}

/// Keys of the chunks of a file, in order of first use, each once.
pub(crate) async fn chunks_of(files: &Namespace, path: &FilePath) -> Result<Vec<ChunkKey>, NamespaceError> {
    let mut keys: Vec<ChunkKey> = Vec::new();
    if let Body::Extents(extents) = facts(files, path, Follow::Yes).await?.body {
        let mut seen = std::collections::BTreeSet::new();
        let chunks = extents.iter().filter_map(|extent| match extent.body {
            ExtentBody::Chunk(slice) => Some(slice.key),
            ExtentBody::Unwritten { .. } => None,
        });
        keys.extend(chunks.filter(|key| seen.insert(*key)));
    }
    Ok(keys)
}

async fn facts(files: &Namespace, path: &FilePath, follow: Follow) -> Result<Facts, NamespaceError> {
    let named = files.resolve(path, follow).await?;
    let (attr, content) = files.content(named.inode, 0, u64::MAX).await?;
    let body = match content {
        Content::Inline(data) => Body::Inline { hash: data.hash },
        Content::Symlink(target) => Body::Symlink(target.bytes),
        Content::None => Body::None,
        Content::Extents { mut extents, mut next } => {
            while let Some(offset) = next {
                let (_, Content::Extents { extents: more, next: rest }) =
                    files.content(named.inode, offset, u64::MAX).await?
                else {
                    break;
                };
                extents.extend(more);
                next = rest;
            }
            Body::Extents(extents)
        }
    };
    Ok(Facts { attr, body, xattrs: files.xattrs(path, follow).await? })
}

impl Facts {
    fn text(&self, path: &FilePath, map: &Arc<ClusterMap>, owners: &Owners) -> String {
        let mut text = String::new();
        self.write_text(&mut text, path, map, owners).expect("a String takes all that is written");
        text
    }

    fn write_text(&self, out: &mut String, path: &FilePath, map: &ClusterMap, owners: &Owners) -> std::fmt::Result {
        let attr = &self.attr;
        write!(out, "    Path: {}", quoted(&path.to_bytes()))?;
        if let Body::Symlink(target) = &self.body {
            write!(out, " -> {}", quoted(target))?;
        }
        writeln!(out, "\n    Type: {}   Inode: {}   Links: {}", type_word(attr.file_type), attr.inode, attr.links)?;
        match attr.file_type {
            FileType::CharDevice | FileType::BlockDevice => {
                let (major, minor) = device_numbers(attr.device);
                writeln!(out, "  Device: {major}, {minor}")?;
            }
            FileType::Directory => writeln!(out, "    Size: {}", counted(attr.size, "entry", "entries"))?,
            FileType::File | FileType::Symlink | FileType::Fifo | FileType::Socket => writeln!(
                out,
                "    Size: {} ({})   Allocated: {}",
                counted(attr.size, "byte", "bytes"),
                long_size(attr.size),
                long_size(attr.allocated)
            )?,
        }
        writeln!(
            out,
            "    Mode: {:04o} ({})   Owner: {} ({})   Group: {} ({})",
            attr.mode.bits(),
            mode_text(attr.file_type, attr.mode),
            attr.uid,
            owners.user(attr.uid),
            attr.gid,
            owners.group(attr.gid)
        )?;
        for (label, time) in [
            ("Accessed", attr.accessed),
            ("Modified", attr.modified),
            (" Changed", attr.changed),
            (" Created", attr.born),
        ] {
            writeln!(out, "{label}: {}", full_date(time, &Local))?;
        }
        for xattr in &self.xattrs {
            writeln!(out, "   Xattr: {}={}", shell(xattr.name.as_bytes()), quoted(&xattr.value))?;
        }
        self.write_body(out, map)
    }

    fn write_body(&self, out: &mut String, map: &ClusterMap) -> std::fmt::Result {
        match &self.body {
            Body::Inline { hash } => writeln!(out, " Content: in the namespace, BLAKE3\n          {hash}"),
            Body::Extents(extents) => {
                writeln!(out, " Content: {}", counted(extents.len() as u64, "extent", "extents"))?;
                extents.iter().try_for_each(|extent| write_extent(out, extent, map))
            }
            Body::Symlink(_) | Body::None => Ok(()),
        }
    }

    fn json(&self, path: &FilePath, map: &ClusterMap, owners: &Owners) -> Value {
        let mut object = Map::new();
        insert_bytes(&mut object, "name", path.file_name().map_or(b"/", |name| name.as_bytes()));
        insert_bytes(&mut object, "path", &path.to_bytes());
        insert_attr(&mut object, &self.attr, owners);
        let xattrs = self.xattrs.iter().map(|xattr| {
            let mut object = Map::new();
            insert_bytes(&mut object, "name", xattr.name.as_bytes());
            insert_bytes(&mut object, "value", &xattr.value);
            Value::Object(object)
        });
        object.insert("xattrs".into(), Value::Array(xattrs.collect()));
        match &self.body {
            Body::Inline { hash } => drop(object.insert("inline".into(), json!({ "hash": hash.to_string() }))),
            Body::Extents(extents) => {
                let extents = extents.iter().map(|extent| extent_json(extent, map)).collect();
                object.insert("extents".into(), Value::Array(extents));
            }
            Body::Symlink(target) => insert_bytes(&mut object, "target", target),
            Body::None => {}
        }
        Value::Object(object)
    }
}

fn write_extent(out: &mut String, extent: &Extent, map: &ClusterMap) -> std::fmt::Result {
    let (offset, len) = (thousands(extent.offset), counted(extent.len(), "byte", "bytes"));
    let ExtentBody::Chunk(slice) = extent.body else {
        return writeln!(out, "  at {offset}, {len}: unwritten, reads as zeros");
    };
    write!(out, "  at {offset}, {len}")?;
    if slice.len != slice.chunk_len {
        write!(out, " from {} of {}", thousands(slice.offset.into()), thousands(slice.chunk_len.into()))?;
    }
    writeln!(out, "\n    chunk {}", slice.key)?;
    let (owners, others) = holders(map, &slice.key);
    owners.iter().try_for_each(|&node| writeln!(out, "    on    {}", describe(map, node)))?;
    others.iter().try_for_each(|&node| writeln!(out, "    maybe {}", describe(map, node)))
}

fn extent_json(extent: &Extent, map: &ClusterMap) -> Value {
    let ExtentBody::Chunk(slice) = extent.body else {
        return json!({ "offset": extent.offset, "len": extent.len(), "unwritten": true });
    };
    let (owners, others) = holders(map, &slice.key);
    json!({
        "offset": extent.offset,
        "len": extent.len(),
        "chunk": slice.key.to_string(),
        "chunk_len": slice.chunk_len,
        "chunk_offset": slice.offset,
        "nodes": owners.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "may_hold": others.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
