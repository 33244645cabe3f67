//! The client of `dfs`: the one who asks.
//!
//! A [`Profile`] says where a cluster is and who we are; [`Cluster`] is the handle to it; [`Namespace`] speaks of files
//! and directories on behalf of a [`Caller`]. Bytes go in by [`upload`] and come out by [`download`]; whole trees go
//! with [`transfer`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fuse_client::{Caller, Cluster, ClusterConfig, FilePath, Namespace, Profile};
//!
//! let profile = Profile::load("/etc/dfs/default".as_ref())?;
//! let cluster = Cluster::connect(&profile, ClusterConfig::default()).await?;
//! let namespace = Namespace::new(cluster, Caller::ROOT);
//! let path = FilePath::parse(b"/greeting")?;
//! fuse_client::upload::upload(&namespace, &path, &b"hello"[..], &Default::default()).await?;
//! let mut file = fuse_client::download::open(&namespace, &path).await?;
//! while let Some(bytes) = file.next().await? {
//!     println!("{} bytes", bytes.len());
//! }
//! namespace.finish().await;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/roundtrip.rs` is the same as a program.
//!
//! # Invariants
//! - Every byte handed out was checked against a BLAKE3 hash that the namespace recorded.
//! - An extent is committed only for a chunk that is stable on its write quorum ([`upload::Durable`]).
//! - Every call has a deadline, every queue and pool a limit.
//!
//! # Not here
//! What the cluster does with a request: `node`. The words: `wire`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on should say where"))]

pub mod cluster;
pub mod config;
pub mod download;
pub mod fs;
mod local;
pub mod login;
pub mod mount;
pub mod namespace;
mod path;
pub mod session;
pub mod transfer;
pub mod upload;

pub use cluster::{Cluster, ClusterConfig, ClusterError};
pub use config::{NewProfiles, Profile, ProfileError, ProfileKey, ProfilePlaces};
pub use namespace::{Caller, Namespace, NamespaceError};
pub use path::{Component, FilePath, PathError};
pub use session::Session;
