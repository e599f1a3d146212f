//! `kubectl sipmcp drain`: a pod hands over what it has.

use std::time::Duration;

use crds::admin::{DRAIN, DrainQuestion, Drains};
use serde_json::json;

use super::admin::Admin;
use super::args::DrainArgs;
use crate::failure::{Exit, Failure};

/// Edges report at least so far apart.
const LOOK: Duration = Duration::from_secs(5);

pub async fn run(args: DrainArgs) -> Result<(), Failure> {
    let admin = Admin::open(&args.operator).await?;
    let question = DrainQuestion {
        namespace: admin.namespace().to_owned(),
        edge: args.edge.clone(),
        pod: args.pod.clone(),
        deadline_seconds: args.deadline,
        cancel: args.cancel,
    };
    let mut last = None;
    loop {
        // Any replica passes it to the one that holds the Lease.
        let said = admin.ask_until::<Drains>(DRAIN, &question, |_| true).await;
        let now = match said {
            Ok(said) => said.answers.into_iter().next().map(|(_, drains)| drains).unwrap_or_default(),
            // It was drained and went away.
            Err(failure) if last.is_some() && failure.code == Some(404) => {
                Drains { state: "Gone".to_owned(), ..Drains::default() }
            }
            Err(failure) => return Err(failure),
        };
        let over = args.cancel || args.no_wait || matches!(&*now.state, "Drained" | "Gone");
        if args.json && over {
            println!("{}", json!({ "ok": true, "drain": now }));
        } else if !args.json && last.as_ref() != Some(&now) {
            println!("{}", line(&args, &now));
        }
        if over {
            return Ok(());
        }
        last = Some(now);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                let message = "not waited for; the drain goes on".to_owned();
                return Err(Failure { exit: Exit::Unreachable, message, code: None });
            }
        }
    }
}

fn line(args: &DrainArgs, now: &Drains) -> String {
    let pod = &args.pod;
    match (args.cancel, &*now.state) {
        (true, "Unknown" | "None") => format!("{pod}: the order is taken back; if it began to drain by now it goes on"),
        (true, state) => format!(
            "{pod}: {} already, which cannot be taken back; the order is forgotten, and whoever follows the pod serves: delete it",
            state.to_lowercase()
        ),
        (false, "Unknown" | "None") => format!("{pod}: ordered"),
        (false, "Gone") => format!("{pod}: gone"),
        (false, state) => format!(
            "{pod}: {}, {} in flight, {} dialogs, {} flows left",
            state.to_lowercase(),
            now.in_flight,
            now.dialogs,
            now.flows
        ),
    }
}
