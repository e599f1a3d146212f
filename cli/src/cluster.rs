//! `kubectl sipmcp`: the edges of a cluster.

mod admin;
mod args;
mod call;
mod check;
mod drain;
mod forward;
mod sessions;
mod text;
mod token;
mod why;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tokio_rustls::rustls::crypto::aws_lc_rs;

pub use args::Kubectl;
use args::{ClusterArgs, Command};

use crate::failure::{Exit, Failure};

/// Runs one sub-command.
pub async fn run(kubectl: Kubectl) -> Result<(), Failure> {
    // One provider for the API server, the operator and the edges. A second installation would be refused, and changes nothing.
    let _ = aws_lc_rs::default_provider().install_default();
    match kubectl.command {
        Command::Check(args) => check::run(args).await,
        Command::Call(args) => call::run(*args).await,
        Command::Sessions(args) => sessions::run(args).await,
        Command::Why(args) => why::run(args).await,
        Command::Drain(args) => drain::run(args).await,
    }
}

/// The cluster that the arguments and the kubeconfig name.
struct Cluster {
    config: Config,
    client: Client,
    /// Of the objects.
    namespace: String,
}

impl Cluster {
    async fn open(args: &ClusterArgs) -> Result<Cluster, Failure> {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let config = match &args.context {
            Some(_) => Config::from_kubeconfig(&options).await.map_err(|error| error.to_string()),
            None => Config::infer().await.map_err(|error| error.to_string()),
        };
        let config =
            config.map_err(|error| Failure::usage(format!("no cluster: {error}; set KUBECONFIG, or --context")))?;
        let client = Client::try_from(config.clone());
        let client = client.map_err(|error| Failure::usage(format!("the kubeconfig cannot be used: {error}")))?;
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Cluster { config, client, namespace })
    }
}

/// What went wrong between us and the API server. `doing`: for example `read the pods of namespace x`.
fn refused(doing: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            let message = format!("you may not {doing}: {}", status.message);
            Failure { exit: Exit::Refused, message, code: Some(status.code.into()) }
        }
        kube::Error::Api(status) => Failure {
            exit: Exit::Unreachable,
            message: format!("cannot {doing}: {}", status.message),
            code: Some(status.code.into()),
        },
        other => Failure::unreachable(format!("cannot {doing}: {other}")),
    }
}

/// `True` of a condition.
fn holds(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}
