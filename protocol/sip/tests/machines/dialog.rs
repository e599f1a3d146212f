//! Dialogs from both sides, the requests built from them, forks, and the keys of transactions from real messages.

use bytes::Bytes;
use proptest::prelude::*;
use sip_proto::dialog::{
    CSeqCheck, DialogError, DialogId, DialogState, ForkEvent, Forks, MAX_FORKS, Phase, Role, ack_failure, cancel,
    ends_dialog,
};
use sip_proto::message::{HeaderId, Message, Response, Transportation};
use sip_proto::session_timer::{Malformed, RequestTimers};
use sip_proto::transaction::TransactionKey;

use super::message;

const VIA: &str = "SIP/2.0/TLS edge.example;branch=z9hG4bKnew";

fn invite() -> Message {
    message(
        "INVITE sip:echo@demo.example SIP/2.0\nVia: SIP/2.0/TCP p1.example;branch=z9hG4bKp1\n\
         Via: SIP/2.0/TCP alice.example;branch=z9hG4bKa\nRecord-Route: <sip:p2.example;lr>, \"x\" <sip:p1.example;lr;x=y>;rr=1\n\
         Route: <sip:p0.example;lr>\nMax-Forwards: 69\nFrom: \"Alice\" <sip:alice@atlanta.example>;tag=a1\n\
         To: <sip:echo@demo.example>\nCall-ID: c1@alice\nCSeq: 314159 INVITE\n\
         Contact: <sip:alice@192.0.2.1:5070;transport=tcp>\nSupported: timer\nSession-Expires: 4000;refresher=uac\n\
         Content-Length: 0\n\n",
    )
}

fn response(invite: &Message, status: u16, tag: &str, contact: &str) -> Message {
    let bytes = Response::to_request(invite, status, None)
        .to_tag(tag)
        .copy(HeaderId::RecordRoute)
        .header_if(HeaderId::Contact, (!contact.is_empty()).then_some(contact))
        .build();
    Message::parse(bytes, Transportation::Datagram).unwrap()
}

fn parse(bytes: Bytes) -> Message {
    Message::parse(bytes, Transportation::Stream).unwrap()
}

fn routes(message: &Message) -> Vec<String> {
    message.routes().map(|route| route.uri().to_owned()).collect()
}

#[test]
fn uas_state_is_that_of_12_1_1() {
    let state = DialogState::uas(&invite(), "b1", Phase::Confirmed, true).unwrap();
    let expected = DialogState {
        call_id: "c1@alice".into(),
        local_tag: "b1".into(),
        remote_tag: "a1".into(),
        local_uri: "sip:echo@demo.example".into(),
        remote_uri: "sip:alice@atlanta.example".into(),
        remote_target: "sip:alice@192.0.2.1:5070;transport=tcp".into(),
        route_set: vec!["sip:p2.example;lr".into(), "sip:p1.example;lr;x=y".into()],
        local_cseq: 0,
        remote_cseq: Some(314_159),
        invite_cseq: 314_159,
        secure: false,
        role: Role::Uas,
        phase: Phase::Confirmed,
    };
    assert_eq!(state, expected);
    assert_eq!(state.next_hop(), "sip:p2.example;lr");
}

#[test]
fn uac_state_is_that_of_12_1_2_with_the_routes_reversed() {
    let invite = invite();
    let state = DialogState::uac(&invite, &response(&invite, 180, "b1", "<sip:echo@edge.example>"), true).unwrap();
    assert_eq!((state.role, state.phase), (Role::Uac, Phase::Early));
    assert_eq!((state.local_tag.as_str(), state.remote_tag.as_str()), ("a1", "b1"));
    assert_eq!(state.route_set, ["sip:p1.example;lr;x=y", "sip:p2.example;lr"]);
    assert_eq!((state.local_cseq, state.remote_cseq), (314_159, None));
    assert_eq!(state.remote_target, "sip:echo@edge.example");
    for status in [100, 300, 486] {
        let answer = response(&invite, status, "b1", "");
        assert_eq!(DialogState::uac(&invite, &answer, true), Err(DialogError::WrongMessage));
    }
    assert_eq!(DialogState::uac(&invite, &response(&invite, 180, "", ""), true), Err(DialogError::NoTag));
    let bare = DialogState::uac(&invite, &response(&invite, 200, "", ""), true).unwrap();
    assert_eq!((bare.remote_tag.as_str(), bare.remote_target.as_str()), ("", "sip:echo@demo.example"));
}

