//! Conditions as small programs of our own, so that a common rule costs nanoseconds.
//!
//! ```text
//! Cedar policy ──translate──► Test ──holds(question)──► Some(true | false)
//!                   │                                    None: ask Cedar
//!                   └ None: ask Cedar
//! ```
//!
//! Owns the part of Cedar that rules about this schema are made of: comparisons of its attributes with
//! literals and with each other, `has`, `like`, sets of strings, `&&`, `||`, `!`, `if`, arithmetic, and
//! the request's own agent, action and resource. Cedar stays the definition. A program never reports an
//! error and never guesses: whatever it does not know, and whatever Cedar would call an error (a missing
//! attribute, an overflow), is `None`, and Cedar answers the whole question instead.
//!
//! Invariant `FAIL-CLOSED` therefore rests on one property only: `Some(b)` means that Cedar evaluates the
//! policy to `b`. `tests.rs` compares both over random policies and questions, and every decision a debug
//! build makes is made by Cedar too and compared.

use cedar_policy::Policy as CedarPolicy;
use cedar_policy::pst::{
    BinaryOp, Clause, EntityOrSlot, EntityUID, Expr, Literal, PatternElem, PrincipalConstraint, UnaryOp, Var,
};

use super::schema::{AGENT, EFFECT, Question};

/// How deep an expression may be as Cedar sees it, to which a chain of `&&` is as deep as it is long. What it
/// has no stack for is an error to Cedar, which depends on the thread that asks; so only what is well within a
/// thread's stack has a program.
const DEEPEST: usize = 64;

/// Something true or false.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    Always(bool),
    Approved,
    HasUser,
    HasAccount,
    HasRegion,
    HasWorkflow,
    HasConfidence,
    HasEffect,
    /// The agent has this name.
    Agent(String),
    /// The tool has this name.
    Action(String),
    /// The tool has one of these names, or is in one of these groups.
    ActionIn(Vec<String>),
    /// The resource has this type and, when there is one, this name.
    Resource(String, Option<String>),
    SameText(Text, Text),
    SameNumber(Number, Number),
    Same(Box<Test>, Box<Test>),
    Less(Number, Number),
    LessOrEqual(Number, Number),
    Like(Text, Pattern),
    Contains(Set, Text),
    ContainsAll(Set, Set),
    ContainsAny(Set, Set),
    IsEmpty(Set),
    Not(Box<Test>),
    /// `&&`, from the left, up to the first that is false.
    All(Vec<Test>),
    /// `||`, from the left, up to the first that is true.
    Any(Vec<Test>),
    If(Box<Test>, Box<Test>, Box<Test>),
}

/// A string.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Text {
    Literal(String),
    Owner,
    User,
    Verb,
    Risk,
    Environment,
    Account,
    Region,
    Workflow,
    Place,
    FoldedPlace,
    Statement,
}

/// An integer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Number {
    Literal(i64),
    Confidence,
    /// A field of the effect, by its index in [`EFFECT`].
    Effect(usize),
    Negative(Box<Number>),
    Sum(Box<Number>, Box<Number>),
    Difference(Box<Number>, Box<Number>),
    Product(Box<Number>, Box<Number>),
}

/// A set of strings.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Set {
    Names,
    FoldedNames,
    Literal(Vec<String>),
}

/// What stands between the wildcards of a pattern: one piece when there is none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern(Vec<String>);

impl Test {
    /// What Cedar says, or `None` when only Cedar can say it.
    pub(super) fn holds(&self, q: &Question<'_>) -> Option<bool> {
        Some(match self {
            Test::Always(always) => *always,
            Test::Approved => q.approved,
            Test::HasUser => q.user.is_some(),
            Test::HasAccount => q.account.is_some(),
            Test::HasRegion => q.region.is_some(),
            Test::HasWorkflow => q.workflow.is_some(),
            Test::HasConfidence => q.confidence.is_some(),
            Test::HasEffect => q.effect.is_some(),
            Test::Agent(name) => q.agent == name,
            Test::Action(name) => q.tool == name,
            Test::ActionIn(names) => names.iter().any(|name| q.tool == name || q.groups.contains(name)),
            Test::Resource(kind, name) => q.kind == kind && name.as_ref().is_none_or(|name| q.resource == name),
            Test::SameText(left, right) => left.of(q)? == right.of(q)?,
            Test::SameNumber(left, right) => left.of(q)? == right.of(q)?,
            Test::Same(left, right) => left.holds(q)? == right.holds(q)?,
            Test::Less(left, right) => left.of(q)? < right.of(q)?,
            Test::LessOrEqual(left, right) => left.of(q)? <= right.of(q)?,
            Test::Like(text, pattern) => pattern.matches(text.of(q)?),
            Test::Contains(set, text) => set.contains(q, text.of(q)?),
            Test::ContainsAll(set, subset) => subset.every(q, |text| set.contains(q, text)),
            Test::ContainsAny(set, other) => !other.every(q, |text| !set.contains(q, text)),
            Test::IsEmpty(set) => set.every(q, |_| false),
            Test::Not(test) => !test.holds(q)?,
            Test::All(tests) => {
                for test in tests {
                    if !test.holds(q)? {
                        return Some(false);
                    }
                }
                true
            }
            Test::Any(tests) => {
                for test in tests {
                    if test.holds(q)? {
                        return Some(true);
                    }
                }
                false
            }
            Test::If(test, yes, no) => {
                if test.holds(q)? {
                    yes.holds(q)?
                } else {
                    no.holds(q)?
                }
            }
        })
    }
}

