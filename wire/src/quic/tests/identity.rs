//! Who is let in, and who is believed.

use super::*;

/// What a dialler learns, while the server waits for peers.
async fn dial(server: &Endpoint, dialler: &Endpoint, expect: Option<Peer>) -> Result<Connection, ConnectError> {
    let address = server.local_addr().unwrap();
    tokio::select! {
        dialled = dialler.connect(address, expect, LONG) => dialled,
        _ = async { while let Some(Accepted::Member(kept)) = server.accept().await { std::mem::forget(kept); } } => {
            panic!("the server waits for ever")
        }
    }
}

#[test]
fn keys_certificates_and_authorities_survive_their_bytes() {
    let authority = AuthorityKey::generate(CLUSTER);
    assert_eq!(authority.authority().cluster().unwrap(), CLUSTER);
    let again = AuthorityKey::from_parts(authority.authority().clone(), &authority.to_pkcs8()).unwrap();
    let key = KeyPair::generate();
    let same = KeyPair::from_pkcs8(&key.to_pkcs8()).unwrap();
    assert_eq!(key.fingerprint(), same.fingerprint());
    assert_eq!(AuthorityKey::request_fingerprint(&key.request()).unwrap(), key.fingerprint());
    let certificate = again.sign(&key.request(), client(3), Access::ReadOnly).unwrap();
    let own = Credentials::new(same, certificate, authority.authority().clone()).unwrap();
    assert_eq!((own.peer(), own.access(), own.fingerprint()), (client(3), Access::ReadOnly, key.fingerprint()));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (authority, other) = (AuthorityKey::generate(CLUSTER), AuthorityKey::generate(CLUSTER));
    let key = KeyPair::generate();
    let certificate = authority.sign(&key.request(), node(1), Access::ReadWrite).unwrap();
    let trusted = authority.authority().clone();
    let mismatch = |key, certificate, authority| {
        matches!(Credentials::new(key, certificate, authority), Err(IdentityError::Mismatch))
    };
    assert!(mismatch(KeyPair::generate(), certificate.clone(), trusted.clone()));
    assert!(mismatch(key, certificate, other.authority().clone()));
    assert!(matches!(AuthorityKey::from_parts(trusted, &other.to_pkcs8()), Err(IdentityError::Mismatch)));
}

#[test]
fn a_flipped_bit_of_a_request_never_gets_another_key_signed() {
    let authority = AuthorityKey::generate(CLUSTER);
    let key = KeyPair::generate();
    let request = key.request();
    for bit in 0..request.len() * 8 {
        let mut bad = request.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Bits of the wrapping that the parser does not look at change nothing that is signed.
        if let Ok(certificate) = authority.sign(&bad, node(1), Access::ReadWrite) {
            assert_eq!(super::super::identity::leaf_of(&certificate).unwrap().key, key.fingerprint(), "bit {bit}");
        }
    }
    assert!(AuthorityKey::request_fingerprint(&[]).is_err() && KeyPair::from_pkcs8(&[1, 2, 3]).is_err());
}

#[test]
fn secrets_are_not_printed() {
    let authority = AuthorityKey::generate(CLUSTER);
    let own = credentials(&authority, node(1));
    let secret = format!("{:?}", own.key().to_pkcs8());
    let secret = secret.trim_matches(['[', ']']);
    for printed in [format!("{own:?}"), format!("{:?}", own.key()), format!("{authority:?}")] {
        assert!(!printed.contains(secret) && printed.len() < 500, "{printed}");
    }
}

#[tokio::test]
async fn a_peer_of_another_authority_is_not_believed_and_does_not_believe() {
    let (ours, theirs) = (AuthorityKey::generate(CLUSTER), AuthorityKey::generate(CLUSTER));
    let server = endpoint(&ours, node(1));
    let error = dial(&server, &endpoint(&theirs, client(2)), None).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
    // One who trusts us and is not trusted: a certificate of theirs beside an authority of ours.
    let key = KeyPair::generate();
    let certificate = theirs.sign(&key.request(), client(2), Access::ReadWrite).unwrap();
    let forged = Credentials::forged(key, certificate, ours.authority().clone());
    let dialler = endpoint_on(socket(PAYLOAD_LEN_MAX), Some(Arc::new(forged)), Some(CLUSTER));
    let error = dial(&server, &dialler, None).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_cannot_pass_as_a_node() {
    let authority = AuthorityKey::generate(CLUSTER);
    let own = credentials(&authority, client(2));
    let pretender = Endpoint::new(EndpointConfig {
        socket: socket(PAYLOAD_LEN_MAX),
        credentials: Some(own),
        cluster: Some(CLUSTER),
        serve: true,
        rng_seed: None,
    });
    let error = dial(&pretender.unwrap(), &endpoint(&authority, node(1)), None).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_node_cannot_pass_as_another() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let dialler = endpoint(&authority, node(2));
    let error = dial(&server, &dialler, Some(node(3))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
    assert_eq!(dial(&server, &dialler, Some(node(1))).await.unwrap().peer(), node(1));
}

#[tokio::test]
async fn another_cluster_under_the_same_authority_is_refused_by_name() {
    let authority = AuthorityKey::generate(CLUSTER);
    let server = endpoint(&authority, node(1));
    let own = credentials(&authority, client(2));
    let dialler = endpoint_on(socket(PAYLOAD_LEN_MAX), Some(own), Some(ClusterId([8; 16])));
    let error = dial(&server, &dialler, None).await.unwrap_err();
    let address = server.local_addr().unwrap();
    assert_eq!(error, ConnectError::Refused { address, refusal: Refusal::OtherCluster });
}

#[tokio::test]
async fn a_peer_that_is_refused_after_the_handshake_learns_why() {
    let pair = pair().await;
    pair.accepted.refuse(Refusal::UnknownPeer);
    let error = pair.dialled.call(&sync(1), &[], LONG).await.unwrap_err();
    let CallError::NotSent(ConnectError::Refused { refusal, .. }) = error else { panic!("{error:?}") };
    assert_eq!(refusal, Refusal::UnknownPeer);
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable_within_the_deadline() {
    let authority = AuthorityKey::generate(CLUSTER);
    let dialler = endpoint(&authority, node(1));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let begin = tokio::time::Instant::now();
    let error = dialler.connect(address, None, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error, ConnectError::Unreachable { address });
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_endpoint_without_credentials_neither_serves_nor_connects() {
    let config = |serve| EndpointConfig {
        socket: socket(PAYLOAD_LEN_MAX),
        credentials: None,
        cluster: Some(CLUSTER),
        serve,
        rng_seed: None,
    };
    assert!(matches!(Endpoint::new(config(true)), Err(BindError::Tls(_))));
    let newcomer = Endpoint::new(config(false)).unwrap();
    let address = newcomer.local_addr().unwrap();
    assert!(matches!(newcomer.connect(address, None, LONG).await, Err(ConnectError::Untrusted { .. })));
}
