//! Rules of a `SessionStore`.

use super::{Finding, finding};
use crate::v1alpha1::{Duration, RedisStore, RedisTopology, SessionStoreSpec};

/// No conversation is ended sooner.
const SHORTEST_SECONDS: u64 = 60;
/// A year: what is kept longer belongs into another kind of store.
const LONGEST_SECONDS: u64 = 366 * 86_400;

/// Rules of a `SessionStore`.
pub fn store(spec: &SessionStoreSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    if spec.redis.is_some() == spec.embedded.is_some() {
        findings.push(finding("spec", "give exactly one of redis and embedded"));
    }
    if let Some(embedded) = &spec.embedded
        && embedded.memory.is_some() == embedded.file.is_some()
    {
        findings.push(finding("spec.embedded", "give exactly one of memory and file"));
    }
    if let Some(redis) = &spec.redis {
        redis_rules(redis, &mut findings);
    }
    duration("spec.ttl.idle", &spec.ttl.idle, SHORTEST_SECONDS, &mut findings);
    duration("spec.ttl.absolute", &spec.ttl.absolute, SHORTEST_SECONDS, &mut findings);
    if spec.ttl.idle.seconds() > spec.ttl.absolute.seconds() {
        let message = format!("is longer than absolute ({}); lower it", spec.ttl.absolute.as_str());
        findings.push(finding("spec.ttl.idle", message));
    }
    findings
}

fn redis_rules(redis: &RedisStore, findings: &mut Vec<Finding>) {
    let field = "spec.redis";
    match (redis.topology, &redis.master_name) {
        (RedisTopology::Sentinel, None) => {
            let message =
                "topology Sentinel needs masterName: the name after `sentinel monitor` in the sentinels' configuration";
            findings.push(finding(format!("{field}.masterName"), message));
        }
        (RedisTopology::Single | RedisTopology::Cluster, Some(_)) => {
            findings.push(finding(format!("{field}.masterName"), "is for topology Sentinel only; remove it"));
        }
        _ => {}
    }
    if redis.topology == RedisTopology::Single && redis.addresses.len() > 1 {
        let message = "topology Single has exactly one address; for several servers choose Sentinel or Cluster";
        findings.push(finding(format!("{field}.addresses"), message));
    }
    for (index, address) in redis.addresses.iter().enumerate() {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            let message = format!("{address:?} has no valid port; allowed is 1 to 65535");
            findings.push(finding(format!("{field}.addresses[{index}]"), message));
        }
        if let Some((host, _)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            && host.parse::<std::net::Ipv6Addr>().is_err()
        {
            findings.push(finding(format!("{field}.addresses[{index}]"), format!("[{host}] is no IPv6 address")));
        }
    }
    if !redis.key_prefix.ends_with(':') {
        let message = format!("{:?} must end with a colon: {:?}", redis.key_prefix, format!("{}:", redis.key_prefix));
        findings.push(finding(format!("{field}.keyPrefix"), message));
    }
}

/// How long a conversation may last.
pub(super) fn lifetime(field: &str, length: &Duration, findings: &mut Vec<Finding>) {
    duration(field, length, SHORTEST_SECONDS, findings);
}

/// A time to keep what ended: none, up to a year.
pub(super) fn retention(field: &str, length: &Duration, findings: &mut Vec<Finding>) {
    duration(field, length, 0, findings);
}

/// Its form is the schema's matter.
fn duration(field: &str, length: &Duration, shortest: u64, findings: &mut Vec<Finding>) {
    if !length.seconds().is_some_and(|seconds| (shortest..=LONGEST_SECONDS).contains(&seconds)) {
        let message = format!("{:?} is out of range; allowed is {shortest}s to a year (8784h)", length.as_str());
        findings.push(finding(field, message));
    }
}
