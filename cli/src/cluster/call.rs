//! `kubectl sipmcp call`: a call through a forwarded port, where no edge is named.

use super::Cluster;
use super::args::ClusterCallArgs;
use super::forward;
use crate::commands;
use crate::failure::Failure;
use crate::target;

pub async fn run(args: ClusterCallArgs) -> Result<(), Failure> {
    let ClusterCallArgs { cluster, mut call } = args;
    if !call.connection.proxy.is_empty() {
        return commands::call::run(call).await;
    }
    let target = target::parse(&call.uri)?;
    let cluster = Cluster::open(&cluster).await?;
    let user = target.uri.split_once(':').and_then(|(_, rest)| rest.split_once('@')).map_or("", |(user, _)| user);
    let mut way = forward::open(&cluster, user, &target.domain, call.connection.transport).await?;
    call.connection.proxy = vec![way.proxy.clone()];
    if call.connection.ca.is_none() {
        call.connection.ca_pem = way.ca_pem.take();
    }
    let result = commands::call::run(call).await;
    drop(way);
    result
}
