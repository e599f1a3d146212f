//! The admission webhook: what the schema cannot see is refused when it is written, with the path of the field. `POST /validate`,
//! `admission.k8s.io/v1`.
//!
//! It is a convenience. The same rules run again over what stands in the API, and what breaks one gets a condition and closes in its own scope;
//! so a cluster without the webhook learns the same a moment later. Therefore `failurePolicy: Ignore` is right for most kinds: while no
//! operator answers, an agent can still be written. A policy that cannot be judged should not be written (`Fail`): it would close the agents
//! that it selects. An object that is being deleted, or whose spec stays as it is, is never refused, so finalizers and labels can always be
//! changed.
//!
//! What an object refers to and is not there is a warning and no refusal: whoever applies a folder does not choose the order.

mod judge;
mod trust;

use crate::authority::Authority;
use crate::board::Board;
use crate::https::{self, Answers, Asked, Limits, Reply};
use hyper::{Method, StatusCode};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

pub use judge::{Decision, Fault, decide};
pub use trust::{patch, trust};

/// Where reviews are sent.
pub const PATH: &str = "/validate";
/// The API server takes objects of 1.5 MiB, and sends the new one and the old one. The API server gives up after its `timeoutSeconds` (5 in
/// the chart).
const LIMITS: Limits = Limits { connections: 128, body: 4 << 20, bodies: 32 << 20, patience: Duration::from_secs(5) };

/// Serves the API server until `shutdown` is done.
pub async fn run(
    listener: TcpListener,
    board: Arc<Board>,
    authority: Arc<Authority>,
    shutdown: impl Future<Output = ()>,
) {
    https::serve(listener, authority, LIMITS, Arc::new(Webhook { board }), shutdown).await;
}

struct Webhook {
    board: Arc<Board>,
}

impl Answers for Webhook {
    async fn answer(&self, asked: Asked) -> Reply {
        match (asked.path.as_str(), &asked.method) {
            (PATH, &Method::POST) => {}
            (PATH, _) => return https::error(StatusCode::METHOD_NOT_ALLOWED, "POST only"),
            _ => return https::error(StatusCode::NOT_FOUND, "POST /validate"),
        }
        let board = self.board.clone();
        // Reading and judging a large object takes milliseconds, which no other task has to wait for.
        match tokio::task::spawn_blocking(move || review(&board, &asked.body)).await {
            Ok(Ok(response)) => https::json(StatusCode::OK, &response.into_review()),
            Ok(Err(problem)) => https::error(StatusCode::BAD_REQUEST, &problem),
            Err(error) => {
                tracing::error!(%error, "a review ended early");
                https::error(StatusCode::INTERNAL_SERVER_ERROR, "the review ended early")
            }
        }
    }
}

/// # Errors
/// It is no review.
fn review(board: &Board, body: &[u8]) -> Result<AdmissionResponse, String> {
    let review: AdmissionReview<DynamicObject> =
        serde_json::from_slice(body).map_err(|error| format!("no AdmissionReview: {error}"))?;
    let request: AdmissionRequest<DynamicObject> =
        review.try_into().map_err(|_| "an AdmissionReview without a request".to_owned())?;
    let decision = board.quietly(|state| decide(&state.index, &request));
    let response = decision.response(&request);
    if !response.allowed {
        let (kind, name) = (&request.kind.kind, &request.name);
        tracing::info!(%kind, namespace = request.namespace.as_deref().unwrap_or_default(), %name, "refused: {}", response.result.message);
    }
    Ok(response)
}

#[cfg(test)]
mod tests;
