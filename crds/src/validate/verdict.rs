//! What the rules over several objects found.

use crate::manifest::{ObjectKey, Origin, Problem};
use crate::v1alpha1::{ConditionType, Reason};
use std::fmt;
use std::sync::Arc;

/// An object by kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: &'static str,
    /// Its namespace is empty for a `SipDomain`.
    pub key: ObjectKey,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.key.namespace {
            "" => write!(f, "{} {}", self.kind, self.key.name),
            _ => write!(f, "{} {}", self.kind, self.key),
        }
    }
}

/// A broken rule over several objects.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The object that breaks it.
    pub object: ObjectRef,
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// The word for its status.
    pub reason: Reason,
    /// Path of the field, for example `spec.address.domainRef`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
    /// False: the object was taken out. True: it stands all the same (a policy without its target).
    pub stands: bool,
}

impl Verdict {
    /// The condition that is `False`.
    pub fn condition(&self) -> ConditionType {
        self.reason.condition().unwrap_or(ConditionType::Accepted)
    }

    /// The same for a reader of manifests.
    pub fn problem(&self) -> Problem {
        self.origin.problem(&*self.field, &*self.message)
    }
}

/// What is wrong with one object.
#[derive(Debug, Default)]
pub(super) struct Faults(pub Vec<(Reason, String, String)>);

impl Faults {
    pub fn add(&mut self, reason: Reason, field: impl Into<String>, message: impl Into<String>) {
        self.0.push((reason, field.into(), message.into()));
    }
}
