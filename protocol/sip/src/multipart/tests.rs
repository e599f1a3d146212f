use super::*;

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n";
const MCP: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

fn two(first: (&str, &str), second: (&str, &str)) -> Bytes {
    let part = |(headers, body): (&str, &str)| format!("--b1\r\n{headers}\r\n\r\n{body}\r\n");
    format!("preamble\r\n{}{}--b1--\r\nepilogue", part(first), part(second)).into()
}

#[test]
fn neg_14_sdp_and_mcp_in_either_order() {
    let sdp = ("Content-Type: application/sdp", SDP);
    let mcp = ("Content-Type: application/mcp+json\r\nContent-Disposition: session;\r\n handling=optional", MCP);
    for body in [two(sdp, mcp), two(mcp, sdp)] {
        let parsed = Multipart::parse("multipart/mixed;boundary=b1", &body).unwrap();
        assert_eq!(parsed.parts().len(), 2);
        let (sdp, mcp) = (parsed.find("application/sdp").unwrap(), parsed.find("application/mcp+json").unwrap());
        assert_eq!(sdp.body(), SDP);
        assert_eq!(mcp.body(), MCP);
        assert_eq!(sdp.handling(), Handling::Required);
        assert_eq!(mcp.handling(), Handling::Optional);
        assert_eq!(mcp.disposition().unwrap().kind(), "session");
    }
}

#[test]
fn neg_14_nested_content_disposition_is_the_inner_part_s() {
    let (inner_type, inner) = MultipartBuilder::related()
        .part("application/sdp", SDP)
        .disposition("session", Handling::Required)
        .part("application/mcp+json", MCP)
        .disposition("session", Handling::Optional)
        .content_id("mcp@example.com")
        .build();
    let (outer_type, outer) = MultipartBuilder::mixed()
        .part(&inner_type, inner)
        .disposition("render", Handling::Optional)
        .part("text/plain", "hi")
        .build();
    let parsed = Multipart::parse(&outer_type, &outer).unwrap();
    assert_eq!(parsed.parts()[0].disposition().unwrap().kind(), "render");
    assert_eq!(parsed.parts()[0].nested().unwrap().parts().len(), 2);
    let leaves: Vec<_> = parsed.leaves().map(|p| (p.content_type().unwrap().subtype(), p.handling())).collect();
    assert_eq!(leaves, [("sdp", Handling::Required), ("mcp+json", Handling::Optional), ("plain", Handling::Required)]);
    assert_eq!(parsed.find("application/mcp+json").unwrap().content_id(), Some("mcp@example.com"));
}

#[test]
fn binary_parts_stay_byte_exact() {
    let all: Vec<u8> = (0..=255).chain(*b"\r\n--b\r\n--=_part_0\r\n\r\n").chain((0..=255).rev()).collect();
    let (content_type, body) =
        MultipartBuilder::mixed().part("application/octet-stream", all.clone()).part("a/b", "").build();
    let parsed = Multipart::parse(&content_type, &body).unwrap();
    assert_eq!(parsed.parts()[0].body(), all);
    assert_eq!(parsed.parts()[1].body(), "");
    assert!(!content_type.contains("=_part_0\""));
}

#[test]
fn parts_without_headers_and_odd_delimiters() {
    let body = Bytes::from_static(b"--b1 \t\r\n\r\nplain\r\n--b1x\r\n--b\r\n--b1\r\nContent-Type: a/b\r\n\r\n--b1-- ");
    let parsed = Multipart::parse("multipart/mixed; boundary=\"b1\"", &body).unwrap();
    assert_eq!(parsed.parts()[0].body(), "plain\r\n--b1x\r\n--b");
    assert!(parsed.parts()[0].content_type().is_none());
    assert_eq!(parsed.parts()[1].body(), "");
}

#[test]
fn limits_hold() {
    let many = |n: usize| -> Bytes { format!("{}--b--", "--b\r\n\r\nx\r\n".repeat(n)).into() };
    assert_eq!(Multipart::parse("multipart/mixed;boundary=b", &many(16)).unwrap().parts().len(), 16);
    assert_eq!(Multipart::parse("multipart/mixed;boundary=b", &many(17)), Err(MultipartError::TooManyParts));
    let mut nested = MultipartBuilder::mixed().part("text/plain", "x").build();
    for level in 2..5 {
        nested = MultipartBuilder::mixed().part(&nested.0, nested.1).build();
        let result = Multipart::parse(&nested.0, &nested.1);
        if level <= 2 {
            assert!(result.is_ok());
        } else {
            assert_eq!(result, Err(MultipartError::TooDeep));
        }
    }
    let long: Bytes = format!("--b\r\n{}\r\nx\r\n--b--", "A: b\r\n".repeat(33)).into();
    assert_eq!(Multipart::parse("multipart/mixed;boundary=b", &long), Err(MultipartError::PartHeader));
    let wide: Bytes = format!("--b\r\nA: {}\r\n\r\nx\r\n--b--", "x".repeat(9000)).into();
    assert_eq!(Multipart::parse("multipart/mixed;boundary=b", &wide), Err(MultipartError::PartHeader));
}

#[test]
fn broken_bodies_are_errors() {
    let parse =
        |content_type: &str, body: &'static str| Multipart::parse(content_type, &Bytes::from_static(body.as_bytes()));
    assert_eq!(parse("text/plain", ""), Err(MultipartError::NotMultipart));
    assert_eq!(parse("multipart/mixed", "--b--"), Err(MultipartError::Boundary));
    assert_eq!(parse("multipart/mixed;boundary=\"\"", "----"), Err(MultipartError::Boundary));
    assert_eq!(parse("multipart/mixed;boundary=\"a;b\"", "--a;b--"), Err(MultipartError::Boundary));
    assert_eq!(parse("multipart/mixed;boundary=b", "nothing"), Err(MultipartError::NoFirstBoundary));
    assert_eq!(parse("multipart/mixed;boundary=b", "--b--"), Err(MultipartError::NoFirstBoundary));
    assert_eq!(parse("multipart/mixed;boundary=b", "--b\r\n\r\nx\r\n"), Err(MultipartError::NotClosed));
    assert_eq!(
        parse("multipart/mixed;boundary=b", "--b\r\nno colon\r\n\r\nx\r\n--b--"),
        Err(MultipartError::PartHeader)
    );
    assert_eq!(
        parse("multipart/mixed;boundary=b", "--b\r\n folded: x\r\n\r\nx\r\n--b--"),
        Err(MultipartError::PartHeader)
    );
    assert_eq!(
        parse("multipart/mixed;boundary=b", "--b\r\nContent-Type: a/b\r\ncontent-type: c/d\r\n\r\nx\r\n--b--"),
        Err(MultipartError::PartHeader)
    );
}
