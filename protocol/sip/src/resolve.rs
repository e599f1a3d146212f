//! Locating SIP servers (RFC 3263, RFC 2782): from a URI to the targets to try, in order. The look-up is an effect: the
//! machine says which questions are open, gets records, and ends with at most 16 targets.
//!
//! Steps: NAPTR → SRV → A/AAAA, each only where the URI leaves it open. All questions of a step are open at once, so there are
//! at most three round trips. Every name is asked with its final dot: no search list ever applies.

pub mod dead;
pub mod srv;

use std::net::{IpAddr, SocketAddr};

pub use dead::DeadList;
pub use srv::Srv;

use crate::uri::{Host, SipUri};

/// Targets that are followed, and records of one answer that are looked at.
pub const MAX_TARGETS: usize = 16;

/// How SIP is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A plain stream.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket without TLS.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// Default port (RFC 3261 §19.1.2, RFC 7118 §5).
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Transport::Udp | Transport::Tcp => 5060,
            Transport::Tls => 5061,
            Transport::Ws => 80,
            Transport::Wss => 443,
        }
    }

    /// Protected by TLS.
    #[must_use]
    pub fn is_secure(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// The token of a Via.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
            Transport::Ws => "WS",
            Transport::Wss => "WSS",
        }
    }

    /// The transport of a `transport` parameter or a Via; a `sips` URI turns the plain streams into TLS. `None`: unknown.
    #[must_use]
    pub fn parse(text: &str, secure: bool) -> Option<Transport> {
        let all = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
        let named = all.into_iter().find(|transport| transport.as_str().eq_ignore_ascii_case(text))?;
        Some(match named {
            Transport::Tcp if secure => Transport::Tls,
            Transport::Ws if secure => Transport::Wss,
            same => same,
        })
    }

    /// The prefix of its SRV name; none for WebSocket, which is located by URI (RFC 7118 §7).
    fn srv_prefix(self) -> Option<&'static str> {
        match self {
            Transport::Udp => Some("_sip._udp."),
            Transport::Tcp => Some("_sip._tcp."),
            Transport::Tls => Some("_sips._tcp."),
            Transport::Ws | Transport::Wss => None,
        }
    }

    /// The transport of a NAPTR service field (RFC 3263 §4.1, RFC 7118 §10.3).
    fn of_service(service: &str) -> Option<Transport> {
        let known = [
            ("SIP+D2U", Transport::Udp),
            ("SIP+D2T", Transport::Tcp),
            ("SIPS+D2T", Transport::Tls),
            ("SIP+D2W", Transport::Ws),
            ("SIPS+D2W", Transport::Wss),
        ];
        known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(service)).map(|(_, transport)| transport)
    }
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The domain of the URI: the reference identity of RFC 5922, whatever DNS says.
    pub domain: String,
    /// Where to look: `maddr`, else the domain. IPv6 without brackets.
    pub target: String,
    /// A port in the URI.
    pub port: Option<u16>,
    /// `transport` of the URI, or of the Via for a response.
    pub transport: Option<Transport>,
    /// `sips`: TLS only.
    pub secure: bool,
}

impl Wanted {
    /// Reads a URI (§4: TARGET, transport, port).
    ///
    /// # Errors
    /// An unknown transport, or `sips` with UDP.
    pub fn from_uri(uri: &SipUri<'_>) -> Result<Wanted, ResolveError> {
        let bare = |host: &Host<'_>| host.address().map_or_else(|| host.to_string(), |address| address.to_string());
        let domain = bare(&uri.host());
        let target = match uri.param("maddr") {
            Some(maddr) => bare(&Host::parse(maddr).ok_or(ResolveError::BadName)?),
            None => domain.clone(),
        };
        let transport = match uri.transport() {
            None => None,
            Some(text) => Some(Transport::parse(text, uri.is_secure()).ok_or(ResolveError::Transport)?),
        };
        Ok(Wanted { domain, target, port: uri.port(), transport, secure: uri.is_secure() })
    }
}

