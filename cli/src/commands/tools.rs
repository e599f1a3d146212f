//! `sipmcp tools`: what of an agent this caller may see.

use serde_json::{Map, Value, json};
use sip_proto::escape::escape;

use crate::args::ToolsArgs;
use crate::failure::Failure;
use crate::mcp::Session;

/// Pages until we stop asking.
const MAX_PAGES: usize = 64;
/// Characters of a description that are shown.
const SUMMARY: usize = 90;

pub async fn run(args: ToolsArgs) -> Result<(), Failure> {
    let mut session = Session::open(&args.uri, &args.connection, &args.mcp, None).await?;
    let mut tools: Vec<Value> = Vec::new();
    let mut cursor: Option<Value> = None;
    for _ in 0..MAX_PAGES {
        let mut params = Map::new();
        if let Some(cursor) = cursor.take() {
            params.insert("cursor".into(), cursor);
        }
        let outcome = match session.request("tools/list", params).await {
            Ok(outcome) => outcome,
            Err(failure) => {
                session.abandon().await;
                return Err(failure);
            }
        };
        tools.extend(outcome.result.get("tools").and_then(Value::as_array).cloned().unwrap_or_default());
        cursor = outcome.result.get("nextCursor").cloned().filter(|c| !c.is_null());
        if cursor.is_none() {
            break;
        }
    }
    session.close().await?;
    if args.connection.json {
        println!("{}", json!({ "ok": true, "tools": tools }));
        return Ok(());
    }
    let name = |tool: &Value| tool.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
    let width = tools.iter().map(|t| name(t).chars().count()).max().unwrap_or(0).min(40);
    for tool in &tools {
        let text = tool.get("description").and_then(Value::as_str).unwrap_or("");
        let name = escape(name(tool).as_bytes()).to_string();
        println!("{name:<width$}  {}", escape(summary(text).as_bytes()));
    }
    Ok(())
}

/// The first line, cut where it would fill more than a line of a terminal.
fn summary(text: &str) -> String {
    let line = text.lines().next().unwrap_or("").trim();
    match line.char_indices().nth(SUMMARY) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line.to_owned(),
    }
}