impl Text {
    fn of<'q>(&'q self, q: &'q Question<'_>) -> Option<&'q str> {
        Some(match self {
            Text::Literal(text) => text,
            Text::Owner => q.owner,
            Text::User => return q.user,
            Text::Verb => q.verb,
            Text::Risk => q.risk,
            Text::Environment => q.environment,
            Text::Account => return q.account,
            Text::Region => return q.region,
            Text::Workflow => return q.workflow,
            Text::Place => q.place,
            Text::FoldedPlace => &q.folded_place,
            Text::Statement => q.statement,
        })
    }
}

impl Number {
    fn of(&self, q: &Question<'_>) -> Option<i64> {
        match self {
            Number::Literal(number) => Some(*number),
            Number::Confidence => q.confidence,
            Number::Effect(field) => q.effect?.get(*field).copied(),
            Number::Negative(number) => number.of(q)?.checked_neg(),
            Number::Sum(left, right) => left.of(q)?.checked_add(right.of(q)?),
            Number::Difference(left, right) => left.of(q)?.checked_sub(right.of(q)?),
            Number::Product(left, right) => left.of(q)?.checked_mul(right.of(q)?),
        }
    }
}

impl Set {
    fn contains(&self, q: &Question<'_>, text: &str) -> bool {
        match self {
            Set::Names => q.names.binary_search(&text).is_ok(),
            Set::FoldedNames => q.folded_names.binary_search_by(|name| name.as_str().cmp(text)).is_ok(),
            Set::Literal(texts) => texts.iter().any(|one| one == text),
        }
    }

    fn every(&self, q: &Question<'_>, mut holds: impl FnMut(&str) -> bool) -> bool {
        match self {
            Set::Names => q.names.iter().all(|name| holds(name)),
            Set::FoldedNames => q.folded_names.iter().all(|name| holds(name)),
            Set::Literal(texts) => texts.iter().all(|text| holds(text)),
        }
    }
}

impl Pattern {
    fn new(elements: &[PatternElem]) -> Self {
        let mut pieces = vec![String::new()];
        for element in elements {
            match (element, pieces.last_mut()) {
                (PatternElem::Char(char), Some(piece)) => piece.push(*char),
                _ => pieces.push(String::new()),
            }
        }
        Self(pieces)
    }

    fn matches(&self, text: &str) -> bool {
        match self.0.as_slice() {
            [] => text.is_empty(),
            [whole] => text == whole,
            [first, middle @ .., last] => {
                let Some(rest) = text.strip_prefix(first.as_str()) else { return false };
                let Some(mut rest) = rest.strip_suffix(last.as_str()) else { return false };
                // The first place a piece is found leaves the most for those after it.
                for piece in middle {
                    match rest.split_once(piece.as_str()) {
                        Some((_, after)) => rest = after,
                        None => return false,
                    }
                }
                true
            }
        }
    }
}

/// The program of a policy whose action and resource scopes are known to match, or `None` when it is outside
/// what programs know.
pub(super) fn translate(policy: &CedarPolicy) -> Option<Test> {
    let policy = policy.to_pst().ok()?;
    let body = policy.body();
    let mut tests = vec![match &body.principal {
        PrincipalConstraint::Any => Test::Always(true),
        PrincipalConstraint::Is(kind) => Test::Always(kind.to_string() == AGENT),
        // An agent has no parents, so `in` is equality.
        PrincipalConstraint::Eq(EntityOrSlot::Entity(uid)) | PrincipalConstraint::In(EntityOrSlot::Entity(uid)) => {
            agent(uid)
        }
        PrincipalConstraint::IsIn(kind, EntityOrSlot::Entity(uid)) if kind.to_string() == AGENT => agent(uid),
        _ => return None,
    }];
    for clause in body.clauses() {
        tests.push(match clause {
            Clause::When(expr) => test(expr, DEEPEST)?,
            Clause::Unless(expr) => Test::Not(Box::new(test(expr, DEEPEST)?)),
        });
    }
    tests.retain(|test| *test != Test::Always(true));
    Some(Test::All(tests))
}

