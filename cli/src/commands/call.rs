//! `sipmcp call`: one tool, one answer.

use serde_json::{Map, Value, json};

use crate::args::CallArgs;
use crate::failure::{Exit, Failure};
use crate::mcp::Session;

pub async fn run(args: CallArgs) -> Result<(), Failure> {
    let arguments = arguments(&args)?;
    let mut session = Session::open(&args.uri, &args.connection, &args.mcp, Some(&args.tool)).await?;
    let mut params = Map::new();
    params.insert("name".into(), Value::String(args.tool.clone()));
    params.insert("arguments".into(), Value::Object(arguments));
    let outcome = match session.request("tools/call", params).await {
        Ok(outcome) => outcome,
        Err(failure) => {
            session.abandon().await;
            return Err(failure);
        }
    };
    session.close().await?;
    let failed = outcome.result.get("isError").and_then(Value::as_bool).unwrap_or(false);
    if args.connection.json {
        let micros = u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX);
        println!("{}", json!({ "ok": !failed, "result": outcome.result, "us": micros }));
    } else {
        print_content(&outcome.result);
    }
    if failed {
        let message = format!("the tool {} said that it failed", args.tool);
        return Err(Failure { exit: Exit::ToolFailed, message, code: None });
    }
    Ok(())
}

fn arguments(args: &CallArgs) -> Result<Map<String, Value>, Failure> {
    if let Some(text) = &args.args_json {
        return match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(Failure::usage("--args-json: a JSON object is expected")),
            Err(e) => Err(Failure::usage(format!("--args-json: not JSON: {e}"))),
        };
    }
    let mut map = Map::new();
    for pair in &args.args {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| Failure::usage(format!("--arg {pair}: NAME=VALUE is expected")))?;
        // Text that is JSON but no string is sent as what it is: numbers, true, [1,2].
        let value = match serde_json::from_str::<Value>(value) {
            Ok(Value::String(_)) | Err(_) => Value::String(value.to_owned()),
            Ok(other) => other,
        };
        map.insert(name.to_owned(), value);
    }
    Ok(map)
}

/// Text as it is (control characters made visible), everything else by its kind and size.
fn print_content(result: &Value) {
    let empty = Vec::new();
    for item in result.get("content").and_then(Value::as_array).unwrap_or(&empty) {
        let kind = item.get("type").and_then(Value::as_str).unwrap_or("unknown");
        match item.get("text").and_then(Value::as_str) {
            Some(text) => println!("{}", visible(text)),
            None => {
                let mime = item.get("mimeType").and_then(Value::as_str).unwrap_or("");
                let size = item.get("data").and_then(Value::as_str).map_or(0, |d| d.len() / 4 * 3);
                println!("[{} {} {size} bytes]", visible(kind), visible(mime));
            }
        }
    }
}

/// Peer text on a terminal: no escape sequences, no direction changes; line feeds and tabs stay.
fn visible(text: &str) -> String {
    let replace = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if c != '\n' && c != '\t' && replace(c) { '\u{fffd}' } else { c }).collect()
}
