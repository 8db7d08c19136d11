//! What an agent submits: read strictly, every fault named with its step and field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::constraint::{AtMost, Never};
use super::order::order;
use crate::json;
use crate::names::{EnvironmentName, ResourceName, ToolName};
use crate::refusal::{Code, Refusal};
use crate::text::visible;
use crate::tool::{Risk, Verb};

/// Most steps of one plan.
pub const STEPS_LIMIT: usize = 64;
/// Most bytes of one submission.
pub const SIZE_LIMIT: usize = 256 << 10;
/// Most bytes of a goal.
pub const GOAL_LIMIT: usize = 2_000;
/// Most bytes of a step's name.
const NAME_LIMIT: usize = 64;
/// Most constraints of one kind, and values of one of them.
const MOST: usize = 64;
/// Seconds a plan lasts when it does not say.
pub const LIFETIME_DEFAULT: u64 = 3_600;
/// Most seconds a plan lasts.
pub const LIFETIME_LIMIT: u64 = 24 * 3_600;

/// A plan as it was submitted: its form is right, nothing of it is verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What it is for.
    pub goal: String,
    /// Its steps in the order submitted.
    pub steps: Vec<DraftStep>,
    /// What none of them may do.
    pub never: Vec<Never>,
    /// What all of them may do at most.
    pub at_most: AtMost,
    /// Seconds it lasts.
    pub lifetime: u64,
    /// An order of the steps by their places in the list.
    pub order: Vec<usize>,
}

/// One step as it was submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftStep {
    /// Its name.
    pub name: String,
    /// The tool, unchecked.
    pub tool: String,
    /// The arguments.
    pub arguments: Value,
    /// The places of the steps it waits for.
    pub after: BTreeSet<usize>,
}

fn bad(place: &str, why: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadInput, why.into()).at(place)
}

fn known(map: &Map<String, Value>, place: &str, fields: &[&str]) -> Result<(), Refusal> {
    match map.keys().find(|key| !fields.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            Err(bad(&place, "unknown field").next(format!("the fields are {}", fields.join(", "))))
        }
    }
}

fn text<'a>(value: &'a Value, place: &str) -> Result<&'a str, Refusal> {
    value.as_str().ok_or_else(|| bad(place, "a text is expected"))
}

fn list<'a>(value: &'a Value, place: &str, most: usize) -> Result<&'a [Value], Refusal> {
    let list = value.as_array().ok_or_else(|| bad(place, "a list is expected"))?;
    if list.len() > most {
        let why = format!("{} entries are more than {most}", list.len());
        return Err(Refusal::new(Code::TooLarge, why).at(place).next(format!("write at most {most}")));
    }
    Ok(list)
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, Refusal> {
    value.as_object().ok_or_else(|| bad(place, "an object is expected"))
}

impl Draft {
    /// Reads a submission.
    ///
    /// # Errors
    /// The first thing that is wrong, with its step and field: `steps[3].after`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > SIZE_LIMIT {
            let why = format!("{} bytes are more than the {SIZE_LIMIT} of one plan", bytes.len());
            return Err(Refusal::new(Code::TooLarge, why).next("submit several plans, one after the other"));
        }
        let value = json::parse(bytes).map_err(|e| bad(e.path.trim_matches('/'), e.to_string()))?;
        let map = object(&value, "plan")?;
        known(map, "", &["goal", "steps", "never", "at_most", "expires_in"])?;
        let goal = text(map.get("goal").unwrap_or(&Value::Null), "goal")?;
        if goal.trim().is_empty() || goal.len() > GOAL_LIMIT {
            return Err(bad("goal", format!("what the plan is for, in 1 to {GOAL_LIMIT} bytes, is expected")));
        }
        let lifetime = match map.get("expires_in") {
            None => LIFETIME_DEFAULT,
            Some(value) => value.as_u64().filter(|s| (1..=LIFETIME_LIMIT).contains(s)).ok_or_else(|| {
                bad("expires_in", format!("a number of seconds from 1 to {LIFETIME_LIMIT} is expected"))
            })?,
        };
        let steps = steps(map.get("steps").unwrap_or(&Value::Null))?;
        let never = match map.get("never") {
            None => Vec::new(),
            Some(value) => list(value, "never", MOST)?.iter().enumerate().map(never).collect::<Result<_, _>>()?,
        };
        let at_most = map.get("at_most").map_or(Ok(AtMost::default()), at_most)?;
        let after: Vec<_> = steps.iter().map(|step| step.after.clone()).collect();
        let order = order(&after).map_err(|ring| {
            let name = |at: &usize| steps.get(*at).map_or("?", |step| step.name.as_str());
            let spelled: Vec<&str> = ring.iter().map(name).collect();
            let at = ring.first().copied().unwrap_or_default();
            bad(&format!("steps[{at}].after"), format!("steps wait for each other: {}", spelled.join(" -> ")))
                .next("remove one of these from `after`")
        })?;
        Ok(Self { goal: goal.to_owned(), steps, never, at_most, lifetime, order })
    }
}

