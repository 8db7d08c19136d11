//! JsonLogic, as much of it as flagd documents, evaluated.
//!
//! An [`Expr`] has been read and checked (`document.rs`); evaluating it reads the context and nothing else, takes a
//! bounded number of steps ([`STEPS`]) and never panics. Where JsonLogic would say `NaN` or `Infinity`, which no JSON
//! value is, evaluation fails and the caller says no.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Number, Value};

use super::{fractional, version};

/// Most steps one evaluation may take: operations, and what they copy of texts and lists.
pub(super) const STEPS: u32 = 100_000;

/// One checked expression.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    /// A plain value.
    Literal(Value),
    /// A list of expressions.
    List(Vec<Expr>),
    /// Something of the context, by path; the value when it is not there.
    Var(Vec<String>, Value),
    /// `$flagd.flagKey`
    FlagKey,
    /// `$flagd.timestamp`
    Timestamp,
    /// A shared rule of `$evaluators`.
    Shared(Arc<Expr>),
    /// Those of the paths the context does not have; all of them when fewer than so many are there.
    Missing(Option<u64>, Vec<Vec<String>>),
    /// A share by weight: the bucketing value when it is not the targeting key, and variants with weights.
    Fractional(Option<Box<Expr>>, Vec<(Expr, Expr)>),
    /// An operation on arguments.
    Op(Op, Vec<Expr>),
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident $word:literal $least:literal $most:expr;)*) => {
        /// Operations on plain arguments.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Op { $($(#[$doc])* $name,)* }

        /// Their words with the least and largest number of arguments.
        pub(super) const OPERATIONS: &[(&str, Op, usize, usize)] = &[$(($word, Op::$name, $least, $most),)*];
    };
}

const ANY: usize = usize::MAX;

operations! {
    If "if" 2 ANY;
    Equal "==" 2 2;
    Same "===" 2 2;
    Unequal "!=" 2 2;
    NotSame "!==" 2 2;
    Not "!" 1 1;
    Truth "!!" 1 1;
    Or "or" 1 ANY;
    And "and" 1 ANY;
    Greater ">" 2 2;
    GreaterEqual ">=" 2 2;
    Less "<" 2 3;
    LessEqual "<=" 2 3;
    Max "max" 1 ANY;
    Min "min" 1 ANY;
    Plus "+" 1 ANY;
    Minus "-" 1 2;
    Times "*" 1 ANY;
    Modulo "%" 2 2;
    Map "map" 2 2;
    Filter "filter" 2 2;
    Reduce "reduce" 2 3;
    All "all" 2 2;
    None "none" 2 2;
    Some "some" 2 2;
    Merge "merge" 1 ANY;
    In "in" 2 2;
    Concatenate "cat" 1 ANY;
    Substring "substr" 2 3;
    StartsWith "starts_with" 2 2;
    EndsWith "ends_with" 2 2;
    SemVer "sem_ver" 3 3;
}

/// Evaluates expressions of one flag against one context.
pub(super) struct Machine<'a> {
    pub(super) context: &'a Value,
    pub(super) key: &'a str,
    pub(super) seconds: i64,
    pub(super) steps: u32,
}

const fn yes(truth: bool) -> Cow<'static, Value> {
    Cow::Owned(Value::Bool(truth))
}

const NULL: Cow<'static, Value> = Cow::Owned(Value::Null);

