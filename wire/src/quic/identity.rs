//! Keys, certificates, and the authority that signs them.
//!
//! An identity is a URI among the subject's alternative names: `dfs:node:<hex>` or `dfs:client:<hex>`, beside which
//! a client's certificate says `dfs:access:read-write` or `dfs:access:read-only`; the authority's is
//! `dfs:cluster:<hex>`. A node's certificate may serve and ask, a client's may only ask (extended key usage), so a
//! client cannot pass as a node even to a verifier that looks at the chain alone.
//!
//! # Invariants
//! - Certificates are valid from 1975 to 4096: whether a peer may connect is decided by the rows of the map, which no
//!   wrong clock can change. A machine that starts with its clock at 1970 or 2106 must still reach its cluster.
//!
//! # Not here
//! The TLS that shows and checks them (`tls`).

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SerialNumber,
};
use ring::NodeId;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest, extensions::GeneralName,
    prelude::FromDer,
};

use super::tls;
use crate::cluster::{Access, ClientId, ClusterId, KeyFingerprint, Peer};

/// A key pair (Ed25519). Written to disk before a certificate is asked for.
pub struct KeyPair {
    inner: rcgen::KeyPair,
}

/// The authority's certificate: what every peer of a cluster trusts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    /// X.509, DER.
    pub certificate: Vec<u8>,
}

/// The authority with its key: can sign.
pub struct AuthorityKey {
    authority: Authority,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

/// What a peer shows: its certificate, its key, and the authority it trusts.
pub struct Credentials {
    key: KeyPair,
    certificate: Vec<u8>,
    authority: Authority,
    leaf: Leaf,
}

/// What a certificate of a peer says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Leaf {
    pub(super) peer: Peer,
    pub(super) key: KeyFingerprint,
    access: Access,
}

/// A key, certificate or request that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no such thing.
    #[error("{what} cannot be read")]
    Unreadable {
        /// What was being read.
        what: &'static str,
    },
    /// The request is not signed by the key in it.
    #[error("the certificate request is not signed by its own key")]
    BadRequest,
    /// The certificate is not for this key, or not of this authority.
    #[error("the certificate does not belong to this key and authority")]
    Mismatch,
}

impl KeyPair {
    /// A new key from the system's randomness.
    pub fn generate() -> Self {
        let inner = rcgen::KeyPair::generate_for(&PKCS_ED25519).expect("the system gives 32 random bytes");
        Self { inner }
    }

    /// A key as PKCS #8 DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, IdentityError> {
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ED25519)
            .map(|inner| Self { inner })
            .map_err(|_| IdentityError::Unreadable { what: "the private key" })
    }

    /// PKCS #8 DER: keep it secret.
    pub fn to_pkcs8(&self) -> Vec<u8> {
        self.inner.serialize_der()
    }

    /// Name of the public key.
    pub fn fingerprint(&self) -> KeyFingerprint {
        fingerprint_of(&self.inner.subject_public_key_info())
    }

    /// A certificate signing request (PKCS #10, DER).
    pub fn request(&self) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.inner).expect("an Ed25519 key signs whatever it is given");
        request.der().to_vec()
    }
}

impl Authority {
    /// BLAKE3 of the certificate: what a token carries.
    pub fn fingerprint(&self) -> [u8; 32] {
        *blake3::hash(&self.certificate).as_bytes()
    }

    /// The cluster it is for, as the certificate says.
    pub fn cluster(&self) -> Result<ClusterId, IdentityError> {
        let unreadable = || IdentityError::Unreadable { what: "the authority's certificate" };
        let certificate = parse(&self.certificate).ok_or_else(unreadable)?;
        let [uri] = uris_of(&certificate).try_into().map_err(|_| unreadable())?;
        uri.strip_prefix("dfs:cluster:").and_then(parse_hex).map(ClusterId).ok_or_else(unreadable)
    }
}

impl AuthorityKey {
    /// A new authority for `cluster`.
    pub fn generate(cluster: ClusterId) -> Self {
        let key = KeyPair::generate().inner;
        let uris = vec![format!("dfs:cluster:{cluster}")];
        let mut params = params_for(&format!("dfs cluster {cluster}"), uris, &cluster.0);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("an Ed25519 key signs whatever it is given");
        let authority = Authority { certificate: certificate.der().to_vec() };
        Self { authority, issuer: Issuer::new(params, key) }
    }

    /// From its parts, as kept (sealed) in the replicated state.
    pub fn from_parts(authority: Authority, pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pkcs8(pkcs8)?;
        let certificate =
            parse(&authority.certificate).ok_or(IdentityError::Unreadable { what: "the authority's certificate" })?;
        if fingerprint_of(certificate.public_key().raw) != key.fingerprint() {
            return Err(IdentityError::Mismatch);
        }
        let der = CertificateDer::from(authority.certificate.as_slice());
        let issuer = Issuer::from_ca_cert_der(&der, key.inner)
            .map_err(|_| IdentityError::Unreadable { what: "the authority's certificate" })?;
        Ok(Self { authority, issuer })
    }

