//! RFC 3263: each row of §4.1 and §4.2 with a resolver made of tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use sip_proto::resolve::{
    DeadList, Families, MAX_TARGETS, Naptr, Question, Records, Resolution, ResolveConfig, ResolveError, Srv, Target,
    Transport, Wanted,
};
use sip_proto::time::Mono;
use sip_proto::uri::Uri;

use Transport::{Tcp, Tls, Udp, Wss};

#[derive(Default, Clone)]
struct Zone(BTreeMap<Question, Records>);

impl Zone {
    fn naptr(mut self, name: &str, records: &[(u16, u16, &str, &str)]) -> Zone {
        let records = records.iter().map(|&(order, preference, service, replacement)| Naptr {
            order,
            preference,
            flags: "s".into(),
            service: service.into(),
            regexp: String::new(),
            replacement: replacement.into(),
        });
        self.0.insert(Question::Naptr(name.into()), Records::Naptr(records.collect()));
        self
    }

    fn srv(mut self, name: &str, records: &[(u16, u16, u16, &str)]) -> Zone {
        let records = records.iter().map(|&(priority, weight, port, target)| Srv {
            priority,
            weight,
            port,
            target: target.into(),
        });
        self.0.insert(Question::Srv(name.into()), Records::Srv(records.collect()));
        self
    }

    fn host(mut self, name: &str, addresses: &[&str]) -> Zone {
        let addresses = addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect();
        self.0.insert(Question::Addresses(name.into()), Records::Addresses(addresses));
        self
    }

    fn fails(mut self, question: Question) -> Zone {
        self.0.insert(question, Records::Failed);
        self
    }

    fn answer(&self, question: &Question) -> Records {
        self.0.get(question).cloned().unwrap_or(match question {
            Question::Naptr(_) => Records::Naptr(vec![]),
            Question::Srv(_) => Records::Srv(vec![]),
            Question::Addresses(_) => Records::Addresses(vec![]),
        })
    }
}

fn config() -> ResolveConfig {
    ResolveConfig { transports: vec![Tls, Tcp, Udp], families: Families::V4First }
}

fn wanted(uri: &str) -> Result<Wanted, ResolveError> {
    Wanted::from_uri(&Uri::parse(uri).unwrap().sip().unwrap())
}

/// The targets, and how many questions were asked.
fn look_up(uri: &str, zone: &Zone, config: ResolveConfig) -> (Result<Vec<Target>, ResolveError>, Vec<Question>) {
    let mut asked = Vec::new();
    let mut machine = match wanted(uri) {
        Ok(wanted) => Resolution::new(wanted, config, 1),
        Err(error) => return (Err(error), asked),
    };
    while let Some(question) = machine.questions().last().cloned() {
        assert!(asked.len() < 100, "no end");
        let name = match &question {
            Question::Naptr(name) | Question::Srv(name) | Question::Addresses(name) => name,
        };
        assert!(name.ends_with('.'), "a search list could apply to {name}");
        asked.push(question.clone());
        machine.on_records(&question, zone.answer(&question));
    }
    (machine.outcome().expect("no question open, so it is over").map(<[Target]>::to_vec), asked)
}

fn targets(uri: &str, zone: &Zone) -> Vec<(String, Transport)> {
    let (result, _) = look_up(uri, zone, config());
    result.unwrap().into_iter().map(|target| (target.address.to_string(), target.transport)).collect()
}

fn one(address: &str, transport: Transport) -> Vec<(String, Transport)> {
    vec![(address.to_owned(), transport)]
}

#[test]
fn addresses_need_no_question() {
    for (uri, address, transport) in [
        ("sip:a@192.0.2.1", "192.0.2.1:5060", Udp),
        ("sip:a@192.0.2.1:5070", "192.0.2.1:5070", Udp),
        ("sip:a@192.0.2.1;transport=tcp", "192.0.2.1:5060", Tcp),
        ("sip:a@192.0.2.1;transport=TLS", "192.0.2.1:5061", Tls),
        ("sips:a@[2001:db8::1]", "[2001:db8::1]:5061", Tls),
        ("sips:a@192.0.2.1:5071;transport=tcp", "192.0.2.1:5071", Tls),
        ("sip:a@demo.example;maddr=192.0.2.7", "192.0.2.7:5060", Udp),
    ] {
        let (result, asked) = look_up(uri, &Zone::default(), config());
        let target = result.unwrap().remove(0);
        assert_eq!(
            (target.address.to_string().as_str(), target.transport, asked.len()),
            (address, transport, 0),
            "{uri}"
        );
    }
    assert_eq!(
        look_up("sip:a@demo.example;maddr=192.0.2.7", &Zone::default(), config()).0.unwrap()[0].domain,
        "demo.example"
    );
}

