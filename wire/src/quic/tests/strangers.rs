//! Newcomers with tokens, and peers that do what they must not.

use quinn::crypto::rustls::QuicClientConfig;
use ring::ReplicaCount;
use tokio::time::Instant;

use super::{
    super::{
        stream::{ReadEnd, SendHalf, read_frame},
        tls,
    },
    error::CODE_REFUSED,
    *,
};
use crate::{
    cluster::{Newcomer, PeerAccess, Redeem, Redeemed},
    frame::{self, BODY_LEN_MAX, FRAME_LEN_MAX, PREFIX_LEN},
};

fn redeem() -> Redeem {
    Redeem {
        secret: [3; 32],
        request: KeyPair::generate().request(),
        newcomer: Newcomer::Client { id: ClientId([4; 16]) },
    }
}

fn redeemed(authority: &AuthorityKey, request: &[u8]) -> Redeemed {
    Redeemed {
        cluster: CLUSTER,
        certificate: authority.sign(request, client(4), Access::ReadWrite).unwrap(),
        authority: authority.authority().certificate.clone(),
        seeds: vec![SocketAddr::from(([10, 0, 0, 1], 7000))],
        access: PeerAccess::Client(Access::ReadWrite),
        replicas: ReplicaCount::new(3).unwrap(),
    }
}

fn newcomer() -> Endpoint {
    endpoint_on(socket(PAYLOAD_LEN_MAX), None, None)
}

async fn accept_newcomer(server: &Endpoint) -> NewcomerExchange {
    match server.accept().await.unwrap() {
        Accepted::Newcomer(exchange) => exchange,
        Accepted::Member(_) => panic!("no member was expected"),
    }
}

#[tokio::test]
async fn a_newcomer_redeems_its_token_without_a_certificate() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let (address, request, newcomer) = (server.local_addr().unwrap(), redeem(), newcomer());
    let served = async {
        let exchange = accept_newcomer(&server).await;
        let answer = redeemed(&authority, &exchange.redeem.request);
        assert_eq!(exchange.redeem, request);
        exchange.reply(&Ok(answer)).await.unwrap();
    };
    let asked = newcomer.redeem(address, authority.authority().fingerprint(), &request, LONG);
    let (answer, ()) = tokio::join!(asked, served);
    let answer = answer.unwrap();
    assert_eq!(answer.certificate, redeemed(&authority, &request.request).certificate, "Ed25519 signs one way");
    let refused = async { accept_newcomer(&server).await.reply(&Err(Refusal::TokenUsed)).await.unwrap() };
    let asked = newcomer.redeem(address, authority.authority().fingerprint(), &request, LONG);
    let (answer, ()) = tokio::join!(asked, refused);
    assert!(matches!(answer, Err(RedeemError::Refused(Refusal::TokenUsed))), "{answer:?}");
}

#[tokio::test]
async fn a_newcomer_does_not_believe_another_authority_than_its_tokens() {
    let (authority, other) = (AuthorityKey::generate(CLUSTER), AuthorityKey::generate(CLUSTER));
    let server = endpoint(&authority, node(1));
    let (request, newcomer) = (redeem(), newcomer());
    let asked = newcomer.redeem(server.local_addr().unwrap(), other.authority().fingerprint(), &request, LONG);
    tokio::select! {
        answer = asked => {
            let error = answer.unwrap_err();
            assert!(matches!(error, RedeemError::Connect(ConnectError::Untrusted { .. })), "{error:?}");
        }
        _ = server.accept() => panic!("the secret was told to a stranger"),
    }
}

#[tokio::test]
async fn a_client_cannot_take_redemptions() {
    let authority = AuthorityKey::generate(CLUSTER);
    let pretender = Endpoint::new(EndpointConfig {
        socket: socket(PAYLOAD_LEN_MAX),
        credentials: Some(credentials(&authority, client(2))),
        cluster: Some(CLUSTER),
        serve: true,
        rng_seed: None,
    })
    .unwrap();
    let (request, newcomer) = (redeem(), newcomer());
    let address = pretender.local_addr().unwrap();
    tokio::select! {
        answer = newcomer.redeem(address, authority.authority().fingerprint(), &request, LONG) => {
            let error = answer.unwrap_err();
            assert!(matches!(error, RedeemError::Connect(ConnectError::Untrusted { .. })), "{error:?}");
        }
        _ = pretender.accept() => panic!("the secret was told to a client"),
    }
}

/// A connection below the level of [`Connection`], to say what a sound peer never says.
async fn raw(server: &Endpoint, config: rustls::ClientConfig) -> (quinn::Endpoint, quinn::Connection) {
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let connecting = endpoint.connect_with(config, server.local_addr().unwrap(), tls::SERVER_NAME).unwrap();
    let connection = connecting.await.unwrap();
    (endpoint, connection)
}

#[tokio::test]
async fn the_member_protocol_is_closed_to_peers_without_a_certificate() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let mut config = tls::newcomer_config(authority.authority().fingerprint()).unwrap();
    config.alpn_protocols = vec![crate::handshake::ALPN.to_vec()];
    let closed = async {
        let (_endpoint, connection) = raw(&server, config).await;
        connection.closed().await
    };
    tokio::select! {
        closed = closed => match closed {
            quinn::ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code, CODE_REFUSED);
                assert_eq!(postcard::from_bytes::<Refusal>(&close.reason).unwrap(), Refusal::UnknownPeer);
            }
            other => panic!("{other:?}"),
        },
        _ = server.accept() => panic!("a peer without a certificate was let in"),
    }
}

