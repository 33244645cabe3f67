//! First words, and a newcomer's one request and its answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{
    Refusal,
    cluster::{Redeem, Redeemed},
    handshake::{Hello, HelloReply},
    quic::AuthorityKey,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(hello) = postcard::from_bytes::<Hello>(bytes) {
        let again = postcard::to_stdvec(&hello).expect("it was read");
        assert_eq!(postcard::from_bytes::<Hello>(&again).expect("it was written"), hello);
    }
    let _reply = postcard::from_bytes::<HelloReply>(bytes);
    let _redeemed = postcard::from_bytes::<Result<Redeemed, Refusal>>(bytes);
    if let Ok(redeem) = postcard::from_bytes::<Redeem>(bytes) {
        let _fingerprint = AuthorityKey::request_fingerprint(&redeem.request);
    }
    let _fingerprint = AuthorityKey::request_fingerprint(bytes);
});
