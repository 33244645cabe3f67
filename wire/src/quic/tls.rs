//! TLS 1.3 as this cluster speaks it: one cipher, one authority, no memory of earlier connections.
//!
//! # Invariants
//! - A server is believed if its certificate leads to our authority and is that of a node; names and clocks have no
//!   say. Which node it is, the endpoint compares before it sends a byte.
//! - No session is resumed and nothing is sent early (0-RTT), so a removed identity is asked for its certificate
//!   again, and nothing can be replayed.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};

use super::{
    BindError,
    identity::{self, Authority, Credentials, IdentityError},
};
use crate::{
    cluster::Peer,
    handshake::{ALPN, ALPN_JOIN},
};

/// The name under which every node is asked for: certificates name identities, not hosts.
pub(super) const SERVER_NAME: &str = "dfs";

/// What a server must show.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// A certificate of this authority.
    Authority(Authority),
    /// A chain with the authority that has this fingerprint, and a certificate of it.
    Fingerprint([u8; 32]),
}

/// For peers with certificates.
pub(super) fn member_config(credentials: &Credentials) -> Result<rustls::ClientConfig, BindError> {
    let trust = Trust::Authority(credentials.authority().clone());
    let builder = client_builder(trust)?;
    let mut config = builder
        .with_client_auth_cert(credentials.chain(), private_key(credentials))
        .map_err(|error| BindError::Tls(error.into()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(forgetful(config))
}

/// For newcomers, who have none.
pub(super) fn newcomer_config(authority: [u8; 32]) -> Result<rustls::ClientConfig, BindError> {
    let mut config = client_builder(Trust::Fingerprint(authority))?.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    Ok(forgetful(config))
}

/// For those who serve.
pub(super) fn server_config(credentials: &Credentials) -> Result<rustls::ServerConfig, BindError> {
    let tls = |error: Error| BindError::Tls(error.into());
    let roots = roots_of(credentials.authority()).map_err(|error| BindError::Tls(error.into()))?;
    // Newcomers have no certificate; the endpoint turns away everybody else who shows none.
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), crypto())
        .allow_unauthenticated()
        .build()
        .map_err(|error| BindError::Tls(error.into()))?;
    let mut config = rustls::ServerConfig::builder_with_details(crypto(), Arc::new(NoClock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(Arc::new(PeerVerifier(verifier)))
        .with_single_cert(credentials.chain(), private_key(credentials))
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec(), ALPN_JOIN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Whether `authority` signed `certificate`.
pub(super) fn is_signed_by(certificate: &[u8], authority: &Authority) -> Result<bool, IdentityError> {
    let unreadable = |_| IdentityError::Unreadable { what: "the authority's certificate" };
    let roots = roots_of(authority).map_err(unreadable)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), crypto()).build();
    let verifier = verifier.map_err(|_| IdentityError::Unreadable { what: "the authority's certificate" })?;
    Ok(verifier.verify_client_cert(&CertificateDer::from(certificate), &[], NoClock::TIME).is_ok())
}

fn client_builder(
    trust: Trust,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, BindError> {
    let builder = rustls::ClientConfig::builder_with_details(crypto(), Arc::new(NoClock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| BindError::Tls(error.into()))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(NodeVerifier { trust })))
}

fn forgetful(mut config: rustls::ClientConfig) -> rustls::ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

fn private_key(credentials: &Credentials) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(credentials.key().to_pkcs8()).into()
}

fn roots_of(authority: &Authority) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.certificate.as_slice()))?;
    Ok(roots)
}

/// AES-128-GCM and X25519 alone: the fastest of those measured, and both ends are ours.
fn crypto() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![provider::kx_group::X25519],
        ..provider::default_provider()
    })
}

/// Always the same moment, within every certificate's validity: a machine's clock decides nothing here.
#[derive(Debug)]
struct NoClock;

impl NoClock {
    const TIME: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(2_000_000_000));
}

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(Self::TIME)
    }
}

/// Believes nodes of one authority.
#[derive(Debug)]
struct NodeVerifier {
    trust: Trust,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = match &self.trust {
            Trust::Authority(authority) => roots_of(authority)?,
            Trust::Fingerprint(wanted) => {
                let authority = intermediates
                    .iter()
                    .find(|certificate| blake3::hash(certificate).as_bytes() == wanted)
                    .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                roots_of(&Authority { certificate: authority.to_vec() })?
            }
        };
        let algorithms = crypto().signature_verification_algorithms;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], now, algorithms.all)?;
        match identity::leaf_of(end_entity).map(|leaf| leaf.peer) {
            Some(Peer::Node(_)) => Ok(ServerCertVerified::assertion()),
            Some(Peer::Client(_)) | None => Err(Error::InvalidCertificate(CertificateError::InvalidPurpose)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &crypto().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &crypto().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto().signature_verification_algorithms.supported_schemes()
    }
}

/// The library's check of a client's chain, and ours that the certificate names a peer.
#[derive(Debug)]
struct PeerVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, &[], now)?;
        match identity::leaf_of(end_entity) {
            Some(_) => Ok(verified),
            None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
