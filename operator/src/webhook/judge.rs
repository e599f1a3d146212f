//! Whether an object may be written: pure, from the request and the index.

use crate::index::{Index, Object};
use crate::key::Kind;
use crds::manifest::ObjectKey;
use crds::v1alpha1::{McpAgent, McpCapabilityPolicy, Reason, SessionStore, SipDomain, SipEdge};
use crds::validate;
use kube::Resource;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use kube::core::response::{StatusCause, StatusDetails};
use kube::core::{DynamicObject, Status};
use serde::de::DeserializeOwned;

/// Warnings of one answer, and characters of one of them: the API server cuts what is longer.
const MAX_WARNINGS: usize = 8;
const MAX_WARNING: usize = 240;
/// Faults that are listed.
const MAX_FAULTS: usize = 32;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For example `spec.address`; empty where the whole object is meant.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Empty: it may be written.
    pub faults: Vec<Fault>,
    /// What it needs and is not there yet.
    pub warnings: Vec<Fault>,
}

/// Judges what is to be written. The rules of its kind always; those over several objects as far as the index knows the others.
#[must_use]
pub fn decide(index: &Index, request: &AdmissionRequest<DynamicObject>) -> Decision {
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    let whole = request.sub_resource.as_deref().unwrap_or_default().is_empty();
    let (true, true, Some(object)) = (written, whole, &request.object) else {
        return Decision::default();
    };
    let old = request.old_object.as_ref();
    if object.metadata.deletion_timestamp.is_some()
        || old.is_some_and(|old| old.data.get("spec") == object.data.get("spec"))
    {
        return Decision::default();
    }
    let new = match read(request, object) {
        None => return Decision::default(),
        Some(Ok(object)) => object,
        Some(Err(fault)) => return Decision { faults: vec![fault], warnings: Vec::new() },
    };
    let own = own(&new);
    if !own.is_empty() {
        return Decision { faults: own, warnings: Vec::new() };
    }
    if !index.awaited().is_empty() {
        let message =
            "this operator has not listed everything yet; what this object has to do with others is judged later";
        let warning = Fault { field: String::new(), message: message.to_owned() };
        return Decision { faults: Vec::new(), warnings: vec![warning] };
    }
    let Decision { mut faults, mut warnings } = together(index, &new);
    // Whoever mends one of two faults is not held up by the other, which was there before.
    if let Some(Some(Ok(old))) = old.map(|old| read(request, old)) {
        let before = together(index, &old);
        let known = |fault: &Fault| before.faults.contains(fault);
        warnings.extend(faults.iter().filter(|fault| known(fault)).cloned());
        faults.retain(|fault| !known(fault));
    }
    Decision { faults, warnings }
}

impl Decision {
    /// As the API server reads it: `FIELD: MESSAGE` for people, and every field by itself for programs.
    #[must_use]
    pub fn response(self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let mut response = AdmissionResponse::from(request);
        let Decision { mut faults, warnings } = self;
        if !warnings.is_empty() {
            let warnings = warnings.iter().take(MAX_WARNINGS).map(|warning| cut(&warning.line(), MAX_WARNING));
            response.warnings = Some(warnings.collect());
        }
        if faults.is_empty() {
            return response;
        }
        let more = faults.len().saturating_sub(MAX_FAULTS);
        faults.truncate(MAX_FAULTS);
        let mut lines: Vec<String> = faults.iter().map(Fault::line).collect();
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        let causes = faults.into_iter().map(|Fault { field, message }| StatusCause {
            reason: "FieldValueInvalid".to_owned(),
            message,
            field,
        });
        let details = StatusDetails {
            name: request.name.clone(),
            group: request.kind.group.clone(),
            kind: request.kind.kind.clone(),
            uid: String::new(),
            causes: causes.collect(),
            retry_after_seconds: 0,
        };
        let mut response = response.deny(lines.join("; "));
        let message = std::mem::take(&mut response.result.message);
        response.result = Status { code: 422, details: Some(details), ..Status::failure(&message, "Invalid") };
        response
    }
}

impl Fault {
    fn line(&self) -> String {
        match &*self.field {
            "" => self.message.clone(),
            field => format!("{field}: {}", self.message),
        }
    }
}

