//! What an enforcement point asks.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json;
use crate::refusal::{Code, Refusal};
use crate::text::visible;

/// Most questions in one request.
const MOST: usize = 1_000;

/// A subject or a resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thing {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its identity within the type.
    pub id: String,
    /// What the enforcement point says of it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Its name.
    pub name: String,
    /// What the enforcement point says of it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Who.
    pub subject: Thing,
    /// Does what.
    pub action: Action,
    /// To what.
    pub resource: Thing,
    /// Under which circumstances.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
}

/// When a list of questions ends early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantic {
    /// Never.
    #[default]
    ExecuteAll,
    /// After the first no.
    DenyOnFirstDeny,
    /// After the first yes.
    PermitOnFirstPermit,
}

/// A question of a list, or why it is none: then the answer to it is no.
pub type Asked = Result<Evaluation, Refusal>;

/// Several questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluations {
    /// In the order they are answered in.
    pub asked: Vec<Asked>,
    /// When to stop.
    pub semantic: Semantic,
    /// Asked without a list: answered without one too.
    pub single: bool,
}

impl Evaluation {
    /// Reads the body of `POST /access/v1/evaluation`.
    ///
    /// # Errors
    /// A [`Refusal`] that names the member at fault. Members the standard does not know are refused: one that
    /// was meant to narrow the question must not be dropped.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        Self::of(&object(body, &["subject", "action", "resource", "context"])?)
    }

    fn of(members: &Map<String, Value>) -> Result<Self, Refusal> {
        let member = |name: &str| {
            members
                .get(name)
                .ok_or_else(|| bad(name, "it is missing").next("a question has subject, action and resource"))
        };
        Ok(Self {
            subject: thing(member("subject")?, "subject")?,
            action: action(member("action")?)?,
            resource: thing(member("resource")?, "resource")?,
            context: members.get("context").map_or_else(|| Ok(Map::new()), |value| map(value, "context"))?,
        })
    }
}

impl Evaluations {
    /// Reads the body of `POST /access/v1/evaluation`.
    ///
    /// # Errors
    /// As [`Evaluation::parse`].
    pub fn one(body: &[u8]) -> Result<Self, Refusal> {
        Ok(Self { asked: vec![Ok(Evaluation::parse(body)?)], semantic: Semantic::default(), single: true })
    }

    /// Reads the body of `POST /access/v1/evaluations`: members beside the list are what its questions
    /// leave out; without a list they are the one question.
    ///
    /// # Errors
    /// As [`Evaluation::parse`], for what concerns all questions. One that is wrong alone is in the list.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut all = object(body, &["subject", "action", "resource", "context", "evaluations", "options"])?;
        let semantic = match all.shift_remove("options") {
            None => Semantic::default(),
            Some(options) => semantic(&map(&options, "options")?)?,
        };
        let list = match all.shift_remove("evaluations") {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(bad("evaluations", "a list is expected")),
        };
        if list.is_empty() {
            return Ok(Self { asked: vec![Ok(Evaluation::of(&all)?)], semantic, single: true });
        }
        if list.len() > MOST {
            return Err(Refusal::new(Code::TooLarge, format!("{} questions, the bound is {MOST}", list.len()))
                .at("evaluations")
                .next("ask in several requests"));
        }
        let asked = list.iter().enumerate().map(|(i, one)| {
            let named = |refusal: Refusal| {
                let place = refusal.place.clone().unwrap_or_default();
                refusal.at(format!("evaluations[{i}].{place}").trim_end_matches('.'))
            };
            let own = map(one, "")
                .and_then(|own| known(own, &["subject", "action", "resource", "context"]))
                .map_err(named)?;
            let mut merged = all.clone();
            merged.extend(own);
            Evaluation::of(&merged).map_err(named)
        });
        Ok(Self { asked: asked.collect(), semantic, single: false })
    }

    /// Whether nothing more is asked after this answer.
    pub fn ends_with(&self, yes: bool) -> bool {
        match self.semantic {
            Semantic::ExecuteAll => false,
            Semantic::DenyOnFirstDeny => !yes,
            Semantic::PermitOnFirstPermit => yes,
        }
    }
}

fn bad(place: &str, message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadInput, message).at(place)
}

fn object(body: &[u8], members: &[&str]) -> Result<Map<String, Value>, Refusal> {
    let value = json::parse(body).map_err(|e| bad(&e.path, e.to_string()))?;
    known(map(&value, "body")?, members)
}

fn known(map: Map<String, Value>, members: &[&str]) -> Result<Map<String, Value>, Refusal> {
    match map.keys().find(|key| !members.contains(&key.as_str())) {
        None => Ok(map),
        Some(unknown) => Err(bad(unknown, "there is no such member").next(format!("there are {}", members.join(", ")))),
    }
}

fn map(value: &Value, place: &str) -> Result<Map<String, Value>, Refusal> {
    value.as_object().cloned().ok_or_else(|| bad(place, "an object is expected"))
}

fn text(map: &Map<String, Value>, place: &str, member: &str) -> Result<String, Refusal> {
    let place = format!("{place}.{member}");
    match map.get(member) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::String(_)) => Err(bad(&place, "it is empty")),
        Some(_) => Err(bad(&place, "a text is expected")),
        None => Err(bad(&place, "it is missing")),
    }
}

fn properties(map: &Map<String, Value>, place: &str) -> Result<Map<String, Value>, Refusal> {
    map.get("properties").map_or_else(|| Ok(Map::new()), |value| self::map(value, &format!("{place}.properties")))
}

fn thing(value: &Value, place: &str) -> Result<Thing, Refusal> {
    let map = known(map(value, place)?, &["type", "id", "properties"])?;
    Ok(Thing { kind: text(&map, place, "type")?, id: text(&map, place, "id")?, properties: properties(&map, place)? })
}

fn action(value: &Value) -> Result<Action, Refusal> {
    let map = known(map(value, "action")?, &["name", "properties"])?;
    Ok(Action { name: text(&map, "action", "name")?, properties: properties(&map, "action")? })
}

fn semantic(options: &Map<String, Value>) -> Result<Semantic, Refusal> {
    // Options are the standard's place for extensions; what is unknown there is not part of any question.
    match options.get("evaluations_semantic").map(Value::as_str) {
        None => Ok(Semantic::default()),
        Some(Some("execute_all")) => Ok(Semantic::ExecuteAll),
        Some(Some("deny_on_first_deny")) => Ok(Semantic::DenyOnFirstDeny),
        Some(Some("permit_on_first_permit")) => Ok(Semantic::PermitOnFirstPermit),
        Some(other) => {
            Err(bad("options.evaluations_semantic", format!("`{}` is unknown", visible(other.unwrap_or("(no text)"))))
                .next("write execute_all, deny_on_first_deny or permit_on_first_permit"))
        }
    }
}
