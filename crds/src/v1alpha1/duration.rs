//! A length of time as Kubernetes writes it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A length of time in whole seconds: `30m`, `24h`, `1h30m`, `90s`. Units in this order, each once.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct Duration(String);

impl Duration {
    /// The form: the subset of Go's durations that Gateway API allows (GEP-2257), in whole seconds.
    pub const PATTERN: &str = "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$";

    /// A duration as it would stand in a manifest.
    pub fn new(text: impl Into<String>) -> Self {
        Duration(text.into())
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Seconds; `None` for a text of another form, which a validated object never has.
    pub fn seconds(&self) -> Option<u64> {
        let mut rest = &*self.0;
        let mut total = 0;
        for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
            let Some((number, after)) = rest.split_once(unit) else { continue };
            if number.is_empty() || number.len() > 5 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            total += number.parse::<u64>().ok()? * seconds;
            rest = after;
        }
        (rest.is_empty() && !self.0.is_empty()).then_some(total)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 2, "maxLength": 18, "pattern": Self::PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_hours_minutes_and_seconds_in_this_order() {
        let seconds = |text: &str| Duration::new(text).seconds();
        assert_eq!(seconds("30m"), Some(1800));
        assert_eq!(seconds("24h"), Some(86_400));
        assert_eq!(seconds("1h30m5s"), Some(5405));
        for wrong in ["", "30", "m", "5s1m", "1m1m", "-1m", "1.5h", "123456s", "1d", "1m "] {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }
}
