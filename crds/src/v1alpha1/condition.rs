//! Conditions and their reasons: the words in which the status of every kind speaks.
//!
//! `metav1.Condition`, positive polarity, each with `observedGeneration`. No other type and no other reason is ever written, so that a
//! user may script against them; what is special to the case stands in the message.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{Schema, SchemaGenerator, json_schema};

/// Conditions of one object; more would be more than anybody reads.
pub const MAX_CONDITIONS: usize = 8;

/// A fixed set of words, each with its meaning.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $meaning:literal])+ $word:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[doc = $meaning])+ $word,)+
        }

        impl $name {
            /// Every one.
            pub const ALL: &'static [$name] = &[$($name::$word),+];

            /// The word as it stands in a status.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$word => stringify!($word),)+ }
            }

            /// What it says, for `docs/crds.md` and `sipmcp check`.
            pub fn meaning(self) -> &'static str {
                match self { $($name::$word => concat!($($meaning),+).trim_ascii(),)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What a condition is about. The meanings are those of status `True`.
    ConditionType {
        /// The spec is valid and allowed.
        Accepted,
        /// Every object that the spec names exists and may be named.
        ResolvedRefs,
        /// Every connected and desired edge has applied `observedGeneration`.
        Programmed,
        /// A live edge answers for the agent's address.
        Registered,
        /// The backend's tools keep the bounds of a schema.
        ToolsVerified,
        /// The object does its work: for an agent at least one edge is programmed and registered, for an edge at least one pod is ready.
        Ready,
        /// The edges reach the store.
        Reachable,
        /// The store keeps what the durability classes of the tenants need.
        Durable,
        /// The store never drops a live key.
        EvictionSafe,
    }
}

words! {
    /// Why a condition has its status.
    Reason {
        /// Nothing is wrong with the spec.
        Accepted,
        /// Every reference was found.
        ResolvedRefs,
        /// Every edge has it.
        Programmed,
        /// An edge answers.
        Registered,
        /// The tools were listed and are as declared.
        Verified,
        /// It works.
        Ready,
        /// The edges are connected to the store.
        Reachable,
        /// The store is persistent enough.
        Durable,
        /// The store's `maxmemory-policy` is `noeviction`.
        EvictionSafe,

        /// A rule of the kind is broken; the message names the field.
        InvalidSpec,
        /// The policy does not compile, or a policy that was refused may deny something here.
        InvalidPolicy,
        /// The domain does not allow the agent's namespace, or no listener allows the domain.
        DomainNotAllowed,
        /// An older agent has the same address.
        AddressConflict,
        /// An older SipDomain has the same domain.
        DomainConflict,
        /// A value that this version of the edges does not know, or that has no meaning where it stands.
        UnsupportedValue,
        /// The domain has as many agents as its quota allows.
        QuotaExceeded,

        /// The Service of the backend, or its port, is not there.
        BackendNotFound,
        /// A SipDomain that is named is not there or was refused.
        DomainNotFound,
        /// A Secret is not there or lacks what it is named for.
        SecretNotFound,
        /// A ConfigMap is not there or lacks what it is named for.
        ConfigMapNotFound,
        /// The reference leads into a namespace or to a kind that it must not lead to.
        RefNotPermitted,
        /// A SipEdge that is named, or its listener, is not there or was refused.
        EdgeNotFound,
        /// The SessionStore is not there or was refused.
        StoreNotFound,
        /// More than one edge, and a store that only one may use.
        StoreNotShared,
        /// The store of an edge cannot give the domain's durability class; it is never lowered.
        DurabilityNotAvailable,
        /// What a policy is for is not there or was refused.
        TargetNotFound,
        /// An expression of a policy reads an argument that the tool does not take.
        UnknownArgument,

        /// The edges have not answered yet.
        Pending,
        /// Some edges have this generation, others not yet or refused it.
        PartiallyProgrammed,
        /// Every edge refused it; the message has the first reason.
        Rejected,
        /// No edge is connected, or none serves it.
        NoEdge,
        /// Another policy decides everything that this one would.
        Overridden,
        /// Policies of the same level contradict each other.
        Conflicted,

        /// Credentials were refused.
        AuthFailed,
        /// The registration ended and was not refreshed.
        Expired,
        /// The tools are not what they were.
        ToolDrift,
        /// A tool whose schema breaks the bounds is not offered.
        ToolQuarantined,
        /// The backend's tools were not listed yet.
        NotDiscovered,

        /// The store does not answer.
        ConnectFailed,
        /// The store answers with what is no RESP, or is a version that is not supported.
        ProtocolError,
        /// Neither AOF nor snapshots are on.
        NotPersistent,
        /// The `maxmemory-policy` may drop live keys; it must be `noeviction`.
        PolicyEvicts,
        /// No pod of the edge is ready.
        NoPod,
        /// Nothing is known of it yet.
        Unknown,
    }
}

