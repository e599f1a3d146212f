//! Audit records as JSON lines (OBS-1): who, agent, tool, rule, outcome, ids. Never a payload, an argument or a credential (SEC-11).

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use edge_core::audit::{AuditKind, AuditRecord, Outcome};
use serde::Serialize;

/// Where audit records go. A record is in the system's hands before any later effect of the core is done; a reader of standard output
/// that stops therefore stops the edge, too.
#[derive(Debug)]
pub struct Audit {
    out: Mutex<Out>,
    /// Where the file is; `None`: standard output.
    path: Option<PathBuf>,
    lost: AtomicU64,
    /// Rules that say `audit: None`, as records name them.
    silent: ArcSwap<BTreeSet<String>>,
}

#[derive(Debug)]
enum Out {
    Stdout,
    File(File),
}

impl Audit {
    /// To standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self::to(Out::Stdout, None)
    }

    /// To the end of a file, which only its owner may read when it is new.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::to(Out::File(open(path)?), Some(path.to_owned())))
    }

    fn to(out: Out, path: Option<PathBuf>) -> Self {
        Audit { out: Mutex::new(out), path, lost: AtomicU64::new(0), silent: ArcSwap::default() }
    }

    /// Opens the file again, after somebody moved it away. When that fails the old one goes on.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            let file = open(path)?;
            *self.out.lock().unwrap_or_else(PoisonError::into_inner) = Out::File(file);
        }
        Ok(())
    }

    /// Takes the rules (`namespace/policy/rule`) whose decisions leave no record.
    pub fn configure(&self, silent: BTreeSet<String>) {
        self.silent.store(Arc::new(silent));
    }

    /// Writes one record. One that cannot be written is counted, and the first one of a row is told.
    pub fn write(&self, record: &AuditRecord) {
        if self.silent.load().contains(&record.rule) {
            return;
        }
        let mut line = match serde_json::to_vec(&Line::from(record)) {
            Ok(line) => line,
            Err(error) => return self.lost(&error),
        };
        line.push(b'\n');
        let written = match &mut *self.out.lock().unwrap_or_else(PoisonError::into_inner) {
            // One write per line: lines of several shards never mix.
            Out::Stdout => io::stdout().lock().write_all(&line).and_then(|()| io::stdout().flush()),
            Out::File(file) => file.write_all(&line),
        };
        match written {
            Ok(()) => self.lost.store(0, Ordering::Relaxed),
            Err(error) => self.lost(&error),
        }
    }

    fn lost(&self, error: &dyn std::fmt::Display) {
        if self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(%error, "an audit record could not be written");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[derive(Serialize)]
struct Line<'a> {
    /// Milliseconds since 1970.
    at: u64,
    audit: &'static str,
    domain: &'a str,
    principal: &'a str,
    agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'a str>,
    rule: &'a str,
    outcome: &'static str,
    /// JSON-RPC error code or SIP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    call_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
}

impl<'a> From<&'a AuditRecord> for Line<'a> {
    fn from(record: &'a AuditRecord) -> Self {
        let (outcome, code) = outcome(&record.outcome);
        Line {
            at: record.at.0,
            audit: kind(record.kind),
            domain: &record.domain,
            principal: &record.principal,
            agent: &record.agent,
            method: record.method.as_deref(),
            tool: record.tool.as_deref(),
            rule: &record.rule,
            outcome,
            code,
            call_id: &record.call_id,
            exchange: record.exchange.as_deref(),
            conversation: record.conversation.as_deref(),
            duration_us: record.duration_us,
        }
    }
}

fn kind(kind: AuditKind) -> &'static str {
    match kind {
        AuditKind::ToolCall => "tool_call",
        AuditKind::McpRequest => "mcp_request",
        AuditKind::SessionStart => "session_start",
        AuditKind::SessionEnd => "session_end",
        AuditKind::Registration => "registration",
        AuditKind::Refusal => "refusal",
    }
}

/// The outcome's name, as audit lines and metric labels write it, and its code.
#[must_use]
pub fn outcome(outcome: &Outcome) -> (&'static str, Option<i64>) {
    match outcome {
        Outcome::Ok => ("ok", None),
        Outcome::ToolError => ("tool_error", None),
        Outcome::Error(code) => ("error", Some(*code)),
        Outcome::Denied(code) => ("denied", Some(*code)),
        Outcome::Cancelled => ("cancelled", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip_proto::time::UnixMillis;

    #[test]
    fn obs_1_a_record_is_one_json_line_in_a_file_of_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let record = AuditRecord {
            at: UnixMillis(1_700_000_000_000),
            kind: AuditKind::ToolCall,
            domain: "demo.example".into(),
            principal: "sip:alice@demo.example".into(),
            agent: "sip:echo@demo.example".into(),
            method: Some("tools/call".into()),
            tool: Some("line\nbreak".into()),
            rule: "default/demo/everybody".into(),
            outcome: Outcome::Denied(403),
            call_id: "a@b".into(),
            exchange: None,
            conversation: None,
            duration_us: Some(1500),
        };
        let audit = Audit::file(&path).unwrap();
        audit.write(&record);
        audit.write(&record);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["audit"], "tool_call");
        assert_eq!(lines[0]["outcome"], "denied");
        assert_eq!(lines[0]["code"], 403);
        assert_eq!(lines[0]["tool"], "line\nbreak");
        assert!(lines[0].get("exchange").is_none());
        audit.configure(BTreeSet::from([record.rule.clone()]));
        audit.write(&record);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "the rule says audit: None");
        audit.configure(BTreeSet::new());
        std::fs::rename(&path, folder.path().join("audit.1")).unwrap();
        audit.reopen().unwrap();
        audit.write(&record);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1, "after a rotation");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
