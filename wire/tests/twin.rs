//! The transport over simulated sockets, in virtual time: what the whole simulation stands on.

#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use ring::{Epoch, NodeId};
use tokio::time::{Instant, timeout};
use wire::{
    Refusal, Reply, Request,
    chunk::ChunkRequest,
    cluster::{Access, ClusterId, Peer},
    quic::{Accepted, AuthorityKey, CallError, Credentials, DatagramSocket, Endpoint, EndpointConfig, KeyPair, Socket},
};

const LONG: Duration = Duration::from_secs(60);

/// Datagrams on their way, and what was sent when: from, to, bytes.
#[derive(Debug, Default)]
struct SimNet {
    boxes: BTreeMap<SocketAddr, Mailbox>,
    trace: Vec<(Duration, SocketAddr, SocketAddr, usize)>,
    /// Every so many datagrams one is lost; none if 0.
    lose_each: usize,
    cut: bool,
}

#[derive(Debug, Default)]
struct Mailbox {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct SimSocket {
    net: Arc<Mutex<SimNet>>,
    address: SocketAddr,
    begin: Instant,
}

impl DatagramSocket for SimSocket {
    fn try_send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let mut net = self.net.lock().unwrap();
        net.trace.push((self.begin.elapsed(), self.address, to, datagram.len()));
        let lost = net.cut || (net.lose_each > 0 && net.trace.len().is_multiple_of(net.lose_each));
        if let Some(mailbox) = net.boxes.get_mut(&to).filter(|_| !lost) {
            mailbox.datagrams.push_back((self.address, datagram.to_vec()));
            if let Some(waker) = mailbox.waker.take() {
                waker.wake();
            }
        }
        Ok(())
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut net = self.net.lock().unwrap();
        let mailbox = net.boxes.get_mut(&self.address).unwrap();
        match mailbox.datagrams.pop_front() {
            Some((from, datagram)) => {
                buffer[..datagram.len()].copy_from_slice(&datagram);
                Poll::Ready(Ok((datagram.len(), from)))
            }
            None => {
                mailbox.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Two endpoints on one simulated network.
struct Sim {
    net: Arc<Mutex<SimNet>>,
    server: Endpoint,
    dialler: Endpoint,
}

fn credentials() -> [Arc<Credentials>; 2] {
    let authority = AuthorityKey::generate(ClusterId([1; 16]));
    [1, 2].map(|number| {
        let key = KeyPair::generate();
        let peer = Peer::Node(NodeId::from_bytes([number; 16]));
        let certificate = authority.sign(&key.request(), peer, Access::ReadWrite).unwrap();
        Arc::new(Credentials::new(key, certificate, authority.authority().clone()).unwrap())
    })
}

fn sim(credentials: &[Arc<Credentials>; 2], seed: u8, lose_each: usize) -> Sim {
    let net = Arc::new(Mutex::new(SimNet { lose_each, ..SimNet::default() }));
    let endpoint = |number: u8, own: &Arc<Credentials>| {
        let address = SocketAddr::from(([10, 0, 0, number], 7000));
        net.lock().unwrap().boxes.insert(address, Mailbox::default());
        Endpoint::new(EndpointConfig {
            socket: Socket::Twin(Arc::new(SimSocket { net: net.clone(), address, begin: Instant::now() })),
            credentials: Some(own.clone()),
            cluster: None,
            serve: true,
            rng_seed: Some([seed ^ number; 32]),
        })
        .unwrap()
    };
    let [first, second] = credentials;
    Sim { server: endpoint(1, first), dialler: endpoint(2, second), net }
}

async fn serve(server: Endpoint) {
    while let Some(Accepted::Member(connection)) = server.accept().await {
        while let Some(mut exchange) = connection.accept().await {
            let body = exchange.read_body().await.unwrap_or_default();
            let _outcome = exchange.reply(&Err(Refusal::Busy), &[body]).await;
        }
    }
}

/// Twenty calls with bodies, and the trace of all datagrams.
async fn run(credentials: &[Arc<Credentials>; 2], seed: u8) -> Vec<(Duration, SocketAddr, SocketAddr, usize)> {
    let sim = sim(credentials, seed, 50);
    let serving = tokio::spawn(serve(sim.server.clone()));
    let connection = sim.dialler.connect(sim.server.local_addr().unwrap(), None, LONG).await.unwrap();
    for number in 0..20u64 {
        let request = Request::Chunk(ChunkRequest::Sync { epoch: Epoch(number) });
        let body = Bytes::from(vec![number as u8; 10_000 * number as usize]);
        let (reply, echoed) = connection.call(&request, std::slice::from_ref(&body), LONG).await.unwrap();
        assert_eq!((reply, echoed), (Reply::Err(Refusal::Busy), body));
    }
    sim.dialler.close().await;
    serving.abort();
    std::mem::take(&mut sim.net.lock().unwrap().trace)
}

fn simulate<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

#[test]
fn the_same_seed_gives_the_same_datagrams_at_the_same_times_and_another_seed_others() {
    let credentials = credentials();
    let first = simulate(run(&credentials, 7));
    assert!(first.len() > 200, "{} datagrams, some of them lost", first.len());
    assert_eq!(simulate(run(&credentials, 7)), first);
    assert_ne!(simulate(run(&credentials, 8)), first);
}

#[test]
fn a_cut_is_noticed_within_four_seconds_of_virtual_time() {
    let credentials = credentials();
    simulate(async {
        let sim = sim(&credentials, 3, 0);
        tokio::spawn(serve(sim.server.clone()));
        let connection = sim.dialler.connect(sim.server.local_addr().unwrap(), None, LONG).await.unwrap();
        let request = Request::Chunk(ChunkRequest::Sync { epoch: Epoch(1) });
        assert!(connection.call(&request, &[], LONG).await.is_ok());
        // An hour without a word changes nothing: keep-alives do.
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(timeout(Duration::from_secs(3600), connection.accept()).await.is_err());
        assert!(!connection.is_closed());
        sim.net.lock().unwrap().cut = true;
        let begin = Instant::now();
        let error = connection.call(&request, &[], LONG).await.unwrap_err();
        assert!(matches!(error, CallError::Lost), "{error:?}");
        assert!(begin.elapsed() <= Duration::from_secs(4), "{:?}", begin.elapsed());
        // Nobody can be reached, and that takes the deadline, not a moment more.
        let begin = Instant::now();
        let address = sim.server.local_addr().unwrap();
        assert!(sim.dialler.connect(address, None, Duration::from_secs(2)).await.is_err());
        assert_eq!(begin.elapsed().as_secs(), 2);
    });
}
