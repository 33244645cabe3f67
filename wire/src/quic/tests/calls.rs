//! Calls, deadlines, bodies, and peers that go away.

use tokio::{sync::oneshot, time::Instant};

use super::*;
use crate::{CHUNK_LEN_MAX, frame::BODY_LEN_MAX, quic::transport::STREAMS_MAX};

#[tokio::test]
async fn a_call_brings_a_body_of_a_whole_chunk_both_ways() {
    let pair = pair().await;
    assert_eq!((pair.accepted.peer(), pair.dialled.peer()), (client(2), node(1)));
    tokio::spawn(echo(pair.accepted.clone()));
    let body = noise(CHUNK_LEN_MAX as usize);
    let parts = [body.slice(..10), Bytes::new(), body.slice(10..1_000_000), body.slice(1_000_000..)];
    let (reply, echoed) = pair.dialled.call(&sync(5), &parts, LONG).await.unwrap();
    assert_eq!(reply, synced(5));
    assert!(echoed == body, "the body came back as it was");
    let (reply, echoed) = pair.dialled.call(&sync(6), &[], LONG).await.unwrap();
    assert_eq!((reply, echoed), (synced(6), Bytes::new()));
}

#[tokio::test]
async fn many_calls_at_once_are_answered_each_with_its_own() {
    let pair = pair().await;
    tokio::spawn(echo(pair.accepted.clone()));
    let calls = (0..2000u64).map(|number| {
        let connection = pair.dialled.clone();
        async move {
            let body = Bytes::from(number.to_le_bytes().repeat(number as usize % 500));
            let (reply, echoed) = connection.call(&sync(number), std::slice::from_ref(&body), LONG).await.unwrap();
            assert_eq!((reply, echoed), (synced(number), body));
        }
    });
    futures::future::join_all(calls).await;
}

#[tokio::test]
async fn a_thousand_calls_may_be_under_way_before_the_first_is_answered() {
    let pair = pair().await;
    let answered = async {
        let mut exchanges = Vec::new();
        while exchanges.len() < STREAMS_MAX as usize {
            exchanges.push(pair.accepted.accept().await.unwrap());
        }
        for exchange in exchanges {
            exchange.reply(&synced(1), &[]).await.unwrap();
        }
    };
    let calls = futures::future::join_all((0..STREAMS_MAX.into()).map(|number| ask(&pair.dialled, number, Vec::new())));
    let (calls, ()) = tokio::join!(calls, answered);
    assert!(calls.into_iter().all(|called| called.unwrap().0 == synced(1)));
}

#[tokio::test]
async fn the_server_may_ask_the_dialler() {
    let pair = pair().await;
    tokio::spawn(echo(pair.dialled.clone()));
    let (reply, _) = pair.accepted.call(&sync(9), &[], LONG).await.unwrap();
    assert_eq!(reply, synced(9));
}

#[tokio::test]
async fn a_request_may_be_refused_before_its_body_was_read() {
    let pair = pair().await;
    let body = noise(BODY_LEN_MAX as usize);
    let answered = async {
        let exchange = pair.accepted.accept().await.unwrap();
        assert_eq!(exchange.body_len, BODY_LEN_MAX);
        exchange.reply(&Err(Refusal::DiskFull), &[]).await.unwrap();
    };
    let (called, ()) = tokio::join!(ask(&pair.dialled, 1, vec![body]), answered);
    assert_eq!(called.unwrap(), (Err(Refusal::DiskFull), Bytes::new()));
}

#[tokio::test]
async fn a_passed_deadline_ends_the_call_and_the_server_learns_of_it() {
    let pair = pair().await;
    let deadline = Duration::from_millis(150);
    let (arrived, exchange) = oneshot::channel();
    let accepted = pair.accepted.clone();
    tokio::spawn(async move { arrived.send(accepted.accept().await.unwrap()) });
    let begin = Instant::now();
    let error = pair.dialled.call(&sync(1), &[], deadline).await.unwrap_err();
    assert!(matches!(error, CallError::Deadline(passed) if passed == deadline), "{error:?}");
    assert!(begin.elapsed() >= deadline);
    let exchange = exchange.await.unwrap();
    assert_eq!(exchange.deadline, deadline, "the deadline travels with the request");
    exchange.gone().await;
    assert!(exchange.reply(&synced(1), &[]).await.is_err(), "nobody waits for the reply");
}

#[tokio::test]
async fn a_dropped_call_resets_its_stream_before_the_body_is_whole() {
    let pair = pair().await;
    // More than the windows hold, so that the call cannot have sent it all.
    let call = ask(&pair.dialled, 1, vec![noise(BODY_LEN_MAX as usize)]);
    let mut exchange = tokio::select! {
        _ = call => panic!("nobody has answered"),
        exchange = pair.accepted.accept() => exchange.unwrap(),
    };
    let gone = exchange.gone();
    let error = exchange.read_body().await;
    // All of the body may have been in the windows already; that nobody waits is known in any case.
    assert!(matches!(error, Err(CallError::Lost) | Ok(_)), "{error:?}");
    gone.await;
}

