//! `kubectl sipmcp sessions`: who is connected to whom.

use crds::admin::{Edges, MAX_SESSIONS, SESSIONS, Session, Sessions, SessionsQuestion};
use serde_json::json;

use super::admin::{Admin, is_whole, merge, say_missing};
use super::args::SessionsArgs;
use super::text::{age, now, table};
use crate::failure::Failure;

pub async fn run(args: SessionsArgs) -> Result<(), Failure> {
    let admin = Admin::open(&args.operator).await?;
    let namespace = (!args.all_namespaces).then(|| admin.namespace().to_owned());
    let first = SessionsQuestion {
        domain: args.domain.clone(),
        namespace,
        agent: args.agent.clone(),
        limit: Some(args.limit.min(MAX_SESSIONS)),
        ..SessionsQuestion::default()
    };
    let said = admin.ask_until::<Sessions>(SESSIONS, &first, |answer| is_whole(&answer.edges)).await?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut edges, mut sessions, mut more) = (Edges::default(), Vec::new(), false);
    for (pod, mut answer) in said.answers {
        // What another replica said of an edge already is not said again.
        answer.sessions.retain(|session| !edges.answered.contains(&session.edge));
        answer.pages.retain(|edge, _| !edges.answered.contains(edge));
        merge(&mut edges, &answer.edges);
        sessions.append(&mut answer.sessions);
        while !answer.pages.is_empty() && sessions.len() < most {
            let next = SessionsQuestion { pages: answer.pages, ..first.clone() };
            answer = admin.ask(&pod, SESSIONS, &next).await?;
            merge(&mut edges, &Edges { elsewhere: 0, ..answer.edges.clone() });
            sessions.append(&mut answer.sessions);
        }
        more |= !answer.pages.is_empty();
    }
    sessions.sort_by(|a, b| (&a.agent, a.begun, &a.id).cmp(&(&b.agent, b.begun, &b.id)));
    more |= sessions.len() > most;
    sessions.truncate(most);
    if args.json {
        println!("{}", json!({ "ok": true, "sessions": sessions, "more": more, "edges": edges }));
    } else {
        print!("{}", rows(&sessions, now()));
        if more {
            eprintln!("sipmcp: there are more; ask with a larger --limit");
        }
    }
    say_missing(&edges, &said.failures);
    Ok(())
}

fn rows(sessions: &[Session], now: i64) -> String {
    let row = |session: &Session| {
        vec![
            session.agent.clone(),
            session.caller.clone(),
            session.conversation.clone(),
            session.edge.clone(),
            session.transport.clone(),
            session.in_flight.to_string(),
            age(now - session.begun),
            age(now - session.last_used),
        ]
    };
    let rows: Vec<_> = sessions.iter().map(row).collect();
    table(&["AGENT", "CALLER", "CONVERSATION", "EDGE", "TRANSPORT", "IN FLIGHT", "AGE", "IDLE"], &rows)
}
