//! DNS questions of the core (RFC 3263), over hickory-resolver.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edge_core::effect::{DnsAnswer, DnsQuestion, Naptr, Srv};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;

use crate::counters::Counters;

/// Questions in flight; one more is answered `Failed` at once.
const IN_FLIGHT: usize = 512;
/// Records taken from one answer.
const MAX_RECORDS: usize = 32;
/// A name is asked again after this time at the latest, also one that did not exist.
const MAX_TTL: Duration = Duration::from_secs(3600);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(60);

/// The resolver of the process. Cheap to clone.
#[derive(Clone)]
pub struct Dns {
    resolver: Arc<TokioResolver>,
    in_flight: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Dns {
    /// With the name servers of `/etc/resolv.conf`. Its search list is not used: every question is asked with a final dot, so that no
    /// search suffix answers for a peer.
    ///
    /// # Errors
    /// When the system's configuration cannot be read or names no server.
    pub fn from_system(counters: Arc<Counters>) -> Result<Self, NetError> {
        let (config, options) = hickory_resolver::system_conf::read_system_conf()?;
        Self::new(config, options, counters)
    }

    /// # Errors
    /// When the resolver cannot be built.
    pub fn new(config: ResolverConfig, mut options: ResolverOpts, counters: Arc<Counters>) -> Result<Self, NetError> {
        options.timeout = Duration::from_secs(1);
        options.attempts = 2;
        options.ndots = 1;
        options.cache_size = 4096;
        options.positive_max_ttl = Some(MAX_TTL);
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        options.max_active_requests = IN_FLIGHT;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()?;
        Ok(Dns { resolver: Arc::new(resolver), in_flight: Arc::new(Semaphore::new(IN_FLIGHT)), counters })
    }

    /// Asks one question.
    pub async fn ask(&self, question: DnsQuestion) -> DnsAnswer {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            self.counters.dns.one();
            return DnsAnswer::Failed;
        };
        match question {
            DnsQuestion::Naptr(name) => {
                let naptr = |data: &RData| match data {
                    RData::NAPTR(naptr) => Some(Naptr {
                        order: naptr.order,
                        preference: naptr.preference,
                        flags: String::from_utf8_lossy(&naptr.flags).into_owned(),
                        service: String::from_utf8_lossy(&naptr.services).into_owned(),
                        replacement: absolute(&naptr.replacement),
                    }),
                    _ => None,
                };
                self.records(&name, RecordType::NAPTR, naptr).await.map_or(DnsAnswer::Failed, DnsAnswer::Naptr)
            }
            DnsQuestion::Srv(name) => {
                let srv = |data: &RData| match data {
                    RData::SRV(srv) => Some(Srv {
                        priority: srv.priority,
                        weight: srv.weight,
                        port: srv.port,
                        target: absolute(&srv.target),
                    }),
                    _ => None,
                };
                self.records(&name, RecordType::SRV, srv).await.map_or(DnsAnswer::Failed, DnsAnswer::Srv)
            }
            DnsQuestion::Address(name) => self.addresses(&name).await,
        }
    }

    async fn records<T>(
        &self,
        name: &str,
        record_type: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Option<Vec<T>> {
        match self.resolver.lookup(fqdn(name)?, record_type).await {
            Ok(lookup) => {
                Some(lookup.answers().iter().filter_map(|record| read(&record.data)).take(MAX_RECORDS).collect())
            }
            Err(error) if error.is_no_records_found() => Some(Vec::new()),
            Err(error) => {
                tracing::debug!(%error, "a DNS question was not answered");
                None
            }
        }
    }

    async fn addresses(&self, name: &str) -> DnsAnswer {
        let Some(name) = fqdn(name) else { return DnsAnswer::Failed };
        match self.resolver.lookup_ip(name).await {
            Ok(lookup) => DnsAnswer::Address(lookup.iter().take(MAX_RECORDS).collect::<Vec<IpAddr>>()),
            Err(error) if error.is_no_records_found() => DnsAnswer::Address(Vec::new()),
            Err(error) => {
                tracing::debug!(%error, "a DNS question was not answered");
                DnsAnswer::Failed
            }
        }
    }
}

/// The name with its final dot.
fn fqdn(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// As the core writes names: no final dot. The root (`.`: "no such service", RFC 2782) is the empty name.
fn absolute(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}
