//! Who asks, and what that user may do: both are the API server's to say.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::Client;
use kube::api::{Api, PostParams};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;
use zeroize::Zeroize;

/// For one review.
const PATIENCE: Duration = Duration::from_secs(5);
const GROUP: &str = "sipmcp.dev";

/// Whose token it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Person {
    pub user: UserInfo,
}

impl Person {
    #[must_use]
    pub fn name(&self) -> &str {
        self.user.username.as_deref().unwrap_or_default()
    }
}

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub verb: &'static str,
    /// Resource and subresource.
    pub resource: (&'static str, &'static str),
    /// Of the object; empty: of any.
    pub name: String,
    /// Empty: in all of them.
    pub namespace: String,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Action { verb, resource: (resource, sub), name, namespace } = self;
        write!(f, "{verb} {resource}/{sub} {name:?} in ")?;
        if namespace.is_empty() { f.write_str("all namespaces") } else { write!(f, "namespace {namespace:?}") }
    }
}

/// Why somebody gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Forbidden(String),
    /// Nobody can say now.
    #[error("{0}")]
    Unavailable(String),
}

/// Who knows users and their rights: the API server.
#[tonic::async_trait]
pub trait Access: Send + Sync + 'static {
    /// Whose token it is.
    async fn who(&self, token: &str) -> Result<Person, Refused>;

    /// Whether that one may do that.
    async fn may(&self, person: &Person, action: &Action) -> Result<(), Refused>;
}

/// [`Access`] of a cluster.
pub struct Cluster {
    client: Client,
}

impl Cluster {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Cluster { client }
    }

    async fn review(&self, token: &str, audience: Option<&str>) -> Result<TokenReviewStatus, Refused> {
        let audiences = audience.map(|audience| vec![audience.to_owned()]);
        let spec = TokenReviewSpec { audiences, token: token.to_owned() };
        let mut review = TokenReview { spec, ..TokenReview::default() };
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let answer = timeout(PATIENCE, reviews.create(&PostParams::default(), &review)).await;
        review.spec.token.zeroize();
        let cannot = |why: &dyn fmt::Display| Refused::Unavailable(format!("the token cannot be reviewed: {why}"));
        let answer = answer.map_err(|_| cannot(&"the API server does not answer"))?.map_err(|error| cannot(&error))?;
        answer.status.ok_or_else(|| cannot(&"the answer is empty"))
    }
}

#[tonic::async_trait]
impl Access for Cluster {
    async fn who(&self, token: &str) -> Result<Person, Refused> {
        let made_for_us = self.review(token, Some(crds::admin::AUDIENCE)).await?;
        if made_for_us.authenticated == Some(true) {
            return person(&made_for_us, Some(crds::admin::AUDIENCE));
        }
        // Tokens of people (OIDC, a webhook, a cloud) have the audience of the API server and cannot be had for another one. Whoever may ask
        // the API server as that user may ask here, too. A token that was made for somebody else is good in neither review.
        person(&self.review(token, None).await?, None)
    }

    async fn may(&self, person: &Person, action: &Action) -> Result<(), Refused> {
        let review = SubjectAccessReview { spec: access(person, action), ..SubjectAccessReview::default() };
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let cannot = |why: &dyn fmt::Display| Refused::Unavailable(format!("nobody says what you may do: {why}"));
        let answer = timeout(PATIENCE, reviews.create(&PostParams::default(), &review)).await;
        let answer = answer.map_err(|_| cannot(&"the API server does not answer"))?.map_err(|error| cannot(&error))?;
        let status = answer.status.ok_or_else(|| cannot(&"the answer is empty"))?;
        if allowed(&status) {
            return Ok(());
        }
        Err(Refused::Forbidden(format!("user {:?} may not {action}", person.name())))
    }
}

