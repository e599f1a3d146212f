//! MCP servers that are broken on purpose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How a backend fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 200 with a body that is no JSON.
    NotJson,
    /// 200 with JSON that is no JSON-RPC.
    NotRpc,
    /// Not even HTTP.
    NotHttp,
    /// 500 with a page.
    Page,
    /// Closes in the middle of its answer.
    Cut,
    /// Closes in the middle of an event stream.
    CutStream,
    /// Takes the request and says nothing.
    Silent,
}

pub struct Backend {
    pub url: String,
    address: SocketAddr,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub fn start(fault: Fault) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let end = Arc::<AtomicBool>::default();
        let ending = end.clone();
        let thread = std::thread::spawn(move || {
            // Held open until the end: silence is not a closed connection.
            let mut held = Vec::new();
            for stream in listener.incoming() {
                if ending.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if answer(&stream, fault).is_ok() && fault == Fault::Silent {
                    held.push(stream);
                }
            }
        });
        Backend { url: format!("http://{address}/mcp"), address, end, thread: Some(thread) }
    }
}

/// A URL at which nobody listens.
pub fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/mcp", listener.local_addr().unwrap())
}

fn answer(stream: &TcpStream, fault: Fault) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let whole = |status: &str, kind: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let text = match fault {
        Fault::NotJson => whole("200 OK", "application/json", "<<< not json >>>"),
        Fault::NotRpc => whole("200 OK", "application/json", r#"{"hello":"world"}"#),
        Fault::NotHttp => "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        Fault::Page => whole("500 Internal Server Error", "text/html", "<h1>it broke</h1>"),
        Fault::Cut => {
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\"".to_owned()
        }
        Fault::CutStream => {
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nid: 1\r\ndata: {\"js".to_owned()
        }
        Fault::Silent => String::new(),
    };
    let mut stream = stream;
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
