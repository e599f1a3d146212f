//! The numbers of the tenants, for every replica: ConfigMap `sipmcp-tenants` in the operator's namespace.

use super::{Step, Task, Watch, config, follow};
use crate::board::State;
use crate::plan::tenants::{CONFIG_MAP, read};
use crate::run::Context;
use futures_util::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;

pub(super) fn tasks(context: &Context) -> Vec<Task> {
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), &context.args.namespace);
    let watch = Watch {
        name: "ConfigMap",
        sources: vec![(None, api)],
        config: config().fields(&format!("metadata.name={CONFIG_MAP}")),
        optional: None,
    };
    let board = context.board.clone();
    let take = move |_: Option<&str>, step| {
        board.change(|state| take(state, step));
        false
    };
    vec![("the watch of the tenants' numbers", follow(context.clone(), watch, take).boxed())]
}

fn take(state: &mut State, step: Step<ConfigMap>) {
    let listed = matches!(step, Step::Reset(_) | Step::Again(..));
    let maps = match step {
        Step::Reset(maps) | Step::Again(_, maps) => maps,
        Step::Apply(map) => vec![map],
        // A number that was given stays given; it is written again.
        Step::Delete(_) => {
            state.tenants_lost = true;
            Vec::new()
        }
        Step::Nothing | Step::Forbidden => Vec::new(),
    };
    for map in maps {
        let (numbers, problems) = read(map.data.as_ref());
        for problem in problems {
            tracing::error!("ConfigMap {CONFIG_MAP}: {problem}");
        }
        for (domain, number) in numbers {
            state.index.number(&domain, number);
        }
    }
    if listed {
        state.index.numbers_are_known();
    }
}
