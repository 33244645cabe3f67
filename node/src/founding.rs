//! What a cluster begins with, on the node that was made by `init`: handed to the node, and taken away once it has worked.

use std::{sync::Arc, time::Duration};

use node::{
    disk::data_dir::{DataDir, NodeFile},
    membership::Founding,
    node::{Node, Site},
};
use ring::NodeId;
use tracing::info;
use wire::cluster::{ClientId, KeyFingerprint, NodeRow, Peer};

/// How long a node that starts waits for the cluster to know its first client: an election and two commands.
const FIRST_CLIENT_MAX: Duration = Duration::from_secs(5);
const FIRST_CLIENT_POLL: Duration = Duration::from_millis(10);

/// Waits until the cluster is founded and the profile that `init` wrote works, which is what a person tries first.
async fn founded(node: &Node, client: Option<(ClientId, KeyFingerprint)>) {
    let known = || {
        let rows = node.consensus.local();
        let client_known = client
            .is_none_or(|(id, key)| matches!(node::namespace::identify(&*rows, &Peer::Client(id), &key), Ok(Some(_))));
        client_known && node.map().is_some()
    };
    while !known() {
        tokio::time::sleep(FIRST_CLIENT_POLL).await;
    }
}

/// Waits for a while until the cluster knows its first client, and takes away what it was founded with once it does.
pub(crate) async fn settle(node: &Arc<Node>, dir: &DataDir, client: Option<(ClientId, KeyFingerprint)>) {
    // Not for ever: this node may be the only one that runs.
    if tokio::time::timeout(FIRST_CLIENT_MAX, founded(node, client)).await.is_err() {
        info!("the cluster does not know its first client yet");
    }
    let (node_of_task, dir) = (Arc::clone(node), dir.clone());
    node.tasks.spawn(async move { forget(&node_of_task, &dir, client).await });
}

/// Takes away what a cluster is founded with, once it is: this node, should it lose its log and state, must not make a
/// second, empty cluster of the same name.
async fn forget(node: &Node, dir: &DataDir, client: Option<(ClientId, KeyFingerprint)>) {
    tokio::select! {
        biased;
        () = node.stop.cancelled() => {}
        () = founded(node, client) => {
            if let Err(error) = dir.remove_founding() {
                tracing::warn!(%error, "what the cluster was founded with is still here");
            }
        }
    }
}

/// What the cluster begins with, on the node that was made by `init`.
pub(crate) fn founding(dir: &DataDir, file: &NodeFile, id: NodeId, site: &Site) -> anyhow::Result<Option<Founding>> {
    let Some(sealed_key) = dir.founding()? else { return Ok(None) };
    let client = match (dir.admin_key()?, dir.admin_file("certificate.der")?) {
        (Some(key), Some(certificate)) => {
            let fingerprint = key.fingerprint();
            let authority = dir.authority()?;
            match wire::quic::Credentials::new(key, certificate, authority)?.peer() {
                Peer::Client(client) => Some((client, fingerprint)),
                Peer::Node(_) => None,
            }
        }
        _ => None,
    };
    Ok(Some(Founding {
        replicas: file.replicas,
        node: NodeRow {
            id,
            address: site.advertise,
            zone: site.zone.clone(),
            weight: site.weight.weight(),
            key: dir.key()?.fingerprint(),
        },
        authority: dir.authority()?.certificate,
        sealed_key,
        client,
        owner: file.owner.unwrap_or_default(),
    }))
}
