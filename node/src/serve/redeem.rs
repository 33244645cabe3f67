//! Lets newcomers in: a token, once, by one key.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};
use wire::{
    Answer, Refusal, Request,
    cluster::{Access, ClusterAnswer, ClusterRequest, Newcomer, Peer, PeerAccess, Redeem, Redeemed, TokenPurpose},
    quic::{Authority, AuthorityKey, NewcomerExchange},
};

use super::namespace::propose;
use crate::{
    authority::unseal,
    namespace::{self, ClusterCommand, ClusterOutcome, CommandBody, CommandOutcome},
    node::Node,
};

/// How long a redemption may take, the way to the leader included.
const REDEEM_DEADLINE: Duration = Duration::from_secs(10);

/// Addresses handed to a newcomer to start from.
const SEEDS_MAX: usize = 16;

/// Answers a newcomer.
pub(super) async fn serve(node: Arc<Node>, exchange: NewcomerExchange) {
    let reply = match node.redemptions.try_acquire() {
        Ok(_place) => {
            let redeem = exchange.redeem.clone();
            let reply = tokio::time::timeout(REDEEM_DEADLINE, redeem_anywhere(&node, redeem)).await;
            reply.unwrap_or(Err(Refusal::NoQuorum))
        }
        Err(_) => Err(Refusal::Busy),
    };
    if let Err(refusal) = &reply {
        info!(%refusal, "a newcomer was refused");
    }
    if let Err(error) = exchange.reply(&reply).await {
        info!(%error, "a newcomer has gone before its answer");
    }
}

async fn redeem_anywhere(node: &Node, redeem: Redeem) -> Result<Redeemed, Refusal> {
    if node.is_leader() {
        return redeem_here(node, &redeem, REDEEM_DEADLINE).await;
    }
    let request = Request::Cluster(ClusterRequest::ForwardRedeem(redeem));
    match node.ask_leader(&request, REDEEM_DEADLINE).await? {
        Answer::Cluster(ClusterAnswer::Redeemed(redeemed)) => Ok(*redeemed),
        _ => Err(Refusal::Internal),
    }
}

/// Marks the token as used by this key, adds the newcomer, and signs its certificate. Leader only.
pub(super) async fn redeem_here(node: &Node, redeem: &Redeem, deadline: Duration) -> Result<Redeemed, Refusal> {
    let key = AuthorityKey::request_fingerprint(&redeem.request).map_err(|_| Refusal::Malformed)?;
    // Before the token is marked: a node that cannot sign must not use it up.
    let authority = signing_key(node)?;
    let hash = *blake3::hash(&redeem.secret).as_bytes();
    // A stranger's guess costs a look, and no entry of the log.
    let rows = node.consensus.read(deadline).await.map_err(Refusal::from)?;
    let known = namespace::is_token(&*rows, &hash).map_err(|error| {
        warn!(%error, "the tokens cannot be read");
        Refusal::Internal
    })?;
    if !known {
        return Err(Refusal::TokenUnknown);
    }
    let command = ClusterCommand::RedeemToken { hash, key, newcomer: redeem.newcomer.clone() };
    let outcome = propose(node, CommandBody::Cluster(command), deadline).await?;
    let CommandOutcome::Cluster(ClusterOutcome::Admitted { purpose }) = outcome else { return Err(Refusal::Internal) };
    let peer = match &redeem.newcomer {
        Newcomer::Node { id, .. } => Peer::Node(*id),
        Newcomer::Client { id } => Peer::Client(*id),
    };
    let (access, signed_access) = match purpose {
        TokenPurpose::Node => (PeerAccess::Node, Access::ReadWrite),
        TokenPurpose::Client(access) => (PeerAccess::Client(access), access),
    };
    let certificate = authority.sign(&redeem.request, peer, signed_access).map_err(|error| {
        warn!(%error, "a certificate cannot be signed");
        Refusal::Internal
    })?;
    node.refresh_local_map();
    let map = node.map().ok_or(Refusal::NotServing)?;
    info!(?peer, "admitted");
    Ok(Redeemed {
        cluster: node.cluster,
        certificate,
        authority: authority.authority().certificate.clone(),
        seeds: map.nodes.iter().map(|row| row.address).take(SEEDS_MAX).collect(),
        access,
        replicas: map.replicas,
    })
}

fn signing_key(node: &Node) -> Result<AuthorityKey, Refusal> {
    let rows = node.consensus.local();
    let sealed = match namespace::authority(&*rows) {
        Ok(Some(sealed)) => sealed,
        Ok(None) => return Err(Refusal::NotServing),
        Err(error) => {
            warn!(%error, "the authority cannot be read");
            return Err(Refusal::Internal);
        }
    };
    let seal = node.seal().ok_or_else(|| {
        warn!("this leader has no seal: it cannot sign certificates");
        Refusal::Internal
    })?;
    let authority = Authority { certificate: sealed.certificate };
    unseal(&sealed.sealed_key, authority, &seal).map_err(|error| {
        warn!(%error, "the authority's key cannot be used");
        Refusal::Internal
    })
}