impl Machine<'_> {
    /// The value of `expr`, `data` being what `var` looks into.
    ///
    /// # Errors
    /// When a number is none, or it takes too many steps.
    pub(super) fn value<'v>(&mut self, expr: &'v Expr, data: &'v Value) -> Result<Cow<'v, Value>, String> {
        self.pay(1)?;
        Ok(match expr {
            Expr::Literal(value) => Cow::Borrowed(value),
            Expr::List(items) => {
                Cow::Owned(Value::Array(items.iter().map(|i| self.owned(i, data)).collect::<Result<_, _>>()?))
            }
            Expr::Var(path, default) => Cow::Borrowed(look(data, path).unwrap_or(default)),
            Expr::FlagKey => Cow::Owned(Value::from(self.key)),
            Expr::Timestamp => Cow::Owned(Value::from(self.seconds)),
            Expr::Shared(rule) => self.value(rule, data)?,
            Expr::Missing(least, paths) => {
                // As JsonLogic has it: what is empty is missing too.
                let missing = |path: &&Vec<String>| look(data, path).is_none_or(|v| v.as_str() == Some(""));
                let gone: Vec<Value> = paths.iter().filter(missing).map(|path| Value::from(path.join("."))).collect();
                let there = (paths.len() - gone.len()) as u64;
                let enough = least.is_some_and(|least| there >= least);
                Cow::Owned(Value::Array(if enough { Vec::new() } else { gone }))
            }
            Expr::Fractional(by, buckets) => self.fractional(by.as_deref(), buckets, data)?,
            Expr::Op(op, arguments) => self.operation(*op, arguments, data)?,
        })
    }

    fn owned(&mut self, expr: &Expr, data: &Value) -> Result<Value, String> {
        let value = self.value(expr, data)?;
        self.pay(size(&value))?;
        Ok(value.into_owned())
    }

    fn pay(&mut self, steps: usize) -> Result<(), String> {
        self.steps = u32::try_from(steps)
            .ok()
            .and_then(|steps| self.steps.checked_sub(steps))
            .ok_or_else(|| format!("its targeting takes more than {STEPS} steps"))?;
        Ok(())
    }

    fn operation<'v>(&mut self, op: Op, arguments: &'v [Expr], data: &'v Value) -> Result<Cow<'v, Value>, String> {
        match op {
            Op::If => return self.choose(arguments, data),
            Op::Or | Op::And => return self.first(op == Op::Or, arguments, data),
            Op::Map | Op::Filter | Op::Reduce | Op::All | Op::None | Op::Some => {
                return self.over(op, arguments, data);
            }
            _ => {}
        }
        let values = arguments.iter().map(|a| self.value(a, data)).collect::<Result<Vec<_>, _>>()?;
        let at = |n: usize| values.get(n).map_or(&Value::Null, |v| &**v);
        let (a, b) = (at(0), at(1));
        Ok(match op {
            Op::Equal => yes(equal(a, b)),
            Op::Unequal => yes(!equal(a, b)),
            Op::Same => yes(same(a, b)),
            Op::NotSame => yes(!same(a, b)),
            Op::Not => yes(!truthy(a)),
            Op::Truth => yes(truthy(a)),
            Op::Greater => yes(before(b, a, false)),
            Op::GreaterEqual => yes(before(b, a, true)),
            Op::Less | Op::LessEqual => {
                let or_equal = op == Op::LessEqual;
                yes(before(a, b, or_equal) && (values.len() < 3 || before(b, at(2), or_equal)))
            }
            Op::Max => sum(&values, f64::NEG_INFINITY, f64::max)?,
            Op::Min => sum(&values, f64::INFINITY, f64::min)?,
            Op::Plus => sum(&values, 0.0, |a, b| a + b)?,
            Op::Times => sum(&values, 1.0, |a, b| a * b)?,
            Op::Minus if values.len() == 1 => number(-of(a)?)?,
            Op::Minus => number(of(a)? - of(b)?)?,
            Op::Modulo => number(of(a)? % of(b)?)?,
            Op::Merge => {
                self.pay(values.iter().map(|v| size(v)).sum())?;
                let lists = values.into_iter().map(|value| match value.into_owned() {
                    Value::Array(items) => items,
                    other => vec![other],
                });
                Cow::Owned(Value::Array(lists.flatten().collect()))
            }
            Op::In => match b {
                Value::Array(items) => {
                    self.pay(size(b))?;
                    yes(items.iter().any(|item| same(item, a)))
                }
                Value::String(text) => {
                    self.pay(size(b))?;
                    yes(a.as_str().is_some_and(|a| text.contains(a)))
                }
                _ => yes(false),
            },
            Op::Concatenate => {
                self.pay(values.iter().map(|v| size(v)).sum())?;
                Cow::Owned(Value::String(values.iter().map(|v| text(v)).collect()))
            }
            Op::Substring => {
                self.pay(size(a))?;
                Cow::Owned(Value::String(substring(&text(a), of(b)?, values.get(2).map(|l| of(l)).transpose()?)))
            }
            // Null, not no: in a condition both mean no, as a result null leaves it to the default variant.
            Op::StartsWith | Op::EndsWith => match (a, b) {
                (Value::String(a), Value::String(b)) if op == Op::StartsWith => yes(a.starts_with(b.as_str())),
                (Value::String(a), Value::String(b)) => yes(a.ends_with(b.as_str())),
                _ => NULL,
            },
            Op::SemVer => version::compare(a, b.as_str().unwrap_or_default(), at(2)).map_or(NULL, yes),
            Op::If | Op::Or | Op::And | Op::Map | Op::Filter | Op::Reduce | Op::All | Op::None | Op::Some => NULL,
        })
    }

    /// `if`: condition, value, condition, value, ..., else.
    fn choose<'v>(&mut self, arguments: &'v [Expr], data: &'v Value) -> Result<Cow<'v, Value>, String> {
        for pair in arguments.chunks(2) {
            match pair {
                [otherwise] => return self.value(otherwise, data),
                [condition, then] if truthy(&*self.value(condition, data)?) => return self.value(then, data),
                _ => {}
            }
        }
        Ok(NULL)
    }

    /// The first argument that is `wanted`, else the last.
    fn first<'v>(&mut self, wanted: bool, arguments: &'v [Expr], data: &'v Value) -> Result<Cow<'v, Value>, String> {
        let mut last = NULL;
        for argument in arguments {
            last = self.value(argument, data)?;
            if truthy(&last) == wanted {
                break;
            }
        }
        Ok(last)
    }

    /// Operations on every member of a list; inside, `var` looks into the member.
    fn over<'v>(&mut self, op: Op, arguments: &'v [Expr], data: &'v Value) -> Result<Cow<'v, Value>, String> {
        let [list, body, rest @ ..] = arguments else { return Ok(NULL) };
        let list = self.value(list, data)?;
        let items = list.as_array().map_or(&[][..], Vec::as_slice);
        if op == Op::Reduce {
            let mut sum = rest.first().map_or(Ok(Value::Null), |start| self.owned(start, data))?;
            for item in items {
                self.pay(size(item))?;
                sum = self.owned(body, &serde_json::json!({ "current": item, "accumulator": sum }))?;
            }
            return Ok(Cow::Owned(sum));
        }
        let mut kept = Vec::new();
        for item in items {
            let value = self.owned(body, item)?;
            match (op, truthy(&value)) {
                (Op::Map, _) => kept.push(value),
                (Op::Filter, true) => {
                    self.pay(size(item))?;
                    kept.push(item.clone());
                }
                (Op::All, false) | (Op::None, true) => return Ok(yes(false)),
                (Op::Some, true) => return Ok(yes(true)),
                _ => {}
            }
        }
        Ok(match op {
            // As JsonLogic has it: nothing is true of all members of an empty list.
            Op::All => yes(!items.is_empty()),
            Op::None => yes(true),
            Op::Some => yes(false),
            _ => Cow::Owned(Value::Array(kept)),
        })
    }

    fn fractional<'v>(
        &mut self,
        by: Option<&'v Expr>,
        buckets: &'v [(Expr, Expr)],
        data: &'v Value,
    ) -> Result<Cow<'v, Value>, String> {
        let key = match by {
            Some(by) => match &*self.value(by, data)? {
                // Nobody is anybody's share: the default variant.
                Value::Null => return Ok(NULL),
                Value::String(key) => key.clone(),
                other => return Err(format!("`fractional` spreads over a text, not {other}; use `cat`")),
            },
            // Of the flag's own context, also inside a list.
            None => match self.context.get("targetingKey").and_then(Value::as_str) {
                None | Some("") => return Ok(NULL),
                Some(key) => format!("{}{key}", self.key),
            },
        };
        self.pay(key.len())?;
        let mut weights = Vec::with_capacity(buckets.len());
        for (_, weight) in buckets {
            weights.push(fractional::weight(&*self.value(weight, data)?)?);
        }
        match fractional::bucket(&key, &weights)?.and_then(|n| buckets.get(n)) {
            Some((variant, _)) => self.value(variant, data),
            None => Ok(NULL),
        }
    }
}

