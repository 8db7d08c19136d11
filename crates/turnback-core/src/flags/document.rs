//! flagd's flag definitions, read strictly.
//!
//! Stricter than flagd where flagd finds out at evaluation time: an unknown field or operator, a variant or shared
//! rule that does not exist, a wrong number of arguments and a weight that is none are errors when the document is
//! read, with line and column. Never looks at what a flag is for; that is `release.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::FlagError;
use super::logic::{Expr, Machine, OPERATIONS, Op, STEPS};
use super::place::{Step, line_and_column, offset_of};
use super::{fractional, version};
use crate::json;
use crate::text::visible;

/// Largest document accepted, in bytes.
pub const SIZE_LIMIT: usize = 1 << 20;

/// Most complaints about one document; a file that is wrong all over is not read to its end.
const ERROR_LIMIT: usize = 100;

/// One flag.
#[derive(Clone, Debug)]
pub(super) struct Flag {
    /// `state`: `ENABLED`.
    pub(super) enabled: bool,
    pub(super) variants: BTreeMap<String, Value>,
    pub(super) default: Option<String>,
    pub(super) targeting: Option<Expr>,
    pub(super) metadata: Map<String, Value>,
}

/// Why a flag came to its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// It has no targeting.
    Static,
    /// Its targeting named the variant.
    TargetingMatch,
    /// Its targeting named none.
    Default,
    /// It is switched off and says nothing.
    Disabled,
    /// It could not be evaluated.
    Error,
    /// A service drew it: a share of all.
    Split,
    /// A service had it at hand.
    Cached,
    /// A service does not say why.
    Unknown,
    /// A service has no such flag: it says nothing.
    NotFound,
}

/// What a flag came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evaluation<'a> {
    pub(super) reason: Reason,
    /// `None` leaves it to whoever asks.
    pub(super) variant: Option<&'a str>,
    pub(super) error: Option<String>,
}

impl Flag {
    /// The variant for a context. Pure: the time is an argument.
    pub(super) fn evaluate(&self, key: &str, context: &Value, now: Timestamp) -> Evaluation<'_> {
        let came = |reason, variant| Evaluation { reason, variant, error: None };
        let failed = |why: String| Evaluation { reason: Reason::Error, variant: None, error: Some(why) };
        if !self.enabled {
            return came(Reason::Disabled, None);
        }
        let default = self.default.as_deref();
        let Some(targeting) = &self.targeting else {
            return came(if default.is_some() { Reason::Static } else { Reason::Default }, default);
        };
        let mut machine = Machine { context, key, seconds: now.as_second(), steps: STEPS };
        let value = match machine.value(targeting, context) {
            Ok(value) => value,
            Err(why) => return failed(why),
        };
        let named = match &*value {
            Value::Null => return came(Reason::Default, default),
            Value::String(name) => name.as_str(),
            Value::Bool(true) => "true",
            Value::Bool(false) => "false",
            other => return failed(format!("its targeting comes to {other}, which names no variant")),
        };
        match self.variants.get_key_value(named) {
            Some((name, _)) => came(Reason::TargetingMatch, Some(name.as_str())),
            None => failed(format!("its targeting comes to `{}`, which is no variant of it", visible(named))),
        }
    }
}

/// The flags of a document and where they stand.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) flags: BTreeMap<String, Flag>,
}

/// Reads a document. `known`, when given, are the names targeting may ask the context for.
pub(super) fn read(text: &str, known: Option<&[&str]>) -> Result<Document, Vec<FlagError>> {
    let one = |error: FlagError| Err(vec![error]);
    if text.len() > SIZE_LIMIT {
        let message = format!("the document is {} bytes, more than {SIZE_LIMIT}", text.len());
        return one(FlagError {
            line: 1,
            column: 1,
            message,
            next: Some("split off what is not used any more".into()),
        });
    }
    let value = match json::parse(text.as_bytes()) {
        Ok(value) => value,
        Err(e) => {
            let (line, column) = line_and_column(text, e.offset);
            return one(FlagError { line, column, message: e.why.to_string(), next: None });
        }
    };
    let mut reader = Reader { text, known, path: Vec::new(), errors: Vec::new(), shared: BTreeMap::new() };
    let flags = reader.document(&value);
    if reader.errors.is_empty() { Ok(Document { flags }) } else { Err(reader.errors) }
}