impl ConditionType {
    /// The reason of status `True`.
    pub fn good(self) -> Reason {
        match self {
            ConditionType::Accepted => Reason::Accepted,
            ConditionType::ResolvedRefs => Reason::ResolvedRefs,
            ConditionType::Programmed => Reason::Programmed,
            ConditionType::Registered => Reason::Registered,
            ConditionType::ToolsVerified => Reason::Verified,
            ConditionType::Ready => Reason::Ready,
            ConditionType::Reachable => Reason::Reachable,
            ConditionType::Durable => Reason::Durable,
            ConditionType::EvictionSafe => Reason::EvictionSafe,
        }
    }

    /// The conditions of a kind, in the order in which they are shown; empty for a kind that is not ours.
    pub fn of_kind(kind: &str) -> &'static [ConditionType] {
        use ConditionType::{
            Accepted, Durable, EvictionSafe, Programmed, Reachable, Ready, Registered, ResolvedRefs, ToolsVerified,
        };
        match kind {
            "McpAgent" => &[Accepted, ResolvedRefs, Programmed, Registered, ToolsVerified, Ready],
            "SipDomain" | "SipEdge" => &[Accepted, ResolvedRefs, Programmed, Ready],
            "McpCapabilityPolicy" => &[Accepted, ResolvedRefs, Programmed],
            "SessionStore" => &[Accepted, ResolvedRefs, Reachable, Durable, EvictionSafe],
            _ => &[],
        }
    }
}

impl Reason {
    /// The condition that is `False` for this reason when an object is judged; `None` for a reason that only edges or pods give.
    pub fn condition(self) -> Option<ConditionType> {
        match self {
            Reason::InvalidSpec
            | Reason::InvalidPolicy
            | Reason::DomainNotAllowed
            | Reason::AddressConflict
            | Reason::DomainConflict
            | Reason::UnsupportedValue
            | Reason::QuotaExceeded => Some(ConditionType::Accepted),
            Reason::BackendNotFound
            | Reason::DomainNotFound
            | Reason::SecretNotFound
            | Reason::ConfigMapNotFound
            | Reason::RefNotPermitted
            | Reason::EdgeNotFound
            | Reason::StoreNotFound
            | Reason::StoreNotShared
            | Reason::DurabilityNotAvailable
            | Reason::TargetNotFound
            | Reason::UnknownArgument => Some(ConditionType::ResolvedRefs),
            _ => None,
        }
    }
}

/// The condition of this type, if there is one.
pub fn condition(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == type_.as_str())
}

/// Schema of `conditions`: `metav1.Condition` with its bounds, a list map by `type` so that server-side apply merges it.
pub(super) fn conditions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_CONDITIONS,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One thing that can be true or false of the object (metav1.Condition).",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[A-Za-z][A-Za-z0-9]*$",
                    "description": "What the condition is about.",
                },
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[A-Za-z][A-Za-z0-9]*$",
                    "description": "Why, in one word that scripts may rely on.",
                },
                "message": {
                    "type": "string", "maxLength": 32768,
                    "description": "What is wrong and what to do, for people. May be empty.",
                },
                "lastTransitionTime": {
                    "type": "string", "format": "date-time", "maxLength": 64,
                    "description": "When the status last changed.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0, "maximum": 999_999_999_999_999_i64,
                    "description": "The metadata.generation that was judged. Lower than the object's: not yet up to date.",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_a_valid_reason_and_says_what_it_means() {
        for (word, meaning) in ConditionType::ALL
            .iter()
            .map(|word| (word.as_str(), word.meaning()))
            .chain(Reason::ALL.iter().map(|word| (word.as_str(), word.meaning())))
        {
            assert!(word.len() <= 63 && word.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{word}");
            assert!(meaning.len() > 5 && meaning.ends_with('.'), "{word}: {meaning:?}");
        }
    }

    #[test]
    fn no_kind_has_more_than_eight_conditions() {
        for crd in crate::schema::all() {
            let kind = &*crd.spec.names.kind;
            let conditions = ConditionType::of_kind(kind);
            assert!(!conditions.is_empty() && conditions.len() <= MAX_CONDITIONS, "{kind}");
        }
    }
}