/// How many steps a value is worth to copy.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len() / 16,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 1,
        Value::Object(map) => map.values().map(size).sum::<usize>() + 1,
        _ => 1,
    }
}

fn look<'v>(data: &'v Value, path: &[String]) -> Option<&'v Value> {
    let found = path.iter().try_fold(data, |value, step| match value {
        Value::Object(map) => map.get(step),
        Value::Array(items) => step.parse::<usize>().ok().and_then(|n| items.get(n)),
        _ => None,
    });
    found.filter(|value| !value.is_null())
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(_) => true,
    }
}

/// As a number, where JsonLogic sees one.
fn numeric(value: &Value) -> Option<f64> {
    match value {
        Value::Null => Some(0.0),
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) if text.trim().is_empty() => Some(0.0),
        Value::String(text) => text.trim().parse().ok().filter(|n: &f64| n.is_finite()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn of(value: &Value) -> Result<f64, String> {
    numeric(value).ok_or_else(|| format!("its targeting calculates with {value}, which is no number"))
}

fn number(value: f64) -> Result<Cow<'static, Value>, String> {
    // 2^53: up to there every whole number is itself.
    if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
        return Ok(Cow::Owned(Value::from(value as i64)));
    }
    let number = Number::from_f64(value).ok_or("its targeting calculates something that is no number")?;
    Ok(Cow::Owned(Value::Number(number)))
}

