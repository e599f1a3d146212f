//! `kubectl sipmcp drain`: a pod hands over what it has.

use std::time::Duration;

use crds::admin::{DRAIN, DrainQuestion, Drains};
use serde_json::json;
use tokio::time::sleep;

use super::admin::Admin;
use super::args::DrainArgs;
use crate::failure::{Exit, Failure};

/// Edges report at least so far apart.
const LOOK: Duration = Duration::from_secs(5);
/// Looks that fail one after another before that is said: two minutes, in which an operator is replaced.
const FAILED_LOOKS: u32 = 24;

pub async fn run(args: DrainArgs) -> Result<(), Failure> {
    let mut admin = Admin::open(&args.operator).await?;
    let order = DrainQuestion {
        namespace: admin.namespace().to_owned(),
        edge: args.edge.clone(),
        pod: args.pod.clone(),
        deadline_seconds: args.deadline,
        cancel: args.cancel,
        ..DrainQuestion::default()
    };
    let (mut now, _) = ask(&mut admin, &order).await?;
    // The order is given once. What follows looks how far that pod is, and neither gives it to another one nor again after it was taken back.
    let look = DrainQuestion { deadline_seconds: None, look: true, uid: Some(now.uid.clone()), ..order };
    let mut looks = Looks::default();
    let mut told = None;
    loop {
        let over = args.cancel || args.no_wait || is_over(&now);
        if args.json && over {
            println!("{}", json!({ "ok": true, "drain": now }));
        } else if !args.json && told.as_ref() != Some(&now) {
            println!("{}", line(&args, &now));
        }
        if over {
            return Ok(());
        }
        if now.uid.is_empty() {
            let message =
                "it is ordered, and not waited for: this operator is of an earlier release, which only orders";
            return Err(Failure::unreachable(message));
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::unreachable("not waited for; the drain goes on"));
            }
        }
        told = Some(now.clone());
        let said = ask(&mut admin, &look).await;
        let all_answered = matches!(said, Ok((_, true)));
        if let Some(said) = looks.judge(said.map(|(said, _)| said))? {
            now = said;
        }
        if !all_answered {
            // The replicas that were there may have been replaced; those that are there are asked with the next look.
            let _ = admin.find_again().await;
        }
    }
}

/// Any replica passes it to the one that holds the Lease. True: each that was asked is there.
async fn ask(admin: &mut Admin, question: &DrainQuestion) -> Result<(Drains, bool), Failure> {
    admin.renew().await?;
    let said = admin.ask_until::<Drains>(DRAIN, question, |_| true).await?;
    let all_answered = said.failures.is_empty();
    Ok((said.answers.into_iter().next().map(|(_, drains)| drains).unwrap_or_default(), all_answered))
}

fn is_over(now: &Drains) -> bool {
    matches!(&*now.state, "Drained" | "Gone")
}

/// What the looks have shown.
#[derive(Default)]
struct Looks {
    /// One after another.
    failed: u32,
    /// One after another that show no order and no drain: a replica that has just become the holder may not know the order at once.
    without_order: u32,
}

impl Looks {
    /// How far the pod is. `Ok(None)`: nobody says at the moment.
    ///
    /// # Errors
    /// It is of no use to look again.
    fn judge(&mut self, said: Result<Drains, Failure>) -> Result<Option<Drains>, Failure> {
        let now = match said {
            // Also where the pod of the operator is gone: that says nothing of the edge's.
            Err(failure) if failure.exit == Exit::Unreachable && self.failed < FAILED_LOOKS => {
                self.failed += 1;
                return Ok(None);
            }
            Err(failure) => return Err(failure),
            Ok(now) => now,
        };
        self.failed = 0;
        self.without_order = match &*now.state {
            "Unknown" | "None" if !now.ordered => self.without_order + 1,
            _ => 0,
        };
        if self.without_order > 1 {
            let message = "not waited for: somebody has taken the order back, and the pod serves".to_owned();
            return Err(Failure { exit: Exit::Refused, message, code: None });
        }
        Ok(Some(now))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn state(state: &str, ordered: bool) -> Result<Drains, Failure> {
        Ok(Drains { state: state.to_owned(), ordered, uid: "u".into(), ..Drains::default() })
    }

    fn lost() -> Result<Drains, Failure> {
        Err(Failure::unreachable("pod op-0 of the operator: gone"))
    }

    #[test]
    fn an_operator_that_goes_away_does_not_end_the_wait_and_one_that_stays_away_does() {
        let mut looks = Looks::default();
        for _ in 0..3 {
            for _ in 0..FAILED_LOOKS {
                assert_eq!(looks.judge(lost()).unwrap(), None);
            }
            assert_eq!(looks.judge(state("Draining", true)).unwrap().unwrap().state, "Draining");
        }
        for _ in 0..FAILED_LOOKS {
            assert_eq!(looks.judge(lost()).unwrap(), None);
        }
        assert_eq!(looks.judge(lost()).unwrap_err().exit, Exit::Unreachable);
        let refused = Failure { exit: Exit::Refused, message: "no".into(), code: Some(403) };
        assert_eq!(Looks::default().judge(Err(refused)).unwrap_err().code, Some(403));
        let none = Failure { exit: Exit::Unreachable, message: "no".into(), code: Some(404) };
        assert_eq!(Looks::default().judge(Err(none)).unwrap(), None, "the operator's pod, not the edge's");
        assert!(is_over(&Looks::default().judge(state("Gone", false)).unwrap().unwrap()));
    }

    #[test]
    fn an_order_that_somebody_takes_back_ends_the_wait() {
        let mut looks = Looks::default();
        assert!(looks.judge(state("None", true)).is_ok());
        assert!(looks.judge(state("None", false)).is_ok(), "a new holder may not know it yet");
        assert!(looks.judge(state("None", true)).is_ok());
        assert!(looks.judge(state("Unknown", false)).is_ok());
        assert_eq!(looks.judge(state("None", false)).unwrap_err().exit, Exit::Refused);
        // A pod that has begun goes on, whoever forgets why.
        let mut looks = Looks::default();
        assert!((0..9).all(|_| looks.judge(state("Draining", false)).is_ok()));
    }
}
