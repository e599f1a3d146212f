//! The value of an expression for the arguments of one call.

use super::Failure;
use super::compile::{Arithmetic, Node, Order, Quantifier, Test};
use super::value::Given;
use serde_json::Value;
use std::borrow::Cow;

/// Octets of a text that `+` makes.
const MAX_TEXT: usize = 65_536;

pub(super) fn holds(root: &Node, args: &Value, steps: u32) -> Result<bool, Failure> {
    let mut evaluation = Evaluation { args, budget: Budget(steps), variables: Vec::new() };
    let given = evaluation.value(root);
    // `||` and `&&` may pass over a failure, but not over this one.
    if evaluation.budget.0 == 0 {
        return Err(Failure::TooMuch);
    }
    truth(given?)
}

/// Steps that are left.
pub(super) struct Budget(u32);

impl Budget {
    pub fn spend(&mut self, steps: u32) -> Result<(), Failure> {
        self.0 = self.0.saturating_sub(steps);
        if self.0 == 0 { Err(Failure::TooMuch) } else { Ok(()) }
    }

    pub fn text(&mut self, octets: usize) -> Result<(), Failure> {
        self.spend(u32::try_from(octets / 32).unwrap_or(u32::MAX))
    }
}

struct Evaluation<'a> {
    args: &'a Value,
    budget: Budget,
    variables: Vec<Given<'a>>,
}

fn truth(given: Given<'_>) -> Result<bool, Failure> {
    match given {
        Given::Bool(value) => Ok(value),
        _ => Err(Failure::Types("a condition")),
    }
}

