//! The cluster's authority key, sealed: replicated to everybody, readable by voters.
//!
//! ChaCha20-Poly1305 (RFC 8439) under a random key that lies in each voter's data directory. The nonce is random and
//! stands before the ciphertext; one key seals one text, so it cannot repeat in practice.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use wire::{
    cluster::SealKey,
    quic::{Authority, AuthorityKey},
};

const NONCE_LEN: usize = 12;

/// What the ciphertext is bound to, so that it can be nothing else.
const CONTEXT: &[u8] = b"dfs authority key v1";

/// The sealed key does not open.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the authority's key does not open under this node's seal")]
pub struct UnsealError;

/// Seals the authority's private key; `nonce` is random.
pub fn seal(authority: &AuthorityKey, seal: &SealKey, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
    let plain = authority.to_pkcs8();
    let sealed = ChaCha20Poly1305::new((&seal.0).into())
        .encrypt(Nonce::from_slice(&nonce), Payload { msg: &plain, aad: CONTEXT })
        .expect("a key of some hundred bytes is within the cipher's limit");
    [nonce.as_slice(), &sealed].concat()
}

/// Opens the authority's private key.
pub fn unseal(sealed: &[u8], authority: Authority, seal: &SealKey) -> Result<AuthorityKey, UnsealError> {
    let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN).ok_or(UnsealError)?;
    let plain = ChaCha20Poly1305::new((&seal.0).into())
        .decrypt(Nonce::from_slice(nonce), Payload { msg: ciphertext, aad: CONTEXT })
        .map_err(|_| UnsealError)?;
    AuthorityKey::from_parts(authority, &plain).map_err(|_| UnsealError)
}
