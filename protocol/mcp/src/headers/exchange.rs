//! The header field `MCP-Exchange` (binding 5.3) in MSRP SEND, SIP MESSAGE and SIP INFO:
//! `MCP-Exchange: <exchange>;rel=caller|callee *( ";" generic-param )`.

use std::fmt;

use super::grammar::{Cursor, Parameter, check_new};
use super::{HeaderError, MAX_ENTRIES};
use crate::exchange::{Exchange, Relation};

/// Which exchange and which relation a message belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpExchange {
    /// The exchange, or `session`.
    pub exchange: Exchange,
    /// The relation: which side is the MCP client.
    pub relation: Relation,
    /// Parameters that we do not know, in order.
    pub generic: Vec<Parameter>,
}

impl McpExchange {
    /// A header without further parameters.
    #[must_use]
    pub fn new(exchange: Exchange, relation: Relation) -> McpExchange {
        McpExchange { exchange, relation, generic: Vec::new() }
    }

    /// Reads the value. The exchange is case-sensitive (base64url), the rest is not.
    ///
    /// # Errors
    /// Not the grammar, no `rel`, or over a limit.
    pub fn parse(value: &[u8]) -> Result<McpExchange, HeaderError> {
        let mut cursor = Cursor::new(value)?;
        let text = cursor.token()?;
        let exchange = text
            .parse::<Exchange>()
            .map_err(|_| HeaderError::Value { parameter: "exchange", value: text.to_owned() })?;
        let mut relation = None;
        let mut generic: Vec<Parameter> = Vec::new();
        while cursor.take(b';') {
            let parameter = cursor.parameter()?;
            let taken = generic.iter().map(Parameter::name).chain(relation.map(|_| "rel"));
            check_new(taken, parameter.name())?;
            if !parameter.name().eq_ignore_ascii_case("rel") {
                if generic.len() == MAX_ENTRIES {
                    return Err(HeaderError::TooMany);
                }
                generic.push(parameter);
                continue;
            }
            let text = parameter.raw_value().unwrap_or_default();
            relation = Some(match text.to_ascii_lowercase().as_str() {
                "caller" => Relation::Caller,
                "callee" => Relation::Callee,
                _ => return Err(HeaderError::Value { parameter: "rel", value: text.to_owned() }),
            });
        }
        if cursor.peek().is_some() {
            return cursor.expected("a semicolon");
        }
        let relation = relation.ok_or(HeaderError::Missing("rel"))?;
        Ok(McpExchange { exchange, relation, generic })
    }
}

impl fmt::Display for McpExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};rel={}", self.exchange, self.relation)?;
        for parameter in &self.generic {
            write!(f, ";{parameter}")?;
        }
        Ok(())
    }
}