/// A complaint about the value at `path` of a document already read once.
pub(super) fn complaint(text: &str, path: &[&str], message: String, next: &str) -> FlagError {
    let path: Vec<Step> = path.iter().map(|key| Step::Key((*key).to_owned())).collect();
    let (line, column) = line_and_column(text, offset_of(text, &path, true));
    FlagError { line, column, message, next: Some(next.to_owned()) }
}

struct Reader<'a> {
    text: &'a str,
    known: Option<&'a [&'a str]>,
    path: Vec<Step>,
    errors: Vec<FlagError>,
    shared: BTreeMap<String, (Arc<Expr>, Value)>,
}

/// What stands in for an expression that is wrong: the complaint makes sure that nobody evaluates it.
const WRONG: Expr = Expr::Literal(Value::Null);

impl<'a> Reader<'a> {
    fn wrong(&mut self, at_key: bool, message: impl Into<String>, next: impl Into<String>) {
        if self.errors.len() < ERROR_LIMIT {
            let (line, column) = line_and_column(self.text, offset_of(self.text, &self.path, at_key));
            self.errors.push(FlagError { line, column, message: message.into(), next: Some(next.into()) });
        }
    }

    fn at<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let value = read(self);
        self.path.pop();
        value
    }

    fn under<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.at(Step::Key(key.to_owned()), read)
    }

    /// The fields of an object, each known.
    fn object<'v>(&mut self, value: &'v Value, what: &str, fields: &[&str]) -> Option<&'v Map<String, Value>> {
        let Value::Object(map) = value else {
            self.wrong(false, format!("{what} is an object"), "write { ... }");
            return None;
        };
        for key in map.keys().filter(|key| !fields.contains(&key.as_str())) {
            self.under(key, |r| {
                let next = format!("remove it, or correct its spelling: {}", fields.join(", "));
                r.wrong(true, format!("{what} has no field `{}`", visible(key)), next);
            });
        }
        Some(map)
    }

    fn document(&mut self, value: &Value) -> BTreeMap<String, Flag> {
        let mut flags = BTreeMap::new();
        let Some(map) = self.object(value, "a flag document", &["$schema", "flags", "$evaluators", "metadata"]) else {
            return flags;
        };
        if let Some(rules) = map.get("$evaluators") {
            self.under("$evaluators", |r| r.evaluators(rules));
        }
        if let Some(metadata) = map.get("metadata") {
            self.under("metadata", |r| drop(r.metadata(metadata)));
        }
        match map.get("flags") {
            None => self.wrong(false, "a flag document has `flags`", "write { \"flags\": { ... } }"),
            Some(Value::Object(all)) => self.under("flags", |r| {
                for (key, flag) in all {
                    let flag = r.under(key, |r| r.flag(flag));
                    flags.extend(flag.map(|flag| (key.clone(), flag)));
                }
            }),
            Some(_) => self.under("flags", |r| r.wrong(false, "`flags` is an object of flags by key", "write { ... }")),
        }
        flags
    }

    fn evaluators(&mut self, value: &Value) {
        let Value::Object(map) = value else {
            return self.wrong(false, "`$evaluators` is an object of rules by name", "write { ... }");
        };
        // Collected beside, so that no rule can name another and none itself.
        let mut shared = BTreeMap::new();
        for (name, rule) in map {
            let read = self.under(name, |r| r.expression(rule, false));
            shared.insert(name.clone(), (Arc::new(read), rule.clone()));
        }
        self.shared = shared;
    }

    fn metadata(&mut self, value: &Value) -> Map<String, Value> {
        let Value::Object(map) = value else {
            self.wrong(false, "`metadata` is an object", "write { ... }");
            return Map::new();
        };
        for (key, value) in map {
            if matches!(value, Value::Null | Value::Array(_) | Value::Object(_)) {
                self.under(key, |r| r.wrong(false, "metadata is text, numbers, true or false", "write it as text"));
            }
        }
        map.clone()
    }

    fn flag(&mut self, value: &Value) -> Option<Flag> {
        let map = self.object(value, "a flag", &["state", "variants", "defaultVariant", "targeting", "metadata"])?;
        let enabled = match map.get("state").and_then(Value::as_str) {
            Some("ENABLED") => true,
            Some("DISABLED") => false,
            _ => {
                self.under("state", |r| r.wrong(false, "a flag has a `state`", "write \"ENABLED\" or \"DISABLED\""));
                false
            }
        };
        let variants = self.under("variants", |r| r.variants(map.get("variants")));
        let default = self.under("defaultVariant", |r| match map.get("defaultVariant") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => {
                r.variant(name, &variants);
                Some(name.clone())
            }
            Some(_) => {
                r.wrong(false, "`defaultVariant` is the name of a variant", "write it as text, or null");
                None
            }
        });
        let targeting = match map.get("targeting") {
            None => None,
            Some(Value::Object(rule)) if rule.is_empty() => None,
            Some(rule @ Value::Object(_)) => self.under("targeting", |r| {
                let read = r.expression(rule, false);
                r.results(rule, &variants);
                Some(read)
            }),
            Some(_) => {
                self.under("targeting", |r| r.wrong(false, "`targeting` is one operation", "write { \"if\": [...] }"));
                None
            }
        };
        let metadata = map.get("metadata").map(|m| self.under("metadata", |r| r.metadata(m))).unwrap_or_default();
        Some(Flag { enabled, variants, default, targeting, metadata })
    }

    fn variants(&mut self, value: Option<&Value>) -> BTreeMap<String, Value> {
        let Some(Value::Object(map)) = value else {
            self.wrong(false, "a flag has `variants`", "write { \"on\": ..., \"off\": ... }");
            return BTreeMap::new();
        };
        let kind = |value: &Value| match value {
            Value::Bool(_) => Some("true or false"),
            Value::Number(_) => Some("a number"),
            Value::String(_) => Some("text"),
            Value::Object(_) => Some("an object"),
            Value::Null | Value::Array(_) => None,
        };
        let first = map.values().find_map(kind);
        if map.is_empty() {
            self.wrong(false, "a flag has at least one variant", "write { \"on\": ..., \"off\": ... }");
        }
        for (name, value) in map {
            if kind(value).is_none() || kind(value) != first {
                let expected = first.unwrap_or("true, false, a number, text or an object");
                self.under(name, |r| {
                    r.wrong(false, "the variants of a flag are of one type", format!("write {expected}"));
                });
            }
        }
        map.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn variant(&mut self, name: &str, variants: &BTreeMap<String, Value>) {
        if !variants.contains_key(name) && !variants.is_empty() {
            let known: Vec<String> = variants.keys().map(|name| format!("`{}`", visible(name))).collect();
            self.wrong(false, format!("there is no variant `{}`", visible(name)), format!("use {}", known.join(", ")));
        }
    }

    /// Holds what an operation can come to against the variants, as far as it is written down.
    fn results(&mut self, value: &Value, variants: &BTreeMap<String, Value>) {
        match value {
            Value::String(name) => self.variant(name, variants),
            Value::Bool(truth) => self.variant(if *truth { "true" } else { "false" }, variants),
            Value::Object(map) => {
                let Some((operation, arguments)) = map.iter().next() else { return };
                let arguments = arguments.as_array().map_or(&[][..], Vec::as_slice);
                let count = arguments.len();
                let mut each = |wanted: &dyn Fn(usize) -> bool| {
                    for (n, argument) in arguments.iter().enumerate().filter(|(n, _)| wanted(*n)) {
                        self.under(operation, |r| r.at(Step::Index(n), |r| r.results(argument, variants)));
                    }
                };
                match operation.as_str() {
                    // Every second argument, and the last of an odd number.
                    "if" => each(&|n| n % 2 == 1 || n + 1 == count),
                    // `and` ends with its last argument or something that is as good as no.
                    "or" => each(&|_| true),
                    "and" => each(&|n| n + 1 == count),
                    "fractional" => {
                        for (n, bucket) in arguments.iter().enumerate() {
                            let Some(variant) = bucket.as_array().and_then(|b| b.first()) else { continue };
                            self.under(operation, |r| {
                                r.at(Step::Index(n), |r| r.at(Step::Index(0), |r| r.results(variant, variants)));
                            });
                        }
                    }
                    "$ref" => {
                        let rule = map.get("$ref").and_then(Value::as_str).and_then(|name| self.shared.get(name));
                        let Some((_, rule)) = rule.cloned() else { return };
                        // What is wrong with it is wrong here, where it is used for these variants.
                        let errors = self.errors.len();
                        // Nothing is shared meanwhile: a rule that names itself is wrong, not endless.
                        let shared = std::mem::take(&mut self.shared);
                        self.results(&rule, variants);
                        self.shared = shared;
                        let (line, column) = line_and_column(self.text, offset_of(self.text, &self.path, false));
                        for error in self.errors.iter_mut().skip(errors) {
                            (error.line, error.column) = (line, column);
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// One expression. `inside` a list operation `var` looks into a member, whose names nobody knows here.
    fn expression(&mut self, value: &Value, inside: bool) -> Expr {
        match value {
            Value::Array(items) => Expr::List(self.expressions(items, inside)),
            Value::Object(map) => {
                let (Some((operation, argument)), 1) = (map.iter().next(), map.len()) else {
                    self.wrong(
                        false,
                        "an operation is an object with exactly one key",
                        "write { \"operator\": [arguments] }",
                    );
                    return WRONG;
                };
                self.under(operation, |r| r.operation(operation, argument, inside))
            }
            plain => Expr::Literal(plain.clone()),
        }
    }

    fn expressions(&mut self, items: &[Value], inside: bool) -> Vec<Expr> {
        items.iter().enumerate().map(|(n, item)| self.at(Step::Index(n), |r| r.expression(item, inside))).collect()
    }

    fn operation(&mut self, operation: &str, argument: &Value, inside: bool) -> Expr {
        // `{"!": x}` is short for `{"!": [x]}`.
        let list = argument.as_array();
        let arguments = list.map_or(std::slice::from_ref(argument), Vec::as_slice);
        match operation {
            "var" => self.var(arguments, inside),
            "missing" => Expr::Missing(None, self.paths(arguments, inside)),
            "missing_some" => match arguments {
                [Value::Number(least), Value::Array(keys)] if least.is_u64() => {
                    Expr::Missing(least.as_u64(), self.at(Step::Index(1), |r| r.paths(keys, inside)))
                }
                _ => self.refuse("`missing_some` takes a number and a list of names", "write [1, [\"a\", \"b\"]]"),
            },
            "$ref" => match argument.as_str().map(|name| (name, self.shared.get(name))) {
                Some((_, Some((rule, _)))) => Expr::Shared(Arc::clone(rule)),
                Some((name, None)) => {
                    let known: Vec<_> = self.shared.keys().map(|name| format!("`{}`", visible(name))).collect();
                    let next = if known.is_empty() {
                        "write it into `$evaluators`; a rule there cannot use another".to_owned()
                    } else {
                        format!("use {}, or write it into `$evaluators`", known.join(", "))
                    };
                    self.refuse(format!("there is no shared rule `{}`", visible(name)), next)
                }
                None => self.refuse("`$ref` names a rule of `$evaluators`", "write its name as text"),
            },
            "fractional" => self.fractional(arguments, inside),
            other => {
                let Some((word, op, least, most)) = OPERATIONS.iter().find(|(word, ..)| *word == other) else {
                    let known: Vec<_> = OPERATIONS.iter().map(|(word, ..)| *word).collect();
                    self.wrong(
                        true,
                        format!("there is no operator `{}`", visible(other)),
                        format!("use {}, var, missing, missing_some, fractional, $ref", known.join(", ")),
                    );
                    return WRONG;
                };
                self.plain(word, *op, (*least, *most), arguments, list.is_some(), inside)
            }
        }
    }

    fn plain(
        &mut self,
        word: &str,
        op: Op,
        (least, most): (usize, usize),
        arguments: &[Value],
        list: bool,
        inside: bool,
    ) -> Expr {
        if arguments.len() < least || arguments.len() > most {
            let wanted = match (least, most) {
                (least, usize::MAX) => format!("at least {least}"),
                (least, most) if least == most => format!("exactly {least}"),
                (least, most) => format!("{least} to {most}"),
            };
            let message = format!("`{word}` takes {wanted} arguments, not {}", arguments.len());
            return self.refuse(message, format!("write {{ \"{word}\": [...] }}"));
        }
        if op == Op::SemVer
            && !arguments.get(1).and_then(Value::as_str).is_some_and(|o| version::OPERATORS.contains(&o))
        {
            let next = format!("write one of {}", version::OPERATORS.join(" "));
            return self.at(Step::Index(1), |r| r.refuse("the second argument of `sem_ver` compares", next));
        }
        let bodies = matches!(op, Op::Map | Op::Filter | Op::Reduce | Op::All | Op::None | Op::Some);
        let read = arguments.iter().enumerate().map(|(n, argument)| {
            let inside = inside || (bodies && n == 1);
            if list {
                self.at(Step::Index(n), |r| r.expression(argument, inside))
            } else {
                self.expression(argument, inside)
            }
        });
        Expr::Op(op, read.collect())
    }

    fn refuse(&mut self, message: impl Into<String>, next: impl Into<String>) -> Expr {
        self.wrong(false, message, next);
        WRONG
    }

    fn var(&mut self, arguments: &[Value], inside: bool) -> Expr {
        let default = match arguments {
            [_] => Value::Null,
            [_, default] if !default.is_array() && !default.is_object() => default.clone(),
            _ => {
                return self.refuse(
                    "`var` takes a name, and a plain value for when it is not there",
                    "write [\"name\", null]",
                );
            }
        };
        match arguments.first().and_then(Value::as_str) {
            Some("$flagd.flagKey") => Expr::FlagKey,
            Some("$flagd.timestamp") => Expr::Timestamp,
            // The whole member, inside a list operation.
            Some("") if inside => Expr::Var(Vec::new(), default),
            Some(name) => {
                self.name(name, inside);
                Expr::Var(name.split('.').map(str::to_owned).collect(), default)
            }
            None => self.refuse("`var` takes a name", "write it as text"),
        }
    }

    fn name(&mut self, name: &str, inside: bool) {
        let first = name.split('.').next().unwrap_or_default();
        let unknown = !inside && self.known.is_some_and(|known| !known.contains(&name));
        if name.is_empty() || first == "$flagd" || unknown {
            let known: Vec<_> = self.known.into_iter().flatten().copied().collect();
            let next = format!("use {}", [&known[..], &["$flagd.flagKey", "$flagd.timestamp"]].concat().join(", "));
            self.wrong(false, format!("targeting knows nothing of `{}`", visible(name)), next);
        }
    }

    fn paths(&mut self, names: &[Value], inside: bool) -> Vec<Vec<String>> {
        let mut paths = Vec::with_capacity(names.len());
        for name in names {
            match name.as_str() {
                Some(name) => {
                    self.name(name, inside);
                    paths.push(name.split('.').map(str::to_owned).collect());
                }
                None => self.wrong(false, "names are text", "write [\"a\", \"b\"]"),
            }
        }
        paths
    }

    fn fractional(&mut self, arguments: &[Value], inside: bool) -> Expr {
        let (by, first) = match arguments {
            [by, ..] if !by.is_array() => (Some(Box::new(self.at(Step::Index(0), |r| r.expression(by, inside)))), 1),
            _ => (None, 0),
        };
        let mut buckets = Vec::new();
        for (n, bucket) in arguments.iter().enumerate().skip(first) {
            self.at(Step::Index(n), |r| match bucket.as_array().map(Vec::as_slice) {
                Some([variant]) => {
                    let variant = r.at(Step::Index(0), |r| r.expression(variant, inside));
                    buckets.push((variant, Expr::Literal(Value::from(1))));
                }
                Some([variant, share]) => {
                    let variant = r.at(Step::Index(0), |r| r.expression(variant, inside));
                    let share = r.at(Step::Index(1), |r| {
                        if let (false, Err(why)) = (share.is_object(), fractional::weight(share)) {
                            r.wrong(false, why, "write a whole number");
                        }
                        r.expression(share, inside)
                    });
                    buckets.push((variant, share));
                }
                _ => r.wrong(false, "a bucket of `fractional` is a variant and its weight", "write [\"on\", 30]"),
            });
        }
        if buckets.is_empty() {
            return self.refuse("`fractional` has at least one bucket", "write [\"on\", 30], [\"off\", 70]");
        }
        Expr::Fractional(by, buckets)
    }
}
