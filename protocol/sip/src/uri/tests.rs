use super::*;

fn sip(uri: &str) -> SipUri<'_> {
    Uri::parse(uri).unwrap_or_else(|e| panic!("{uri}: {e}")).sip().unwrap_or_else(|| panic!("{uri} is not sip"))
}

#[test]
fn parts_stay_as_written() {
    let uri = sip("sips:alice:secret@Atlanta.example:5061;transport=tcp;lr?subject=a%20b&x=y");
    assert!(uri.is_secure() && uri.is_loose_router());
    assert_eq!(uri.user(), Some("alice"));
    assert_eq!(uri.password(), Some("secret"));
    assert_eq!(uri.host(), Host::Name("Atlanta.example"));
    assert_eq!(uri.port(), Some(5061));
    assert_eq!(uri.transport(), Some("tcp"));
    assert_eq!(uri.param("lr"), None);
    assert_eq!(uri.headers().collect::<Vec<_>>(), [("subject", Some("a%20b")), ("x", Some("y"))]);
    assert!(!format!("{uri:?}").contains("secret"));
}

#[test]
fn probe_semicolons_and_odd_octets_in_the_user_part() {
    assert_eq!(sip("sip:user;par=u%40example.net@example.com").user(), Some("user;par=u%40example.net"));
    let odd =
        "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com";
    let uri = sip(odd);
    assert_eq!(uri.user(), Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"));
    assert_eq!(uri.host_str(), "example.com");
    assert_eq!(sip("sip:sips%3Auser%40example.com@example.net").user_unescaped().unwrap(), "sips:user@example.com");
    assert_eq!(sip("sip:null-%00-null@example.com").user_unescaped().unwrap(), "null-\0-null");
}

#[test]
fn probe_ipv6_hosts() {
    let uri = sip("sip:[2001:db8::10]:5070;lr");
    assert_eq!(uri.host(), Host::V6("2001:db8::10".parse().unwrap()));
    assert_eq!(uri.host().to_string(), "[2001:db8::10]");
    assert_eq!(uri.port(), Some(5070));
    assert_eq!(Host::parse("::1"), Some(Host::V6("::1".parse().unwrap())));
    assert!(Host::parse("[::1").is_none() && Host::parse("a b").is_none());
}

#[test]
fn probe_tel_and_urn() {
    let Uri::Tel(tel) = Uri::parse("tel:+1-201-555-0123;phone-context=example.com").unwrap() else { panic!() };
    assert!(tel.is_global());
    assert_eq!(tel.number(), "+1-201-555-0123");
    assert_eq!(tel.params().next(), Some(("phone-context", Some("example.com"))));
    assert!(Uri::parse("tel:*21%23").is_err() && Uri::parse("tel:*21#").is_ok() && Uri::parse("tel:").is_err());
    assert_eq!(Uri::parse("urn:service:sos").unwrap(), Uri::Other { scheme: "urn", opaque: "service:sos" });
    assert_eq!(Uri::parse("soap.beep://192.0.2.103:3002").unwrap().scheme(), "soap.beep");
}

#[test]
fn what_is_no_uri() {
    for bad in [
        "",
        "sip:",
        "sip:@host",
        "sip::pw@host",
        "sip:a@",
        "sip:a@b@c",
        "sip:a b@c",
        "sip:a@b c",
        "sip:a@b:",
        "sip:a@b:5x",
        "sip:a@b:65536",
        "sip:a@b:5060:5060",
        "sip:a@b;",
        "sip:a@b;;lr",
        "sip:a%4@b",
        "sip:a%zz@b",
        "sip:a@[::1",
        "sip:a@[::g]",
        "sip:a@[::1]x",
        "sip:a@1.2.3",
        "sip:a@256.1.1.1",
        "sip:a@1.2.3.04",
        "sip:a@.b",
        "sip:a@b..c",
        "sip:a@-b",
        "sip:a@b?",
        "sip:a@b\u{e9}",
        "1sip:a@b",
        "nocolon",
        "urn:",
        "urn:a b",
        "urn:<a>",
        "http://a/\"b\"",
        "sip:a<b>@c",
        "sip:a@b;transport=udp;Transport=tcp",
        "sip:a@b;lr;x;%6Cr",
    ] {
        assert!(Uri::parse(bad).is_err(), "{bad:?} was taken for a URI");
    }
}

#[test]
fn no_more_than_32_parameters() {
    let uri = |n: usize| (0..n).fold("sip:a@b".to_owned(), |uri, i| format!("{uri};p{i}"));
    assert!(Uri::parse(&uri(32)).is_ok() && Uri::parse(&uri(33)).is_err());
}

#[test]
fn comparison_follows_rfc_3261_19_1_4() {
    let same = [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("sip:a@[2001:db8::1]", "sip:a@[2001:0db8:0:0::1]"),
    ];
    for (a, b) in same {
        assert!(sip(a).equivalent(&sip(b)) && sip(b).equivalent(&sip(a)), "{a} = {b}");
    }
    let different = [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:a@b", "sips:a@b"),
        ("sip:a%40b@c", "sip:a@c"),
        ("sip:a;b@c", "sip:a%3Bb@c"),
        ("sip:a@b;user=phone", "sip:a@b"),
    ];
    for (a, b) in different {
        assert!(!sip(a).equivalent(&sip(b)) && !sip(b).equivalent(&sip(a)), "{a} ≠ {b}");
    }
}

#[test]
fn addresses_of_record_are_canonical() {
    assert_eq!(sip("SIP:%61lice:pw@Example.COM;user=phone?a=b").aor(), "sip:alice@example.com");
    assert_eq!(sip("sips:a%40b%00@h:5071").aor(), "sips:a%40b%00@h:5071");
    assert_eq!(sip("sip:Example.com").aor(), "sip:example.com");
    let aor = sip("sip:a%3b@h").aor();
    assert_eq!(sip(&aor).aor(), aor);
}
