//! Who may: everybody, or what carries certain labels.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The label that every namespace carries: its name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Who is allowed: all, or those with certain labels.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
        .message("from: Selector needs selector, and selector needs from: Selector")
)]
pub struct Allowed {
    /// All of them, or those that `selector` selects.
    #[serde(default)]
    pub from: AllowedFrom,

    /// With `from: Selector`: the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Who is allowed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowedFrom {
    #[default]
    All,
    Selector,
}

/// A selector over labels; all its parts must hold (metav1.LabelSelector). Empty: everything.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema")]
    pub match_labels: Labels,

    /// Requirements on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A requirement on one label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)")
        .message("In and NotIn need values; Exists and DoesNotExist must not have them")
)]
pub struct LabelRequirement {
    /// Name of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label stands to the values.
    pub operator: LabelOperator,
    /// The values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label stands to values.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelOperator {
    /// It is there and has one of them.
    In,
    /// It is not there, or has none of them.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

fn labels_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object", "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

impl Allowed {
    /// Whether an object with these labels is allowed. A selector that is missing allows nobody.
    pub fn allows(&self, labels: &Labels) -> bool {
        match self.from {
            AllowedFrom::All => true,
            AllowedFrom::Selector => self.selector.as_ref().is_some_and(|selector| selector.matches(labels)),
        }
    }
}

impl LabelSelector {
    /// Whether labels fulfil every part.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }

    /// The labels that it looks at.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let expressions = self.match_expressions.iter().map(|requirement| &*requirement.key);
        self.match_labels.keys().map(String::as_str).chain(expressions)
    }
}

impl LabelRequirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => listed,
            LabelOperator::NotIn => !listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_selector_selects_as_kubernetes_does() {
        let require = |operator, values: &[&str]| LabelSelector {
            match_expressions: vec![LabelRequirement {
                key: "tier".into(),
                operator,
                values: values.iter().map(|value| (*value).to_owned()).collect(),
            }],
            match_labels: labels(&[("tenant", "acme")]),
        };
        let gold = labels(&[("tenant", "acme"), ("tier", "gold")]);
        let none = labels(&[("tenant", "acme")]);
        for (operator, values, of_gold, of_none) in [
            (LabelOperator::In, &["gold", "silver"][..], true, false),
            (LabelOperator::In, &["silver"], false, false),
            (LabelOperator::NotIn, &["gold"], false, true),
            (LabelOperator::Exists, &[], true, false),
            (LabelOperator::DoesNotExist, &[], false, true),
        ] {
            let selector = require(operator, values);
            assert_eq!(
                (selector.matches(&gold), selector.matches(&none)),
                (of_gold, of_none),
                "{operator:?} {values:?}"
            );
            assert!(!selector.matches(&labels(&[("tenant", "other"), ("tier", "gold")])), "both parts must hold");
        }
        assert!(LabelSelector::default().matches(&gold), "an empty selector is everything");
    }

    #[test]
    fn nobody_is_allowed_by_a_selector_that_is_missing() {
        assert!(Allowed::default().allows(&Labels::new()));
        assert!(!Allowed { from: AllowedFrom::Selector, selector: None }.allows(&Labels::new()));
    }
}