/// `None`: a kind that is not judged here.
fn read(request: &AdmissionRequest<DynamicObject>, object: &DynamicObject) -> Option<Result<Object, Fault>> {
    /// Without a timestamp in a new object: whoever is there is older than it.
    fn typed<T: Resource + DeserializeOwned>(object: DynamicObject) -> Result<Box<T>, Fault> {
        object.try_parse().map(Box::new).map_err(|error| Fault {
            field: String::new(),
            message: format!(
                "is not of the form that this operator ({}) knows: {error}; do the definitions and the operator belong together?",
                env!("CARGO_PKG_VERSION")
            ),
        })
    }
    if request.kind.group != crds::v1alpha1::API_VERSION.split('/').next().unwrap_or_default() {
        return None;
    }
    let mut object = object.clone();
    if request.operation == Operation::Create {
        object.metadata.creation_timestamp = None;
        // With generateName the API server may not have chosen yet.
        object.metadata.name.get_or_insert_with(|| "new".to_owned());
    }
    if object.metadata.namespace.is_none() {
        object.metadata.namespace.clone_from(&request.namespace);
    }
    let kind = Kind::ALL.into_iter().filter(|kind| kind.is_ours()).find(|kind| kind.as_str() == request.kind.kind)?;
    Some(match kind {
        Kind::SipEdge => typed::<SipEdge>(object).map(Object::Edge),
        Kind::SessionStore => typed::<SessionStore>(object).map(Object::Store),
        Kind::SipDomain => typed::<SipDomain>(object).map(Object::Domain),
        Kind::McpAgent => typed::<McpAgent>(object).map(Object::Agent),
        Kind::McpCapabilityPolicy => typed::<McpCapabilityPolicy>(object).map(Object::Policy),
        Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Endpoints => return None,
    })
}

/// The rules of its kind.
fn own(object: &Object) -> Vec<Fault> {
    let findings = match object {
        Object::Edge(object) => validate::edge(&object.spec),
        Object::Store(object) => validate::store(&object.spec),
        Object::Domain(object) => validate::domain(&object.spec),
        Object::Agent(object) => validate::agent(&object.spec),
        Object::Policy(policy) => validate::policy(&object.key().object, &policy.spec),
        Object::Secret(_)
        | Object::ConfigMap(_)
        | Object::Namespace(_)
        | Object::Endpoints(..)
        | Object::Unreadable(..) => Vec::new(),
    };
    findings.into_iter().map(|validate::Finding { field, message }| Fault { field, message }).collect()
}

/// The rules over several objects.
fn together(index: &Index, object: &Object) -> Decision {
    let near = index.near(object);
    let key = object.key();
    let at = match key.kind {
        Kind::SipDomain => ObjectKey::new("", &key.object.name),
        _ => key.object,
    };
    let mut decision = Decision::default();
    for verdict in validate::references::judge_one(&near.snapshot, key.kind.as_str(), &at, near.older) {
        let fault = Fault { field: verdict.field, message: verdict.message };
        match weigh(verdict.reason) {
            // It was made a moment ago, and its labels may allow it.
            Weight::Refused if near.stranger && verdict.reason == Reason::DomainNotAllowed => {
                decision.warnings.push(fault);
            }
            Weight::Refused => decision.faults.push(fault),
            Weight::Warned => decision.warnings.push(fault),
            // Only what somebody names is looked for, and nobody named it before.
            Weight::Fetched if near.unknown => {}
            Weight::Fetched => decision.warnings.push(fault),
        }
    }
    decision
}

enum Weight {
    /// It contradicts what is there: who came first, who may what.
    Refused,
    /// It heals when another object is written.
    Warned,
    /// The same, about what the operator reads only while it is named.
    Fetched,
}

fn weigh(reason: Reason) -> Weight {
    match reason {
        Reason::AddressConflict
        | Reason::DomainConflict
        | Reason::DomainNotAllowed
        | Reason::QuotaExceeded
        | Reason::RefNotPermitted
        | Reason::StoreNotShared
        | Reason::DurabilityNotAvailable
        | Reason::InvalidSpec => Weight::Refused,
        Reason::SecretNotFound | Reason::ConfigMapNotFound => Weight::Fetched,
        _ => Weight::Warned,
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
