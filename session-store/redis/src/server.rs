//! What a server says of itself, and whether it will do.

use redis::aio::MultiplexedConnection;

use crate::error::StartError;
use crate::failure::Failure;
use crate::library;

/// From INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub version: String,
    /// Of this start of the server.
    pub run_id: String,
    pub is_valkey: bool,
    pub is_cluster: bool,
    pub is_primary: bool,
    pub policy: String,
    pub aof_on: bool,
    pub replicas: usize,
}

/// Asks.
pub(crate) async fn facts(connection: &mut MultiplexedConnection, address: &str) -> Result<Facts, StartError> {
    let info: String = redis::cmd("INFO").query_async(connection).await.map_err(|e| start_error(address, &e))?;
    Ok(parse(&info))
}

fn parse(info: &str) -> Facts {
    let mut facts = Facts::default();
    for (name, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
        match name {
            "redis_version" if facts.version.is_empty() => facts.version = value.to_owned(),
            "valkey_version" => (facts.version, facts.is_valkey) = (value.to_owned(), true),
            "run_id" => facts.run_id = value.to_owned(),
            "redis_mode" | "server_mode" => facts.is_cluster |= value == "cluster",
            "role" => facts.is_primary = value == "master",
            "maxmemory_policy" => facts.policy = value.to_owned(),
            "aof_enabled" => facts.aof_on = value == "1",
            "connected_slaves" => facts.replicas = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    facts
}

impl Facts {
    fn at_least(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }

    /// Whether WAITAOF is known there.
    pub fn has_waitaof(&self) -> bool {
        self.at_least(7, 2)
    }

    /// Refuses what loses state or does not know functions.
    pub fn check(&self, address: &str) -> Result<(), StartError> {
        let address = address.to_owned();
        if !self.at_least(7, 0) {
            let name = if self.is_valkey { "Valkey" } else { "Redis" };
            return Err(StartError::TooOld { address, version: format!("{name} {}", self.version) });
        }
        if self.policy != "noeviction" {
            return Err(StartError::Eviction { address, policy: self.policy.clone() });
        }
        Ok(())
    }
}

/// Loads the library where it is missing. One of that name with another text is not ours.
pub(crate) async fn ensure_library(connection: &mut MultiplexedConnection, address: &str) -> Result<(), StartError> {
    let mut list = redis::cmd("FUNCTION");
    list.arg("LIST").arg("LIBRARYNAME").arg(library::name()).arg("WITHCODE");
    let listed: redis::Value = list.query_async(connection).await.map_err(|e| start_error(address, &e))?;
    match code_of(&listed) {
        Some(code) if code == library::code().as_bytes() => return Ok(()),
        Some(_) => {
            return Err(StartError::Library { address: address.to_owned(), library: library::name().to_owned() });
        }
        None => {}
    }
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg(library::code());
    match load.query_async::<String>(connection).await {
        Ok(_) => {
            tracing::info!(address, library = library::name(), "function library loaded");
            Ok(())
        }
        // Another edge was faster.
        Err(error) if error.detail().is_some_and(|text| text.contains("already exists")) => Ok(()),
        Err(error) => Err(start_error(address, &error)),
    }
}

/// The text of the first library of a FUNCTION LIST.
fn code_of(listed: &redis::Value) -> Option<&[u8]> {
    let redis::Value::Array(libraries) = listed else { return None };
    let text = |value: &redis::Value| {
        matches!(value, redis::Value::BulkString(b) if b == b"library_code")
            || matches!(value, redis::Value::SimpleString(s) if s == "library_code")
    };
    match libraries.first()? {
        redis::Value::Map(pairs) => pairs.iter().find(|(name, _)| text(name)).and_then(|(_, code)| as_bytes(code)),
        redis::Value::Array(flat) => flat.chunks(2).find(|pair| text(&pair[0])).and_then(|pair| as_bytes(pair.get(1)?)),
        _ => None,
    }
}

fn as_bytes(value: &redis::Value) -> Option<&[u8]> {
    match value {
        redis::Value::BulkString(bytes) => Some(bytes),
        redis::Value::SimpleString(text) | redis::Value::VerbatimString { text, .. } => Some(text.as_bytes()),
        _ => None,
    }
}

/// What an error at start means for the operator.
pub(crate) fn start_error(address: &str, error: &redis::RedisError) -> StartError {
    let address = address.to_owned();
    let text = error.to_string();
    let code = error.code().unwrap_or_default();
    if ["WRONGPASS", "NOAUTH"].contains(&code)
        || error.kind() == redis::ErrorKind::AuthenticationFailed
        || text.contains("WRONGPASS")
        || text.contains("NOAUTH")
    {
        return StartError::Refused { address, reason: text };
    }
    if code == "NOPERM" || text.contains("NOPERM") {
        return StartError::NotAllowed { address, reason: text };
    }
    if text.contains("unknown command") {
        return StartError::TooOld { address, version: format!("a version that answers: {text}") };
    }
    if error.kind() == redis::ErrorKind::Parse {
        return StartError::NotRedis { address, got: text };
    }
    match Failure::of_error(error) {
        Failure::Late => StartError::Unreachable { address, reason: "no answer in time".into() },
        _ => StartError::Unreachable { address, reason: text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_it_is() {
        let info = "# Server\r\nredis_version:7.2.4\r\nrun_id:a1b2\r\nserver_name:valkey\r\nvalkey_version:8.1.8\r\nredis_mode:standalone\r\n\
                    maxmemory_policy:noeviction\r\naof_enabled:1\r\nrole:master\r\nconnected_slaves:2\r\n";
        let facts = parse(info);
        assert_eq!((facts.version.as_str(), facts.is_valkey), ("8.1.8", true));
        assert!(facts.aof_on && facts.is_primary && facts.has_waitaof() && !facts.is_cluster);
        assert_eq!((facts.replicas, facts.run_id.as_str()), (2, "a1b2"));
        assert_eq!(facts.check("x"), Ok(()));
    }

    #[test]
    fn an_old_one_and_one_that_evicts_are_refused() {
        let old = Facts { version: "6.2.14".into(), policy: "noeviction".into(), ..Facts::default() };
        assert!(old.check("a:1").unwrap_err().to_string().contains("Redis 6.2.14"));
        let evicts = Facts { version: "7.0.15".into(), policy: "allkeys-lru".into(), ..Facts::default() };
        let error = evicts.check("a:1").unwrap_err().to_string();
        assert!(error.contains("allkeys-lru") && error.contains("noeviction"), "{error}");
        assert!(!evicts.has_waitaof());
    }
}