impl<'a> Evaluation<'a> {
    fn value(&mut self, node: &Node) -> Result<Given<'a>, Failure> {
        self.budget.spend(1)?;
        Ok(match node {
            Node::Null => Given::Null,
            Node::Bool(value) => Given::Bool(*value),
            Node::Int(value) => Given::Int(*value),
            Node::Double(value) => Given::Double(*value),
            Node::Text(text) => Given::Text(Cow::Owned(text.clone())),
            Node::List(nodes) => Given::List(nodes.iter().map(|node| self.value(node)).collect::<Result<Vec<_>, _>>()?),
            Node::Args => Given::from(self.args),
            Node::Variable(place) => {
                let found = self.variables.get(*place).ok_or_else(|| Failure::Missing("a variable".to_owned()))?;
                self.budget.text(found.owned_octets())?;
                found.clone()
            }
            Node::Field(of, field) => {
                let of = self.value(of)?;
                field_of(&of, field)?.ok_or_else(|| Failure::Missing(field.clone()))?
            }
            Node::Has(of, field) => {
                let of = self.value(of)?;
                Given::Bool(field_of(&of, field)?.is_some())
            }
            Node::Index(pair) => {
                let [of, place] = &**pair;
                let (of, place) = (self.value(of)?, self.value(place)?);
                index(&of, &place)?
            }
            Node::Not(of) => Given::Bool(!self.truth(of)?),
            Node::Negate(of) => match self.value(of)? {
                Given::Int(value) => whole(value.checked_neg())?,
                Given::Double(value) => Given::Double(-value),
                _ => return Err(Failure::Types("-")),
            },
            Node::Size(of) => {
                let of = self.value(of)?;
                if let Given::Text(text) = &of {
                    self.budget.text(text.len())?;
                }
                let len = of.len().ok_or(Failure::Types("size"))?;
                Given::Int(len as i128)
            }
            Node::Both(pair) => self.absorbed(pair, false)?,
            Node::Either(pair) => self.absorbed(pair, true)?,
            Node::If(three) => {
                let [condition, yes, no] = &**three;
                if self.truth(condition)? { self.value(yes)? } else { self.value(no)? }
            }
            Node::Equal(pair) => {
                let (a, b) = self.pair(pair)?;
                Given::Bool(a.equals(&b, &mut self.budget)?)
            }
            Node::Order(order, pair) => {
                let (a, b) = self.pair(pair)?;
                let found = a.order(&b, &mut self.budget)?;
                Given::Bool(found.is_some_and(|found| match order {
                    Order::Less => found.is_lt(),
                    Order::LessOrEqual => found.is_le(),
                    Order::Greater => found.is_gt(),
                    Order::GreaterOrEqual => found.is_ge(),
                }))
            }
            Node::Arithmetic(operation, pair) => {
                let (a, b) = self.pair(pair)?;
                self.arithmetic(*operation, a, b)?
            }
            Node::Among(pair) => {
                let (element, of) = self.pair(pair)?;
                Given::Bool(self.among(&element, of)?)
            }
            Node::Test(test, pair) => {
                let (Given::Text(text), Given::Text(part)) = self.pair(pair)? else {
                    return Err(Failure::Types("a test of a text"));
                };
                self.budget.text(text.len().max(part.len()))?;
                Given::Bool(match test {
                    Test::StartsWith => text.starts_with(&*part),
                    Test::EndsWith => text.ends_with(&*part),
                    Test::Contains => text.contains(&*part),
                })
            }
            Node::Quantifier(quantifier, pair) => {
                let [over, body] = &**pair;
                let over = self.value(over)?;
                Given::Bool(self.quantify(*quantifier, over, body)?)
            }
        })
    }

    fn truth(&mut self, node: &Node) -> Result<bool, Failure> {
        self.value(node).and_then(truth)
    }

    fn pair(&mut self, pair: &[Node; 2]) -> Result<(Given<'a>, Given<'a>), Failure> {
        let [a, b] = pair;
        Ok((self.value(a)?, self.value(b)?))
    }

    /// `&&` and `||`: one side that decides is enough, whatever the other one is.
    fn absorbed(&mut self, pair: &[Node; 2], decides: bool) -> Result<Given<'a>, Failure> {
        let [a, b] = pair;
        let first = self.truth(a);
        if first == Ok(decides) {
            return Ok(Given::Bool(decides));
        }
        let second = self.truth(b);
        if second == Ok(decides) {
            return Ok(Given::Bool(decides));
        }
        first.and(second).map(Given::Bool)
    }

    fn quantify(&mut self, quantifier: Quantifier, over: Given<'a>, body: &Node) -> Result<bool, Failure> {
        let elements = over.elements().ok_or(Failure::Types("a quantifier"))?;
        let (mut held, mut failed) = (0_u32, None);
        for element in elements {
            self.variables.push(element);
            let given = self.truth(body);
            self.variables.pop();
            match (quantifier, given) {
                (_, Err(Failure::TooMuch)) => return Err(Failure::TooMuch),
                (Quantifier::All, Ok(false)) => return Ok(false),
                (Quantifier::Exists, Ok(true)) => return Ok(true),
                (_, Ok(true)) => held = held.saturating_add(1),
                (_, Ok(false)) => {}
                (_, Err(failure)) => failed = failed.or(Some(failure)),
            }
        }
        match (failed, quantifier) {
            (Some(failure), _) => Err(failure),
            (None, Quantifier::All) => Ok(true),
            (None, Quantifier::Exists) => Ok(false),
            (None, Quantifier::ExistsOne) => Ok(held == 1),
        }
    }

    fn among(&mut self, element: &Given<'a>, of: Given<'a>) -> Result<bool, Failure> {
        if let Given::Object(fields) = &of {
            return match element {
                Given::Text(key) => Ok(fields.contains_key(&**key)),
                _ => Err(Failure::Types("in")),
            };
        }
        for other in of.elements().ok_or(Failure::Types("in"))? {
            if element.equals(&other, &mut self.budget)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn arithmetic(&mut self, operation: Arithmetic, a: Given<'a>, b: Given<'a>) -> Result<Given<'a>, Failure> {
        use Arithmetic::{Add, Divide, Multiply, Remainder, Subtract};
        match (a, b) {
            (Given::Int(a), Given::Int(b)) => whole(match operation {
                Add => a.checked_add(b),
                Subtract => a.checked_sub(b),
                Multiply => a.checked_mul(b),
                Divide => a.checked_div(b),
                Remainder => a.checked_rem(b),
            }),
            (Given::Text(a), Given::Text(b)) if operation == Add => {
                if a.len().saturating_add(b.len()) > MAX_TEXT {
                    return Err(Failure::Range);
                }
                self.budget.text(a.len() + b.len())?;
                Ok(Given::Text(Cow::Owned(format!("{a}{b}"))))
            }
            (a, b) => {
                let (Some(a), Some(b)) = (double(&a), double(&b)) else { return Err(Failure::Types("arithmetic")) };
                match operation {
                    Add => Ok(Given::Double(a + b)),
                    Subtract => Ok(Given::Double(a - b)),
                    Multiply => Ok(Given::Double(a * b)),
                    Divide => Ok(Given::Double(a / b)),
                    Remainder => Err(Failure::Types("%")),
                }
            }
        }
    }
}

fn double(given: &Given<'_>) -> Option<f64> {
    match given {
        Given::Int(value) => Some(*value as f64),
        Given::Double(value) => Some(*value),
        _ => None,
    }
}

/// A result within what JSON's whole numbers are.
fn whole<'a>(value: Option<i128>) -> Result<Given<'a>, Failure> {
    let range = i128::from(i64::MIN)..=i128::from(u64::MAX);
    value.filter(|value| range.contains(value)).map(Given::Int).ok_or(Failure::Range)
}

fn field_of<'a>(of: &Given<'a>, field: &str) -> Result<Option<Given<'a>>, Failure> {
    match of {
        Given::Object(fields) => Ok(fields.get(field).map(Given::from)),
        _ => Err(Failure::Types("a field")),
    }
}

fn index<'a>(of: &Given<'a>, place: &Given<'a>) -> Result<Given<'a>, Failure> {
    match (of, place) {
        (Given::Object(fields), Given::Text(key)) => {
            // The key may come from the call, so it is not repeated.
            fields.get(&**key).map(Given::from).ok_or_else(|| Failure::Missing("a key".to_owned()))
        }
        (Given::List(_) | Given::Array(_), Given::Int(place)) => {
            let found = usize::try_from(*place).ok().and_then(|place| of.at(place));
            found.ok_or_else(|| Failure::Missing("an element".to_owned()))
        }
        _ => Err(Failure::Types("[]")),
    }
}