/// What a review says. `audience`: for which the token must be.
fn person(status: &TokenReviewStatus, audience: Option<&str>) -> Result<Person, Refused> {
    let refused = |why: &str| Refused::Unknown(why.to_owned());
    if status.authenticated != Some(true) {
        return Err(refused("the token is not good, has expired, or is for another audience"));
    }
    // A server that knows no audiences would say yes to every token.
    if let Some(audience) = audience
        && !status.audiences.iter().flatten().any(|known| known == audience)
    {
        return Err(refused("the token is for another audience"));
    }
    let user = status.user.clone().filter(|user| user.username.as_deref().is_some_and(|name| !name.is_empty()));
    Ok(Person { user: user.ok_or_else(|| refused("the token is nobody's"))? })
}

fn access(person: &Person, action: &Action) -> SubjectAccessReviewSpec {
    let UserInfo { extra, groups, uid, username } = person.user.clone();
    let attributes = ResourceAttributes {
        group: Some(GROUP.to_owned()),
        version: Some("v1alpha1".to_owned()),
        resource: Some(action.resource.0.to_owned()),
        subresource: Some(action.resource.1.to_owned()),
        verb: Some(action.verb.to_owned()),
        name: Some(action.name.clone()),
        namespace: Some(action.namespace.clone()),
        ..ResourceAttributes::default()
    };
    SubjectAccessReviewSpec {
        extra,
        groups,
        uid,
        user: username,
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    }
}

/// An authorizer that fails has not allowed anything.
fn allowed(status: &SubjectAccessReviewStatus) -> bool {
    status.allowed && status.denied != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(audiences: &[&str]) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(audiences.iter().map(ToString::to_string).collect()),
            user: Some(UserInfo { username: Some("alice".into()), ..UserInfo::default() }),
            error: None,
        }
    }

    #[test]
    fn a_token_counts_only_for_its_audience_and_where_it_is_somebodys() {
        let good = status(&["sipmcp-admin"]);
        assert_eq!(person(&good, Some("sipmcp-admin")).unwrap().name(), "alice");
        assert_eq!(person(&status(&["https://kubernetes.default.svc"]), None).unwrap().name(), "alice");
        for (bad, audience) in [
            (TokenReviewStatus { authenticated: Some(false), ..good.clone() }, None),
            (TokenReviewStatus { authenticated: None, ..good.clone() }, Some("sipmcp-admin")),
            (TokenReviewStatus { audiences: None, ..good.clone() }, Some("sipmcp-admin")),
            (status(&["sipmcp-edge"]), Some("sipmcp-admin")),
            (TokenReviewStatus { user: Some(UserInfo::default()), ..good.clone() }, None),
            (TokenReviewStatus { user: None, ..good }, Some("sipmcp-admin")),
        ] {
            assert!(matches!(person(&bad, audience), Err(Refused::Unknown(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_review_asks_for_the_user_as_he_is_and_a_denial_counts_more() {
        let user = UserInfo {
            username: Some("alice".into()),
            groups: Some(vec!["dev".into()]),
            uid: Some("u1".into()),
            extra: Some([("scopes".to_owned(), vec!["a".to_owned()])].into()),
        };
        let action = Action {
            verb: "list",
            resource: crds::admin::SESSIONS_RESOURCE,
            name: "acme".into(),
            namespace: "team".into(),
        };
        let spec = access(&Person { user: user.clone() }, &action);
        assert_eq!((spec.user, spec.groups, spec.uid, spec.extra), (user.username, user.groups, user.uid, user.extra));
        let attributes = spec.resource_attributes.unwrap();
        assert_eq!(attributes.group.as_deref(), Some("sipmcp.dev"));
        assert_eq!(attributes.resource.as_deref(), Some("sipdomains"));
        assert_eq!(attributes.subresource.as_deref(), Some("sessions"));
        assert_eq!((attributes.name.as_deref(), attributes.namespace.as_deref()), (Some("acme"), Some("team")));
        let said =
            |allowed, denied| SubjectAccessReviewStatus { allowed, denied, ..SubjectAccessReviewStatus::default() };
        assert!(allowed(&said(true, None)));
        assert!(!allowed(&said(false, None)) && !allowed(&said(true, Some(true))));
    }
}