    /// PKCS #8 DER: keep it secret.
    pub fn to_pkcs8(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// The certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Name of the key in a certificate request, if the request is sound.
    pub fn request_fingerprint(request: &[u8]) -> Result<KeyFingerprint, IdentityError> {
        let unreadable = IdentityError::Unreadable { what: "the certificate request" };
        let Ok((rest, parsed)) = X509CertificationRequest::from_der(request) else { return Err(unreadable) };
        if !rest.is_empty() {
            return Err(unreadable);
        }
        parsed.verify_signature().map_err(|_| IdentityError::BadRequest)?;
        Ok(fingerprint_of(parsed.certification_request_info.subject_pki.raw))
    }

    /// A certificate (DER) for the key of `request`, saying that it is `peer` (and what a client may do).
    pub fn sign(&self, request: &[u8], peer: Peer, access: Access) -> Result<Vec<u8>, IdentityError> {
        Self::request_fingerprint(request)?;
        let unreadable = IdentityError::Unreadable { what: "the certificate request" };
        let Ok(mut parsed) = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        else {
            return Err(unreadable);
        };
        // Only the key is taken from the request: names and rights in the certificate are ours to say.
        let (name, uris, usages) = match peer {
            Peer::Node(id) => (
                format!("dfs node {id}"),
                vec![format!("dfs:node:{id}")],
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            ),
            Peer::Client(id) => (
                format!("dfs client {id}"),
                vec![format!("dfs:client:{id}"), format!("dfs:access:{}", access_word(access))],
                vec![ExtendedKeyUsagePurpose::ClientAuth],
            ),
        };
        parsed.params = params_for(&name, uris, request);
        parsed.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parsed.params.extended_key_usages = usages;
        let certificate = parsed.signed_by(&self.issuer).map_err(|_| unreadable)?;
        Ok(certificate.der().to_vec())
    }
}

impl Credentials {
    /// Checked to belong together.
    pub fn new(key: KeyPair, certificate: Vec<u8>, authority: Authority) -> Result<Self, IdentityError> {
        let leaf = leaf_of(&certificate).ok_or(IdentityError::Unreadable { what: "the certificate" })?;
        let signed = tls::is_signed_by(&certificate, &authority)?;
        if !signed || leaf.key != key.fingerprint() {
            return Err(IdentityError::Mismatch);
        }
        Ok(Self { key, certificate, authority, leaf })
    }

    /// Who the certificate says this is.
    pub fn peer(&self) -> Peer {
        self.leaf.peer
    }

    /// Name of the key.
    pub fn fingerprint(&self) -> KeyFingerprint {
        self.leaf.key
    }

    /// What the certificate says this may do. Nodes go by their own table; this is for telling a person early.
    pub fn access(&self) -> Access {
        self.leaf.access
    }

    /// The authority that is trusted.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Not checked to belong together: what an attacker may show.
    #[cfg(test)]
    pub(super) fn forged(key: KeyPair, certificate: Vec<u8>, authority: Authority) -> Self {
        let leaf = leaf_of(&certificate).expect("a forger keeps the form");
        Self { key, certificate, authority, leaf }
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// What is shown: the certificate and its authority's, which a newcomer must see.
    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone().into(), self.authority.certificate.clone().into()]
    }
}

/// What the certificate of a peer says; none if it is not one of ours in form. Does not check who signed it.
pub(super) fn leaf_of(der: &[u8]) -> Option<Leaf> {
    let certificate = parse(der)?;
    let key = fingerprint_of(certificate.public_key().raw);
    let uris = uris_of(&certificate);
    let (peer, access) = match uris.as_slice() {
        [id] => (Peer::Node(NodeId::from_bytes(parse_hex(id.strip_prefix("dfs:node:")?)?)), Access::ReadWrite),
        [id, access] => {
            let access = match access.strip_prefix("dfs:access:")? {
                "read-write" => Access::ReadWrite,
                "read-only" => Access::ReadOnly,
                _ => return None,
            };
            (Peer::Client(ClientId(parse_hex(id.strip_prefix("dfs:client:")?)?)), access)
        }
        _ => return None,
    };
    Some(Leaf { peer, key, access })
}

fn access_word(access: Access) -> &'static str {
    match access {
        Access::ReadWrite => "read-write",
        Access::ReadOnly => "read-only",
    }
}

fn params_for(name: &str, uris: Vec<String>, unique: &[u8]) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Always of the same length in DER, so that messages with certificates are, too.
    params.serial_number = Some(serial(unique));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = uris
        .into_iter()
        .map(|uri| SanType::URI(uri.try_into().expect("identities are hexadecimal, so ASCII")))
        .collect();
    params
}

/// A serial number of twenty bytes from what is unique about the certificate: positive, and without leading zeros.
fn serial(unique: &[u8]) -> SerialNumber {
    let [first, rest @ ..] = *blake3::hash(unique).as_bytes();
    let bytes = std::iter::once(first & 0x3f | 0x40).chain(rest).take(20);
    SerialNumber::from(bytes.collect::<Vec<u8>>())
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(certificate)
}

/// The URIs of the alternative names; nothing if there are names of another kind among them.
fn uris_of<'a>(certificate: &X509Certificate<'a>) -> Vec<&'a str> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let uri_of = |name: &GeneralName<'a>| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    };
    names.value.general_names.iter().map(uri_of).collect::<Option<Vec<_>>>().unwrap_or_default()
}

fn fingerprint_of(public_key_info: &[u8]) -> KeyFingerprint {
    KeyFingerprint(*blake3::hash(public_key_info).as_bytes())
}

/// 32 lower-case digits, as identities are written: one text for one identity.
fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let sound = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    sound.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(u128::to_be_bytes)
}

/// By the name of its public key: the secret is never printed.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.fingerprint())
    }
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityKey").field("authority", &self.authority.fingerprint()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}
