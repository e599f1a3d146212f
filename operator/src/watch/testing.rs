//! An API server on loopback, for tests: it answers as it was told to, and sends on its watches what is said.

use crate::config::Args;
use crate::run::{Context, Shutdown};
use bytes::Bytes;
use clap::Parser;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::{Client, Config};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Long enough for a busy machine; nothing here proves a time.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module. It ends with this value.
pub struct ApiServer {
    client: Client,
    told: Arc<Told>,
    shutdown: (watch::Sender<bool>, Shutdown),
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    /// By path. What is not here is not there.
    answers: Mutex<BTreeMap<String, (u16, Value)>>,
    /// Lines of the watches, by path.
    events: Mutex<BTreeMap<String, watch::Sender<Vec<String>>>>,
    /// The next answer of these paths is made when it is asked for, and waits for its word.
    held: Mutex<BTreeMap<String, oneshot::Receiver<()>>>,
}

impl ApiServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
        let told = Arc::<Told>::default();
        let answering = told.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let told = answering.clone();
                let service = service_fn(move |request| {
                    let told = told.clone();
                    async move { Ok::<_, Infallible>(told.answer(&request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        ApiServer { client, told, shutdown: Shutdown::new(), serving }
    }

    /// What is answered at this path from now on.
    pub fn answer(&self, path: &str, status: u16, body: Value) {
        self.told.answers.lock().unwrap().insert(path.to_owned(), (status, body));
    }

    /// Nobody may read this path, nor watch it.
    pub fn forbid(&self, path: &str) {
        self.answer(path, 403, status(403, "Forbidden"));
    }

    /// There are these objects.
    pub fn list(&self, path: &str, items: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items});
        self.answer(path, 200, list);
    }

    /// The watches of this path say so.
    pub fn event(&self, path: &str, of_type: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": of_type, "object": object}));
        let mut events = self.told.events.lock().unwrap();
        events.entry(path.to_owned()).or_default().send_modify(|lines| lines.push(line));
    }

    /// The next answer at this path, as it would be when it is asked for, comes when the sender says so.
    pub fn hold(&self, path: &str) -> oneshot::Sender<()> {
        let (release, held) = oneshot::channel();
        self.told.held.lock().unwrap().insert(path.to_owned(), held);
        release
    }

    /// The answer that is held was asked for.
    pub fn is_asked(&self, path: &str) -> bool {
        !self.told.held.lock().unwrap().contains_key(path)
    }

    /// What a task of an operator gets that has these arguments.
    pub fn context(&self, more: &[&str]) -> Context {
        let needed = ["operator", "--namespace", "system", "--name", "op-0", "--edge-image", "edge:1"];
        let (_, _, pen) = crate::lease::pen();
        Context {
            client: self.client.clone(),
            board: Arc::default(),
            metrics: Arc::default(),
            args: Arc::new(Args::parse_from(needed.iter().chain(more))),
            pen,
            authority: watch::channel(None).1,
            clock: crate::serve::Clock::default(),
            shutdown: self.shutdown.1.clone(),
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shutdown.0.send_replace(true);
        self.serving.abort();
    }
}

/// Waits until it is so.
pub async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let waiting = async {
        while !look() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn status(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": reason, "reason": reason, "code": code})
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl Told {
    async fn answer(&self, request: &Request<Incoming>) -> Reply {
        let path = request.uri().path();
        let there = self.answers.lock().unwrap().get(path).cloned();
        let (code, body) = there.unwrap_or_else(|| (404, status(404, "NotFound")));
        let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let body = if watches && code == 200 {
            let lines = self.events.lock().unwrap().entry(path.to_owned()).or_default().subscribe();
            let next = |(mut lines, at): (watch::Receiver<Vec<String>>, usize)| async move {
                let line = lines.wait_for(|lines| lines.len() > at).await.ok()?.get(at)?.clone();
                Some((Ok(Frame::data(Bytes::from(line))), (lines, at + 1)))
            };
            StreamBody::new(stream::unfold((lines, 0), next)).boxed_unsync()
        } else {
            Full::new(Bytes::from(body.to_string())).boxed_unsync()
        };
        let held = self.held.lock().unwrap().remove(path);
        if let Some(held) = held {
            // Whoever held it may be gone.
            let _ = held.await;
        }
        Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
    }
}
