//! First contact, and how the map is kept new.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use ring::NodeId;
use tokio::time::{Instant, sleep, timeout};
use wire::{
    Answer, Refusal, Reply, Request,
    cluster::{ClusterAnswer, ClusterMap, ClusterRequest},
    quic::{CallError, ConnectError, Endpoint, EndpointConfig, Lane, Peers, PeersConfig},
};

use super::{Cluster, ClusterConfig, ClusterError, attempts::Attempts};
use crate::{config::Profile, login::client_socket};

/// How long one node may take to answer for the map before another is asked.
const MAP_DEADLINE: Duration = Duration::from_secs(2);

/// Seeds are asked this far apart, so that one that is silent costs little and one that is well spares the others.
const SEED_STAGGER: Duration = Duration::from_millis(200);

/// Between two rounds over the seeds.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

impl Cluster {
    /// Connects to whichever seed of the profile answers first.
    pub async fn connect(profile: &Profile, config: ClusterConfig) -> Result<Self, ClusterError> {
        let first = profile.seeds.first().copied();
        let first = first.ok_or_else(|| ClusterError::Unreachable { tried: "no seed is known".into() })?;
        let endpoint = Endpoint::new(EndpointConfig {
            socket: client_socket(first).map_err(wire::quic::BindError::Socket)?,
            credentials: Some(Arc::new(profile.credentials()?)),
            cluster: Some(profile.cluster),
            serve: false,
            rng_seed: config.rng_seed,
        })?;
        Self::over(endpoint, profile.seeds.clone(), config).await
    }

    /// As [`Cluster::connect`], over an endpoint made elsewhere.
    pub async fn over(endpoint: Endpoint, seeds: Vec<SocketAddr>, config: ClusterConfig) -> Result<Self, ClusterError> {
        let peers = Peers::new(endpoint, PeersConfig::default());
        // Half the deadline: nobody waits for an election here, and a cluster that does not run should be told soon.
        let until = Instant::now() + config.deadline / 2;
        let mut attempts = Attempts::default();
        loop {
            match first_answer(&peers, &seeds, &mut attempts).await? {
                Some((map, leader)) => {
                    let cluster = Self::new(peers, seeds, map, config);
                    if let Some(leader) = leader {
                        cluster.shared.leader.lock().handle_hint(leader, super::now());
                    }
                    return Ok(cluster);
                }
                None if Instant::now() >= until => {
                    let tried = attempts.to_string();
                    return Err(match attempts.is_untrusted() {
                        true => ClusterError::Untrusted { tried },
                        false => ClusterError::Unreachable { tried },
                    });
                }
                None => sleep(ROUND_PAUSE).await,
            }
        }
    }

    /// Asks members, then seeds, for a map newer than `old`, until one answers.
    pub(super) async fn fetch_map(&self, old: &ClusterMap) -> Result<(), ClusterError> {
        let mut attempts = Attempts::default();
        let mut members: Vec<(NodeId, SocketAddr)> = old.nodes.iter().map(|node| (node.id, node.address)).collect();
        let now = super::now();
        members.sort_by_key(|(node, _)| self.with_health(|health| health.is_suspect(*node, now)));
        for (node, address) in members {
            match self.ask_map(node, address, MAP_DEADLINE).await {
                Ok(_) => return Ok(()),
                Err(outcome) => attempts.note(address, outcome),
            }
        }
        match first_answer(&self.shared.peers, &self.shared.seeds, &mut attempts).await? {
            Some((map, _)) => {
                self.learn(Some(Box::new(map)));
                Ok(())
            }
            None => Err(ClusterError::Unreachable { tried: attempts.to_string() }),
        }
    }

    /// Asks the seeds for the map and who leads, and takes it in.
    pub(super) async fn ask_seeds(&self) -> Option<NodeId> {
        let mut attempts = Attempts::default();
        let answer = first_answer(&self.shared.peers, &self.shared.seeds, &mut attempts).await;
        let (map, leader) = answer.ok().flatten()?;
        self.learn(Some(Box::new(map)));
        leader
    }

    /// Asks one node for a newer map and who leads, and takes it in.
    pub(super) async fn ask_map(
        &self,
        node: NodeId,
        address: SocketAddr,
        deadline: Duration,
    ) -> Result<Option<NodeId>, AskMapError> {
        let request = Request::Cluster(ClusterRequest::Map { known: Some(self.map().epoch) });
        let (reply, _) = self.shared.peers.call(node, address, Lane::Control, &request, &[], deadline).await?;
        match reply? {
            Answer::Cluster(ClusterAnswer::Map { map, leader }) => {
                self.learn(map);
                Ok(leader)
            }
            _ => Err(AskMapError::Confused),
        }
    }
}

/// Why a node gave no map.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskMapError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("an answer to another question")]
    Confused,
}

/// Asks all seeds, a little apart; the first that answers is it. An error is final: asking again changes nothing.
async fn first_answer(
    peers: &Peers,
    seeds: &[SocketAddr],
    attempts: &mut Attempts,
) -> Result<Option<(ClusterMap, Option<NodeId>)>, ClusterError> {
    let mut asked: FuturesUnordered<_> = seeds
        .iter()
        .zip(0u32..)
        .map(|(&seed, index)| async move {
            sleep(SEED_STAGGER * index).await;
            (seed, timeout(MAP_DEADLINE * 2, ask_seed(peers, seed)).await)
        })
        .collect();
    let mut refused = None;
    while let Some((seed, outcome)) = asked.next().await {
        match outcome {
            Err(_) => attempts.note(seed, "no answer"),
            Ok(Err(CallError::NotSent(ConnectError::Refused { refusal, .. }))) if is_final(&refusal) => {
                attempts.note(seed, &refusal);
                refused = Some(refusal);
            }
            Ok(Err(error)) => attempts.note_failure(seed, &error),
            Ok(Ok(Ok(Answer::Cluster(ClusterAnswer::Map { map: Some(map), leader })))) => {
                return Ok(Some((*map, leader)));
            }
            Ok(Ok(Err(refusal))) => {
                attempts.note(seed, &refusal);
                refused = Some(refusal).filter(is_final).or(refused);
            }
            Ok(Ok(Ok(_))) => attempts.note(seed, "an answer to another question"),
        }
    }
    match refused {
        None => Ok(None),
        Some(Refusal::UnknownPeer | Refusal::OtherCluster) => {
            Err(ClusterError::Untrusted { tried: attempts.to_string() })
        }
        Some(refusal) => Err(ClusterError::Refused(refusal)),
    }
}

async fn ask_seed(peers: &Peers, seed: SocketAddr) -> Result<Reply, CallError> {
    let (_, connection) = peers.connect_seed(seed).await?;
    let request = Request::Cluster(ClusterRequest::Map { known: None });
    Ok(connection.call(&request, &[], MAP_DEADLINE).await?.0)
}

/// Whether a refusal stays the same however often one asks.
pub(super) fn is_final(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::UnknownPeer | Refusal::OtherCluster | Refusal::Version { .. })
}
