//! From nothing: three commands to a talking agent.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::figures::{bearable, ms};
use crate::harness::process::run;
use crate::harness::space::Space;
use crate::harness::wait::{until, until_every};
use crate::runner::Outcome;

/// From the first command to the answer, on nodes that have the images.
const GOAL: Duration = Duration::from_secs(30);
const AGENT: &str = "sip:echo@demo.example";
const CALL: Duration = Duration::from_secs(30);

pub async fn three_commands(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    if world.args.installed {
        return Ok(Outcome::Skipped(
            "the charts are installed already, so there is no beginning from nothing".to_owned(),
        ));
    }
    let begin = Instant::now();
    world.install_definitions().await?;
    world.install_operator(&["demo.enabled=true"]).await?;
    let installed = begin.elapsed();
    // A person types the third command until it works; so does this.
    let mut tries = 0;
    let arguments = ["sipmcp", "call", AGENT, "--tool", "echo", "--arg", "text=hello", "--timeout", "10"];
    let said = until_every("the demo's agent to talk", GOAL * 10, Duration::from_millis(250), || {
        tries += 1;
        async { run(world, "kubectl", &arguments, CALL).await?.ok() }
    })
    .await?;
    ensure!(said.out.trim() == "hello", "the agent said {:?}", said.out);
    let whole = begin.elapsed();
    world.figures.tell(
        "three-commands",
        json!({"total_ms": ms(whole), "charts_ms": ms(installed), "call_ms": ms(said.took), "calls_tried": tries, "goal_ms": ms(GOAL)}),
    )?;
    bearable("the time of three commands (ms)", ms(whole), ms(GOAL))?;
    // What a person does next.
    until("`kubectl sipmcp check` to find nothing", PATIENCE, || async {
        run(world, "kubectl", &["sipmcp", "check"], CALL).await?.ok()
    })
    .await?;
    Ok(Outcome::Passed)
}
