//! Nodes that join, are drained and go while other things go wrong.

use std::time::Duration;

use fuse_client::Namespace;
use rand::{Rng, rngs::StdRng};
use tokio::time::sleep;
use wire::moves::{Loss, MovesAnswer, MovesRequest};

use super::World;

/// Whether members come and go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Members {
    /// The same from beginning to end.
    Stay,
    /// One joins, another is drained; it is removed, or stays after all.
    ComeAndGo,
}

/// The last node joins, and any is drained; how many members there are in the end.
pub(super) async fn come_and_go(world: &World, client: &Namespace, chance: &mut StdRng) -> usize {
    let count = world.nodes.len();
    pause(chance, 8_000).await;
    world.admit(client, count - 1).await;
    pause(chance, 10_000).await;
    let leaver = &world.nodes[chance.random_range(0..count)];
    let node = leaver.id;
    until_done(client, MovesRequest::Drain { node }).await;
    world.trace.note(format_args!("{} is drained", leaver.host));
    if chance.random() {
        pause(chance, 10_000).await;
        until_done(client, MovesRequest::Undrain { node }).await;
        world.trace.note(format_args!("{} stays after all", leaver.host));
        return count;
    }
    // Refused as long as anything depends on it.
    until_done(client, MovesRequest::Remove { node, loss: Loss::Refused }).await;
    world.trace.note(format_args!("{} is removed", leaver.host));
    count - 1
}

async fn pause(chance: &mut StdRng, millis_max: u64) {
    sleep(Duration::from_millis(chance.random_range(0..millis_max))).await;
}

async fn until_done(client: &Namespace, wish: MovesRequest) {
    while !matches!(client.cluster().moves(wish.clone()).await, Ok(MovesAnswer::Done { .. })) {
        sleep(Duration::from_millis(500)).await;
    }
}