#[test]
fn a_port_leaves_only_the_address_open() {
    let zone = Zone::default().host("demo.example.", &["192.0.2.1"]).srv("_sip._udp.demo.example.", &[(1, 1, 9, "x.")]);
    assert_eq!(targets("sip:demo.example:5070", &zone), one("192.0.2.1:5070", Udp));
    assert_eq!(targets("sips:demo.example:5070", &zone), one("192.0.2.1:5070", Tls));
    assert_eq!(targets("sip:demo.example:5070;transport=tcp", &zone), one("192.0.2.1:5070", Tcp));
}

#[test]
fn a_transport_goes_straight_to_srv() {
    let zone = Zone::default()
        .srv("_sip._tcp.demo.example.", &[(1, 0, 5080, "edge.demo.example.")])
        .host("edge.demo.example.", &["192.0.2.1", "2001:db8::1"])
        .host("demo.example.", &["192.0.2.99"]);
    let both = vec![("192.0.2.1:5080".to_owned(), Tcp), ("[2001:db8::1]:5080".to_owned(), Tcp)];
    assert_eq!(targets("sip:Demo.Example;transport=tcp", &zone), both);
    assert_eq!(
        targets("sip:demo.example;transport=udp", &zone),
        one("192.0.2.99:5060", Udp),
        "no SRV: the host itself"
    );
}

#[test]
fn naptr_chooses_by_order_and_preference_among_what_we_have() {
    let zone = Zone::default()
        .naptr(
            "demo.example.",
            &[
                (50, 10, "SIPS+D2T", "_sips._tcp.demo.example"),
                (40, 20, "SIP+D2U", "_sip._udp.demo.example"),
                (40, 10, "SIP+D2S", "_sip._sctp.demo.example"),
                (40, 30, "SIP+D2T", "_sip._tcp.demo.example"),
                (10, 10, "E2U+sip", "x.example"),
            ],
        )
        .srv("_sip._udp.demo.example.", &[(1, 1, 5060, "u.demo.example")])
        .srv("_sip._tcp.demo.example.", &[(1, 1, 5062, "t.demo.example")])
        .srv("_sips._tcp.demo.example.", &[(1, 1, 5061, "s.demo.example")])
        .host("u.demo.example.", &["192.0.2.1"])
        .host("t.demo.example.", &["192.0.2.2"])
        .host("s.demo.example.", &["192.0.2.3"]);
    let expected = vec![("192.0.2.1:5060".to_owned(), Udp), ("192.0.2.2:5062".to_owned(), Tcp)];
    assert_eq!(targets("sip:demo.example", &zone), expected);
    assert_eq!(targets("sips:demo.example", &zone), one("192.0.2.3:5061", Tls), "sips takes SIPS services only");
    let tls_only = ResolveConfig { transports: vec![Tls], families: Families::V4First };
    let (result, asked) = look_up("sip:demo.example", &zone, tls_only);
    assert_eq!(result.unwrap()[0].transport, Tls);
    assert_eq!(asked.len(), 3, "NAPTR, SRV, addresses");
}

#[test]
fn without_naptr_every_transport_is_asked_for_in_our_order() {
    let zone = Zone::default()
        .srv("_sip._udp.demo.example.", &[(1, 1, 5060, "u.demo.example.")])
        .srv("_sip._tcp.demo.example.", &[(1, 1, 5062, "t.demo.example.")])
        .srv("_sips._tcp.demo.example.", &[(1, 1, 5061, "s.demo.example.")])
        .host("u.demo.example.", &["192.0.2.1"])
        .host("t.demo.example.", &["192.0.2.2"])
        .host("s.demo.example.", &["192.0.2.3"]);
    let expected = vec![("192.0.2.2:5062".to_owned(), Tcp), ("192.0.2.1:5060".to_owned(), Udp)];
    assert_eq!(targets("sip:demo.example", &zone), expected);
    assert_eq!(targets("sips:demo.example", &zone), one("192.0.2.3:5061", Tls));
    let without_naptr = zone.clone().fails(Question::Naptr("demo.example.".into()));
    assert_eq!(targets("sip:demo.example", &without_naptr), expected, "many resolvers fail on NAPTR");
}

