//! Multipart bodies: no panic, limits hold, parts are parts of the body. Up to the first line feed stands the Content-Type.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sip_proto::limits::MULTIPART_PARTS;
use sip_proto::multipart::{Multipart, MultipartBuilder};

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    let (content_type, body) = data.split_at(at);
    let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
    if let Ok(multipart) = Multipart::parse(content_type, &body) {
        assert!(multipart.leaves().count() <= MULTIPART_PARTS);
        for part in multipart.leaves() {
            let octets = part.body();
            assert!(octets.is_empty() || body.as_ptr_range().contains(&octets.as_ptr()));
            let _ =
                (part.content_type(), part.disposition(), part.handling(), part.content_id(), part.headers().count());
        }
    }
    // What we put together comes apart again, whatever the parts hold.
    let halves = data.split_at(data.len() / 2);
    let builder = MultipartBuilder::mixed().part("a/b", halves.0.to_vec()).part("c/d", halves.1.to_vec());
    let (content_type, built) = builder.build();
    let parsed = Multipart::parse(content_type, &built).expect("a built body is a multipart body");
    assert_eq!((&parsed.parts()[0].body()[..], &parsed.parts()[1].body()[..]), halves);
});
