//! A question of a person, passed to the replica that holds the Lease: it knows all edges, and orders drains.
//!
//! The person's token goes with it, to a server that shows a certificate of the operator's authority and name; the holder asks the API server
//! whose it is and what that user may do. What was passed once is not passed again.

use super::reach::{Reach, connect};
use crate::authority::Authority;
use crate::https::{Asked, Reply};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Before the path of a question that was passed: whoever gets it answers with what it knows.
pub const PASSED: &str = "/passed";
/// At one time; more are answered with what is known here.
const AT_ONCE: usize = 16;
/// Octets of an answer.
const MAX_ANSWER: usize = 65 << 20;
/// For a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// For the whole of it; the holder gives itself less than whoever asked this replica waits.
const PATIENCE: Duration = Duration::from_secs(40);

/// See the module.
pub struct Forward {
    reach: Arc<dyn Reach>,
    authority: Arc<Authority>,
    /// Another replica that holds the Lease.
    holder: watch::Receiver<Option<String>>,
    /// Whether this one does.
    held: watch::Receiver<bool>,
    places: Semaphore,
}

impl Forward {
    #[must_use]
    pub fn new(
        reach: Arc<dyn Reach>,
        authority: Arc<Authority>,
        holder: watch::Receiver<Option<String>>,
        held: watch::Receiver<bool>,
    ) -> Self {
        Forward { reach, authority, holder, held, places: Semaphore::new(AT_ONCE) }
    }

    /// Whether this replica holds the Lease: what it orders stands.
    #[must_use]
    pub fn is_here(&self) -> bool {
        *self.held.borrow()
    }

    /// The answer of the holder, whatever it is.
    ///
    /// # Errors
    /// There is none: one sentence.
    pub async fn pass(&self, asked: &Asked) -> Result<Reply, String> {
        let holder = self.holder.borrow().clone().ok_or("no replica is known that holds the Lease")?;
        let _place = self.places.try_acquire().map_err(|_| "too many questions are passed already")?;
        let passed = timeout(PATIENCE, self.post(&holder, asked)).await;
        passed.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(|why| format!("{holder}: {why}"))
    }

    async fn post(&self, holder: &str, asked: &Asked) -> Result<Reply, String> {
        fn said(error: impl Display) -> String {
            error.to_string()
        }
        let address = self.reach.address(holder).await?.admin;
        let config = self.authority.client(None, b"http/1.1").map_err(said)?;
        let name = self.authority.names().into_iter().next().ok_or("this operator has no name")?;
        let stream = timeout(CONNECT, connect(address, name.clone(), config)).await;
        let stream = stream.map_err(|_| format!("no connection to {address} in time"))?.map_err(said)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
        // It ends with the sender.
        tokio::spawn(connection);
        let request = Request::builder().method(asked.method.clone()).uri(format!("{PASSED}{}", asked.path));
        let mut request = request.body(Full::new(asked.body.clone())).map_err(said)?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(&name).map_err(said)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &asked.token {
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| "the token cannot be a header")?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(said)?;
        let mut reply = Response::new(Full::<Bytes>::new(body.to_bytes()));
        *reply.status_mut() = status;
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::unix_now;
    use crate::https::{self, Answers, Limits};
    use crate::peers::reach::Address;
    use hyper::{Method, StatusCode};
    use std::net::SocketAddr;
    use tokio::net::TcpListener;

    /// Says what it was asked.
    struct Echo;

    impl Answers for Echo {
        async fn answer(&self, asked: Asked) -> Reply {
            let token = asked.token.map(|token| token.to_string());
            let body = String::from_utf8_lossy(&asked.body).into_owned();
            https::json(StatusCode::IM_A_TEAPOT, &serde_json::json!([asked.method.as_str(), asked.path, token, body]))
        }
    }

    struct At(SocketAddr);

    #[tonic::async_trait]
    impl Reach for At {
        async fn address(&self, holder: &str) -> Result<Address, String> {
            assert_eq!(holder, "op-1_00");
            Ok(Address { edges: self.0, admin: self.0 })
        }
    }

    fn authority() -> Arc<Authority> {
        let (certificate, key) = Authority::make(unix_now()).unwrap();
        Arc::new(Authority::read(&certificate, &key, vec!["sipmcp-operator.system.svc".to_owned()]).unwrap())
    }

    fn asked() -> Asked {
        let token = Some(Zeroizing::new("a token".to_owned()));
        Asked { method: Method::POST, path: "/v1/sessions".to_owned(), token, body: Bytes::from_static(b"{}") }
    }

    #[tokio::test]
    async fn sec_6_a_question_goes_as_it_is_to_who_shows_the_operators_certificate_and_to_nobody_else() {
        let ours = authority();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { connections: 4, body: 1024, bodies: 4096, patience: Duration::from_secs(30) };
        tokio::spawn(https::serve(listener, ours.clone(), limits, Arc::new(Echo), std::future::pending()));
        let (other, holder) = watch::channel(None);
        let (_hold, held) = watch::channel(false);
        let forward =
            |authority: Arc<Authority>| Forward::new(Arc::new(At(address)), authority, holder.clone(), held.clone());
        assert!(forward(ours.clone()).pass(&asked()).await.is_err(), "nobody holds the Lease");
        other.send_replace(Some("op-1_00".to_owned()));
        let reply = forward(ours).pass(&asked()).await.unwrap();
        assert_eq!(reply.status(), StatusCode::IM_A_TEAPOT);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        let said: Vec<String> = serde_json::from_slice(&body).unwrap();
        assert_eq!(said, ["POST", "/passed/v1/sessions", "a token", "{}"]);
        // A server of another authority gets no token.
        assert!(forward(authority()).pass(&asked()).await.is_err());
    }
}
