//! Tokens: how a newcomer finds a cluster, knows it, and is let in once. Pure.
//!
//! As text: `dfs-node-` or `dfs-client-`, then base64url (no padding) of a format byte, the token in postcard, and the
//! first four bytes of the BLAKE3 of both: what a person mangles in copying is told from what a cluster refuses.
//!
//! # Not here
//! Whether a token is valid: rows of the namespace, and the leader's time.

use std::{fmt, net::SocketAddr, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::cluster::TokenPurpose;

/// Addresses in a token: enough that one of them answers, few enough for a line of text.
pub const SEEDS_MAX: usize = 8;

/// Longest text: a token with [`SEEDS_MAX`] addresses of IPv6 is below 400 bytes.
const TEXT_LEN_MAX: usize = 1024;

const PREFIX_NODE: &str = "dfs-node-";
const PREFIX_CLIENT: &str = "dfs-client-";

/// The format in this file.
const FORMAT: u8 = 1;

const CHECK_LEN: usize = 4;

/// What a token carries; displayed and parsed as text.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Whether it is for a node or a client: told to the person before the cluster is asked.
    pub purpose: TokenPurpose,
    /// Fingerprint of the authority's certificate.
    pub authority: [u8; 32],
    /// Secret; the cluster keeps only its hash.
    pub secret: [u8; 32],
    /// Where to ask, at most [`SEEDS_MAX`].
    pub seeds: Vec<SocketAddr>,
}

/// The text is no token that can be used here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// Something else altogether.
    #[error("this is not a token; a token begins with {PREFIX_NODE} or {PREFIX_CLIENT}")]
    NotAToken,
    /// A character is missing or wrong.
    #[error("the token is damaged; copy it again, whole")]
    Damaged,
    /// Made by a later release.
    #[error("the token was made by a newer version of dfs; update this one")]
    Newer,
    /// A client's token at `dfs-node join`.
    #[error("the token is for a client; make one with `dfs token create --for node`")]
    ForClient,
    /// A node's token at `dfs login`.
    #[error("the token is for a node; make one with `dfs token create --for client`")]
    ForNode,
}

impl Token {
    /// A token from what a person gave to `dfs-node join`.
    pub fn for_node(text: &str) -> Result<Self, TokenError> {
        let token: Self = text.parse()?;
        match token.purpose {
            TokenPurpose::Node => Ok(token),
            TokenPurpose::Client(_) => Err(TokenError::ForClient),
        }
    }

    /// A token from what a person gave to `dfs login`.
    pub fn for_client(text: &str) -> Result<Self, TokenError> {
        let token: Self = text.parse()?;
        match token.purpose {
            TokenPurpose::Client(_) => Ok(token),
            TokenPurpose::Node => Err(TokenError::ForNode),
        }
    }

    /// BLAKE3 of the secret: what the cluster keeps, and compares with.
    pub fn secret_hash(secret: &[u8; 32]) -> [u8; 32] {
        *blake3::hash(secret).as_bytes()
    }

    fn prefix(&self) -> &'static str {
        match self.purpose {
            TokenPurpose::Node => PREFIX_NODE,
            TokenPurpose::Client(_) => PREFIX_CLIENT,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = postcard::to_extend(self, vec![FORMAT]).map_err(|_| fmt::Error)?;
        let check = check_of(&bytes);
        bytes.extend_from_slice(&check);
        write!(f, "{}{}", self.prefix(), URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Takes the text with spaces and line ends around it, as a terminal copies them.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX_NODE).or_else(|| text.strip_prefix(PREFIX_CLIENT));
        let encoded = encoded.ok_or(TokenError::NotAToken)?;
        if text.len() > TEXT_LEN_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Damaged)?;
        let (sealed, check) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(TokenError::Damaged)?;
        if check_of(sealed) != *check {
            return Err(TokenError::Damaged);
        }
        let (&format, sealed) = sealed.split_first().ok_or(TokenError::Damaged)?;
        if format != FORMAT {
            return Err(TokenError::Newer);
        }
        let (token, rest) = postcard::take_from_bytes::<Self>(sealed).map_err(|_| TokenError::Damaged)?;
        let sound = rest.is_empty() && (1..=SEEDS_MAX).contains(&token.seeds.len());
        if sound && text.starts_with(token.prefix()) { Ok(token) } else { Err(TokenError::Damaged) }
    }
}

