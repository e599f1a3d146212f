//! From the text to an expression that names only what is there.

use super::{MAX_BRACKETS, MAX_DEPTH, MAX_SOURCE, WhenError};
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use cel::parser::Parser;
use std::collections::BTreeSet;

/// Nodes within one another.
const MAX_NODES_DEEP: u16 = 128;

/// An expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i128),
    Double(f64),
    Text(String),
    List(Vec<Node>),
    Args,
    /// The variable of a quantifier, counted from the outermost.
    Variable(usize),
    Field(Box<Node>, String),
    Has(Box<Node>, String),
    Index(Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Size(Box<Node>),
    Both(Box<[Node; 2]>),
    Either(Box<[Node; 2]>),
    If(Box<[Node; 3]>),
    Equal(Box<[Node; 2]>),
    Order(Order, Box<[Node; 2]>),
    Arithmetic(Arithmetic, Box<[Node; 2]>),
    Among(Box<[Node; 2]>),
    Test(Test, Box<[Node; 2]>),
    Quantifier(Quantifier, Box<[Node; 2]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    All,
    Exists,
    ExistsOne,
}

/// A condition, and what it says of the arguments.
pub(super) struct Compiled {
    pub root: Node,
    /// Names of arguments.
    pub arguments: BTreeSet<String>,
    /// Texts that it wrote, in order.
    pub texts: Vec<String>,
}

pub(super) fn compile(source: &str) -> Result<Compiled, WhenError> {
    if source.len() > MAX_SOURCE {
        return Err(WhenError::TooLong(source.len()));
    }
    if too_deep(source) {
        return Err(WhenError::TooDeep);
    }
    if repeats_a_sign(source) {
        return Err(WhenError::Unsupported("a sign twice in a row (`!!`, `--`)"));
    }
    let parsed = Parser::new().max_recursion_depth(u16::MAX).parse(source).map_err(|errors| {
        let error = errors.errors.into_iter().next();
        let (line, column) = error.as_ref().map_or((1, 0), |error| error.pos);
        let message = error.map(|error| error.msg.replace(['\n', '\r'], " ")).unwrap_or_default();
        let place = |n: isize| usize::try_from(n).unwrap_or_default();
        WhenError::Syntax { line: place(line).max(1), column: place(column).saturating_add(1), message }
    })?;
    let mut compiler = Compiler { arguments: BTreeSet::new(), texts: Vec::new(), scope: Vec::new(), depth: 0 };
    let root = compiler.node(&parsed)?;
    let never = matches!(
        root,
        Node::Null
            | Node::Int(_)
            | Node::Double(_)
            | Node::Text(_)
            | Node::List(_)
            | Node::Args
            | Node::Negate(_)
            | Node::Size(_)
            | Node::Arithmetic(..)
    );
    if never {
        return Err(WhenError::NotABoolean);
    }
    Ok(Compiled { root, arguments: compiler.arguments, texts: compiler.texts })
}

/// Counts what nests before the parser, which recurses, sees it. The parser's own limit cannot be used: where it strikes, its counter
/// underflows (cel 0.13), which is a panic where overflow is checked. Text in quotes counts too, which refuses a little more than is needed;
/// and because a bracket in quotes closes nothing, there is a bound for all brackets besides.
fn too_deep(source: &str) -> bool {
    let (mut open, mut all, mut choices) = (0_u16, 0_u16, 0_u16);
    source.chars().any(|c| {
        match c {
            '(' | '[' | '{' => (open, all) = (open + 1, all + 1),
            ')' | ']' | '}' => open = open.saturating_sub(1),
            '?' => choices += 1,
            _ => {}
        }
        open > MAX_DEPTH || all > MAX_BRACKETS || choices > MAX_DEPTH
    })
}

/// `!!a` and `--a`, also in quotes: the parser (cel 0.13) takes an even number of signs for one, which turns a condition around. A comment
/// after a sign could hide the second one.
fn repeats_a_sign(source: &str) -> bool {
    let bare: String = source.chars().filter(|c| !c.is_whitespace()).collect();
    ["!!", "--", "!//", "-//"].into_iter().any(|pair| bare.contains(pair))
}

struct Compiler {
    arguments: BTreeSet<String>,
    texts: Vec<String>,
    /// Names of the quantifiers' variables, the outermost first.
    scope: Vec<String>,
    /// Nodes around the one at hand.
    depth: u16,
}

impl Compiler {
    fn node(&mut self, parsed: &IdedExpr) -> Result<Node, WhenError> {
        // Operators of one level in a row (`a + b + c`) nest too, without a bracket.
        if self.depth >= MAX_NODES_DEEP {
            return Err(WhenError::TooDeep);
        }
        self.depth += 1;
        let node = self.bare(parsed);
        self.depth -= 1;
        node
    }

    fn bare(&mut self, parsed: &IdedExpr) -> Result<Node, WhenError> {
        match &parsed.expr {
            Expr::Literal(literal) => {
                let node = self::literal(literal)?;
                if let Node::Text(text) = &node {
                    self.texts.push(text.clone());
                }
                Ok(node)
            }
            Expr::Ident(name) => match self.scope.iter().rposition(|variable| variable == name) {
                Some(place) => Ok(Node::Variable(place)),
                None if name == "args" => Ok(Node::Args),
                None => Err(WhenError::UnknownVariable(name.clone())),
            },
            Expr::List(list) if list.optional_indices.is_empty() => {
                Ok(Node::List(list.elements.iter().map(|element| self.node(element)).collect::<Result<_, _>>()?))
            }
            Expr::List(_) => Err(WhenError::Unsupported("an optional element")),
            Expr::Select(SelectExpr { operand, field, test }) => {
                let of = self.node(operand)?;
                self.named(&of, field);
                let of = Box::new(of);
                Ok(if *test { Node::Has(of, field.clone()) } else { Node::Field(of, field.clone()) })
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.quantifier(comprehension),
            Expr::Map(_) | Expr::Struct(_) => Err(WhenError::Unsupported("a map")),
            Expr::Unspecified => Err(WhenError::Unsupported("an empty expression")),
        }
    }

    fn named(&mut self, of: &Node, field: &str) {
        if matches!(of, Node::Args) {
            self.arguments.insert(field.to_owned());
        }
    }

    fn pair(&mut self, first: &IdedExpr, second: &IdedExpr) -> Result<Box<[Node; 2]>, WhenError> {
        Ok(Box::new([self.node(first)?, self.node(second)?]))
    }

    fn call(&mut self, call: &CallExpr) -> Result<Node, WhenError> {
        let name = call.func_name.as_str();
        let unknown = || WhenError::UnknownFunction(name.to_owned());
        let operands: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let method = call.target.is_some();
        Ok(match (name, method, operands.as_slice()) {
            (operators::LOGICAL_NOT, false, [a]) => Node::Not(Box::new(self.node(a)?)),
            (operators::NEGATE, false, [a]) => Node::Negate(Box::new(self.node(a)?)),
            (operators::LOGICAL_AND, false, [first, rest @ ..]) => self.chain(first, rest, Node::Both)?,
            (operators::LOGICAL_OR, false, [first, rest @ ..]) => self.chain(first, rest, Node::Either)?,
            (operators::CONDITIONAL, false, [a, b, c]) => {
                Node::If(Box::new([self.node(a)?, self.node(b)?, self.node(c)?]))
            }
            (operators::EQUALS, false, [a, b]) => Node::Equal(self.pair(a, b)?),
            (operators::NOT_EQUALS, false, [a, b]) => Node::Not(Box::new(Node::Equal(self.pair(a, b)?))),
            (operators::LESS, false, [a, b]) => Node::Order(Order::Less, self.pair(a, b)?),
            (operators::LESS_EQUALS, false, [a, b]) => Node::Order(Order::LessOrEqual, self.pair(a, b)?),
            (operators::GREATER, false, [a, b]) => Node::Order(Order::Greater, self.pair(a, b)?),
            (operators::GREATER_EQUALS, false, [a, b]) => Node::Order(Order::GreaterOrEqual, self.pair(a, b)?),
            (operators::ADD, false, [a, b]) => Node::Arithmetic(Arithmetic::Add, self.pair(a, b)?),
            (operators::SUBSTRACT, false, [a, b]) => Node::Arithmetic(Arithmetic::Subtract, self.pair(a, b)?),
            (operators::MULTIPLY, false, [a, b]) => Node::Arithmetic(Arithmetic::Multiply, self.pair(a, b)?),
            (operators::DIVIDE, false, [a, b]) => Node::Arithmetic(Arithmetic::Divide, self.pair(a, b)?),
            (operators::MODULO, false, [a, b]) => Node::Arithmetic(Arithmetic::Remainder, self.pair(a, b)?),
            (operators::IN, false, [a, b]) => Node::Among(self.pair(a, b)?),
            (operators::INDEX, false, [a, b]) => {
                let pair = self.pair(a, b)?;
                if let [of, Node::Text(field)] = &*pair {
                    self.named(of, field);
                }
                Node::Index(pair)
            }
            ("size", _, [a]) => Node::Size(Box::new(self.node(a)?)),
            ("startsWith", true, [a, b]) => Node::Test(Test::StartsWith, self.pair(a, b)?),
            ("endsWith", true, [a, b]) => Node::Test(Test::EndsWith, self.pair(a, b)?),
            ("contains", true, [a, b]) => Node::Test(Test::Contains, self.pair(a, b)?),
            _ => return Err(unknown()),
        })
    }

    fn chain(
        &mut self,
        first: &IdedExpr,
        rest: &[&IdedExpr],
        join: fn(Box<[Node; 2]>) -> Node,
    ) -> Result<Node, WhenError> {
        let mut joined = self.node(first)?;
        for next in rest {
            joined = join(Box::new([joined, self.node(next)?]));
        }
        Ok(joined)
    }

    /// The parser writes `all`, `exists` and `exists_one` out as loops, each with a step of its own form. The other loops (`map`, `filter`)
    /// are left out: what they make has no bound of its own.
    fn quantifier(&mut self, loop_: &ComprehensionExpr) -> Result<Node, WhenError> {
        let left_out = || WhenError::UnknownFunction("map or filter".to_owned());
        let Expr::Call(CallExpr { func_name, args, .. }) = &loop_.loop_step.expr else { return Err(left_out()) };
        let (quantifier, body) = match (&loop_.accu_init.expr, func_name.as_str(), args.as_slice()) {
            (Expr::Literal(LiteralValue::Boolean(_)), operators::LOGICAL_AND, [_, body]) => (Quantifier::All, body),
            (Expr::Literal(LiteralValue::Boolean(_)), operators::LOGICAL_OR, [_, body]) => (Quantifier::Exists, body),
            (Expr::Literal(LiteralValue::Int(_)), operators::CONDITIONAL, [body, _, _]) => {
                (Quantifier::ExistsOne, body)
            }
            _ => return Err(left_out()),
        };
        let over = self.node(&loop_.iter_range)?;
        self.scope.push(loop_.iter_var.clone());
        let body = self.node(body);
        self.scope.pop();
        Ok(Node::Quantifier(quantifier, Box::new([over, body?])))
    }
}

fn literal(literal: &LiteralValue) -> Result<Node, WhenError> {
    Ok(match literal {
        LiteralValue::Null => Node::Null,
        LiteralValue::Boolean(value) => Node::Bool(*value.inner()),
        LiteralValue::Int(value) => Node::Int((*value.inner()).into()),
        LiteralValue::UInt(value) => Node::Int((*value.inner()).into()),
        LiteralValue::Double(value) => Node::Double(*value.inner()),
        LiteralValue::String(value) => Node::Text(value.inner().to_owned()),
        LiteralValue::Bytes(_) => return Err(WhenError::Unsupported("a literal of octets")),
    })
}
