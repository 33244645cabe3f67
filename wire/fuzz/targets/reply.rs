//! A reply as a client reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::Reply;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((reply, [])) = postcard::take_from_bytes::<Reply>(bytes) {
        let again = postcard::to_stdvec(&reply).expect("it was read");
        assert_eq!(postcard::from_bytes::<Reply>(&again).expect("it was written"), reply);
    }
});
