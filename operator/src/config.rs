//! Command line and environment.

use crate::plan::workload::Installation;
use clap::{Parser, ValueEnum};
use std::net::SocketAddr;

/// Exit code for a port that cannot be opened, or a task that ended.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code for wrong arguments, and where no cluster is configured.
pub const EXIT_USAGE: u8 = 2;

/// ConfigMap with the certificate of the operator's authority (`ca.crt`), in each namespace with a SipEdge; also the name of the Secret with
/// its key, in the operator's namespace.
pub const AUTHORITY: &str = "sipmcp-operator-ca";
/// Namespaces that can be watched one by one; for more, watch all.
pub const MAX_NAMESPACES: usize = 64;

const AFTER_HELP: &str = "\
Every replica watches the API server and serves edges; the one that holds the Lease sipmcp-operator-write writes.
It finds the cluster by its ServiceAccount, or by KUBECONFIG. While the API server does not answer it waits and says so.

Signals: SIGTERM or SIGINT lets go of the Lease and ends.

Exit codes: 0 after a signal; 1 a port cannot be opened, or a part of it ended; 2 wrong arguments, or no cluster is configured.";

/// The operator of sipmcp: what stands in the API becomes what runs and what each edge is told.
#[derive(Clone, Debug, Parser)]
#[command(name = "sipmcp-operator", version, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Args {
    /// Namespace of the operator: the Lease, its authority and the numbers of the tenants are there.
    #[arg(long, value_name = "NAME", value_parser = label, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Name of this replica, as it stands in the Lease and in Events.
    #[arg(long, value_name = "NAME", value_parser = name, env = "POD_NAME")]
    pub name: String,

    /// Where edges enrol and connect.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8443", env = "SIPMCP_LISTEN_EDGES")]
    pub listen_edges: SocketAddr,

    /// Where the API server reaches the admission webhook.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9443", env = "SIPMCP_LISTEN_WEBHOOK")]
    pub listen_webhook: SocketAddr,

    /// ValidatingWebhookConfiguration that gets the operator's authority as its caBundle. Without it somebody else brings one.
    #[arg(long, value_name = "NAME", value_parser = name, env = "SIPMCP_WEBHOOK_CONFIGURATION")]
    pub webhook_configuration: Option<String>,

    /// Where `kubectl sipmcp` reaches the Admin API.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9444", env = "SIPMCP_LISTEN_ADMIN")]
    pub listen_admin: SocketAddr,

    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080", env = "SIPMCP_LISTEN_HEALTH")]
    pub listen_health: SocketAddr,

    /// Container image of the edges.
    #[arg(long, value_name = "IMAGE", env = "SIPMCP_EDGE_IMAGE")]
    pub edge_image: String,

    /// When nodes pull that image.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = PullPolicy::IfNotPresent, env = "SIPMCP_EDGE_IMAGE_PULL_POLICY")]
    pub edge_image_pull_policy: PullPolicy,

    /// The name in the operator's certificate. Without it `sipmcp-operator.NAMESPACE.svc`.
    #[arg(long, value_name = "NAME", value_parser = name, env = "SIPMCP_SERVICE")]
    pub service: Option<String>,

    /// Where edges find the operator, IP:port or name:port. With an IP address an edge starts without DNS. Without it the service's name and port
    /// 8443.
    #[arg(long, value_name = "ADDR", value_parser = host_port, env = "SIPMCP_SERVICE_ADDRESS")]
    pub service_address: Option<String>,

    /// Only what stands in these namespaces, a comma-separated list. Without it: in all of them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = label, env = "SIPMCP_WATCH_NAMESPACES")]
    pub watch_namespaces: Vec<String>,

    /// Objects that are written at one time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64), env = "SIPMCP_WORKERS")]
    pub workers: u16,

    /// Form of the log on standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, env = "SIPMCP_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// Log level, or a filter such as `info,operator=debug`. Secrets are never logged. Interrupted watches are told of by the operator itself.
    #[arg(long, value_name = "LEVEL", default_value = "info,kube_runtime::watcher=error", env = "SIPMCP_LOG")]
    pub log_level: String,
}