/// What we can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveConfig {
    /// The transports that we have, the preferred one first.
    pub transports: Vec<Transport>,
    /// The address families.
    pub families: Families,
}

/// Which addresses are tried, and first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Both, IPv4 first.
    #[default]
    V4First,
    /// Both, IPv6 first.
    V6First,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
}

/// A question for the resolver. Names end with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// NAPTR records.
    Naptr(String),
    /// SRV records.
    Srv(String),
    /// A and AAAA records.
    Addresses(String),
}

/// One NAPTR record (RFC 3403 §4.1). Only flag `s` with an empty regular expression means something here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    /// Lower first.
    pub order: u16,
    /// Lower first among equal orders.
    pub preference: u16,
    /// `s`.
    pub flags: String,
    /// `SIP+D2U`, …
    pub service: String,
    /// Empty.
    pub regexp: String,
    /// The SRV name.
    pub replacement: String,
}

/// An answer. No such name, and no such records, are empty lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    /// To [`Question::Naptr`].
    Naptr(Vec<Naptr>),
    /// To [`Question::Srv`].
    Srv(Vec<Srv>),
    /// To [`Question::Addresses`].
    Addresses(Vec<IpAddr>),
    /// No answer: timeout, server failure.
    Failed,
}

/// Where to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// The transport.
    pub transport: Transport,
    /// What the peer's certificate must name: the domain that was asked for, never an SRV target (RFC 5922 §4).
    pub domain: String,
}

/// Why there is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The URI asks for a transport that is unknown, not allowed by its scheme, or that we have not.
    #[error("transport not available")]
    Transport,
    /// The name cannot be asked for.
    #[error("not a domain name")]
    BadName,
    /// DNS has nothing: 404 or 480, and it will not help to ask again at once.
    #[error("no such destination")]
    NotFound,
    /// DNS did not answer: 503.
    #[error("name service failed")]
    Temporary,
}

/// A service that was chosen: where its SRV records are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    transport: Transport,
    name: String,
}

/// A host and port whose addresses are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    transport: Transport,
    host: String,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Naptr,
    Srv { services: Vec<Service>, found: Vec<(String, Vec<Srv>)> },
    Addresses { places: Vec<Place>, found: Vec<(String, Vec<IpAddr>)> },
    Done(Result<Vec<Target>, ResolveError>),
}

/// One look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    wanted: Wanted,
    config: ResolveConfig,
    random: u64,
    step: Step,
    open: Vec<Question>,
    failed: bool,
}

impl Resolution {
    /// Begins. `random` decides among SRV records of equal priority.
    #[must_use]
    pub fn new(wanted: Wanted, config: ResolveConfig, random: u64) -> Resolution {
        let mut this = Resolution { wanted, config, random, step: Step::Naptr, open: Vec::new(), failed: false };
        if let Err(error) = this.begin() {
            this.finish(Err(error));
        }
        this
    }

    /// The questions to ask now; empty when it is over.
    #[must_use]
    pub fn questions(&self) -> &[Question] {
        &self.open
    }

