//! Command line and environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Parser, ValueEnum};

use crate::identity::EdgeId;

/// Exit code for a listener, certificate or file that cannot be used.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code for wrong arguments, and for manifests with nothing usable in them at the start.
pub const EXIT_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Manifests are the YAML of the Kubernetes kinds SipEdge, SessionStore, SipDomain, McpAgent and McpCapabilityPolicy, with v1 Secrets and
ConfigMaps beside them. They are read again when a file changes; a broken file is reported and the last good state stays.
In Kubernetes an operator gives the same objects to the edge (--operator). The edge goes on with what it has while there is none, and after a
restart with what it kept (--config-cache).

Signals: SIGTERM or SIGINT drains (new work is refused, what is in flight ends), a second one ends at once.
SIGHUP reads the manifests at once and opens the audit file again (after a rotation).

An edge starts when its store answers; before that /readyz says what it waits for. A store that cannot be used (no Redis, a wrong
password, an eviction policy, a durability class that it cannot give) ends the start.

Exit codes: 0 after a drain; 1 a port, certificate, file or store cannot be used, or another process has this edge id;
2 wrong arguments, or nothing usable in the manifests; 143 ended by a second signal.

Example:
  sipmcp-edge --manifests crds/examples --admin 127.0.0.1:9090
  sipmcp-edge --operator https://10.96.0.7:8443 --operator-name sipmcp-operator.sipmcp-system.svc --operator-ca ca.crt --token token \
    --edge sipmcp-system/edge --pod-name edge-0
  sipmcp-edge --manifests fleet --edge-id edge-0 --mesh-listen 10.0.0.7:7443 --mesh-cert edge-0.crt --mesh-key edge-0.key --mesh-ca ca.crt";

