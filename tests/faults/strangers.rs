//! Those who have no business here. Frames that lie about their length are told to the endpoint itself, in the tests of
//! `wire`; here a whole node is shouted at.

use std::{fs, net::UdpSocket, time::Duration};

use harness::{Cluster, tree};
use wire::{
    cluster::{ClientId, ClusterId, Newcomer, Peer, Redeem},
    quic::{AuthorityKey, Credentials, Endpoint, EndpointConfig, KeyPair, UdpSocketConfig, bind_udp},
};

use crate::store::{assert_all_there, put_some};

/// What the memory of a node may grow by while strangers shout at it.
const GROWTH_MAX: u64 = 64 << 20;

/// Memory of a node in bytes.
fn memory(cluster: &Cluster, index: usize) -> u64 {
    let pid = cluster.nodes[index].pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// P8: "memory follows the configuration, not the load".
#[test]
fn garbage_at_the_port_neither_stops_a_node_nor_fills_its_memory() {
    let cluster = Cluster::start();
    let files = put_some(&cluster, "file", 1200);
    let before = memory(&cluster, 0);
    let noise = tree::bytes(77, 1 << 16);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..40_000usize {
        let start = round * 31 % (noise.len() - 1500);
        let mut datagram = noise[start..start + 1 + round % 1400].to_vec();
        // Some look like first packets of QUIC version 1.
        if round % 3 == 0 {
            datagram.resize(1200, 0);
            datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        }
        // A full buffer of the kernel is what shouting comes to.
        drop(socket.send_to(&datagram, cluster.nodes[0].address));
        if round % 10_000 == 5000 {
            cluster.dfs(["ls", "/"]).ok();
        }
    }
    assert_all_there(&cluster, &files);
    let grown = memory(&cluster, 0).saturating_sub(before);
    eprintln!("grown by {grown} bytes");
    assert!(grown < GROWTH_MAX, "grown by {grown} bytes");
    cluster.wait_healthy();
}

fn endpoint(credentials: Option<Credentials>, cluster: Option<ClusterId>) -> Endpoint {
    let socket = bind_udp("127.0.0.1:0".parse().unwrap(), UdpSocketConfig::default()).unwrap();
    let credentials = credentials.map(std::sync::Arc::new);
    Endpoint::new(EndpointConfig { socket, credentials, cluster, serve: false, rng_seed: None }).unwrap()
}

/// P7: "Nobody unknown."
#[test]
fn tokens_that_were_guessed_and_certificates_of_other_authorities_let_nobody_in() {
    let cluster = Cluster::start();
    let files = put_some(&cluster, "file", 1300);
    let before = memory(&cluster, 0);
    let address = cluster.nodes[0].address;
    let authority = fs::read(cluster.nodes[0].data.join("authority.der")).unwrap();
    let fingerprint = wire::quic::Authority { certificate: authority }.fingerprint();
    let text = fs::read_to_string(cluster.profile().join("profile.toml")).unwrap();
    let id = text.split('"').nth(1).unwrap();
    let id = ClusterId(u128::from_str_radix(id, 16).unwrap().to_be_bytes());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let deadline = Duration::from_secs(10);
        let newcomer = endpoint(None, None);
        for guess in 0..60u8 {
            let redeem = Redeem {
                secret: [guess; 32],
                request: KeyPair::generate().request(),
                newcomer: Newcomer::Client { id: ClientId([guess; 16]) },
            };
            let answer = newcomer.redeem(address, fingerprint, &redeem, deadline).await;
            assert!(answer.is_err(), "guess {guess} was let in");
        }
        // An authority of our own that claims the same cluster signs us a certificate.
        let pretender = AuthorityKey::generate(id);
        let key = KeyPair::generate();
        let peer = Peer::Client(ClientId([9; 16]));
        let certificate = pretender.sign(&key.request(), peer, wire::cluster::Access::ReadWrite).unwrap();
        let credentials = Credentials::new(key, certificate, pretender.authority().clone()).unwrap();
        let stranger = endpoint(Some(credentials), Some(id));
        for _ in 0..20 {
            assert!(stranger.connect(address, None, deadline).await.is_err(), "a stranger was let in");
        }
    });
    assert_all_there(&cluster, &files);
    let grown = memory(&cluster, 0).saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grown by {grown} bytes");
}
