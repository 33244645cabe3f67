//! Where a node stands: its address, its zone, its share of the chunks, by its arguments and by what `init` or `join` wrote.

use std::{net::SocketAddr, num::NonZeroU32, path::Path};

use anyhow::Context;
use node::{
    disk::data_dir::{DataDir, NodeFile},
    node::{Site, WeightSource},
};
use ring::Weight;

use crate::{
    WrongUsage,
    arguments::{Place, RunArguments},
    disk,
};

pub(crate) fn check_place(place: &Place) -> anyhow::Result<()> {
    check_reachable(place.advertise.unwrap_or(place.listen))
}

fn check_reachable(advertise: SocketAddr) -> anyhow::Result<()> {
    if advertise.ip().is_unspecified() || advertise.port() == 0 {
        let line = format!("{advertise} is no address that others can reach; give one with --advertise IP:PORT");
        return Err(WrongUsage(line).into());
    }
    Ok(())
}

/// Where others reach a node that is told to listen elsewhere: there, unless it was told where it is reached.
pub(crate) fn advertised(file: &NodeFile, arguments: &RunArguments) -> anyhow::Result<SocketAddr> {
    let moved = arguments.listen.filter(|_| file.advertise == file.listen);
    let advertise = arguments.advertise.or(moved).unwrap_or(file.advertise);
    check_reachable(advertise)?;
    Ok(advertise)
}

/// Bytes that chunks may take, if somebody has said so.
pub(crate) fn capacity(file: &NodeFile, arguments: &RunArguments) -> Option<u64> {
    arguments.capacity.map(|size| size.as_u64()).or(file.capacity)
}

/// What the cluster is to know of where this node stands.
pub(crate) async fn site(dir: &DataDir, file: &NodeFile, arguments: &RunArguments) -> anyhow::Result<Site> {
    let capacity = capacity(file, arguments);
    let weight = weight(dir.path(), capacity).await?;
    Ok(Site {
        advertise: advertised(file, arguments)?,
        zone: arguments.zone.clone().or_else(|| file.zone.clone()),
        weight: if capacity.is_some() { WeightSource::Told(weight) } else { WeightSource::Measured(weight) },
    })
}

/// Capacity in GiB, as the solver counts it.
pub(crate) async fn weight(path: &Path, capacity: Option<u64>) -> anyhow::Result<Weight> {
    let bytes = match capacity {
        Some(bytes) => bytes,
        None => disk_len(path).await?,
    };
    let gib = u32::try_from(bytes >> 30).unwrap_or(u32::MAX);
    Ok(Weight(NonZeroU32::new(gib).unwrap_or(NonZeroU32::MIN)))
}

/// Size of the file system that a directory is on, in bytes.
pub(crate) async fn disk_len(path: &Path) -> anyhow::Result<u64> {
    let space = disk("space")?.space(path).await;
    Ok(space.with_context(|| format!("cannot ask for the size of {}", path.display()))?.total)
}
