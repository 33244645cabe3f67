//! `dfs drain`: gives everything that a node holds to others.

use std::time::Duration;

use clap::Args;
use fuse_client::Cluster;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ring::{Epoch, NodeId, Partition};
use tokio::time::{Instant, sleep, timeout};
use wire::{
    cluster::ClusterMap,
    moves::{Kept, Leaving, MovesAnswer, MovesRequest},
};

use super::{
    doctor::{diagnosis::Facts, facts},
    failure::{Failure, Line},
    invocation::Invocation,
    member::{Named, find_member},
    moving::{bytes_of_replicas, time_left},
    screen::{Screen, say},
    text::number::{counted, long_size, span, thousands},
};

/// Between two looks at the map.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Between two looks at what is left in bytes and in time: several questions, and people read the answers.
const LOOK_CLOSER_EVERY: Duration = Duration::from_secs(2);

/// Between two lines where there is no bar: few enough for a log file.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How long the cluster may be silent while it is waited for: a leader that dies is replaced long before.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Arguments of `dfs drain`.
#[derive(Args, Debug)]
#[command(after_help = "\
The node goes on serving until others hold what it holds; nothing is at risk
on the way, and an interrupted drain goes on by itself. Afterwards dfs remove
takes the node out of the cluster.

Examples:
  dfs drain 10.0.0.3:7400 --wait
  dfs drain 7f3a9c21 --cancel      it is to hold its share again")]
pub(crate) struct DrainArguments {
    /// The node: its address, or the first digits of its id, as dfs nodes shows them
    #[arg(value_name = "NODE")]
    node: String,
    /// Wait until it holds nothing any more
    #[arg(long)]
    wait: bool,
    /// Take back an earlier drain
    #[arg(long, conflicts_with = "wait")]
    cancel: bool,
}

/// Drains a node.
pub(crate) async fn run(invocation: &Invocation, arguments: DrainArguments) -> Result<(), Failure> {
    invocation.with_cluster(async |cluster| drain(cluster, invocation.screen, &arguments).await).await
}

async fn drain(cluster: &Cluster, screen: Screen, arguments: &DrainArguments) -> Result<(), Failure> {
    let Named { id, name } = find_member("drain", cluster, &arguments.node).await?;
    let request = if arguments.cancel { MovesRequest::Undrain { node: id } } else { MovesRequest::Drain { node: id } };
    let failed = |error| Line::new(format!("cannot drain node {name}")).because(&error).failed();
    let asked = match cluster.moves(request).await.map_err(failed)? {
        MovesAnswer::Done { epoch } => epoch,
        MovesAnswer::Kept(Kept { left, .. }) => {
            let nodes = counted(u64::from(left), "other node", "other nodes");
            let why = format!("only {nodes} would be left to hold {} of each chunk", replicas(&cluster.map()));
            let line = Line::new(format!("cannot drain node {name}")).why(why);
            return Err(line.advice("add a node first, see dfs token create --for node").failed());
        }
        MovesAnswer::Noted | MovesAnswer::Status(_) => {
            return Err(Line::new(format!("cannot drain node {name}")).why("the answer makes no sense").failed());
        }
    };
    if arguments.cancel {
        return screen.print(&format!("Node {name} is to hold its share again.\n"));
    }
    if !arguments.wait {
        return screen.print(&format!("Node {name} is being drained; dfs status tells how far it is.\n"));
    }
    wait(cluster, screen, Asked { node: id, epoch: asked }, &name).await?;
    screen.print(&format!("Node {name} holds nothing any more; dfs remove {name} takes it out of the cluster.\n"))
}

fn replicas(map: &ClusterMap) -> String {
    counted(u64::try_from(map.replicas.count()).expect("at most 7"), "replica", "replicas")
}

/// A drain that is waited for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    node: NodeId,
    /// Epoch of the map that has it.
    epoch: Epoch,
}

/// How far a drain is, by a map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Drained {
    /// It counts for so many partitions still.
    Left(u64),
    /// Nothing counts that it may hold; or it is no member any more.
    Done,
    /// It is to hold its share again.
    TakenBack,
}

impl Asked {
    fn look(self, map: &ClusterMap) -> Drained {
        let counts = |partition: &Partition| map.counts(*partition, self.node);
        let left = map.placement().map_or(0, |placement| placement.bits().partitions().filter(counts).count());
        if left == 0 || map.node(self.node).is_none() {
            return Drained::Done;
        }
        // A map of before the drain says nothing of it: whoever was asked for it may be behind.
        if map.epoch >= self.epoch && map.leaving(self.node) != Some(Leaving::Draining) {
            return Drained::TakenBack;
        }
        Drained::Left(u64::try_from(left).expect("a ring has at most 2^20 partitions"))
    }
}