#[test]
fn both_sides_name_the_same_dialog() {
    let invite = invite();
    let mut uas = DialogState::uas(&invite, "b1", Phase::Confirmed, false).unwrap();
    let mut uac = DialogState::uac(&invite, &response(&invite, 200, "b1", "<sip:e@edge.example>"), false).unwrap();
    let info = parse(uac.in_dialog_request("INFO", VIA).unwrap().build());
    assert_eq!(DialogId::of_received(&info), Some(uas.id()));
    assert_eq!(info.cseq().seq, 314_160);
    assert_eq!(uas.on_request(&info), CSeqCheck::Next);
    assert_eq!(uas.on_request(&info), CSeqCheck::Repeated);
    let answer = response(&info, 200, "", "");
    assert_eq!(DialogId::of_received(&answer), Some(uac.id()));
    let bye = parse(uas.in_dialog_request("BYE", VIA).unwrap().build());
    assert_eq!(DialogId::of_received(&bye), Some(uac.id()));
    assert_eq!((bye.cseq().seq, bye.max_forwards()), (1, Some(70)));
    assert_eq!(DialogId::of_received(&invite), None, "no tag of ours yet");
}

#[test]
fn sequence_numbers_only_rise() {
    let mut state = DialogState::uas(&invite(), "b1", Phase::Confirmed, false).unwrap();
    assert_eq!(state.check_cseq(314_158), CSeqCheck::TooOld);
    assert_eq!(state.check_cseq(314_159), CSeqCheck::Repeated);
    assert_eq!(state.check_cseq(400_000), CSeqCheck::Next, "gaps are legal");
    let mut first = DialogState { remote_cseq: None, ..state.clone() };
    assert_eq!(first.check_cseq(1), CSeqCheck::Next);
    let ack = message(
        "ACK sip:e@edge.example SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\nFrom: <sip:a@h>;tag=a1\n\
         To: <sip:e@h>;tag=b1\nCall-ID: c1@alice\nCSeq: 999999 ACK\n\n",
    );
    assert_eq!(state.on_request(&ack), CSeqCheck::Repeated);
    assert_eq!(state.remote_cseq, Some(314_159), "an ACK moves nothing");
    state.local_cseq = (1 << 31) - 2;
    assert_eq!(state.next_cseq(), Some((1 << 31) - 1));
    assert_eq!(state.next_cseq(), None);
    assert!(state.in_dialog_request("BYE", VIA).is_none());
    first.local_cseq = 7;
    first.in_dialog_request("INVITE", VIA).unwrap();
    assert_eq!((first.local_cseq, first.invite_cseq), (8, 8));
}

#[test]
fn loose_and_strict_routes() {
    let mut state = DialogState::uas(&invite(), "b1", Phase::Confirmed, false).unwrap();
    let loose = parse(state.in_dialog_request("UPDATE", VIA).unwrap().build());
    assert_eq!(loose.request_uri(), Some("sip:alice@192.0.2.1:5070;transport=tcp"));
    assert_eq!(routes(&loose), ["sip:p2.example;lr", "sip:p1.example;lr;x=y"]);

    state.route_set = vec!["sip:strict.example;method=INVITE?a=b".into(), "sip:p1.example;lr".into()];
    let strict = parse(state.in_dialog_request("UPDATE", VIA).unwrap().build());
    assert_eq!(strict.request_uri(), Some("sip:strict.example"));
    assert_eq!(routes(&strict), ["sip:p1.example;lr", "sip:alice@192.0.2.1:5070;transport=tcp"]);

    state.route_set.clear();
    state.remote_target = "sip:alice@192.0.2.1;x=1;method=BYE;y?Subject=hi".into();
    let direct = parse(state.in_dialog_request("UPDATE", VIA).unwrap().build());
    assert_eq!(direct.request_uri(), Some("sip:alice@192.0.2.1;x=1;y"));
    assert!(routes(&direct).is_empty());
}

