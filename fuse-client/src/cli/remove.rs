//! `dfs remove`: takes a node out of the cluster.

use clap::Args;
use fuse_client::{Cluster, ClusterError};
use ring::NodeId;
use wire::{
    Refusal,
    moves::{Kept, Loss, MovesAnswer, MovesRequest},
};

use super::{
    failure::{Failure, Line},
    invocation::Invocation,
    member::{Named, find_member},
    screen::{Screen, say},
    text::number::counted,
};

/// Arguments of `dfs remove`.
#[derive(Args, Debug)]
#[command(after_help = "\
A node is removed when it holds nothing: drain it first. One that is gone for
good is out after a while, and what it held is made again from the others;
then it can be removed as well. A removed node cannot come back: its machine
joins again with a new data directory.

Examples:
  dfs drain 10.0.0.3:7400 --wait && dfs remove 10.0.0.3:7400
  dfs remove 7f3a9c21 --force      whatever only it holds is lost")]
pub(crate) struct RemoveArguments {
    /// The node: its address, or the first digits of its id, as dfs nodes shows them
    #[arg(value_name = "NODE")]
    node: String,
    /// Even if that costs replicas, or the last copy of some chunks
    #[arg(long)]
    force: bool,
}

/// Removes a node.
pub(crate) async fn run(invocation: &Invocation, arguments: RemoveArguments) -> Result<(), Failure> {
    invocation.with_cluster(async |cluster| remove(cluster, invocation.screen, &arguments).await).await
}

async fn remove(cluster: &Cluster, screen: Screen, arguments: &RemoveArguments) -> Result<(), Failure> {
    let named = find_member("remove", cluster, &arguments.node).await?;
    let mut outcome = ask(cluster, &named, Loss::Refused).await?;
    if let (Some(kept), true) = (outcome, arguments.force) {
        say(&cost(&named.name, kept));
        outcome = ask(cluster, &named, Loss::Accepted).await?;
    }
    let Named { name, .. } = named;
    match outcome {
        None => {
            let next = "stop dfs-node there and delete its data directory";
            screen.print(&format!("Node {name} is not a member of the cluster any more: {next}.\n"))
        }
        Some(kept) => Err(refused(&name, kept, cluster.map().replicas.count())),
    }
}

/// Why it was not removed, if it was not.
async fn ask(cluster: &Cluster, Named { id, name }: &Named, loss: Loss) -> Result<Option<Kept>, Failure> {
    let line = || Line::new(format!("cannot remove node {name}"));
    match cluster.moves(MovesRequest::Remove { node: *id, loss }).await {
        Ok(MovesAnswer::Done { .. }) => Ok(None),
        Ok(MovesAnswer::Kept(kept)) => Ok(Some(kept)),
        Ok(MovesAnswer::Noted | MovesAnswer::Status(_)) => Err(line().why("the answer makes no sense").failed()),
        // Asked once more, after an answer was lost.
        Err(ClusterError::Refused(Refusal::UnknownPeer)) if is_gone(cluster, *id).await => Ok(None),
        Err(error) => Err(line().because(&error).failed()),
    }
}

async fn is_gone(cluster: &Cluster, id: NodeId) -> bool {
    cluster.refresh().await.is_ok_and(|map| map.node(id).is_none())
}

/// What is lost by force, in a sentence.
fn cost(name: &str, Kept { partitions, last, left }: Kept) -> String {
    let partitions_text = counted(u64::from(partitions), "partition loses", "partitions lose");
    let mut text = format!("removing node {name} by force: {partitions_text} a replica");
    if last > 0 {
        let last = counted(u64::from(last), "partition has", "partitions have");
        text.push_str(&format!(
            ", and {last} no other that is surely whole (the others are down, or still lack chunks): chunks that only this \
             node holds are lost"
        ));
    } else {
        text.push_str(&format!(
            ", another of each is whole; {} left",
            counted(u64::from(left), "node is", "nodes are")
        ));
    }
    text
}

fn refused(name: &str, Kept { partitions, last, left }: Kept, replicas: usize) -> Failure {
    let line = Line::new(format!("cannot remove node {name}"));
    if partitions > 0 {
        let mut why = format!("it holds {} of the ring", counted(u64::from(partitions), "partition", "partitions"));
        if last > 0 {
            why.push_str(&format!(", {last} of which nobody else surely holds whole"));
        }
        return line
            .why(why)
            .advice(format!("run dfs drain {name} --wait first, or give up replicas by --force"))
            .failed();
    }
    let nodes = counted(u64::from(left), "node", "nodes");
    line.why(format!("{nodes} would be left for {replicas} replicas")).advice("add a node first").failed()
}

#[cfg(test)]
mod tests {
    use wire::moves::Kept;

    use super::{cost, refused};

    #[test]
    fn force_says_what_it_costs_and_a_refusal_what_to_do_instead() {
        let kept = Kept { partitions: 3072, last: 0, left: 3 };
        let text = cost("7f3a9c21", kept);
        assert_eq!(
            text,
            "removing node 7f3a9c21 by force: 3,072 partitions lose a replica, another of each is whole; 3 nodes are left"
        );
        let text = cost("7f3a9c21", Kept { last: 1, ..kept });
        assert!(
            text.ends_with(
                "1 partition has no other that is surely whole (the others are down, or still lack chunks): chunks that only \
                 this node holds are lost"
            ),
            "{text}"
        );
        let line = refused("7f3a9c21", Kept { last: 2, ..kept }, 3).line().unwrap();
        assert!(line.contains("3,072 partitions of the ring, 2 of which nobody else surely holds whole"), "{line}");
        assert!(line.contains("dfs drain 7f3a9c21 --wait"), "{line}");
        let line = refused("7f3a9c21", Kept { partitions: 0, last: 0, left: 2 }, 3).line().unwrap();
        assert!(line.contains("2 nodes would be left for 3 replicas"), "{line}");
    }
}
