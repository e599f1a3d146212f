//! Enrolment: a token of a pod becomes a certificate that names the pod and its SipEdge.

use super::Clock;
use crate::authority::Authority;
use crate::board::Board;
use crate::identity::Identity;
use crate::key::{Key, Kind};
use crate::plan::workload::{AUDIENCE, selector};
use crds::manifest::ObjectKey;
use edge_api::control::edge_enrolment_server::EdgeEnrolment;
use edge_api::control::{EnrollRequest, EnrollResponse};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1 as core;
use kube::Client;
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use zeroize::{Zeroize, Zeroizing};

/// Octets of a token, and of a request for a certificate.
const MAX_PART: usize = 16 << 10;
/// Enrolments at one time; more wait.
const AT_ONCE: usize = 16;
/// For the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where a TokenReview says which pod a token was made for.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const ACCOUNT: &str = "system:serviceaccount:";

/// For whom a token was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    pub namespace: String,
    /// The ServiceAccount.
    pub account: String,
    pub pod: String,
    /// Of the pod.
    pub uid: String,
}

/// A pod that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub uid: String,
    /// The ServiceAccount.
    pub account: String,
    pub labels: BTreeMap<String, String>,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not good.
    #[error("{0}")]
    Token(String),
    /// Nobody can say now.
    #[error("{0}")]
    Unavailable(String),
}

/// Who knows tokens and pods: the API server.
#[tonic::async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// For whom the token was made, where it is good and for audience `sipmcp-edge`.
    async fn review(&self, token: &str) -> Result<Bearer, Refused>;

    /// A pod; `None` where there is none.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Refused>;
}

/// [`Tokens`] of a cluster.
pub struct Cluster {
    client: Client,
}

impl Cluster {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Cluster { client }
    }
}

#[tonic::async_trait]
impl Tokens for Cluster {
    async fn review(&self, token: &str) -> Result<Bearer, Refused> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: token.to_owned() };
        let mut review = TokenReview { spec, ..TokenReview::default() };
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        review.spec.token.zeroize();
        let answer = answer.map_err(|error| Refused::Unavailable(format!("the token cannot be reviewed: {error}")))?;
        answer.status.as_ref().map_or_else(|| Err(Refused::Unavailable("an empty TokenReview".into())), bearer)
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Refused> {
        let pods = Api::<core::Pod>::namespaced(self.client.clone(), namespace);
        let pod = pods.get_opt(name).await;
        let pod = pod.map_err(|error| Refused::Unavailable(format!("the pod cannot be read: {error}")))?;
        Ok(pod.map(|pod| Pod {
            uid: pod.metadata.uid.unwrap_or_default(),
            account: pod.spec.and_then(|spec| spec.service_account_name).unwrap_or_default(),
            labels: pod.metadata.labels.unwrap_or_default(),
        }))
    }
}

/// What a review says.
fn bearer(status: &TokenReviewStatus) -> Result<Bearer, Refused> {
    let refused = |why: &str| Refused::Token(why.to_owned());
    if status.authenticated != Some(true) {
        return Err(refused("the token is not good, or it has expired"));
    }
    // A server that knows no audiences would say yes to every token.
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return Err(refused("the token is for another audience"));
    }
    let user = status.user.as_ref().ok_or_else(|| refused("the token is nobody's"))?;
    let account = user.username.as_deref().and_then(|name| name.strip_prefix(ACCOUNT)?.split_once(':'));
    let (namespace, account) = account.ok_or_else(|| refused("the token is of no ServiceAccount"))?;
    let extra = |key: &str| match user.extra.as_ref()?.get(key)?.as_slice() {
        [value] => Some(value.clone()),
        _ => None,
    };
    let pod = extra(POD_NAME).zip(extra(POD_UID));
    let (pod, uid) = pod.ok_or_else(|| refused("the token is bound to no pod"))?;
    Ok(Bearer { namespace: namespace.to_owned(), account: account.to_owned(), pod, uid })
}

/// Whose pod it is. `None`: no SipEdge's.
fn identify(bearer: &Bearer, pod: &Pod) -> Option<Identity> {
    let name = pod.labels.get("app.kubernetes.io/instance")?;
    let edge = ObjectKey::new(&bearer.namespace, name);
    let same = pod.uid == bearer.uid && pod.account == bearer.account && bearer.account == edge.name;
    let ours = selector(&edge).iter().all(|(key, value)| pod.labels.get(key) == Some(value));
    (same && ours).then(|| Identity { edge, pod: bearer.pod.clone() })
}

pub(super) struct Enrolment {
    tokens: Arc<dyn Tokens>,
    authority: Arc<Authority>,
    board: Arc<Board>,
    clock: Clock,
    places: Semaphore,
}

