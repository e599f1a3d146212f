//! Header values: Via, addresses with feature parameters, parameters, credentials and the small ones; no panic, and each
//! view is a part of what was given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sip_proto::escape::escape;
use sip_proto::header::{
    CSeq, Challenge, ContentDisposition, ContentType, Credentials, NameAddr, Params, RAck, Reason, Replaces,
    RetryAfter, SessionExpires, Via, Warning, date,
};
use sip_proto::message::{split_list, unfold};

fn within(whole: &[u8], part: &[u8]) {
    assert!(part.is_empty() || whole.as_ptr_range().contains(&part.as_ptr()));
}

fuzz_target!(|data: &[u8]| {
    // The head scan lets a CR through in a fold only, and controls behind a backslash only.
    if let Ok(via) = Via::parse(data) {
        within(data, via.raw());
        let _ = (
            via.transport(),
            via.host(),
            via.port(),
            via.branch(),
            via.received(),
            via.rport(),
            via.maddr(),
            via.ttl(),
        );
        let again = Via::parse(via.raw()).expect("the value of a Via is a Via");
        assert_eq!(again.branch(), via.branch());
    }
    if let Ok(address) = NameAddr::parse(data) {
        within(data, address.raw());
        within(data, address.uri().as_bytes());
        let _ = (address.typed_uri(), address.display_name(), address.tag(), address.expires(), address.q());
        for param in address.params() {
            let _ = (param.text(), address.param(param.name).is_some());
        }
        let again = NameAddr::parse(address.raw()).expect("the value of an address is an address");
        assert_eq!(again.params().as_bytes(), address.params().as_bytes());
    }
    if let Ok(params) = Params::parse(data) {
        assert!(params.iter().all(|param| params.has(param.name)));
    }
    if let Ok(credentials) = Credentials::parse(data) {
        assert!(credentials.params().all(|param| credentials.get(param.name) == Some(param)));
        assert_eq!(Challenge::parse(data).expect("the same grammar").scheme(), credentials.scheme());
    }
    if let Ok(content_type) = ContentType::parse(data) {
        let _ = (content_type.is("a/b"), content_type.param("boundary"));
    }
    let _ = (CSeq::parse(data), RAck::parse(data), Reason::parse(data), Replaces::parse(data), RetryAfter::parse(data));
    let _ = (SessionExpires::parse(data), Warning::parse(data), ContentDisposition::parse(data), date::parse(data));
    let _ = (unfold(data), escape(data).to_string());
    for value in split_list(data) {
        within(data, value);
    }
});