/// `imagePullPolicy` of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum PullPolicy {
    IfNotPresent,
    Always,
    Never,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Args {
    /// Name in the operator's certificate.
    #[must_use]
    pub fn service(&self) -> String {
        self.service.clone().unwrap_or_else(|| format!("sipmcp-operator.{}.svc", self.namespace))
    }

    /// The namespaces to be watched, each once. Empty: all.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.watch_namespaces.iter().cloned().collect();
        names.into_iter().collect()
    }

    /// What the installation gives to every edge.
    #[must_use]
    pub fn installation(&self) -> Installation {
        let policy = match self.edge_image_pull_policy {
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Always => "Always",
            PullPolicy::Never => "Never",
        };
        let address = self.service_address.clone().unwrap_or_else(|| format!("{}:8443", self.service()));
        Installation {
            image: self.edge_image.clone(),
            pull_policy: policy.to_owned(),
            operator: format!("https://{address}"),
            operator_name: self.service(),
            authority: AUTHORITY.to_owned(),
        }
    }

    /// What clap cannot see.
    ///
    /// # Errors
    /// One sentence for each thing that is wrong.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        if self.namespaces().len() > MAX_NAMESPACES {
            problems.push(format!("--watch-namespaces: at most {MAX_NAMESPACES}; without it all are watched"));
        }
        if self.edge_image.trim().is_empty() {
            problems.push(
                "--edge-image: name the image of the edges, for example registry.example/sipmcp-edge:1.0".to_owned(),
            );
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// A name of RFC 1123, as namespaces have.
fn label(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits { Ok(text.to_owned()) } else { Err("give a name of lower case letters, digits and hyphens".into()) }
}

/// A DNS name.
fn name(text: &str) -> Result<String, String> {
    let fits = (1..=253).contains(&text.len()) && text.split('.').all(|part| label(part).is_ok());
    if fits { Ok(text.to_owned()) } else { Err("give a DNS name in lower case".into()) }
}

fn host_port(text: &str) -> Result<String, String> {
    let help = || "give an address and a port, for example 10.96.0.20:8443 or [fd00::20]:8443".to_owned();
    if text.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0) {
        return Ok(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(help)?;
    let fits = name(host).is_ok() && port.parse::<u16>().is_ok_and(|port| port > 0);
    if fits { Ok(text.to_owned()) } else { Err(help()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(more: &[&str]) -> Result<Args, clap::Error> {
        let needed = ["sipmcp-operator", "--namespace", "sipmcp-system", "--name", "op-0", "--edge-image", "edge:1"];
        Args::try_parse_from(needed.iter().chain(more))
    }

    #[test]
    fn arguments_are_consistent_and_every_flag_has_its_variable() {
        Args::command().debug_assert();
        for argument in Args::command().get_arguments() {
            let built_in = matches!(argument.get_id().as_str(), "help" | "version");
            assert!(built_in || argument.get_env().is_some(), "{}", argument.get_id());
        }
    }

    #[test]
    fn an_installation_needs_no_dns_where_an_address_is_given() {
        let installation = parse(&[]).unwrap().installation();
        assert_eq!(installation.operator, "https://sipmcp-operator.sipmcp-system.svc:8443");
        assert_eq!(installation.operator_name, "sipmcp-operator.sipmcp-system.svc");
        let args = parse(&["--service-address", "10.96.0.20:443", "--edge-image-pull-policy", "Never"]).unwrap();
        assert_eq!(args.installation().operator, "https://10.96.0.20:443");
        assert_eq!(args.installation().pull_policy, "Never");
        assert_eq!(args.installation().operator_name, "sipmcp-operator.sipmcp-system.svc");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            ["--service-address", "10.96.0.20"],
            ["--service-address", "a b:1"],
            ["--watch-namespaces", "a,B"],
            ["--workers", "0"],
            ["--edge-image-pull-policy", "Sometimes"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse(&["--watch-namespaces", "b,a,b"]).unwrap().namespaces(), ["a", "b"]);
        let args = parse(&["--edge-image", " "]);
        assert!(args.is_err() || args.unwrap().check().is_err());
    }
}