/// Without the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("purpose", &self.purpose).field("seeds", &self.seeds).finish_non_exhaustive()
    }
}

fn check_of(bytes: &[u8]) -> [u8; CHECK_LEN] {
    let [a, b, c, d, ..] = *blake3::hash(bytes).as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Access;

    fn token(purpose: TokenPurpose, seeds: usize) -> Token {
        let seeds = (0..seeds).map(|port| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 7000 + port as u16)));
        Token { purpose, authority: [0xa5; 32], secret: [0x5a; 32], seeds: seeds.collect() }
    }

    #[test]
    fn a_token_survives_its_text_and_stays_below_the_limit() {
        for purpose in
            [TokenPurpose::Node, TokenPurpose::Client(Access::ReadOnly), TokenPurpose::Client(Access::ReadWrite)]
        {
            for seeds in 1..=SEEDS_MAX {
                let token = token(purpose, seeds);
                let text = token.to_string();
                assert!(text.len() < 400 && text.is_ascii(), "{text}");
                assert_eq!(format!(" {text}\n").parse::<Token>().unwrap(), token);
            }
        }
    }

    #[test]
    fn each_mistake_has_its_own_line() {
        let node = token(TokenPurpose::Node, 2).to_string();
        let client = token(TokenPurpose::Client(Access::ReadWrite), 2).to_string();
        assert_eq!(Token::for_node(&client), Err(TokenError::ForClient));
        assert_eq!(Token::for_client(&node), Err(TokenError::ForNode));
        assert!(Token::for_node(&node).is_ok() && Token::for_client(&client).is_ok());
        for (text, error) in [
            ("", TokenError::NotAToken),
            ("hello", TokenError::NotAToken),
            ("dfs-other-AAAA", TokenError::NotAToken),
            ("dfs-node-", TokenError::Damaged),
            ("dfs-node-AAAA", TokenError::Damaged),
            ("dfs-node-ÄÄÄ", TokenError::Damaged),
        ] {
            assert_eq!(text.parse::<Token>(), Err(error), "{text:?}");
        }
        assert_eq!(node.replace("dfs-node-", "dfs-client-").parse::<Token>(), Err(TokenError::Damaged));
        let mut later = vec![FORMAT + 1, 0, 0];
        later.extend_from_slice(&check_of(&later.clone()));
        assert_eq!(format!("dfs-node-{}", URL_SAFE_NO_PAD.encode(later)).parse::<Token>(), Err(TokenError::Newer));
        assert_eq!(token(TokenPurpose::Node, 0).to_string().parse::<Token>(), Err(TokenError::Damaged));
        assert_eq!(token(TokenPurpose::Node, SEEDS_MAX + 1).to_string().parse::<Token>(), Err(TokenError::Damaged));
    }

    #[test]
    fn every_wrong_or_missing_character_is_noticed() {
        let text = token(TokenPurpose::Node, 1).to_string();
        for at in PREFIX_NODE.len()..text.len() {
            for wrong in ['A', 'b', '9', '-', '_', '!', ' '] {
                let mut bad: Vec<char> = text.chars().collect();
                if bad[at] == wrong {
                    continue;
                }
                bad[at] = wrong;
                let bad: String = bad.into_iter().collect();
                assert_eq!(bad.parse::<Token>(), Err(TokenError::Damaged), "{wrong:?} at {at}");
            }
            assert_eq!(text[..at].parse::<Token>(), Err(TokenError::Damaged), "cut at {at}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", token(TokenPurpose::Node, 1)).contains("90"), "0x5a is 90");
    }
}
