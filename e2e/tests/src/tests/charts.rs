//! What the charts render is what an API server takes.

use std::time::Duration;

use kube::api::DynamicObject;

use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::cluster::{SYSTEM, said};
use crate::harness::process::run;
use crate::harness::space::Space;
use crate::harness::wait::until;
use crate::runner::Outcome;

const LIMIT: Duration = Duration::from_secs(600);

/// Every object of both charts, with every set of values of their tests, goes through `kubectl apply --dry-run=server`; the definitions of the
/// Prometheus operator are there for it.
pub async fn obs_6_objects_of_the_charts_are_taken(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    if world.args.installed {
        return Ok(Outcome::Skipped(
            "sipmcp is installed already; scripts/charts.sh server takes a fresh cluster".to_owned(),
        ));
    }
    let script = world.args.root.join("scripts/charts.sh").to_string_lossy().into_owned();
    let ran = run(world, &script, &["server"], LIMIT).await?.ok()?;
    let last = ran.out.lines().last().unwrap_or_default();
    let counts = last.strip_prefix("count: ").and_then(|text| text.split_once(" passed, 0 failed"));
    let passed = counts.and_then(|(passed, _)| passed.parse::<u32>().ok()).unwrap_or(0);
    ensure!(passed > 10, "only {passed} sets of values were shown to the API server: {last}");
    // Its namespaces go by themselves; who installs next needs the name.
    let spaces = world.api("v1", "Namespace", "");
    until(&format!("namespace {SYSTEM} to be gone"), PATIENCE, || async {
        let there: Option<DynamicObject> = spaces.get_opt(SYSTEM).await.map_err(said("read namespaces"))?;
        if there.is_none() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await?;
    Ok(Outcome::Passed)
}
