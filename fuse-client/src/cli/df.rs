//! `dfs df`: how much room there is.

use clap::{ArgAction, Args};
use serde_json::json;

use super::{
    failure::{Failure, Line},
    health::room,
    invocation::Invocation,
    text::{
        number::short_size,
        table::{Align, Table},
    },
};

/// Arguments of `dfs df`.
#[derive(Args, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "\
Sizes are room for files: what the disks hold, divided by the number of
replicas. In KiB unless -h or --json (bytes). What each node holds: dfs nodes.

Example:
  dfs df -h"
)]
pub(crate) struct DfArguments {
    /// Sizes as 4.0K, 12M
    #[arg(short, long)]
    human_readable: bool,
    /// As a JSON object
    #[arg(long)]
    json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Shows room.
pub(crate) async fn run(invocation: &Invocation, arguments: DfArguments) -> Result<(), Failure> {
    let status = invocation
        .with_cluster(async |cluster| {
            let failed = |error| Line::new("cannot ask for the room in the cluster").because(&error).failed();
            cluster.status().await.map_err(failed)
        })
        .await?;
    let room = room(&status);
    if arguments.json {
        return invocation.screen.print_json(&json!({
            "cluster": status.cluster.to_string(),
            "replicas": status.replicas.count(),
            "capacity": room.capacity,
            "used": room.used,
            "free": room.free,
            "inodes": status.usage.inodes,
            "bytes": status.usage.bytes,
            "nodes_unheard": room.silent,
        }));
    }
    let size = |bytes: u64| if arguments.human_readable { short_size(bytes) } else { bytes.div_ceil(1024).to_string() };
    let percent = match room.used.saturating_add(room.free) {
        0 => "-".to_owned(),
        all => format!("{}%", (u128::from(room.used) * 100).div_ceil(u128::from(all))),
    };
    let mut table = Table::new(&[
        ("Cluster", Align::Left),
        (if arguments.human_readable { "Size" } else { "1K-blocks" }, Align::Right),
        ("Used", Align::Right),
        ("Avail", Align::Right),
        ("Use%", Align::Right),
        ("Files", Align::Right),
    ]);
    table.push(vec![
        status.cluster.to_string().chars().take(8).collect(),
        size(room.capacity),
        size(room.used),
        size(room.free),
        percent,
        status.usage.inodes.to_string(),
    ]);
    invocation.screen.print(&table.text())
}