fn steps(value: &Value) -> Result<Vec<DraftStep>, Refusal> {
    let raw = list(value, "steps", STEPS_LIMIT)?;
    if raw.is_empty() {
        return Err(bad("steps", "at least one step is expected"));
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, step) in raw.iter().enumerate() {
        let place = format!("steps[{at}]");
        let map = object(step, &place)?;
        known(map, &place, &["name", "tool", "arguments", "after"])?;
        let place = format!("{place}.name");
        let name = text(map.get("name").unwrap_or(&Value::Null), &place)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        // Nothing two people could read differently.
        if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(plain) {
            let why = format!("`{}` is no name of a step", visible(&name.chars().take(NAME_LIMIT).collect::<String>()));
            return Err(bad(&place, why).next(format!("write 1 to {NAME_LIMIT} of a-z, A-Z, 0-9, `-`, `_`, `.`")));
        }
        if let Some(first) = names.insert(name, at) {
            return Err(bad(&place, format!("`{name}` is the name of steps[{first}] already")));
        }
    }
    let step = |(at, step): (usize, &Value)| {
        let map = object(step, "steps")?;
        let field = |field: &str| format!("steps[{at}].{field}");
        let tool = text(map.get("tool").unwrap_or(&Value::Null), &field("tool"))?;
        let arguments = map.get("arguments").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        object(&arguments, &field("arguments"))?;
        let mut after = BTreeSet::new();
        for name in list(map.get("after").unwrap_or(&Value::Array(Vec::new())), &field("after"), STEPS_LIMIT)? {
            let name = text(name, &field("after"))?;
            let Some(on) = names.get(name) else {
                let short: String = name.chars().take(NAME_LIMIT).collect();
                return Err(bad(&field("after"), format!("no step is called `{}`", visible(&short))));
            };
            after.insert(*on);
        }
        let name = map.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(DraftStep { name, tool: tool.to_owned(), arguments, after })
    };
    raw.iter().enumerate().map(step).collect()
}

fn never((at, value): (usize, &Value)) -> Result<Never, Refusal> {
    let place = format!("never[{at}]");
    let map = object(value, &place)?;
    let mut never = Never::default();
    for (field, value) in map {
        let place = format!("{place}.{field}");
        let one = std::slice::from_ref(value);
        for value in if value.is_string() { one } else { list(value, &place, MOST)? } {
            let word = text(value, &place)?;
            let no = |e: String| bad(&place, e);
            match field.as_str() {
                "tool" => never.of.tools.push(ToolName::new(word).map_err(|e| no(e.to_string()))?),
                "resource" => never.of.resources.push(ResourceName::new(word).map_err(|e| no(e.to_string()))?),
                "environment" => never.of.environments.push(EnvironmentName::new(word).map_err(|e| no(e.to_string()))?),
                "verb" => never.of.verbs.push(of(&Verb::ALL, word, Verb::word).map_err(no)?),
                "risk" => never.of.risks.push(of(&Risk::ALL, word, Risk::word).map_err(no)?),
                "statement" => never.statements.push(word.to_owned()),
                "table" => never.tables.push(word.to_owned()),
                "path" => never.paths.push(word.to_owned()),
                _ => {
                    let next = "the fields are tool, resource, environment, verb, risk, statement, table, path";
                    return Err(bad(&place, "unknown field").next(next));
                }
            }
        }
    }
    if never.is_empty() {
        return Err(
            bad(&place, "it says nothing").next("say what the plan never does: {\"statement\": \"drop_table\"}")
        );
    }
    Ok(never)
}

/// The value with that word.
fn of<T: Copy>(all: &[T], word: &str, of: fn(T) -> &'static str) -> Result<T, String> {
    all.iter().copied().find(|one| of(*one) == word).ok_or_else(|| {
        let words: Vec<&str> = all.iter().map(|one| of(*one)).collect();
        format!("one of {} is expected", words.join(", "))
    })
}

fn at_most(value: &Value) -> Result<AtMost, Refusal> {
    let map = object(value, "at_most")?;
    known(map, "at_most", &AtMost::WORDS)?;
    let mut at_most = AtMost::default();
    for (word, value) in map {
        let limit = value.as_u64().ok_or_else(|| bad(&format!("at_most.{word}"), "a whole number is expected"))?;
        if let Some(field) = at_most.field(word) {
            *field = Some(limit);
        }
    }
    Ok(at_most)
}
