//! The command line of `kubectl sipmcp`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::args::CallArgs;

const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  the tool said that it failed
  2  wrong arguments, or `check` found a problem
  3  refused: you may not do this, or a SIP edge refused
  4  nobody answered, no connection, or a certificate is not trusted
  5  an MCP error (the message starts with the JSON-RPC code)

The operator is reached by a forwarded port of each of its pods (`create` on pods/portforward). It is shown the bearer token of the
kubeconfig. Where that has none (a client certificate), give --service-account: a token is made for it (`create` on
serviceaccounts/token), good for ten minutes and for the operator alone. What you may see and do: `sipdomains/sessions` (get, list,
delete) and `sipedges/drain` (create) of sipmcp.dev.";

/// Ask and steer the SIP edges of a cluster.
#[derive(Debug, Parser)]
#[command(name = "kubectl-sipmcp", bin_name = "kubectl sipmcp", version, about, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Kubectl {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// See whether the installation works, or validate manifests for a cluster
    Check(CheckArgs),
    /// Call a tool of an agent through a forwarded port: kubectl sipmcp call sip:echo@demo.example --tool echo
    Call(Box<ClusterCallArgs>),
    /// List the sessions of a domain
    Sessions(SessionsArgs),
    /// Say which rule decides: kubectl sipmcp why sip:alice@acme.example search --agent billing
    Why(WhyArgs),
    /// Let a pod hand over what it has and take nothing new
    Drain(DrainArgs),
}

impl Kubectl {
    /// Whether standard output is for a program.
    pub fn is_json(&self) -> bool {
        match &self.command {
            Command::Check(args) => args.json,
            Command::Call(args) => args.call.connection.json,
            Command::Sessions(args) => args.json,
            Command::Why(args) => args.json,
            Command::Drain(args) => args.json,
        }
    }
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Context of the kubeconfig
    #[arg(long)]
    pub context: Option<String>,
    /// Namespace of the objects; default: the context's
    #[arg(long, short)]
    pub namespace: Option<String>,
    /// Namespace of the operator
    #[arg(long, value_name = "NAMESPACE", default_value = "sipmcp-system", env = "SIPMCP_OPERATOR_NAMESPACE")]
    pub operator_namespace: String,
}

/// How to reach the operator.
#[derive(Clone, Debug, Args)]
pub struct OperatorArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Ask as this ServiceAccount
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = account)]
    pub service_account: Option<(String, String)>,
    /// CA that signed the operator's certificate (PEM); default: ConfigMap sipmcp-operator-ca, in the operator's namespace or that of the objects
    #[arg(long, value_name = "FILE")]
    pub operator_ca: Option<PathBuf>,
}

fn account(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("give it as NAMESPACE/NAME".to_owned()),
    }
}

#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Manifests for a cluster, files or directories; without any the cluster itself is looked at
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// One JSON object per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct ClusterCallArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub call: CallArgs,
}

#[derive(Clone, Debug, Args)]
pub struct SessionsArgs {
    /// Name of the SipDomain
    pub domain: String,
    /// Only those of this agent
    #[arg(long, conflicts_with = "all_namespaces")]
    pub agent: Option<String>,
    /// Of agents in all namespaces, for which you need the right
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// At most so many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct WhyArgs {
    /// SIP URI of the caller, or `anonymous`
    pub caller: String,
    /// Tool; with --method whatever that names, or `-` for nothing
    pub tool: String,
    /// Name of the McpAgent
    #[arg(long)]
    pub agent: String,
    /// MCP method
    #[arg(long, default_value = "tools/call")]
    pub method: String,
    /// Arguments of the call, a JSON object
    #[arg(long, value_name = "JSON")]
    pub args_json: Option<String>,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// Name of the SipEdge
    pub edge: String,
    /// Name of its pod
    pub pod: String,
    /// Seconds until everything must be gone; default: as the SipEdge says
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400), conflicts_with = "cancel")]
    pub deadline: Option<u32>,
    /// Take the order back, from a pod that has not begun to drain; one that has goes on
    #[arg(long)]
    pub cancel: bool,
    /// Do not wait until nothing is left
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Kubectl::command().debug_assert();
        let parse = |args: &[&str]| Kubectl::try_parse_from([&["kubectl-sipmcp"], args].concat());
        assert!(parse(&["why", "sip:alice@acme.example", "search", "--agent", "billing", "-n", "acme"]).is_ok());
        assert!(parse(&["sessions", "acme", "--service-account", "acme/auditor"]).is_ok());
        assert!(parse(&["call", "sip:echo@demo.example", "--tool", "echo", "--arg", "text=hi"]).is_ok());
        assert!(parse(&["check"]).is_ok() && parse(&["check", "a.yaml"]).is_ok());
        for wrong in [
            &["sessions", "acme", "--service-account", "auditor"][..],
            &["sessions", "acme", "--agent", "billing", "-A"],
            &["drain", "edge"],
            &["drain", "edge", "edge-0", "--cancel", "--deadline", "5"],
            &["drain", "edge", "edge-0", "--deadline", "0"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