fn test(expr: &Expr, depth: usize) -> Option<Test> {
    let depth = depth.checked_sub(1)?;
    let inner = |expr: &Expr| test(expr, depth).map(Box::new);
    Some(match expr {
        Expr::Literal(Literal::Bool(always)) => Test::Always(*always),
        Expr::GetAttr { expr, attr } if is(expr, &Var::Context) && attr == "approved" => Test::Approved,
        Expr::HasAttr { expr, attrs } if attrs.len() == 1 => match (variable(expr)?, attrs.head.as_str()) {
            (Var::Principal, "on_behalf_of") => Test::HasUser,
            (Var::Context, "account") => Test::HasAccount,
            (Var::Context, "region") => Test::HasRegion,
            (Var::Context, "workflow") => Test::HasWorkflow,
            (Var::Context, "confidence") => Test::HasConfidence,
            (Var::Context, "effect") => Test::HasEffect,
            _ => return None,
        },
        Expr::UnaryOp { op: UnaryOp::Not, expr } => Test::Not(inner(expr)?),
        Expr::UnaryOp { op: UnaryOp::IsEmpty, expr } => Test::IsEmpty(set(expr)?),
        Expr::IfThenElse { cond, then_expr, else_expr } => Test::If(inner(cond)?, inner(then_expr)?, inner(else_expr)?),
        Expr::Like { expr, pattern } => Test::Like(text(expr)?, Pattern::new(pattern)),
        Expr::Is { expr, entity_type, in_expr: None } => match variable(expr)? {
            Var::Resource => Test::Resource(entity_type.to_string(), None),
            Var::Principal => Test::Always(entity_type.to_string() == AGENT),
            _ => return None,
        },
        Expr::BinaryOp { op: op @ (BinaryOp::And | BinaryOp::Or), .. } => {
            // Chains lean to the left: a link costs a level, but no stack here.
            let (mut tests, mut rest, mut depth) = (Vec::new(), expr, depth);
            while let Expr::BinaryOp { op: next, left, right } = rest
                && next == op
            {
                tests.push(test(right, depth)?);
                rest = left;
                depth = depth.checked_sub(1)?;
            }
            tests.push(test(rest, depth)?);
            tests.reverse();
            if *op == BinaryOp::And { Test::All(tests) } else { Test::Any(tests) }
        }
        Expr::BinaryOp { op, left, right } => match op {
            BinaryOp::Eq => equal(left, right, depth)?,
            BinaryOp::NotEq => Test::Not(Box::new(equal(left, right, depth)?)),
            BinaryOp::Less => Test::Less(number(left, depth)?, number(right, depth)?),
            BinaryOp::LessEq => Test::LessOrEqual(number(left, depth)?, number(right, depth)?),
            BinaryOp::Greater => Test::Not(Box::new(Test::LessOrEqual(number(left, depth)?, number(right, depth)?))),
            BinaryOp::GreaterEq => Test::Not(Box::new(Test::Less(number(left, depth)?, number(right, depth)?))),
            BinaryOp::Contains => Test::Contains(set(left)?, text(right)?),
            BinaryOp::ContainsAll => Test::ContainsAll(set(left)?, set(right)?),
            BinaryOp::ContainsAny => Test::ContainsAny(set(left)?, set(right)?),
            BinaryOp::In => within(left, right)?,
            _ => return None,
        },
        _ => return None,
    })
}

/// `==`. Cedar calls values of two types unequal; here they are left to it.
fn equal(left: &Expr, right: &Expr, depth: usize) -> Option<Test> {
    if let Some(var) = variable(left) {
        let uid = entity(right)?;
        return Some(match var {
            Var::Principal => agent(uid),
            Var::Action if uid.ty.to_string() == "Action" => Test::Action(uid.eid.to_string()),
            Var::Resource => Test::Resource(uid.ty.to_string(), Some(uid.eid.to_string())),
            _ => return None,
        });
    }
    if let (Some(left), Some(right)) = (text(left), text(right)) {
        return Some(Test::SameText(left, right));
    }
    if let (Some(left), Some(right)) = (number(left, depth), number(right, depth)) {
        return Some(Test::SameNumber(left, right));
    }
    Some(Test::Same(Box::new(test(left, depth)?), Box::new(test(right, depth)?)))
}

