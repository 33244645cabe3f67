//! Connections that are shared, kept and made again.

use tokio::time::Instant;

use super::*;

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn peers(authority: &AuthorityKey) -> Peers {
    Peers::new(endpoint(authority, client(9)), PeersConfig::default())
}

#[tokio::test]
async fn all_who_call_share_one_connection_a_lane() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let address = server.local_addr().unwrap();
    let peers = peers(&authority);
    let accepted = async {
        let mut connections = Vec::new();
        for _ in [Lane::Control, Lane::Bulk] {
            let connection = accept_member(&server).await;
            tokio::spawn(echo(connection.clone()));
            connections.push(connection);
        }
        let _third = accept_member(&server).await;
        connections.len()
    };
    let calls = futures::future::join_all((0..50).map(|number| {
        let peers = peers.clone();
        async move {
            let lane = if number % 2 == 0 { Lane::Control } else { Lane::Bulk };
            peers.call(id(1), address, lane, &sync(number), &[], LONG).await.unwrap().0
        }
    }));
    tokio::select! {
        _ = accepted => panic!("a third connection was made"),
        replies = calls => assert_eq!(replies, (0..50).map(synced).collect::<Vec<_>>()),
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let address = server.local_addr().unwrap();
    let peers = peers(&authority);
    let request = sync(1);
    let call = || peers.call(id(1), address, Lane::Control, &request, &[], LONG);
    let (lost, ()) = tokio::join!(call(), async {
        let connection = accept_member(&server).await;
        let _exchange = connection.accept().await.unwrap();
        connection.close();
    });
    assert!(matches!(lost, Err(CallError::Lost)), "{lost:?}");
    tokio::spawn(serve_echo(server));
    assert_eq!(call().await.unwrap().0, synced(1));
    peers.forget(id(1));
    assert_eq!(call().await.unwrap().0, synced(1));
}

#[tokio::test]
async fn a_node_that_does_not_answer_fails_once_for_all_and_is_remembered_a_moment() {
    let authority = AuthorityKey::generate(CLUSTER);
    let config = PeersConfig { connect_deadline: Duration::from_secs(1), retry_after: Duration::from_secs(60) };
    let peers = Peers::new(endpoint(&authority, client(9)), config);
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let (request, begin) = (sync(1), Instant::now());
    let call = || peers.call(id(1), address, Lane::Control, &request, &[], LONG);
    for outcome in futures::future::join_all((0..20).map(|_| call())).await {
        assert!(matches!(outcome, Err(CallError::NotSent(ConnectError::Unreachable { .. }))), "{outcome:?}");
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "twenty dials one after the other: {:?}", begin.elapsed());
    let begin = Instant::now();
    assert!(call().await.is_err());
    assert!(begin.elapsed() < Duration::from_millis(900), "the failure was not remembered: {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_call_that_gives_up_does_not_take_the_dial_of_the_others_with_it() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let address = server.local_addr().unwrap();
    let peers = peers(&authority);
    let request = sync(4);
    let short = peers.call(id(1), address, Lane::Bulk, &request, &[], Duration::from_millis(50));
    // Nobody accepts yet, so the first words of the handshake wait.
    assert!(short.await.is_err());
    tokio::spawn(serve_echo(server));
    let (reply, _) = peers.call(id(1), address, Lane::Bulk, &request, &[], LONG).await.unwrap();
    assert_eq!(reply, synced(4));
}

#[tokio::test]
async fn a_seed_is_kept_under_the_identity_it_shows() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let address = server.local_addr().unwrap();
    let peers = peers(&authority);
    tokio::spawn(serve_echo(server.clone()));
    let (found, connection) = peers.connect_seed(address).await.unwrap();
    assert_eq!((found, connection.peer()), (id(1), node(1)));
    let error = peers.call(id(2), address, Lane::Control, &sync(1), &[], LONG).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(ConnectError::Untrusted { .. })), "{error:?}");
    assert_eq!(peers.call(id(1), address, Lane::Control, &sync(1), &[], LONG).await.unwrap().0, synced(1));
    assert!(!connection.is_closed());
}
