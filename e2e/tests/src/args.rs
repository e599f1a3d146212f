//! The command line.

use std::path::PathBuf;

use clap::Parser;

const AFTER_HELP: &str = "\
helm and kubectl are taken from PATH, the cluster from KUBECONFIG, images from the nodes (scripts/images.sh dev, scripts/cluster.sh image).
Nothing of sipmcp must be installed, or --installed says that it is and stays.

The last line is `count: P passed, F failed, S skipped`. Exit codes: 0 nothing failed; 1 something did; 2 there is no cluster.";

/// End-to-end tests on a real Kubernetes.
#[derive(Clone, Debug, Parser)]
#[command(name = "e2e", after_help = AFTER_HELP, max_term_width = 120)]
pub struct Args {
    /// Only tests whose name contains one of these
    pub filter: Vec<String>,
    /// Say what there is, and run nothing
    #[arg(long)]
    pub list: bool,
    /// Also what takes long: `apply_to_routable_at_scale`
    #[arg(long)]
    pub scale: bool,
    /// Agents of that test
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=20_000))]
    pub agents: u32,
    /// Leave namespaces and the release as they are at the end
    #[arg(long)]
    pub keep: bool,
    /// The charts are installed already, with the webhook, and stay
    #[arg(long)]
    pub installed: bool,
    /// The cluster is the one of `scripts/cluster.sh --prefix NAME`: its cables can be pulled
    #[arg(long, value_name = "NAME", env = "SIPMCP_E2E_CLUSTER")]
    pub cluster: Option<String>,
    /// Folder with the programs sipmcp and kubectl-sipmcp
    #[arg(long, env = "SIPMCP_BIN", default_value = "target/debug")]
    pub bin: PathBuf,
    /// The repository's root
    #[arg(long, default_value = ".")]
    pub root: PathBuf,
    /// Values of the chart sipmcp, on top of its own
    #[arg(long, default_value = "charts/values-dev.yaml")]
    pub values: PathBuf,
    /// Image of the tests' MCP server
    #[arg(long, env = "SIPMCP_E2E_ECHO", default_value = "sipmcp.dev/echo-agent:dev")]
    pub echo_image: String,
    /// Image of the tests' store
    #[arg(long, env = "SIPMCP_E2E_REDIS", default_value = "sipmcp.dev/redis-server:dev")]
    pub redis_image: String,
    /// Figures are appended to this file, one JSON object per line
    #[arg(long, default_value = "target/bench/e2e.jsonl")]
    pub out: PathBuf,
    /// Folder for what is known of a test that failed
    #[arg(long, default_value = "target/e2e")]
    pub dumps: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Args::command().debug_assert();
    }
}