/// Waits until the map gives the node nothing, and nothing counts that it may hold.
async fn wait(cluster: &Cluster, screen: Screen, asked: Asked, name: &str) -> Result<(), Failure> {
    let bar = screen.stderr_terminal.then(bar);
    let (mut all, mut heard, mut said) = (None, Instant::now(), Instant::now());
    let mut rest = Rest::default();
    loop {
        match cluster.refresh().await {
            Ok(map) => {
                heard = Instant::now();
                let left = match asked.look(&map) {
                    Drained::Left(left) => left,
                    Drained::Done => return Ok(()),
                    Drained::TakenBack => return Err(taken_back(name)),
                };
                let all = *all.get_or_insert(left);
                let done = all.saturating_sub(left);
                let text = format!("{} of {}", thousands(done), counted(all, "partition", "partitions"));
                let rest = rest.look(cluster, left).await;
                match &bar {
                    Some(bar) => {
                        bar.set_length(all);
                        bar.set_position(done);
                        bar.set_message(format!("{text}{rest}"));
                    }
                    None if said.elapsed() >= LINE_EVERY => {
                        said = Instant::now();
                        say(&format!("drained {text} of node {name}{rest}"));
                    }
                    None => {}
                }
            }
            Err(error) if heard.elapsed() >= SILENCE_MAX => {
                let line = Line::new(format!("cannot see whether node {name} is drained")).because(&error);
                return Err(line.advice("the drain goes on by itself; dfs status tells how far it is").failed());
            }
            Err(_) => {}
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What is left in bytes and in time, as it was told last.
#[derive(Debug, Default)]
struct Rest {
    asked: Option<Instant>,
    facts: Option<Facts>,
}

impl Rest {
    /// In words, for so many partitions; nothing where the cluster does not say.
    async fn look(&mut self, cluster: &Cluster, partitions: u64) -> String {
        if self.asked.is_none_or(|asked| asked.elapsed() >= LOOK_CLOSER_EVERY) {
            self.asked = Some(Instant::now());
            // Whoever waits wants to know soon that it is over, or was taken back.
            self.facts = timeout(LOOK_CLOSER_EVERY, facts(cluster)).await.ok().and_then(Result::ok);
        }
        self.facts.as_ref().map_or(String::new(), |facts| rest(facts, partitions))
    }
}

fn rest(Facts { status, moves, health, .. }: &Facts, partitions: u64) -> String {
    let bytes = long_size(bytes_of_replicas(status, u32::try_from(partitions).unwrap_or(u32::MAX)));
    let moving = health.as_ref().and_then(|health| health.moving);
    let time = moving.zip(moves.transition.as_ref()).and_then(|(moving, all)| time_left(moving, all.replicas_left));
    match time {
        Some(time) => format!(", {bytes} and {} left", span(time)),
        None => format!(", {bytes} left"),
    }
}

fn taken_back(name: &str) -> Failure {
    let line = Line::new(format!("the drain of node {name} was taken back"));
    line.why("it is to hold its share again").advice(format!("dfs drain {name} drains it after all")).failed()
}

/// A bar with room for the message at 80 columns; gone when the wait is over.
fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{wide_bar} {msg}").expect("the template is sound").progress_chars("█▉▊▋▌▍▎▏ ");
    ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr()).with_style(style)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ring::Epoch;
    use wire::{
        health::Moving,
        moves::{Leave, Leaving, TransitionStatus},
    };

    use super::{Asked, Drained, rest};
    use crate::cli::doctor::tests::{id, well};

    #[test]
    fn a_drain_is_over_when_nothing_is_left_and_taken_back_when_the_map_says_so() {
        let facts = well();
        let asked = Asked { node: id(4), epoch: Epoch(4) };
        assert_eq!(asked.look(&facts.map), Drained::TakenBack);
        assert_eq!(Asked { epoch: Epoch(5), ..asked }.look(&facts.map), Drained::Left(3), "a map of before the drain");
        let mut map = facts.map;
        Arc::make_mut(&mut map).leaving.push(Leave { node: id(4), why: Leaving::Draining });
        assert_eq!(asked.look(&map), Drained::Left(3));
        Arc::make_mut(&mut map).nodes.retain(|row| row.id != id(4));
        assert_eq!(asked.look(&map), Drained::Done);
    }

    #[test]
    fn what_is_left_is_told_in_bytes_and_in_time_once_there_is_a_pace() {
        let mut facts = well();
        // 200 bytes on each of four nodes with three replicas each.
        assert_eq!(rest(&facts, 3), ", 200 B left");
        let transition = TransitionStatus { epoch: Epoch(5), unsettled: 3, replicas_left: 3, coming: Vec::new() };
        facts.moves.transition = Some(transition);
        facts.health.as_mut().unwrap().moving = Some(Moving { seen_ms: 60_000, replicas_done: 2 });
        assert_eq!(rest(&facts, 3), ", 200 B and 1 min 30 s left");
    }
}