#[tokio::test]
async fn a_newcomer_has_one_stream_and_little_time() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let config = tls::newcomer_config(authority.authority().fingerprint()).unwrap();
    let flooded = async {
        let (_endpoint, connection) = raw(&server, config).await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        let frame = [FRAME_LEN_MAX.to_le_bytes(), 0u32.to_le_bytes()].concat();
        send.write_all(&frame).await.unwrap();
        let second = tokio::select! {
            second = connection.open_bi() => second,
            _ = connection.closed() => connection.open_bi().await,
        };
        assert!(second.is_err(), "a second stream was granted");
    };
    tokio::select! {
        () = flooded => {}
        _ = server.accept() => panic!("no redemption was sent"),
    }
}

/// A welcomed connection below the level of [`Connection`].
async fn raw_member(server: &Endpoint, authority: &AuthorityKey) -> (quinn::Endpoint, quinn::Connection, Connection) {
    let config = tls::member_config(&credentials(authority, client(2))).unwrap();
    let dialled = async {
        let (endpoint, connection) = raw(server, config).await;
        handshake::greet(&connection, CLUSTER).await.unwrap();
        (endpoint, connection)
    };
    let ((endpoint, connection), accepted) = tokio::join!(dialled, accept_member(server));
    (endpoint, connection, accepted)
}

#[tokio::test]
async fn lying_lengths_and_garbage_are_answered_as_malformed_and_the_connection_lives() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let (_endpoint, connection, accepted) = raw_member(&server, &authority).await;
    tokio::spawn(echo(accepted));
    let prefix = |header: u32, body: u32| [header.to_le_bytes(), body.to_le_bytes()].concat();
    let sound = frame::encode_request(&sync(1), 1000, 0).unwrap();
    for bad in [
        prefix(u32::MAX, 0),
        prefix(0, 0),
        prefix(FRAME_LEN_MAX + 1, 0),
        prefix(1, BODY_LEN_MAX + 1),
        [prefix(4, 0), vec![0xff; 4]].concat(),
        [prefix((sound.len() - PREFIX_LEN + 1) as u32, 0), sound[PREFIX_LEN..].to_vec(), vec![0]].concat(),
    ] {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&bad).await.unwrap();
        let reply: Reply = read_frame(&mut receive).await.unwrap().message().unwrap();
        assert_eq!(reply, Err(Refusal::Malformed), "{bad:?}");
    }
    // A body shorter than announced, and one longer: no answer, and the next request is served.
    for (announced, sent) in [(10, 5), (5, 10)] {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&frame::encode_request(&sync(1), 1000, announced).unwrap()).await.unwrap();
        send.write_all(&vec![0; sent]).await.unwrap();
        send.finish().unwrap();
        assert!(read_frame(&mut receive).await.is_err(), "{announced} bytes announced and {sent} sent");
    }
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&sound).await.unwrap();
    send.finish().unwrap();
    assert_eq!(read_frame(&mut receive).await.unwrap().message::<Reply>().unwrap(), synced(1));
}

#[tokio::test]
async fn a_stream_whose_header_does_not_come_holds_up_no_other_and_ends() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let (_endpoint, connection, accepted) = raw_member(&server, &authority).await;
    tokio::spawn(echo(accepted));
    let begin = Instant::now();
    let (mut silent, mut silent_reply) = connection.open_bi().await.unwrap();
    silent.write_all(&[1]).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode_request(&sync(8), 1000, 0).unwrap()).await.unwrap();
    send.finish().unwrap();
    assert_eq!(read_frame(&mut receive).await.unwrap().message::<Reply>().unwrap(), synced(8));
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(read_frame(&mut silent_reply).await.is_err(), "the silent stream was given up");
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn what_is_given_up_is_reset_and_not_ended_as_if_all_had_been_said() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let (_endpoint, connection, accepted) = raw_member(&server, &authority).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode_request(&sync(1), 1000, 0).unwrap()).await.unwrap();
    drop(accepted.accept().await.unwrap());
    let end = read_frame(&mut receive).await.unwrap_err();
    assert!(matches!(end, ReadEnd::Reset), "{end:?}");
    // The same of a call that is given up with its body half sent.
    let mut half = SendHalf::new(connection.open_bi().await.unwrap().0);
    let body = noise(20 << 20);
    let sending = half.send(frame::encode_request(&sync(2), 1000, 100).unwrap(), std::slice::from_ref(&body));
    let mut exchange = tokio::select! {
        _ = sending => panic!("more than the window was taken"),
        exchange = accepted.accept() => exchange.unwrap(),
    };
    drop(half);
    assert!(exchange.read_body().await.is_err(), "a hundred bytes of twenty million are no body");
}

#[tokio::test]
async fn garbage_at_the_port_neither_stops_nor_slows_the_peers() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let address = server.local_addr().unwrap();
    tokio::spawn(serve_echo(server.clone()));
    let dialler = endpoint(&authority, client(2));
    let dialled = dialler.connect(address, None, LONG).await.unwrap();
    let noise = noise(1 << 16);
    let attacker = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..2000usize {
        let len = round * 7 % 1400;
        let mut datagram = noise.slice(round..round + len).to_vec();
        // Some look like first packets of QUIC version 1.
        if round % 3 == 0 && datagram.len() > 8 {
            datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            datagram.resize(1200, 0);
        }
        attacker.send_to(&datagram, address).unwrap();
        if round % 100 == 0 {
            let (reply, _) = dialled.call(&sync(round as u64), &[], LONG).await.unwrap();
            assert_eq!(reply, synced(round as u64));
        }
    }
    let fresh = dialler.connect(address, Some(node(1)), LONG).await.unwrap();
    assert_eq!(fresh.call(&sync(1), &[], LONG).await.unwrap().0, synced(1));
}