/// `in`: an action is in its groups, agents and resources are in nothing but themselves.
fn within(left: &Expr, right: &Expr) -> Option<Test> {
    let groups: Vec<&EntityUID> = match right {
        Expr::Set(members) => members.iter().map(|member| entity(member)).collect::<Option<_>>()?,
        one => vec![entity(one)?],
    };
    match variable(left)? {
        Var::Action if groups.iter().all(|uid| uid.ty.to_string() == "Action") => {
            Some(Test::ActionIn(groups.iter().map(|uid| uid.eid.to_string()).collect()))
        }
        Var::Principal => Some(Test::Any(groups.into_iter().map(agent).collect())),
        Var::Resource => Some(Test::Any(
            groups.into_iter().map(|uid| Test::Resource(uid.ty.to_string(), Some(uid.eid.to_string()))).collect(),
        )),
        _ => None,
    }
}

fn agent(uid: &EntityUID) -> Test {
    if uid.ty.to_string() == AGENT { Test::Agent(uid.eid.to_string()) } else { Test::Always(false) }
}

fn text(expr: &Expr) -> Option<Text> {
    Some(match expr {
        Expr::Literal(Literal::String(text)) => Text::Literal(text.to_string()),
        Expr::GetAttr { expr, attr } => match (variable(expr)?, attr.as_str()) {
            (Var::Principal, "owner") => Text::Owner,
            (Var::Principal, "on_behalf_of") => Text::User,
            (Var::Context, "verb") => Text::Verb,
            (Var::Context, "risk") => Text::Risk,
            (Var::Context | Var::Resource, "environment") => Text::Environment,
            (Var::Context, "account") => Text::Account,
            (Var::Context, "region") => Text::Region,
            (Var::Context, "workflow") => Text::Workflow,
            (Var::Context, "place") => Text::Place,
            (Var::Context, "folded_place") => Text::FoldedPlace,
            (Var::Context, "statement") => Text::Statement,
            _ => return None,
        },
        _ => return None,
    })
}

fn number(expr: &Expr, depth: usize) -> Option<Number> {
    let depth = depth.checked_sub(1)?;
    let inner = |expr: &Expr| number(expr, depth).map(Box::new);
    Some(match expr {
        Expr::Literal(Literal::Long(number)) => Number::Literal(*number),
        Expr::GetAttr { expr, attr } if is(expr, &Var::Context) && attr == "confidence" => Number::Confidence,
        Expr::GetAttr { expr, attr } => match &**expr {
            Expr::GetAttr { expr, attr: effect } if is(expr, &Var::Context) && effect == "effect" => {
                Number::Effect(EFFECT.iter().position(|field| field == attr)?)
            }
            _ => return None,
        },
        Expr::UnaryOp { op: UnaryOp::Neg, expr } => Number::Negative(inner(expr)?),
        Expr::BinaryOp { op: BinaryOp::Add, left, right } => Number::Sum(inner(left)?, inner(right)?),
        Expr::BinaryOp { op: BinaryOp::Sub, left, right } => Number::Difference(inner(left)?, inner(right)?),
        Expr::BinaryOp { op: BinaryOp::Mul, left, right } => Number::Product(inner(left)?, inner(right)?),
        _ => return None,
    })
}

fn set(expr: &Expr) -> Option<Set> {
    match expr {
        Expr::GetAttr { expr, attr } if is(expr, &Var::Context) && attr == "names" => Some(Set::Names),
        Expr::GetAttr { expr, attr } if is(expr, &Var::Context) && attr == "folded_names" => Some(Set::FoldedNames),
        Expr::Set(members) => {
            let literal = |member: &Expr| match member {
                Expr::Literal(Literal::String(text)) => Some(text.to_string()),
                _ => None,
            };
            Some(Set::Literal(members.iter().map(|member| literal(member)).collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn entity(expr: &Expr) -> Option<&EntityUID> {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) => Some(uid),
        _ => None,
    }
}

fn variable(expr: &Expr) -> Option<&Var> {
    match expr {
        Expr::Var(var) => Some(var),
        _ => None,
    }
}

fn is(expr: &Expr, var: &Var) -> bool {
    variable(expr) == Some(var)
}
