//! From an address to the edges to try, in order: `--proxy`, else RFC 3263.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use sip_proto::resolve::{
    self, Families, Naptr, Question, Records, Resolution, ResolveConfig, ResolveError, Srv, Wanted,
};
use sip_proto::uri::{SipUri, Uri};

use crate::args::Connection;
use crate::failure::Failure;
use crate::net::Transport;

/// Whom to call.
#[derive(Clone, Debug)]
pub struct Target {
    /// As given, `sip:` added where it was missing.
    pub uri: String,
    /// `sip` or `sips`.
    pub scheme: &'static str,
    /// Host part, lower case: the SIP domain.
    pub domain: String,
}

/// One edge to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub transport: Transport,
    pub address: SocketAddr,
    /// Host name for the HTTP Host header of a WebSocket.
    pub host: String,
    /// The SIP domain that its certificate must name (RFC 5922).
    pub name: String,
}

impl std::fmt::Display for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} over {}", self.address, self.transport.via())
    }
}

/// Reads the address of an agent.
pub fn parse(text: &str) -> Result<Target, Failure> {
    let with_scheme = if text.contains(':') { text.to_owned() } else { format!("sip:{text}") };
    match Uri::parse(&with_scheme) {
        Ok(Uri::Sip(uri)) => Ok(Target {
            scheme: if uri.is_secure() { "sips" } else { "sip" },
            domain: host_text(&uri),
            uri: with_scheme.clone(),
        }),
        Ok(_) => Err(Failure::usage(format!("{text}: only sip: and sips: addresses can be called"))),
        Err(_) => Err(Failure::usage(format!("{text}: not a SIP address; like sip:echo@demo.example"))),
    }
}

fn host_text(uri: &SipUri<'_>) -> String {
    uri.host().to_string().trim_matches(['[', ']']).to_ascii_lowercase()
}

/// The edges for this target, at most 16, in the order in which they are tried.
pub async fn candidates(target: &Target, connection: &Connection) -> Result<Vec<Candidate>, Failure> {
    if connection.proxy.is_empty() {
        return locate(&target.uri, &target.domain, connection).await;
    }
    let mut all = Vec::new();
    let mut last = None;
    for proxy in &connection.proxy {
        let proxy = parse(proxy.trim())?;
        // A proxy by address has no name of its own: its certificate must name the domain that is called.
        let name = if proxy.domain.parse::<IpAddr>().is_ok() { &target.domain } else { &proxy.domain };
        match locate(&proxy.uri, name, connection).await {
            Ok(found) => all.extend(found),
            Err(failure) => last = Some(failure),
        }
    }
    match last {
        Some(failure) if all.is_empty() => Err(failure),
        _ => Ok(all),
    }
}

async fn locate(uri: &str, name: &str, connection: &Connection) -> Result<Vec<Candidate>, Failure> {
    let Ok(Uri::Sip(parsed)) = Uri::parse(uri) else {
        return Err(Failure::usage(format!("{uri}: not a SIP address")));
    };
    let host = host_text(&parsed);
    let mut wanted = Wanted::from_uri(&parsed).map_err(|e| Failure::usage(format!("{uri}: {e}")))?;
    if let Some(transport) = connection.transport {
        if parsed.is_secure() && !matches!(transport, Transport::Tls | Transport::Wss) {
            return Err(Failure::usage("a sips: address needs --transport tls or wss"));
        }
        wanted.transport = Some(of_cli(transport));
    }
    let transports = match connection.transport {
        Some(transport) => vec![of_cli(transport)],
        None => vec![
            resolve::Transport::Udp,
            resolve::Transport::Tcp,
            resolve::Transport::Tls,
            resolve::Transport::Wss,
            resolve::Transport::Ws,
        ],
    };
    let config = ResolveConfig { transports, families: Families::V4First };
    let mut resolution = Resolution::new(wanted, config, u64::from_le_bytes(crate::random::bytes()));
    let mut resolver = None;
    loop {
        match resolution.outcome() {
            Some(Ok(found)) => {
                return Ok(found
                    .iter()
                    .map(|t| Candidate {
                        transport: to_cli(t.transport),
                        address: t.address,
                        host: host.clone(),
                        name: name.to_owned(),
                    })
                    .collect());
            }
            Some(Err(error)) => return Err(unlocated(&host, error)),
            None => {}
        }
        let resolver = match &resolver {
            Some(resolver) => resolver,
            None => resolver.insert(dns()?),
        };
        for question in resolution.questions().to_vec() {
            let records = ask(resolver, &question).await;
            resolution.on_records(&question, records);
        }
    }
}

fn unlocated(host: &str, error: ResolveError) -> Failure {
    Failure::unreachable(format!("{host}: {error}; an edge can be named with --proxy sip:ADDRESS:PORT"))
}

fn dns() -> Result<TokioResolver, Failure> {
    let mut builder =
        TokioResolver::builder_tokio().map_err(|e| Failure::unreachable(format!("no DNS configuration: {e}")))?;
    let options = builder.options_mut();
    options.timeout = Duration::from_secs(1);
    options.attempts = 2;
    builder.build().map_err(|e| Failure::unreachable(format!("no DNS resolver: {e}")))
}

async fn ask(resolver: &TokioResolver, question: &Question) -> Records {
    match question {
        Question::Naptr(name) => match resolver.lookup(name.as_str(), RecordType::NAPTR).await {
            Ok(found) => Records::Naptr(
                found
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::NAPTR(naptr) => Some(Naptr {
                            order: naptr.order,
                            preference: naptr.preference,
                            flags: String::from_utf8_lossy(&naptr.flags).into_owned(),
                            service: String::from_utf8_lossy(&naptr.services).into_owned(),
                            regexp: String::from_utf8_lossy(&naptr.regexp).into_owned(),
                            replacement: naptr.replacement.to_string(),
                        }),
                        _ => None,
                    })
                    .collect(),
            ),
            Err(error) => none_or_failed(&error, Records::Naptr(Vec::new())),
        },
        Question::Srv(name) => match resolver.lookup(name.as_str(), RecordType::SRV).await {
            Ok(found) => Records::Srv(
                found
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::SRV(srv) => Some(Srv {
                            priority: srv.priority,
                            weight: srv.weight,
                            port: srv.port,
                            target: srv.target.to_string(),
                        }),
                        _ => None,
                    })
                    .collect(),
            ),
            Err(error) => none_or_failed(&error, Records::Srv(Vec::new())),
        },
        Question::Addresses(name) => match resolver.lookup_ip(name.as_str()).await {
            Ok(found) => Records::Addresses(found.iter().collect()),
            Err(error) => none_or_failed(&error, Records::Addresses(Vec::new())),
        },
    }
}

fn none_or_failed(error: &hickory_resolver::net::NetError, empty: Records) -> Records {
    if error.is_no_records_found() { empty } else { Records::Failed }
}

fn of_cli(transport: Transport) -> resolve::Transport {
    match transport {
        Transport::Udp => resolve::Transport::Udp,
        Transport::Tcp => resolve::Transport::Tcp,
        Transport::Tls => resolve::Transport::Tls,
        Transport::Ws => resolve::Transport::Ws,
        Transport::Wss => resolve::Transport::Wss,
    }
}

fn to_cli(transport: resolve::Transport) -> Transport {
    match transport {
        resolve::Transport::Udp => Transport::Udp,
        resolve::Transport::Tcp => Transport::Tcp,
        resolve::Transport::Tls => Transport::Tls,
        resolve::Transport::Ws => Transport::Ws,
        resolve::Transport::Wss => Transport::Wss,
    }
}