    /// The result, as soon as it is there. Targets in the order to try.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<&[Target], ResolveError>> {
        match &self.step {
            Step::Done(result) => Some(result.as_deref().map_err(|error| *error)),
            _ => None,
        }
    }

    /// An answer came. One to a question that is not open is passed over.
    pub fn on_records(&mut self, question: &Question, records: Records) {
        let Some(at) = self.open.iter().position(|open| open == question) else { return };
        self.open.swap_remove(at);
        self.failed |= records == Records::Failed;
        match (&mut self.step, question, records) {
            (Step::Naptr, _, Records::Naptr(records)) => {
                let services = self.services(records);
                if services.is_empty() {
                    self.srv_without_naptr()
                } else {
                    self.ask_srv(services)
                }
                return;
            }
            (Step::Naptr, ..) => {
                self.srv_without_naptr();
                return;
            }
            (Step::Srv { found, .. }, Question::Srv(name), Records::Srv(mut records)) => {
                records.truncate(4 * MAX_TARGETS);
                found.push((name.clone(), records));
            }
            (Step::Addresses { found, .. }, Question::Addresses(name), Records::Addresses(mut addresses)) => {
                addresses.truncate(4 * MAX_TARGETS);
                found.push((name.clone(), addresses));
            }
            // Failed, or an answer of another kind: as good as none.
            _ => {}
        }
        if !self.open.is_empty() {
            return;
        }
        match std::mem::replace(&mut self.step, Step::Naptr) {
            Step::Srv { services, found } => self.after_srv(&services, &found),
            Step::Addresses { places, found } => self.after_addresses(&places, &found),
            step @ (Step::Naptr | Step::Done(_)) => self.step = step,
        }
    }

    fn begin(&mut self) -> Result<(), ResolveError> {
        let wanted = &self.wanted;
        if let Some(transport) = wanted.transport
            && (!self.has(transport) || (wanted.secure && !transport.is_secure()))
        {
            return Err(ResolveError::Transport);
        }
        if let Ok(ip) = wanted.target.parse::<IpAddr>() {
            let transport = self.default_transport()?;
            let port = wanted.port.unwrap_or(transport.default_port());
            let target = Target { address: SocketAddr::new(ip, port), transport, domain: wanted.domain.clone() };
            self.finish(Ok(vec![target]));
            return Ok(());
        }
        let name = absolute(&wanted.target).ok_or(ResolveError::BadName)?;
        match (wanted.port, wanted.transport) {
            // A port leaves only the address open (§4.2).
            (Some(port), _) => {
                let transport = self.default_transport()?;
                self.ask_addresses(vec![Place { transport, host: name, port }]);
            }
            (None, Some(transport)) => match transport.srv_prefix() {
                Some(prefix) => self.ask_srv(vec![Service { transport, name: format!("{prefix}{name}") }]),
                None => self.ask_addresses(vec![Place { transport, host: name, port: transport.default_port() }]),
            },
            (None, None) => {
                self.default_transport()?;
                self.open.push(Question::Naptr(name));
            }
        }
        Ok(())
    }

    /// The services of NAPTR records that we can use: those of the lowest order that has one, by preference.
    fn services(&self, mut records: Vec<Naptr>) -> Vec<Service> {
        records.sort_by_key(|record| (record.order, record.preference));
        let mut services = Vec::new();
        let mut order = None;
        for record in records {
            let Some(transport) = Transport::of_service(&record.service) else { continue };
            let fits = record.flags.eq_ignore_ascii_case("s")
                && record.regexp.is_empty()
                && self.has(transport)
                && (!self.wanted.secure || transport.is_secure());
            let Some(name) = absolute(&record.replacement) else { continue };
            if fits && *order.get_or_insert(record.order) == record.order && services.len() < MAX_TARGETS {
                services.push(Service { transport, name });
            }
        }
        services
    }

    /// §4.1, last part: no NAPTR, so SRV for every transport that we have.
    fn srv_without_naptr(&mut self) {
        // The name was checked in `begin`.
        let name = absolute(&self.wanted.target).unwrap_or_default();
        // A `sip` URI finds TLS by NAPTR only, unless TLS is all that we have.
        let usable = |transport: &&Transport| match transport {
            Transport::Tls => self.wanted.secure || !(self.has(Transport::Udp) || self.has(Transport::Tcp)),
            Transport::Udp | Transport::Tcp => !self.wanted.secure,
            Transport::Ws | Transport::Wss => false,
        };
        let services: Vec<Service> = self
            .config
            .transports
            .iter()
            .filter(usable)
            .filter_map(|&transport| Some(Service { transport, name: format!("{}{name}", transport.srv_prefix()?) }))
            .collect();
        if services.is_empty() { self.ask_plain_addresses() } else { self.ask_srv(services) }
    }

    fn after_srv(&mut self, services: &[Service], found: &[(String, Vec<Srv>)]) {
        let mut places = Vec::new();
        let mut refused = false;
        for service in services {
            let records = found.iter().filter(|(name, _)| *name == service.name).flat_map(|(_, records)| records);
            let records: Vec<Srv> = records.cloned().collect();
            // A single record with target "." says that the service is not there (RFC 2782).
            refused |= matches!(records.as_slice(), [only] if only.target.trim_end_matches('.').is_empty());
            for record in srv::order(records, &mut self.random) {
                if let Some(host) = absolute(&record.target)
                    && places.len() < MAX_TARGETS
                {
                    places.push(Place { transport: service.transport, host, port: record.port });
                }
            }
        }
        match (places.is_empty(), refused) {
            (false, _) => self.ask_addresses(places),
            (true, true) => self.finish(Err(ResolveError::NotFound)),
            (true, false) => self.ask_plain_addresses(),
        }
    }

    /// No SRV: the addresses of the domain itself, with the default port.
    fn ask_plain_addresses(&mut self) {
        match (self.default_transport(), absolute(&self.wanted.target)) {
            (Ok(transport), Some(host)) => {
                self.ask_addresses(vec![Place { transport, host, port: transport.default_port() }]);
            }
            (Err(error), _) => self.finish(Err(error)),
            (_, None) => self.finish(Err(ResolveError::BadName)),
        }
    }

    fn after_addresses(&mut self, places: &[Place], found: &[(String, Vec<IpAddr>)]) {
        let mut targets: Vec<Target> = Vec::new();
        for place in places {
            let addresses = found.iter().filter(|(name, _)| *name == place.host).flat_map(|(_, addresses)| addresses);
            for ip in self.in_order(addresses.copied().collect()) {
                let address = SocketAddr::new(ip, place.port);
                let known = targets.iter().any(|t| t.address == address && t.transport == place.transport);
                if !known && targets.len() < MAX_TARGETS {
                    targets.push(Target { address, transport: place.transport, domain: self.wanted.domain.clone() });
                }
            }
        }
        self.finish(match (targets.is_empty(), self.failed) {
            (false, _) => Ok(targets),
            (true, true) => Err(ResolveError::Temporary),
            (true, false) => Err(ResolveError::NotFound),
        });
    }

    fn in_order(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv4);
        match self.config.families {
            Families::V4First => v4.into_iter().chain(v6).collect(),
            Families::V6First => v6.into_iter().chain(v4).collect(),
            Families::V4Only => v4,
            Families::V6Only => v6,
        }
    }

    /// The transport where nothing chooses one (§4.1): that of the URI, else TLS for `sips`, else UDP, else what we have.
    fn default_transport(&self) -> Result<Transport, ResolveError> {
        if let Some(transport) = self.wanted.transport {
            return Ok(transport);
        }
        let first = if self.wanted.secure { Transport::Tls } else { Transport::Udp };
        if self.has(first) {
            return Ok(first);
        }
        let fits = |transport: &&Transport| !self.wanted.secure || transport.is_secure();
        self.config.transports.iter().find(fits).copied().ok_or(ResolveError::Transport)
    }

    fn has(&self, transport: Transport) -> bool {
        self.config.transports.contains(&transport)
    }

    fn ask_srv(&mut self, services: Vec<Service>) {
        for service in &services {
            self.ask(Question::Srv(service.name.clone()));
        }
        self.step = Step::Srv { services, found: Vec::new() };
    }

    fn ask_addresses(&mut self, places: Vec<Place>) {
        for place in &places {
            self.ask(Question::Addresses(place.host.clone()));
        }
        self.step = Step::Addresses { places, found: Vec::new() };
    }

    fn ask(&mut self, question: Question) {
        if !self.open.contains(&question) {
            self.open.push(question);
        }
    }

    fn finish(&mut self, result: Result<Vec<Target>, ResolveError>) {
        self.open.clear();
        self.step = Step::Done(result);
    }
}

/// The name in lower case with its final dot; `None` when it cannot be a name (an SRV target "." among them).
fn absolute(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label_fits =
        |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_graphic());
    (name.len() <= 253 && name.split('.').all(label_fits)).then(|| format!("{}.", name.to_ascii_lowercase()))
}
