//! What we answer when a server asks: elicitation from a file or the terminal, roots from the command line, sampling never.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use sip_proto::escape::escape;

use crate::args::McpOptions;
use crate::failure::Failure;

/// The answers of this run.
#[derive(Clone, Debug)]
pub struct Answers {
    elicit: Option<Map<String, Value>>,
    roots: Vec<Value>,
    interactive: bool,
}

impl Answers {
    pub fn new(options: &McpOptions) -> Result<Answers, Failure> {
        let elicit = options.elicit.as_deref().map(read_object).transpose()?;
        let roots = options.roots.iter().map(|root| root_value(root)).collect();
        let interactive = elicit.is_none() && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        Ok(Answers { elicit, roots, interactive })
    }

    /// What we tell a server that we can do.
    pub fn capabilities(&self) -> Value {
        let mut all = Map::new();
        all.insert("roots".into(), json!({ "listChanged": false }));
        if self.elicit.is_some() || self.interactive {
            all.insert("elicitation".into(), json!({ "form": {} }));
        }
        Value::Object(all)
    }

    /// `result` or `error` for a request of the server.
    pub fn answer(&self, method: &str, params: &Value) -> Result<Value, Value> {
        match method {
            "ping" => Ok(json!({})),
            "roots/list" => Ok(json!({ "roots": self.roots })),
            "elicitation/create" => self.elicitation(params),
            "sampling/createMessage" => {
                Err(json!({ "code": -1, "message": "sampling is refused: this client has no model" }))
            }
            other => Err(json!({ "code": -32601, "message": format!("Method not found: {other}") })),
        }
    }

    fn elicitation(&self, params: &Value) -> Result<Value, Value> {
        if params.get("mode").and_then(Value::as_str) == Some("url") {
            // A URL of a server is never opened without a person who looks at it.
            return Ok(json!({ "action": "decline" }));
        }
        let empty = Map::new();
        let properties = params.pointer("/requestedSchema/properties").and_then(Value::as_object).unwrap_or(&empty);
        if let Some(values) = &self.elicit {
            let content: Map<String, Value> = properties
                .iter()
                .filter_map(|(name, schema)| {
                    values.get(name).or_else(|| schema.get("default")).map(|v| (name.clone(), v.clone()))
                })
                .collect();
            return Ok(json!({ "action": "accept", "content": content }));
        }
        if !self.interactive {
            return Ok(json!({ "action": "decline" }));
        }
        let message = params.get("message").and_then(Value::as_str).unwrap_or_default();
        Ok(ask(message, properties))
    }
}

fn read_object(file: &Path) -> Result<Map<String, Value>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Failure::usage(format!("{}: a JSON object is expected, property → value", file.display()))),
        Err(e) => Err(Failure::usage(format!("{}: not JSON: {e}", file.display()))),
    }
}

fn root_value(root: &str) -> Value {
    if root.starts_with("file:") {
        return json!({ "uri": root });
    }
    let path = std::path::absolute(root).unwrap_or_else(|_| root.into());
    json!({ "uri": format!("file://{}", path.display()), "name": root })
}

/// Asks each property on the terminal. An empty line takes the default; end of input cancels.
fn ask(message: &str, properties: &Map<String, Value>) -> Value {
    let mut err = std::io::stderr();
    let _ = writeln!(err, "The agent asks: {}", escape(message.as_bytes()));
    let mut content = Map::new();
    for (name, schema) in properties {
        let kind = schema.get("type").and_then(Value::as_str).unwrap_or("string");
        let options = schema.get("enum").map(|e| format!(" {e}")).unwrap_or_default();
        let default = schema.get("default").map(|d| format!(" [{d}]")).unwrap_or_default();
        let title = schema.get("description").or_else(|| schema.get("title")).and_then(Value::as_str).unwrap_or("");
        let text = format!("{name} ({kind}{options}){default} {title}");
        let _ = write!(err, "  {}: ", escape(text.as_bytes()));
        let _ = err.flush();
        let mut line = String::new();
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(0) | Err(_) => return json!({ "action": "cancel" }),
            Ok(_) => {}
        }
        let line = line.trim();
        let value = match (line.is_empty(), kind) {
            (true, _) => schema.get("default").cloned(),
            (false, "string") => Some(Value::String(line.to_owned())),
            (false, _) => Some(serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()))),
        };
        if let Some(value) = value {
            content.insert(name.clone(), value);
        }
    }
    json!({ "action": "accept", "content": content })
}