impl Enrolment {
    pub fn new(tokens: Arc<dyn Tokens>, authority: Arc<Authority>, board: Arc<Board>, clock: Clock) -> Self {
        Enrolment { tokens, authority, board, clock, places: Semaphore::new(AT_ONCE) }
    }

    async fn whose(&self, token: &str) -> Result<Identity, Status> {
        let status = |refused: Refused| match refused {
            Refused::Token(why) => Status::unauthenticated(why),
            Refused::Unavailable(why) => Status::unavailable(why),
        };
        let bearer = self.tokens.review(token).await.map_err(status)?;
        let pod = self.tokens.pod(&bearer.namespace, &bearer.pod).await.map_err(status)?;
        let identity = pod.and_then(|pod| identify(&bearer, &pod));
        let nobody = || Status::permission_denied(format!("pod {}/{} is of no SipEdge", bearer.namespace, bearer.pod));
        let identity = identity.ok_or_else(nobody)?;
        let known = Key::new(Kind::SipEdge, identity.edge.clone());
        let (there, complete) = self.board.quietly(|state| {
            let there = state.index.edge(&known.object).is_some() || state.index.why_unreadable(&known).is_some();
            (there, state.index.is_complete())
        });
        match (there, complete) {
            (true, _) => Ok(identity),
            (false, true) => Err(nobody()),
            (false, false) => Err(Status::unavailable("this operator does not know every SipEdge yet")),
        }
    }
}

#[tonic::async_trait]
impl EdgeEnrolment for Enrolment {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let EnrollRequest { token, csr } = request.into_inner();
        let token = Zeroizing::new(token);
        if token.is_empty() || token.len() > MAX_PART || csr.len() > MAX_PART {
            return Err(Status::invalid_argument(format!("a token and a request of at most {MAX_PART} octets each")));
        }
        // The semaphore is never closed.
        let _place = self.places.acquire().await.map_err(|_| Status::unavailable("this operator ends"))?;
        let whose = timeout(PATIENCE, self.whose(&token)).await;
        let identity = whose.unwrap_or_else(|_| Err(Status::unavailable("the API server does not answer")));
        let identity = identity.inspect_err(|why| tracing::warn!("an edge was not enrolled: {}", why.message()))?;
        let issued = self.authority.issue(&csr, &identity, (self.clock.unix)());
        let issued = issued.map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(edge = %identity, fleet = %identity.edge, "enrolled");
        Ok(Response::new(EnrollResponse {
            chain: issued.chain.iter().map(|certificate| certificate.to_vec().into()).collect(),
            not_after: issued.not_after,
            edge_id: identity.id(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;

    fn review(user: &str, audience: &str, pod: Option<&str>) -> TokenReviewStatus {
        let extra = pod.map(|pod| {
            [(POD_NAME, pod), (POD_UID, "uid-1")].map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into()
        });
        let user = UserInfo { username: Some(user.to_owned()), extra, ..UserInfo::default() };
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.to_owned()]),
            user: Some(user),
            error: None,
        }
    }

    #[test]
    fn a_token_counts_only_for_our_audience_and_where_it_names_a_pod() {
        let good = review("system:serviceaccount:system:e", AUDIENCE, Some("e-0"));
        let expected =
            Bearer { namespace: "system".into(), account: "e".into(), pod: "e-0".into(), uid: "uid-1".into() };
        assert_eq!(bearer(&good), Ok(expected));
        for bad in [
            TokenReviewStatus { authenticated: Some(false), ..good.clone() },
            TokenReviewStatus { audiences: None, ..good.clone() },
            TokenReviewStatus { user: None, ..good.clone() },
            review("system:serviceaccount:system:e", "other", Some("e-0")),
            review("system:serviceaccount:system:e", AUDIENCE, None),
            review("alice", AUDIENCE, Some("e-0")),
        ] {
            assert!(matches!(bearer(&bad), Err(Refused::Token(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_pod_is_an_edge_only_with_the_labels_and_the_account_of_its_sip_edge() {
        let bearer = Bearer { namespace: "system".into(), account: "e".into(), pod: "e-0".into(), uid: "uid-1".into() };
        let edge = ObjectKey::new("system", "e");
        let pod = Pod { uid: "uid-1".into(), account: "e".into(), labels: selector(&edge) };
        assert_eq!(identify(&bearer, &pod), Some(Identity { edge, pod: "e-0".into() }));
        let mut foreign = pod.clone();
        foreign.labels.insert("app.kubernetes.io/name".into(), "something".into());
        for other in [
            Pod { uid: "uid-2".into(), ..pod.clone() },
            Pod { account: "default".into(), ..pod.clone() },
            Pod { labels: selector(&ObjectKey::new("system", "another")), ..pod.clone() },
            Pod { labels: BTreeMap::new(), ..pod },
            foreign,
        ] {
            assert_eq!(identify(&bearer, &other), None, "{other:?}");
        }
    }
}