#[test]
fn the_ack_of_a_2xx_has_its_own_branch_and_the_invites_number() {
    let invite = invite();
    let mut state = DialogState::uac(&invite, &response(&invite, 200, "b1", "<sip:e@edge.example>"), false).unwrap();
    state.next_cseq();
    let ack = parse(state.ack_2xx(state.invite_cseq, VIA).build());
    assert_eq!((ack.cseq().seq, ack.cseq().method.as_str()), (314_159, "ACK"));
    assert_eq!(ack.request_uri(), Some("sip:e@edge.example"));
    assert_eq!(ack.top_via().branch(), Some("z9hG4bKnew"));
    assert_eq!(routes(&ack), ["sip:p1.example;lr;x=y", "sip:p2.example;lr"]);
    assert_ne!(TransactionKey::of_request(&ack), TransactionKey::of_request(&invite));
}

#[test]
fn cancel_and_the_ack_of_a_failure_are_copies_of_the_invite() {
    let invite = invite();
    let cancel = parse(cancel(&invite, Some("SIP;cause=200;text=\"elsewhere\"")).unwrap());
    let failure = response(&invite, 486, "b9", "");
    let ack = parse(ack_failure(&invite, &failure).unwrap());
    for built in [&cancel, &ack] {
        assert_eq!(built.request_uri(), invite.request_uri());
        assert_eq!(built.call_id(), invite.call_id());
        assert_eq!(built.from().raw(), invite.from().raw());
        assert_eq!(built.cseq().seq, 314_159);
        assert_eq!(built.vias().count(), 1);
        assert_eq!(built.top_via().raw(), invite.top_via().raw());
        assert_eq!(routes(built), ["sip:p0.example;lr"]);
    }
    assert_eq!((cancel.to_tag(), ack.to_tag()), (None, Some("b9")));
    assert_eq!(cancel.header(HeaderId::Reason), Some(b"SIP;cause=200;text=\"elsewhere\"".as_slice()));
    // The server finds its INVITE with both, the client its transaction with the response.
    let key = TransactionKey::of_request(&invite).unwrap();
    assert_eq!(TransactionKey::of_request(&ack).unwrap(), key);
    assert_eq!(TransactionKey::of_request(&cancel).unwrap().cancelled(), key);
    assert_eq!(TransactionKey::of_response(&failure), Some(TransactionKey::client("z9hG4bKp1", "INVITE")));
    assert_eq!(TransactionKey::of_request(&failure), None);
    assert_eq!(TransactionKey::of_response(&invite), None);
    assert!(sip_proto::dialog::cancel(&ack, None).is_none());
    assert!(ack_failure(&invite, &invite).is_none());
}

#[test]
fn rfc2543_requests_match_without_a_branch() {
    let text = "INVITE sip:e@h SIP/2.0\nVia: SIP/2.0/UDP old.example\nFrom: <sip:a@h>;tag=a\nTo: <sip:e@h>\nCall-ID: c\n\
                CSeq: 1 INVITE\nContact: <sip:a@h>\n\n";
    let key = |text: &str| TransactionKey::of_request(&message(text)).unwrap();
    let ack = text.replace("INVITE", "ACK").replace("To: <sip:e@h>", "To: <sip:e@h>;tag=ours");
    assert_eq!(key(&ack), key(text));
    assert_eq!(key(&text.replace("INVITE", "CANCEL")).cancelled(), key(text));
    assert_ne!(key(&text.replace("Call-ID: c", "Call-ID: d")), key(text));
    assert_ne!(key(&text.replace("old.example", "old.example:5070")), key(text));
}

#[test]
fn target_refresh_moves_the_target_and_never_the_routes() {
    let mut state = DialogState::uas(&invite(), "b1", Phase::Confirmed, false).unwrap();
    let routes = state.route_set.clone();
    let request = |method: &str, contact: &str| {
        message(&format!(
            "{method} sip:e@edge.example SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\nRecord-Route: <sip:new.example;lr>\n\
             From: <sip:a@h>;tag=a1\nTo: <sip:e@h>;tag=b1\nCall-ID: c1@alice\nCSeq: 400000 {method}\n{contact}\n"
        ))
    };
    assert!(!state.refresh_target(&request("INFO", "Contact: <sip:x@h>\n")), "INFO refreshes nothing");
    assert!(!state.refresh_target(&request("UPDATE", "")));
    assert!(!state.refresh_target(&request("UPDATE", "Contact: <sip:x@h>, <sip:y@h>\n")), "which one?");
    assert!(!state.refresh_target(&request("UPDATE", "Contact: <mailto:x@h>\n")));
    let update = request("UPDATE", "Contact: <sip:x@h>\n");
    assert!(state.refresh_target(&update) && !state.refresh_target(&update));
    assert!(!state.refresh_target(&response(&update, 491, "", "<sip:z@h>")));
    assert!(state.refresh_target(&response(&update, 200, "", "<sip:z@h>")));
    assert_eq!((state.remote_target.as_str(), state.route_set), ("sip:z@h", routes));
}

