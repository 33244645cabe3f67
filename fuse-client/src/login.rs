//! Redeeming a token: how a client becomes known to a cluster.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use wire::{
    Refusal,
    cluster::{ClientId, KeyFingerprint, Newcomer, PeerAccess, Redeem, Redeemed, TokenPurpose},
    quic::{Authority, Endpoint, EndpointConfig, KeyPair, RedeemError, Socket, UdpSocketConfig, bind_udp},
    token::Token,
};

use crate::config::{self, Profile, ProfileError, ProfileKey};

/// Why nobody was let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The profile's folder cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The folder holds the profile of another cluster.
    #[error("{folder} is a profile of another cluster; choose another name with --profile, or replace it with --force")]
    OtherCluster {
        /// The folder.
        folder: std::path::PathBuf,
    },
    /// The token is for a node.
    #[error("this token is for a node: use it with dfs-node join; dfs login wants one made with --for client")]
    ForNode,
    /// No node of the token answered.
    #[error("no node of the token answers ({tried}): is the cluster running, and reachable from here?")]
    Unreachable {
        /// Who was asked and what came of it.
        tried: String,
    },
    /// The cluster refused the token.
    #[error("{0}; make a new token with dfs token create --for client")]
    Refused(wire::Refusal),
    /// The UDP socket cannot be used.
    #[error(transparent)]
    Bind(#[from] wire::quic::BindError),
}

/// Whether a profile of another cluster may be replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplaceProfile {
    /// [`LoginError::OtherCluster`].
    No,
    /// It is lost.
    Yes,
}

/// Redeems `token` and writes the profile to `folder`. The key is written first: the same call again, after the answer
/// was lost, gets the certificate again.
pub async fn login(token: &Token, folder: &Path, replace: ReplaceProfile) -> Result<Profile, LoginError> {
    if token.purpose == TokenPurpose::Node {
        return Err(LoginError::ForNode);
    }
    let key = prepare_key(token, folder, replace)?;
    let pair = KeyPair::from_pkcs8(&key.0).map_err(ProfileError::from)?;
    let redeem = Redeem {
        secret: token.secret,
        request: pair.request(),
        newcomer: Newcomer::Client { id: client_id(&pair.fingerprint()) },
    };
    let redeemed = redeem_anywhere(token, &redeem).await?;
    let PeerAccess::Client(access) = redeemed.access else {
        return Err(LoginError::ForNode);
    };
    let profile = Profile {
        cluster: redeemed.cluster,
        seeds: redeemed.seeds,
        access,
        authority: redeemed.authority,
        certificate: redeemed.certificate,
        key,
    };
    profile.credentials()?;
    profile.save(folder)?;
    config::remove_pending_key(folder)?;
    Ok(profile)
}

/// The key to log in with, on disk before anybody is asked: that of an earlier attempt, or a new one.
fn prepare_key(token: &Token, folder: &Path, replace: ReplaceProfile) -> Result<ProfileKey, LoginError> {
    match Profile::load(folder) {
        Ok(there) => {
            let same = Authority { certificate: there.authority }.fingerprint() == token.authority;
            if !same && replace == ReplaceProfile::No {
                return Err(LoginError::OtherCluster { folder: folder.to_owned() });
            }
        }
        Err(ProfileError::Missing { .. }) => {}
        Err(_) if replace == ReplaceProfile::Yes => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(key) = config::load_pending_key(folder)? {
        return Ok(key);
    }
    let key = ProfileKey(KeyPair::generate().to_pkcs8());
    config::create_folder(folder)?;
    config::save_pending_key(folder, &key)?;
    Ok(key)
}

/// Follows from the key, which is random, so that a second attempt with the same key is the same client.
fn client_id(key: &KeyFingerprint) -> ClientId {
    let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = key.0;
    ClientId(id)
}

/// Asks the token's seeds, one after the other, twice.
async fn redeem_anywhere(token: &Token, redeem: &Redeem) -> Result<Redeemed, LoginError> {
    let mut tried = Vec::new();
    for seed in token.seeds.iter().cycle().take(token.seeds.len() * 2) {
        let endpoint = Endpoint::new(EndpointConfig {
            socket: client_socket(*seed).map_err(wire::quic::BindError::Socket)?,
            credentials: None,
            cluster: None,
            serve: false,
            rng_seed: None,
        })?;
        let outcome = endpoint.redeem(*seed, token.authority, redeem, REDEEM_DEADLINE).await;
        endpoint.close().await;
        match outcome {
            Ok(redeemed) => return Ok(redeemed),
            Err(RedeemError::Refused(refusal @ (Refusal::NotLeader { .. } | Refusal::NoQuorum | Refusal::Busy))) => {
                tried.push(format!("{seed}: {refusal}"));
            }
            Err(RedeemError::Refused(refusal)) => return Err(LoginError::Refused(refusal)),
            Err(error) => tried.push(error.to_string()),
        }
    }
    tried.dedup();
    Err(LoginError::Unreachable { tried: tried.join("; ") })
}

/// A node may have to wait for a change of leader.
const REDEEM_DEADLINE: Duration = Duration::from_secs(8);

/// A socket to reach `peer` from.
pub(crate) fn client_socket(peer: SocketAddr) -> io::Result<Socket> {
    let any: SocketAddr = if peer.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    bind_udp(any, UdpSocketConfig::default())
}
