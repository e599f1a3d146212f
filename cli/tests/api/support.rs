//! Running the program, and edges that do what a test says.

use std::collections::VecDeque;
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Long enough for a busy machine; nothing here proves a time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The end of one `sipmcp`.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    /// What `--json` printed; null when it printed nothing of that kind.
    pub json: Value,
    pub out: String,
    pub err: String,
}

/// A `sipmcp` that runs.
pub struct Running {
    child: Child,
    err: Arc<Mutex<String>>,
    reader: thread::JoinHandle<()>,
}

pub fn sipmcp<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sipmcp"))
        .args(args)
        .env("NO_COLOR", "1")
        .env_remove("SIPMCP_PROXY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stderr.take().unwrap();
    let err = Arc::new(Mutex::new(String::new()));
    let written = err.clone();
    let reader = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            written.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    });
    Running { child, err, reader }
}

impl Running {
    /// Waits until standard error has this text.
    pub fn says(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.err.lock().unwrap().contains(text) {
            assert!(Instant::now() < end, "sipmcp never said {text:?}:\n{}", self.err.lock().unwrap());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn end(mut self) -> Ran {
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let code = self.child.wait().unwrap().code().unwrap();
        self.reader.join().unwrap();
        let err = self.err.lock().unwrap().clone();
        Ran { code, json: serde_json::from_str(&out).unwrap_or_default(), out, err }
    }
}

/// What a scripted edge does with a request: messages to send, each to where the request came from.
type Script = Box<dyn FnMut(&Sip) -> Vec<String> + Send>;

/// A peer on UDP with a script. It absorbs retransmissions of what it saw.
pub struct Scripted {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Sip>>>,
}

impl Scripted {
    pub fn start(mut script: Script) -> Scripted {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Sip>>> = Arc::default();
        let noted = seen.clone();
        // Ends with the test's process.
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            let mut answers: VecDeque<(String, Vec<String>)> = VecDeque::new();
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let sip = Sip(String::from_utf8_lossy(&buffer[..length]).into_owned());
                if sip.0.starts_with("SIP/2.0 ") {
                    continue;
                }
                let branch = sip.header("Via");
                let known = answers.iter().find(|(of, _)| *of == branch).map(|(_, answers)| answers.clone());
                let sent = known.unwrap_or_else(|| {
                    noted.lock().unwrap().push(sip.clone());
                    let sent = script(&sip);
                    answers.push_back((branch, sent.clone()));
                    sent
                });
                for message in sent {
                    socket.send_to(message.as_bytes(), from).unwrap();
                }
            }
        });
        Scripted { address, seen }
    }

    pub fn uri(&self) -> String {
        format!("sip:{}", self.address)
    }

    pub fn methods(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(Sip::method).collect()
    }
}

/// A SIP message as text.
#[derive(Clone, Debug)]
pub struct Sip(pub String);

impl Sip {
    pub fn method(&self) -> String {
        self.0.split(' ').next().unwrap().to_owned()
    }

    pub fn header(&self, name: &str) -> String {
        let begin = format!("{}:", name.to_ascii_lowercase());
        let line = self.0.lines().take_while(|l| !l.is_empty()).find(|l| l.to_ascii_lowercase().starts_with(&begin));
        line.map(|line| line[begin.len()..].trim().to_owned()).unwrap_or_default()
    }

    pub fn cseq(&self) -> u32 {
        self.header("CSeq").split(' ').next().unwrap().parse().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(self.0.split_once("\r\n\r\n").unwrap().1).unwrap_or_default()
    }

    /// A response; `more`: further header lines.
    pub fn answer(&self, status: &str, more: &str) -> String {
        let tag = if self.header("To").contains(";tag=") { "" } else { ";tag=edge" };
        format!(
            "SIP/2.0 {status}\r\nVia: {}\r\nFrom: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n{more}Content-Length: 0\r\n\r\n",
            self.header("Via"),
            self.header("From"),
            self.header("To"),
            self.header("Call-ID"),
            self.header("CSeq"),
        )
    }

    /// A MESSAGE back to the caller with this JSON-RPC body. `edge`: who sends it.
    pub fn message_back(&self, edge: &str, cseq: u32, body: &Value) -> String {
        let to = if self.header("To").contains(";tag=") { self.header("To") } else { self.header("To") + ";tag=edge" };
        let body = body.to_string();
        format!(
            "MESSAGE sip:caller@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {edge};branch=z9hG4bK{edge}{cseq}\r\nMax-Forwards: 70\r\n\
             From: {to}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} MESSAGE\r\nMCP-Exchange: {}\r\n\
             Content-Type: application/mcp+json\r\nContent-Length: {}\r\n\r\n{body}",
            self.header("From"),
            self.header("Call-ID"),
            self.header("MCP-Exchange"),
            body.len(),
        )
        .replace(&format!("z9hG4bK{edge}"), &format!("z9hG4bK{}", edge.replace(['.', ':'], "")))
    }

    /// 200, and the tool's answer.
    pub fn tool_answer(&self, edge: &str, text: &str) -> Vec<String> {
        let result = serde_json::json!({"resultType": "complete", "content": [{"type": "text", "text": text}]});
        let body = serde_json::json!({"jsonrpc": "2.0", "id": self.json()["id"], "result": result});
        vec![self.answer("200 OK", ""), self.message_back(edge, 1, &body)]
    }
}