#[test]
fn an_invite_without_usable_contact_makes_no_dialog() {
    let text = String::from_utf8(invite().bytes().to_vec()).unwrap().replace("\r\n", "\n");
    let with = |contact: &str| {
        let text = text.replace("Contact: <sip:alice@192.0.2.1:5070;transport=tcp>\n", contact);
        DialogState::uas(&message(&text), "b", Phase::Early, false)
    };
    assert!(with("Contact: <sips:a@h>\n").is_ok());
    for bad in ["", "Contact: <sip:a@h>, <sip:b@h>\n", "Contact: <tel:+1>\n"] {
        assert_eq!(with(bad), Err(DialogError::Contact), "{bad}");
    }
    let odd_route = text.replace("<sip:p2.example;lr>", "<tel:+15551234>");
    assert_eq!(DialogState::uas(&message(&odd_route), "b", Phase::Early, false), Err(DialogError::RecordRoute));
    let answer = response(&invite(), 200, "b", "<sip:a@h>");
    assert_eq!(DialogState::uas(&answer, "b", Phase::Early, false), Err(DialogError::WrongMessage));
}

#[test]
fn sips_over_tls_makes_a_secure_dialog() {
    let text = String::from_utf8(invite().bytes().to_vec()).unwrap().replace("\r\n", "\n");
    let sips = message(&text.replace("INVITE sip:", "INVITE sips:"));
    let state = |tls| DialogState::uas(&sips, "b", Phase::Early, tls).unwrap();
    assert!(state(true).secure && state(true).needs_tls() && !state(false).secure);
    assert!(!DialogState::uas(&invite(), "b", Phase::Early, true).unwrap().needs_tls());
    let target = DialogState { remote_target: "SIPS:a@h".into(), ..state(false) };
    assert!(target.needs_tls());
}

#[test]
fn forks_are_kept_apart_and_bounded() {
    let invite = invite();
    let answer = |status, tag: &str| response(&invite, status, tag, &format!("<sip:{tag}@edge.example>"));
    let mut forks = Forks::default();
    assert_eq!(forks.on_response(&invite, &answer(100, "x"), false), ForkEvent::Nothing);
    assert!(matches!(forks.on_response(&invite, &answer(180, "one"), false), ForkEvent::Early(_)));
    assert!(matches!(forks.on_response(&invite, &answer(183, "one"), false), ForkEvent::Progress(_)));
    assert!(matches!(forks.on_response(&invite, &answer(180, "two"), false), ForkEvent::Early(_)));
    let ForkEvent::Confirmed { dialog, first } = forks.on_response(&invite, &answer(200, "two"), false) else {
        panic!()
    };
    assert_eq!((dialog.remote_target.as_str(), dialog.phase, first), ("sip:two@edge.example", Phase::Confirmed, true));
    assert!(matches!(forks.on_response(&invite, &answer(200, "two"), false), ForkEvent::Repeated(_)));
    assert!(matches!(
        forks.on_response(&invite, &answer(200, "three"), false),
        ForkEvent::Confirmed { first: false, .. }
    ));
    let over = forks.end_early();
    assert_eq!((over.len(), over[0].remote_tag.as_str(), over[0].phase), (1, "one", Phase::Terminated));
    assert_eq!(forks.dialogs.len(), 2);

    let mut flood = Forks::default();
    for n in 0..20 {
        let event = flood.on_response(&invite, &answer(180, &format!("t{n}")), false);
        assert_eq!(event == ForkEvent::TooMany, n >= MAX_FORKS, "{n}");
    }
    for n in 100..120 {
        let event = flood.on_response(&invite, &answer(200, &format!("t{n}")), false);
        assert!(
            matches!(event, ForkEvent::Confirmed { first, .. } if first == (n == 100)),
            "every 2xx is acknowledged"
        );
        assert!(flood.dialogs.len() <= MAX_FORKS);
    }
    let mut failed = Forks::default();
    failed.on_response(&invite, &answer(180, "one"), false);
    let ForkEvent::Failed(over) = failed.on_response(&invite, &answer(486, "one"), false) else { panic!() };
    assert_eq!((over.len(), failed.dialogs.len()), (1, 0));
}