fn sum(values: &[Cow<'_, Value>], start: f64, with: fn(f64, f64) -> f64) -> Result<Cow<'static, Value>, String> {
    // One list stands for its members.
    let sum = match values {
        [only] if only.is_array() => {
            only.as_array().into_iter().flatten().try_fold(start, |sum, v| of(v).map(|v| with(sum, v)))
        }
        values => values.iter().try_fold(start, |sum, v| of(v).map(|v| with(sum, v))),
    };
    number(sum?)
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// Equal with coercion: null is nothing else, lists and objects are what they contain.
fn equal(a: &Value, b: &Value) -> bool {
    use Value::{Array, Null, Object, String};
    match (a, b) {
        (Null, _) | (_, Null) | (Array(_) | Object(_), _) | (_, Array(_) | Object(_)) | (String(_), String(_)) => {
            same(a, b)
        }
        _ => matches!((numeric(a), numeric(b)), (Some(a), Some(b)) if a == b),
    }
}

/// Whether `a` comes before `b`: texts by their order, everything else as numbers; what is none comes nowhere.
fn before(a: &Value, b: &Value, or_equal: bool) -> bool {
    let order = match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => numeric(a).zip(numeric(b)).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    order.is_some_and(|order| order.is_lt() || (or_equal && order.is_eq()))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Characters from `start` (from the end when negative), at most `length` (up to so many before the end when
/// negative).
fn substring(text: &str, start: f64, length: Option<f64>) -> String {
    let chars: Vec<char> = text.chars().collect();
    let count = chars.len();
    // A float as a position: cut off at both ends, which is what `as` does.
    let from_end = |n: f64| count.saturating_sub(-n as usize);
    let start = if start < 0.0 { from_end(start) } else { (start as usize).min(count) };
    let end = match length {
        None => count,
        Some(length) if length < 0.0 => from_end(length),
        Some(length) => start.saturating_add(length as usize).min(count),
    };
    chars.get(start..end.max(start)).unwrap_or_default().iter().collect()
}
