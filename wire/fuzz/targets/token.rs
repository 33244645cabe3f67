//! What a person may paste where a token belongs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::token::Token;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string().parse::<Token>().expect("it was written"), token);
    }
});