#[test]
fn a_2xx_computes_the_route_set_again() {
    let invite = invite();
    let mut state = DialogState::uac(&invite, &response(&invite, 180, "b", "<sip:old@h>"), false).unwrap();
    let text = "SIP/2.0 200 OK\nVia: SIP/2.0/TCP p1.example;branch=z9hG4bKp1\nRecord-Route: <sip:z.example;lr>\n\
                From: <sip:alice@atlanta.example>;tag=a1\nTo: <sip:echo@demo.example>;tag=b\nCall-ID: c1@alice\n\
                CSeq: 314159 INVITE\nContact: <sip:new@h>\n\n";
    state.confirm(&message(text)).unwrap();
    assert_eq!((state.route_set.clone(), state.remote_target.as_str()), (vec!["sip:z.example;lr".into()], "sip:new@h"));
    state.confirm(&message(&text.replace("z.example", "other.example"))).unwrap();
    assert_eq!(state.route_set, ["sip:z.example;lr"], "a copy changes nothing");
}

#[test]
fn some_failures_end_the_dialog() {
    assert!([408, 481, 404, 604].into_iter().all(ends_dialog));
    assert!(![200, 401, 415, 487, 488, 491, 500, 503, 603].into_iter().any(ends_dialog));
}

#[test]
fn session_timer_headers_are_read_from_requests() {
    let timers = RequestTimers::of(&invite()).unwrap();
    assert!(timers.supported);
    assert_eq!(timers.session_expires.unwrap().to_string(), "4000;refresher=uac");
    let text = String::from_utf8(invite().bytes().to_vec()).unwrap().replace("\r\n", "\n");
    let compact = message(&text.replace("Session-Expires", "x").replace("Supported", "k"));
    assert_eq!(RequestTimers::of(&compact), Ok(timers));
    for bad in ["4000;refresher=me", "soon"] {
        let bytes = Bytes::from(text.replace("4000;refresher=uac", bad).replace('\n', "\r\n"));
        // Refused by the parser already, or here.
        if let Ok(message) = Message::parse(bytes, Transportation::Datagram) {
            assert_eq!(RequestTimers::of(&message), Err(Malformed));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever lies in a stored state, the request that is built from it parses, and has one line per field.
    #[test]
    fn requests_from_any_state_parse(
        tags in prop::array::uniform2("[a-z0-9]{1,12}"),
        hosts in prop::collection::vec("[a-z]{1,8}(;lr)?", 0..5),
        junk in "[ -~]{0,20}",
    ) {
        let state = DialogState {
            call_id: "c@h".into(),
            local_tag: tags[0].clone(),
            remote_tag: tags[1].clone(),
            local_uri: "sip:a@h".into(),
            remote_uri: "sip:b@h".into(),
            remote_target: "sip:b@h".into(),
            route_set: hosts.iter().map(|host| format!("sip:x{host}")).collect(),
            local_cseq: 1,
            remote_cseq: None,
            invite_cseq: 1,
            secure: false,
            role: Role::Uac,
            phase: Phase::Confirmed,
        };
        let bytes = state.request_with_cseq("MESSAGE", 9, VIA).header(HeaderId::Subject, format!("x\r\nEvil: {junk}")).build();
        let built = Message::parse(bytes, Transportation::Stream).unwrap();
        prop_assert_eq!(routes(&built).len(), hosts.len());
        prop_assert_eq!(built.headers_named("Evil").count(), 0);
        let named = DialogId::of_received(&built).unwrap();
        prop_assert_eq!((named.local_tag, named.remote_tag), (tags[1].clone(), tags[0].clone()));
    }
}