#[test]
fn the_last_resort_is_the_host_itself() {
    let zone = Zone::default().host("demo.example.", &["192.0.2.1"]);
    assert_eq!(targets("sip:demo.example", &zone), one("192.0.2.1:5060", Udp));
    assert_eq!(targets("sips:demo.example", &zone), one("192.0.2.1:5061", Tls));
    let wss = ResolveConfig { transports: vec![Wss], families: Families::V4First };
    let (result, _) = look_up("sips:demo.example;transport=ws", &zone, wss);
    assert_eq!(result.unwrap()[0].address, "192.0.2.1:443".parse::<SocketAddr>().unwrap());
}

#[test]
fn the_domain_that_was_asked_for_stays_the_identity() {
    let zone = Zone::default()
        .srv("_sips._tcp.demo.example.", &[(1, 1, 5061, "edge.cloud.example.")])
        .host("edge.cloud.example.", &["192.0.2.1"]);
    let (result, _) = look_up("sips:a@Demo.example", &zone, config());
    assert_eq!(result.unwrap()[0].domain, "Demo.example");
}

#[test]
fn bad_destinations_are_told_apart() {
    let nothing = Zone::default();
    let result = |uri: &str, zone: &Zone| look_up(uri, zone, config()).0;
    assert_eq!(result("sip:nowhere.example", &nothing), Err(ResolveError::NotFound));
    let broken = nothing.clone().fails(Question::Addresses("nowhere.example.".into()));
    assert_eq!(result("sip:nowhere.example", &broken), Err(ResolveError::Temporary));
    let refused = nothing.clone().srv("_sip._udp.no.example.", &[(0, 0, 0, ".")]).host("no.example.", &["192.0.2.1"]);
    assert_eq!(result("sip:no.example;transport=udp", &refused), Err(ResolveError::NotFound), "SRV says: not here");
    assert_eq!(result("sips:a@h.example;transport=udp", &nothing), Err(ResolveError::Transport));
    assert_eq!(result("sip:a@h.example;transport=sctp", &nothing), Err(ResolveError::Transport));
    assert_eq!(result("sip:a@h.example;transport=ws", &nothing), Err(ResolveError::Transport), "we have none");
    let plain = ResolveConfig { transports: vec![Udp], families: Families::V4First };
    assert_eq!(look_up("sips:a@h.example", &nothing, plain).0, Err(ResolveError::Transport));
    let long = format!("sip:{}.example", "a".repeat(64));
    assert_eq!(result(&long, &nothing), Err(ResolveError::BadName));
}

#[test]
fn sec_18_at_most_16_targets_are_followed() {
    let many: Vec<(u16, u16, u16, String)> = (0..200).map(|n| (n, 1, 5060, format!("h{n}.demo.example."))).collect();
    let records: Vec<(u16, u16, u16, &str)> =
        many.iter().map(|(p, w, port, name)| (*p, *w, *port, name.as_str())).collect();
    let mut zone = Zone::default().srv("_sip._udp.demo.example.", &records);
    for n in 0..200 {
        let addresses: Vec<String> = (0..100).map(|m| format!("192.0.{n}.{m}")).collect();
        zone = zone.host(&format!("h{n}.demo.example."), &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let (result, asked) = look_up("sip:demo.example;transport=udp", &zone, config());
    assert_eq!((result.unwrap().len(), asked.len()), (MAX_TARGETS, 1 + MAX_TARGETS));
}

#[test]
fn dead_targets_come_last_and_the_list_is_bounded() {
    let target = |n: u32| Target {
        address: SocketAddr::new(IpAddr::from(n.to_be_bytes()), 5060),
        transport: Udp,
        domain: "d.example".into(),
    };
    let mut dead = DeadList::default();
    dead.mark(&target(1), Mono(0), Mono(100));
    let both = [target(1), target(2)];
    assert_eq!(dead.live_first(&both, Mono(99)), [target(2), target(1)]);
    assert_eq!(dead.live_first(&both, Mono(100)), both);
    dead.clear(&target(1));
    assert!(dead.is_empty());
    for n in 0..5_000 {
        dead.mark(&target(n), Mono(0), Mono(u64::from(n) + 1));
    }
    assert_eq!(dead.len(), 1024);
    assert!(dead.is_dead(&target(4_999), Mono(0)) && !dead.is_dead(&target(0), Mono(0)));
}
