//! One connection to one server that is opened again when it closes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, TlsCertificates};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::config::{RedisConfig, TlsConfig, Topology, split_address};
use crate::error::StartError;
use crate::greeting;
use crate::server;
use crate::topology;

/// Delay before the first attempt after a failed one; it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// And does not grow beyond this.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// How connections to one server are opened.
#[derive(Clone)]
pub(crate) struct Opener {
    pub address: String,
    username: Option<String>,
    password: Option<Zeroizing<String>>,
    tls: Option<TlsConfig>,
    connect_timeout: Duration,
    in_flight: usize,
    /// Where sentinels say who is primary: how they are asked.
    watched: Option<Arc<RedisConfig>>,
}

impl Opener {
    pub fn new(config: &RedisConfig, address: &str) -> Opener {
        Opener {
            watched: matches!(config.topology, Topology::Sentinel { .. }).then(|| Arc::new(config.clone())),
            address: address.to_owned(),
            username: config.username.clone(),
            password: config.password.clone(),
            tls: config.tls.clone(),
            connect_timeout: config.connect_timeout,
            in_flight: config.in_flight,
        }
    }

    /// To a sentinel.
    pub fn sentinel(config: &RedisConfig, address: &str) -> Opener {
        let mut opener = Opener::new(config, address);
        opener.username = config.sentinel_username.clone();
        opener.password = config.sentinel_password.clone();
        opener.watched = None;
        opener
    }

    /// Greeting, then connection, TLS, HELLO and AUTH.
    ///
    /// # Errors
    /// Unreachable, not Redis, or not let in; after twice the connect timeout at the latest.
    pub async fn open(&self) -> Result<MultiplexedConnection, StartError> {
        let (host, port) = split_address(&self.address)?;
        if self.tls.is_none() {
            greeting::check(&host, port, self.connect_timeout).await?;
        }
        let client = self.client(host, port)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            // Each use has a deadline of its own; who looks at a new server may wait longer than an operation does.
            .set_response_timeout(None)
            .set_concurrency_limit(self.in_flight);
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        match tokio::time::timeout(self.connect_timeout, opening).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(server::start_error(&self.address, &error)),
            Err(_) => {
                Err(StartError::Unreachable { address: self.address.clone(), reason: "no handshake in time".into() })
            }
        }
    }

    /// The same, to a server that is the primary by the word of its sentinels, where there are some.
    ///
    /// # Errors
    /// As [`Opener::open`], or they name another one.
    pub async fn open_primary(&self) -> Result<MultiplexedConnection, StartError> {
        let connection = self.open().await?;
        if let Some(config) = &self.watched {
            topology::still_named(config, &self.address).await?;
        }
        Ok(connection)
    }

    fn client(&self, host: String, port: u16) -> Result<Client, StartError> {
        let config = |error: redis::RedisError| StartError::Config(error.to_string());
        let address = match &self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info = address.into_connection_info().map_err(config)?;
        let mut settings = info.redis_settings().clone().set_protocol(redis::ProtocolVersion::RESP3);
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.as_str());
        }
        let info = info.set_redis_settings(settings);
        match &self.tls {
            None => Client::open(info).map_err(config),
            Some(tls) => {
                let client_tls = tls
                    .client
                    .as_ref()
                    .map(|(cert, key)| ClientTlsConfig { client_cert: cert.clone(), client_key: key.to_vec() });
                let certificates = TlsCertificates { client_tls, root_cert: Some(tls.roots.clone()) };
                Client::build_with_tls(info, certificates).map_err(config)
            }
        }
    }
}

/// What holds now.
#[derive(Default)]
struct Held {
    connection: Option<MultiplexedConnection>,
    /// Which one it is, so that a late failure of an older one says nothing about it.
    number: u64,
    error: Option<StartError>,
}

struct Shared {
    opener: Opener,
    held: Mutex<Held>,
    broken: Notify,
    opened: Notify,
}

/// The connection and the task that opens it. The task ends with it.
pub(crate) struct Link {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Link {
    /// Begins with `first`, or with a connection yet to be opened.
    pub fn new(opener: Opener, first: Option<MultiplexedConnection>) -> Link {
        let held = Held { number: 1, connection: first, error: None };
        let shared = Arc::new(Shared { opener, held: Mutex::new(held), broken: Notify::new(), opened: Notify::new() });
        let task = tokio::spawn(keep_open(shared.clone())).abort_handle();
        Link { shared, task }
    }

    /// The connection, if there is one now, and its number.
    pub fn get(&self) -> Option<(u64, MultiplexedConnection)> {
        let held = self.shared.held.lock().ok()?;
        held.connection.clone().map(|connection| (held.number, connection))
    }

    /// Why there is none.
    pub fn error(&self) -> Option<StartError> {
        self.shared.held.lock().ok()?.error.clone()
    }

    /// Connection `number` is of no use any more.
    pub fn broke(&self, number: u64) {
        let Ok(mut held) = self.shared.held.lock() else { return };
        if held.number == number && held.connection.take().is_some() {
            self.shared.broken.notify_one();
        }
    }

    /// Waits until there is one.
    pub async fn opened(&self) -> (u64, MultiplexedConnection) {
        loop {
            let opened = self.shared.opened.notified();
            if let Some(found) = self.get() {
                return found;
            }
            opened.await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_open(shared: Arc<Shared>) {
    let mut delay = FIRST_DELAY;
    loop {
        let has_one = shared.held.lock().is_ok_and(|held| held.connection.is_some());
        if has_one {
            delay = FIRST_DELAY;
            shared.broken.notified().await;
            continue;
        }
        match shared.opener.open_primary().await {
            Ok(connection) => {
                if let Ok(mut held) = shared.held.lock() {
                    held.number += 1;
                    (held.connection, held.error) = (Some(connection), None);
                }
                shared.opened.notify_waiters();
            }
            Err(error) => {
                tracing::debug!(address = shared.opener.address, %error, "the store");
                if let Ok(mut held) = shared.held.lock() {
                    held.error = Some(error);
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(MAX_DELAY);
            }
        }
    }
}