/// The SIP edge that gives MCP agents an address.
#[derive(Clone, Debug, Parser)]
#[command(name = "sipmcp-edge", version, after_help = AFTER_HELP, max_term_width = 120)]
#[command(group(ArgGroup::new("mesh_identity").args(["mesh_ca", "operator"]).multiple(true)))]
pub struct Args {
    /// Directory or file with manifests; may be repeated, or given as a comma-separated list.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "operator",
        conflicts_with = "operator",
        value_delimiter = ',',
        env = "SIPMCP_MANIFESTS"
    )]
    pub manifests: Vec<PathBuf>,

    /// The operator that gives the configuration, https://HOST:PORT; the host may be an address, so that no DNS is needed.
    #[arg(
        long, value_name = "URL", requires_all = ["operator_name", "operator_ca", "token", "edge"], value_parser = https,
        env = "SIPMCP_OPERATOR"
    )]
    pub operator: Option<String>,

    /// The name in the operator's certificate.
    #[arg(long, value_name = "NAME", requires = "operator", env = "SIPMCP_OPERATOR_NAME")]
    pub operator_name: Option<String>,

    /// PEM bundle of the authority that issues the certificates of operators and edges. Read again for each connection.
    #[arg(long, value_name = "FILE", requires = "operator", env = "SIPMCP_OPERATOR_CA")]
    pub operator_ca: Option<PathBuf>,

    /// The pod's token, audience sipmcp-edge. Read again for each enrolment.
    #[arg(long, value_name = "FILE", requires = "operator", env = "SIPMCP_TOKEN")]
    pub token: Option<PathBuf>,

    /// Name of the pod, as the operator knows it. Without it the host name.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// Where the last good configuration is kept, sealed, for a restart without an operator.
    #[arg(long, value_name = "FILE", requires_all = ["operator", "config_cache_keys"], env = "SIPMCP_CONFIG_CACHE")]
    pub config_cache: Option<PathBuf>,

    /// The mounted Secret EDGE-keys, with whose keys that file is sealed.
    #[arg(long, value_name = "DIR", requires = "config_cache", env = "SIPMCP_CONFIG_CACHE_KEYS")]
    pub config_cache_keys: Option<PathBuf>,

    /// Where /healthz, /readyz, /metrics and /status are for everybody in the cluster; without conversations.
    #[arg(long, value_name = "ADDR", env = "SIPMCP_HEALTH")]
    pub health: Option<SocketAddr>,

    /// Which SipEdge this process is, `name` or `namespace/name`; needed when the manifests hold several, and with --operator.
    #[arg(long, value_name = "NAME", env = "SIPMCP_EDGE")]
    pub edge: Option<String>,

    /// Id of this edge among those that share a store: no two may have the same. Without it the host name.
    #[arg(long, value_name = "NAME", value_parser = EdgeId::new, env = "SIPMCP_EDGE_ID")]
    pub edge_id: Option<EdgeId>,

    /// Address of /healthz, /readyz, /metrics and /status, a port alone for 127.0.0.1 (0 takes a free one), or unix:/path for a socket.
    /// Conversations are shown and erased on loopback and on a Unix socket only.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090", value_parser = admin, env = "SIPMCP_ADMIN")]
    pub admin: AdminAddress,

    /// Where other edges of the fleet reach this one, over mutual TLS; needed where a store is shared and connections are TLS or WSS.
    /// With --operator the certificate comes from there.
    #[arg(long, value_name = "ADDR", requires = "mesh_identity", env = "SIPMCP_MESH_LISTEN")]
    pub mesh_listen: Option<SocketAddr>,

    /// The address that the others are told, host:port; without it the one of --mesh-listen.
    #[arg(long, value_name = "ADDR", requires = "mesh_listen", value_parser = host_port, env = "SIPMCP_MESH_ADVERTISE")]
    pub mesh_advertise: Option<String>,

    /// PEM certificate of this edge in the mesh; it names the edge id, as dNSName or as URI urn:sipmcp:edge:ID. Read again when it changes.
    #[arg(long, value_name = "FILE", requires = "mesh_ca", env = "SIPMCP_MESH_CERT")]
    pub mesh_cert: Option<PathBuf>,

    /// PEM private key of --mesh-cert.
    #[arg(long, value_name = "FILE", requires = "mesh_ca", env = "SIPMCP_MESH_KEY")]
    pub mesh_key: Option<PathBuf>,

    /// PEM bundle of the authorities that issue the certificates of the edges.
    #[arg(
        long, value_name = "FILE", requires_all = ["mesh_listen", "mesh_cert", "mesh_key"], conflicts_with = "operator",
        env = "SIPMCP_MESH_CA"
    )]
    pub mesh_ca: Option<PathBuf>,

    /// Shards, each with a thread of its own; without it one per processor core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), env = "SIPMCP_SHARDS")]
    pub shards: Option<u16>,

    /// Where audit records go, one JSON object per line; without it to standard output.
    #[arg(long, value_name = "FILE", env = "SIPMCP_AUDIT")]
    pub audit: Option<PathBuf>,

    /// Sends traces to this OTLP/gRPC endpoint, for example http://127.0.0.1:4317.
    #[arg(long, value_name = "URL", env = "SIPMCP_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// Form of the log on standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, env = "SIPMCP_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// Log level, or a filter such as `info,edge=debug`. Payloads, arguments and credentials are never logged.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "SIPMCP_LOG")]
    pub log_level: String,
}

/// Where the admin door is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl AdminAddress {
    /// Whether only this machine reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            AdminAddress::Tcp(address) => address.ip().is_loopback(),
            AdminAddress::Unix(_) => true,
        }
    }
}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AdminAddress::Tcp(address) => address.fmt(f),
            AdminAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn admin(text: &str) -> Result<AdminAddress, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port))));
    }
    if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
        return Ok(AdminAddress::Unix(path.into()));
    }
    let help = "give an address and a port, for example 127.0.0.1:9090 or [::1]:9090, a port alone, or unix:/path";
    text.parse().map(AdminAddress::Tcp).map_err(|_| help.into())
}

fn https(text: &str) -> Result<String, String> {
    let help = "give https://HOST:PORT, for example https://10.96.0.7:8443";
    let place = text.strip_prefix("https://").ok_or(help)?;
    host_port(place.strip_suffix('/').unwrap_or(place)).map_err(|_| help.to_owned())
}

