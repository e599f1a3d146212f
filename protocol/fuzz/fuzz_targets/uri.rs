//! URIs: no panic; a URI equals itself; its canonical address of record is canonical.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sip_proto::uri::Uri;

fuzz_target!(|data: &str| {
    let Ok(uri) = Uri::parse(data) else { return };
    assert!(data.is_ascii() && data[..uri.scheme().len()] == *uri.scheme());
    if let Uri::Tel(tel) = uri {
        let _ = (tel.number(), tel.is_global(), tel.params().count());
    }
    let Some(sip) = uri.sip() else { return };
    let _ = (
        sip.user_unescaped(),
        sip.password(),
        sip.host().to_string(),
        sip.port(),
        sip.transport(),
        sip.is_loose_router(),
    );
    let _ = (sip.headers().count(), format!("{sip:?}"));
    assert!(sip.equivalent(&sip));
    let aor = sip.aor();
    let again = Uri::parse(&aor).ok().and_then(|uri| uri.sip()).expect("an address of record is a SIP URI");
    assert_eq!(again.aor(), aor);
});
