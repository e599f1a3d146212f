//! DNS questions against a real name server on the loopback.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use edge::counters::Counters;
use edge::dns::Dns;
use edge_core::effect::{DnsAnswer, DnsQuestion, Naptr, Srv};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, NAPTR, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

type Zone = HashMap<(String, RecordType), Vec<RData>>;

/// Serves a zone over UDP; notes every question. A name that is `silent.` is never answered.
fn server(zone: Zone) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let notes = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let Ok(mut message) = Message::from_vec(&buffer[..length]) else { continue };
            let query = message.queries[0].clone();
            let name = query.name().to_ascii().to_ascii_lowercase();
            notes.lock().unwrap().push(name.clone());
            if name == "silent." {
                continue;
            }
            message.metadata.message_type = MessageType::Response;
            let records = zone.get(&(name.clone(), query.query_type()));
            let known = zone.keys().any(|(other, _)| *other == name);
            message.metadata.response_code = if known { ResponseCode::NoError } else { ResponseCode::NXDomain };
            for data in records.into_iter().flatten() {
                message.add_answer(Record::from_rdata(query.name().clone(), 60, data.clone()));
            }
            socket.send_to(&message.to_vec().unwrap(), peer).unwrap();
        }
    });
    (address, asked)
}

fn dns(server: SocketAddr) -> Dns {
    let mut connection = ConnectionConfig::udp();
    connection.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![connection]);
    // A search list as a pod has it: never asked.
    let search = vec![Name::from_ascii("cluster.local.").unwrap()];
    let config = ResolverConfig::from_parts(None, search, vec![server]);
    Dns::new(config, ResolverOpts::default(), Arc::<Counters>::default()).unwrap()
}

#[tokio::test]
async fn naptr_srv_and_addresses_are_asked_by_their_absolute_names_only() {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let octets = |text: &str| text.as_bytes().to_vec().into_boxed_slice();
    let naptr = NAPTR::new(10, 20, octets("s"), octets("SIPS+D2T"), octets(""), name("_sips._tcp.demo.example."));
    let (server, asked) = server(HashMap::from([
        (("demo.example.".into(), RecordType::NAPTR), vec![RData::NAPTR(naptr)]),
        (
            ("_sips._tcp.demo.example.".into(), RecordType::SRV),
            vec![RData::SRV(SRV::new(1, 2, 5061, name("edge.demo.example.")))],
        ),
        (("edge.demo.example.".into(), RecordType::A), vec![RData::A(A::new(192, 0, 2, 1))]),
        (
            ("edge.demo.example.".into(), RecordType::AAAA),
            vec![RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))],
        ),
    ]));
    let dns = dns(server);
    let naptr = dns.ask(DnsQuestion::Naptr("demo.example".into())).await;
    let expected = Naptr {
        order: 10,
        preference: 20,
        flags: "s".into(),
        service: "SIPS+D2T".into(),
        replacement: "_sips._tcp.demo.example".into(),
    };
    assert_eq!(naptr, DnsAnswer::Naptr(vec![expected]));
    let srv = dns.ask(DnsQuestion::Srv("_sips._tcp.demo.example".into())).await;
    let target = "edge.demo.example".into();
    assert_eq!(srv, DnsAnswer::Srv(vec![Srv { priority: 1, weight: 2, port: 5061, target }]));
    let DnsAnswer::Address(mut addresses) = dns.ask(DnsQuestion::Address("edge.demo.example".into())).await else {
        panic!("no addresses")
    };
    addresses.sort();
    assert_eq!(addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
    // No such type, no such name: nobody has it. That is an answer.
    assert_eq!(dns.ask(DnsQuestion::Naptr("edge.demo.example".into())).await, DnsAnswer::Naptr(Vec::new()));
    assert_eq!(dns.ask(DnsQuestion::Srv("_sip._udp.nobody".into())).await, DnsAnswer::Srv(Vec::new()));
    assert_eq!(dns.ask(DnsQuestion::Address("nobody".into())).await, DnsAnswer::Address(Vec::new()));
    // Nobody answers: that is none.
    assert_eq!(dns.ask(DnsQuestion::Srv("silent".into())).await, DnsAnswer::Failed);
    assert_eq!(dns.ask(DnsQuestion::Address("no name at all..".into())).await, DnsAnswer::Failed);
    let asked = asked.lock().unwrap();
    assert!(asked.iter().all(|name| !name.contains("cluster.local")), "{asked:?}");
}