fn host_port(text: &str) -> Result<String, String> {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && text.len() <= 260 && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if fits { Ok(text.to_owned()) } else { Err("give host:port, for example 10.0.0.7:7443".into()) }
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Args {
    /// How many shards to run.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.shards.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            u16::try_from(cores).unwrap_or(256).min(256)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn manifests_may_be_repeated_and_listed() {
        let args = Args::try_parse_from(["sipmcp-edge", "--manifests", "a,b", "--manifests", "c"]).unwrap();
        assert_eq!(args.manifests, [PathBuf::from("a"), PathBuf::from("b"), PathBuf::from("c")]);
    }

    #[test]
    fn the_admin_address_may_be_a_port_alone() {
        let admin =
            |text| Args::try_parse_from(["sipmcp-edge", "--manifests", "a", "--admin", text]).map(|args| args.admin);
        assert_eq!(admin("0").unwrap(), AdminAddress::Tcp("127.0.0.1:0".parse().unwrap()));
        assert_eq!(admin("[::1]:9").unwrap(), AdminAddress::Tcp("[::1]:9".parse().unwrap()));
        assert_eq!(admin("unix:/run/edge").unwrap(), AdminAddress::Unix("/run/edge".into()));
        assert!(admin("localhost").is_err() && admin("unix:here").is_err());
        assert!(admin("127.0.0.2:1").unwrap().is_local() && !admin("0.0.0.0:1").unwrap().is_local());
    }

    #[test]
    fn a_mesh_needs_its_certificates() {
        let parse = |more: &[&str]| Args::try_parse_from(["sipmcp-edge", "--manifests", "a"].iter().chain(more));
        assert!(parse(&["--mesh-listen", "127.0.0.1:0"]).is_err());
        assert!(parse(&["--mesh-cert", "a"]).is_err());
        let files = ["--mesh-cert", "a", "--mesh-key", "b", "--mesh-ca", "c"];
        let whole = parse(&[&["--mesh-listen", "127.0.0.1:0", "--mesh-advertise", "edge-0:7443"][..], &files].concat());
        assert_eq!(whole.unwrap().mesh_advertise.as_deref(), Some("edge-0:7443"));
        assert!(
            parse(&[&["--mesh-listen", "127.0.0.1:0", "--mesh-advertise", "edge-0"][..], &files].concat()).is_err()
        );
        assert!(parse(&["--edge-id", "a b"]).is_err());
    }

    #[test]
    fn an_operator_takes_the_place_of_files_and_of_the_mesh_certificates() {
        let parse = |more: &[&str]| Args::try_parse_from(["sipmcp-edge"].iter().chain(more));
        let operator = [
            "--operator",
            "https://10.0.0.1:8443",
            "--operator-name",
            "o",
            "--operator-ca",
            "ca",
            "--token",
            "t",
            "--edge",
            "s/e",
        ];
        let args = parse(&[&operator[..], &["--mesh-listen", "127.0.0.1:0"]].concat()).unwrap();
        assert_eq!((args.operator.as_deref(), args.manifests.len()), (Some("10.0.0.1:8443"), 0));
        assert!(parse(&[]).is_err() && parse(&operator[..2]).is_err());
        assert!(parse(&[&operator[..], &["--manifests", "a"]].concat()).is_err());
        assert!(parse(&[&operator[..], &["--config-cache", "f"]].concat()).is_err(), "nothing is kept unsealed");
        let plain = operator.map(|arg| if arg.starts_with("https") { "http://10.0.0.1:8443" } else { arg });
        assert!(parse(&plain).is_err());
    }

    #[test]
    fn shards_stay_in_range() {
        assert!(Args::try_parse_from(["sipmcp-edge", "--manifests", "a", "--shards", "0"]).is_err());
        assert!(Args::try_parse_from(["sipmcp-edge", "--manifests", "a", "--shards", "257"]).is_err());
        assert_eq!(
            Args::try_parse_from(["sipmcp-edge", "--manifests", "a", "--shards", "4"]).unwrap().shard_count(),
            4
        );
    }
}
