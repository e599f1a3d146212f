//! One datagram: no panic; what is accepted loses nothing; what is refused is answered with one message.
#![no_main]

#[path = "../../sip/tests/wire/exercise.rs"]
mod exercise;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| exercise::octets(data, 64));