#[tokio::test]
async fn an_exchange_dropped_without_an_answer_ends_the_call_at_once() {
    let pair = pair().await;
    let (called, exchange) = tokio::join!(ask(&pair.dialled, 1, vec![]), async {
        drop(pair.accepted.accept().await.unwrap());
    });
    let ((), error) = (exchange, called.unwrap_err());
    assert!(matches!(error, CallError::Lost), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_long_before_the_deadline() {
    let authority = AuthorityKey::generate(CLUSTER);
    let address_of_server = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    // A runtime of its own, so that dropping it stops the peer dead, as SIGKILL would.
    let own = credentials(&authority, node(1));
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = endpoint_on(socket(PAYLOAD_LEN_MAX), Some(own), Some(CLUSTER));
            address_of_server.0.send(server.local_addr().unwrap()).unwrap();
            let accepted = accept_member(&server).await;
            let _exchange = accepted.accept().await.unwrap();
            stopped.await.unwrap();
            // Tasks die with the runtime, and no farewell is sent.
            std::mem::forget((server, accepted));
        });
        runtime.shutdown_background();
    });
    let dialler = endpoint(&authority, client(2));
    let address = address_of_server.1.await.unwrap();
    let dialled = dialler.connect(address, Some(node(1)), LONG).await.unwrap();
    let begin = Instant::now();
    let request = sync(1);
    let call = dialled.call(&request, &[], LONG);
    let (error, ()) = tokio::join!(call, async { stop.send(()).unwrap() });
    assert!(matches!(error, Err(CallError::Lost)), "{error:?}");
    // Four seconds, which `tests/twin.rs` holds to in virtual time, and some for a busy machine.
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert!(dialled.is_closed());
    server.join().unwrap();
}

#[tokio::test]
async fn a_node_started_again_tells_its_old_peers_at_once() {
    let authority = AuthorityKey::generate(CLUSTER);
    let own = credentials(&authority, node(1));
    let Socket::Udp(shared, config) = socket(PAYLOAD_LEN_MAX) else { panic!("a real socket") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = Socket::Udp(shared.clone(), config.clone());
    let (address, own_again) = (shared.local_addr().unwrap(), own.clone());
    let _task = runtime.spawn(async move { serve_echo(endpoint_on(first, Some(own), Some(CLUSTER))).await });
    let dialler = endpoint(&authority, client(2));
    let dialled = dialler.connect(address, Some(node(1)), LONG).await.unwrap();
    assert_eq!(dialled.call(&sync(1), &[], LONG).await.unwrap().0, synced(1));
    runtime.shutdown_background();
    let again = endpoint_on(Socket::Udp(shared, config), Some(own_again), Some(CLUSTER));
    tokio::spawn(serve_echo(again));
    let begin = Instant::now();
    let error = dialled.call(&sync(2), &[], LONG).await.unwrap_err();
    assert!(matches!(error, CallError::Lost), "{error:?}");
    assert!(begin.elapsed() < Duration::from_millis(2500), "by its reset, not by silence: {:?}", begin.elapsed());
}

#[tokio::test]
async fn closing_an_endpoint_ends_its_peers_calls_and_its_own_waits() {
    let pair = pair().await;
    let (called, (), none) = tokio::join!(
        ask(&pair.dialled, 1, vec![]),
        async {
            let _exchange = pair.accepted.accept().await.unwrap();
            pair.server.close().await;
        },
        pair.server.accept(),
    );
    assert!(matches!(called, Err(CallError::Lost)), "{called:?}");
    assert!(none.is_none() && pair.accepted.accept().await.is_none());
    assert!(pair.dialled.is_closed());
}

#[tokio::test]
async fn packets_grow_to_8900_bytes_on_loopback() {
    let pair = pair().await;
    tokio::spawn(echo(pair.accepted.clone()));
    let body = noise(1 << 20);
    let begin = Instant::now();
    while (pair.dialled.payload_len(), pair.accepted.payload_len()) < (PAYLOAD_LEN_MAX, PAYLOAD_LEN_MAX) {
        assert!(begin.elapsed() < LONG, "stuck at {} and {}", pair.dialled.payload_len(), pair.accepted.payload_len());
        let (_, echoed) = pair.dialled.call(&sync(1), std::slice::from_ref(&body), LONG).await.unwrap();
        assert!(echoed == body);
    }
}

#[tokio::test]
async fn a_smaller_packet_size_is_kept_on_both_ends() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let dialler = endpoint_on(socket(1452), Some(credentials(&authority, client(2))), None);
    let pair = pair_of(server, dialler).await;
    tokio::spawn(echo(pair.accepted.clone()));
    for _ in 0..20 {
        assert_eq!(pair.dialled.call(&sync(1), &[noise(1 << 20)], LONG).await.unwrap().0, synced(1));
    }
    assert!(pair.dialled.payload_len() <= 1452 && pair.accepted.payload_len() <= 1452);
}

#[tokio::test]
async fn a_node_may_call_itself() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    tokio::spawn(serve_echo(server.clone()));
    let dialled = server.connect(server.local_addr().unwrap(), Some(node(1)), LONG).await.unwrap();
    let body = noise(100_000);
    let (reply, echoed) = dialled.call(&sync(3), std::slice::from_ref(&body), LONG).await.unwrap();
    assert_eq!((reply, echoed), (synced(3), body));
}

#[tokio::test]
async fn a_socket_for_both_families_serves_both_and_shows_addresses_as_they_are() {
    let authority = AuthorityKey::generate(CLUSTER);
    let both = bind_udp("[::]:0".parse().unwrap(), UdpSocketConfig::default()).unwrap();
    let server = endpoint_on(both, Some(credentials(&authority, node(1))), Some(CLUSTER));
    let port = server.local_addr().unwrap().port();
    for (listen, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
        let own = bind_udp(listen.parse().unwrap(), UdpSocketConfig::default()).unwrap();
        let dialler = endpoint_on(own, Some(credentials(&authority, node(2))), Some(CLUSTER));
        let address = SocketAddr::new(to.parse().unwrap(), port);
        let (accepted, dialled) = tokio::join!(accept_member(&server), dialler.connect(address, None, LONG));
        let dialled = dialled.unwrap();
        assert_eq!((dialled.address(), accepted.address().ip()), (address, address.ip()));
        tokio::spawn(echo(accepted));
        assert_eq!(dialled.call(&sync(2), &[], LONG).await.unwrap().0, synced(2));
    }
}
