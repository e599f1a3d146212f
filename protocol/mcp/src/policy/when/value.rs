//! What an expression gives.

use super::Failure;
use super::evaluate::Budget;
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;

/// A value; what comes from the call is borrowed from it.
#[derive(Clone, Debug)]
pub(super) enum Given<'a> {
    Null,
    Bool(bool),
    /// Every whole number of JSON, signed or not.
    Int(i128),
    Double(f64),
    Text(Cow<'a, str>),
    /// A list that the expression wrote.
    List(Vec<Given<'a>>),
    Array(&'a [Value]),
    Object(&'a serde_json::Map<String, Value>),
}

impl<'a> From<&'a Value> for Given<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Given::Null,
            Value::Bool(value) => Given::Bool(*value),
            Value::String(text) => Given::Text(Cow::Borrowed(text)),
            Value::Array(items) => Given::Array(items),
            Value::Object(fields) => Given::Object(fields),
            Value::Number(number) => {
                let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
                whole.map_or_else(|| Given::Double(number.as_f64().unwrap_or(f64::NAN)), Given::Int)
            }
        }
    }
}

impl<'a> Given<'a> {
    /// The elements of a list, or the keys of a map.
    pub fn elements(self) -> Option<Box<dyn ExactSizeIterator<Item = Given<'a>> + 'a>> {
        match self {
            Given::List(items) => Some(Box::new(items.into_iter())),
            Given::Array(items) => Some(Box::new(items.iter().map(Given::from))),
            Given::Object(fields) => Some(Box::new(fields.keys().map(|key| Given::Text(Cow::Borrowed(key))))),
            _ => None,
        }
    }

    /// Equality of CEL: values of different types are different, numbers are compared as numbers.
    pub fn equals(&self, other: &Given<'_>, budget: &mut Budget) -> Result<bool, Failure> {
        budget.spend(1)?;
        Ok(match (self, other) {
            (Given::Null, Given::Null) => true,
            (Given::Bool(a), Given::Bool(b)) => a == b,
            (Given::Text(a), Given::Text(b)) => {
                budget.text(a.len().min(b.len()))?;
                a == b
            }
            (Given::Int(_) | Given::Double(_), Given::Int(_) | Given::Double(_)) => {
                self.number_order(other) == Some(Ordering::Equal)
            }
            (Given::Object(a), Given::Object(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, value) in a.iter() {
                    let Some(theirs) = b.get(key) else { return Ok(false) };
                    if !Given::from(value).equals(&Given::from(theirs), budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Given::List(_) | Given::Array(_), Given::List(_) | Given::Array(_)) => {
                let len = self.len();
                if len != other.len() {
                    return Ok(false);
                }
                for place in 0..len.unwrap_or_default() {
                    let (Some(a), Some(b)) = (self.at(place), other.at(place)) else { return Ok(false) };
                    if !a.equals(&b, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            _ => false,
        })
    }

    /// The order of two numbers or two texts; `None` for a NaN.
    pub fn order(&self, other: &Given<'_>, budget: &mut Budget) -> Result<Option<Ordering>, Failure> {
        match (self, other) {
            (Given::Text(a), Given::Text(b)) => {
                budget.text(a.len().min(b.len()))?;
                Ok(Some(a.cmp(b)))
            }
            (Given::Int(_) | Given::Double(_), Given::Int(_) | Given::Double(_)) => Ok(self.number_order(other)),
            _ => Err(Failure::Types("an order")),
        }
    }

    fn number_order(&self, other: &Given<'_>) -> Option<Ordering> {
        match (self, other) {
            (Given::Int(a), Given::Int(b)) => Some(a.cmp(b)),
            (Given::Double(a), Given::Double(b)) => a.partial_cmp(b),
            (Given::Int(a), Given::Double(b)) => exact(*a, *b),
            (Given::Double(a), Given::Int(b)) => exact(*b, *a).map(Ordering::reverse),
            _ => None,
        }
    }

    /// Elements of a list or a map, characters of a text.
    pub fn len(&self) -> Option<usize> {
        match self {
            Given::Text(text) => Some(text.chars().count()),
            Given::List(items) => Some(items.len()),
            Given::Array(items) => Some(items.len()),
            Given::Object(fields) => Some(fields.len()),
            _ => None,
        }
    }

    /// What a copy costs: octets of texts that the expression made, and 32 for each element of its lists.
    pub fn owned_octets(&self) -> usize {
        match self {
            Given::Text(Cow::Owned(text)) => text.len(),
            Given::List(items) => items.iter().map(|item| item.owned_octets().saturating_add(32)).sum(),
            _ => 0,
        }
    }

    /// An element of a list.
    pub fn at(&self, place: usize) -> Option<Given<'a>> {
        match self {
            Given::List(items) => items.get(place).cloned(),
            Given::Array(items) => items.get(place).map(Given::from),
            _ => None,
        }
    }
}

/// Compares without the loss that a whole number beyond 2^53 has as a double.
fn exact(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // The cast saturates: what lies beyond i128 is beyond every whole number of JSON, too.
    let truncated = double.trunc() as i128;
    Some(whole.cmp(&truncated).then_with(|| 0.0_f64.total_cmp(&(double.fract() + 0.0))))
}
