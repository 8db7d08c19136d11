//! Flags a service answers for: the single evaluation of the OpenFeature Remote Evaluation Protocol (OFREP).
//!
//! What is asked and what an answer means; the asking is the gateway's. A service is asked for keys of the convention
//! ([`super`]) with the context that targeting may ask for here, and must answer with the word of a mode. Whatever
//! else it answers is no answer, with one exception: that it has no such flag, or a flag that says nothing, is one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Flagged, Reason, Said, Subject, context_of, subjects};
use crate::contract::Contract;
use crate::gates::ownership::Agent;
use crate::gates::release::Mode;
use crate::json;
use crate::text::visible;

/// Largest answer read, in bytes.
pub const ANSWER_LIMIT: usize = 64 << 10;

/// Longest variant accepted, in bytes. It is recorded with every decision.
const VARIANT_LIMIT: usize = 200;

/// Where below a service's address one flag is evaluated.
const PATH: &str = "/ofrep/v1/evaluate/flags/";

/// Where something was said that was not evaluated here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The service's address.
    pub service: String,
    /// When it was asked for what it said. `None`: it said nothing that still counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Why it could not be asked again, when what it said before still counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
}

/// A key, or all keys about one kind of thing, a service is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    subject: Subject,
    /// `None` for every name.
    name: Option<String>,
}

impl Wanted {
    /// What is asked for when nobody says otherwise: the whole convention.
    pub const ALL: &[&str] = &[
        "release",
        "release.environment.*",
        "release.resource.*",
        "release.tool.*",
        "release.workflow.*",
        "release.agent.*",
    ];

    /// Reads a key of the convention; `*` stands for every name. `None` for what is no such key.
    pub fn parse(text: &str) -> Option<Self> {
        let (subject, name) = Subject::of_key(text)?;
        Some(Self { subject, name: (name != "*").then(|| name.to_owned()) })
    }

    /// The kind of thing (`environment`, `resource`, `tool`, `workflow`, `agent`; empty for everything) and its
    /// name, when it is one.
    pub fn parts(&self) -> (&'static str, Option<&str>) {
        (self.subject.word(), self.name.as_deref())
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&key(self.subject, self.name.as_deref().unwrap_or("*")))
    }
}

fn key(subject: Subject, name: &str) -> String {
    match subject {
        Subject::Everything => "release".to_owned(),
        _ => format!("release.{}.{name}", subject.word()),
    }
}

/// The keys that concern an action among those that are wanted, in the order of evaluation. None for actions of
/// others than agents.
pub fn keys(wanted: &[Wanted], contract: &Contract) -> Vec<String> {
    let asked = |(subject, name): &(Subject, &str)| {
        wanted.iter().any(|w| w.subject == *subject && w.name.as_ref().is_none_or(|n| n == name))
    };
    subjects(contract).filter(asked).map(|(subject, name)| key(subject, name)).collect()
}

/// The body of the request: the context of the evaluation, in canonical form. Equal for equal contexts.
pub fn question(contract: &Contract, agent: Option<&Agent>) -> Vec<u8> {
    json::canonical(&json!({ "context": context_of(contract, agent) }))
}

/// The path of one flag below a service's address. Whatever a key holds, it stays one segment.
pub fn path(key: &str) -> String {
    let mut path = PATH.to_owned();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// What a service answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why it came to that.
    pub reason: Reason,
    /// The variant, when it names one.
    pub variant: Option<String>,
    /// The mode its value stands for; `None` when it says nothing.
    pub mode: Option<Mode>,
}

impl Answer {
    /// Reads the answer to the question for `key`: the status (200, 400 or 404) and the body.
    ///
    /// # Errors
    /// Why it is no answer, in words for an operator. No more of the body is quoted than a value's beginning.
    pub fn read(key: &str, status: u16, body: &[u8]) -> Result<Self, String> {
        if body.len() > ANSWER_LIMIT {
            return Err(format!("its answer is larger than {ANSWER_LIMIT} bytes"));
        }
        let answer = json::parse(body).map_err(|e| format!("its answer ({status}) is not strict JSON: {e}"))?;
        let Value::Object(answer) = answer else {
            return Err(format!("its answer ({status}) is not an object"));
        };
        let code = answer.get("errorCode").map(|code| short(code.as_str().unwrap_or("?")));
        match answer.get("key").map(Value::as_str) {
            Some(Some(other)) if other == key => {}
            Some(other) => return Err(format!("it answers for another key, `{}`", short(other.unwrap_or("?")))),
            None => return Err(format!("its answer ({status}) does not name the key")),
        }
        match (status, code) {
            (200, None) => Self::evaluated(&answer),
            (404, Some(code)) if code == "FLAG_NOT_FOUND" => {
                Ok(Self { reason: Reason::NotFound, variant: None, mode: None })
            }
            (_, Some(code)) => Err(format!("it answers {status}, `{code}`")),
            (_, None) => Err(format!("it answers {status}")),
        }
    }

    fn evaluated(answer: &Map<String, Value>) -> Result<Self, String> {
        let reason = match answer.get("reason") {
            None | Some(Value::Null) => Reason::Unknown,
            Some(Value::String(word)) => reason(word)?,
            Some(_) => return Err("its reason is not text".to_owned()),
        };
        let variant = match answer.get("variant") {
            None | Some(Value::Null) => None,
            Some(Value::String(variant)) if variant.len() <= VARIANT_LIMIT => Some(variant.clone()),
            Some(Value::String(_)) => return Err(format!("its variant is longer than {VARIANT_LIMIT} bytes")),
            Some(_) => return Err("its variant is not text".to_owned()),
        };
        let mode = match answer.get("value") {
            // The service leaves it to whoever asks, and whoever asks has modes of its own.
            None | Some(Value::Null) if matches!(reason, Reason::Disabled | Reason::Default) => None,
            None | Some(Value::Null) => return Err("its answer has no value".to_owned()),
            Some(Value::String(word)) => Some(
                Mode::from_word(word)
                    .ok_or_else(|| format!("its value `{}` is no mode: {} are", short(word), Mode::WORDS.join(", ")))?,
            ),
            Some(Value::Bool(_)) => return Err("its value is a boolean, not the word of a mode".to_owned()),
            Some(Value::Number(_)) => return Err("its value is a number, not the word of a mode".to_owned()),
            Some(_) => return Err("its value is not the word of a mode".to_owned()),
        };
        Ok(Self { reason, variant, mode })
    }
}

/// The reasons OpenFeature names. A service that calls its own answer stale or wrong has not answered.
fn reason(word: &str) -> Result<Reason, String> {
    Ok(match word {
        "STATIC" => Reason::Static,
        "TARGETING_MATCH" => Reason::TargetingMatch,
        // The second is GO Feature Flag's.
        "SPLIT" | "TARGETING_MATCH_SPLIT" => Reason::Split,
        "DEFAULT" => Reason::Default,
        "DISABLED" => Reason::Disabled,
        "CACHED" => Reason::Cached,
        "UNKNOWN" => Reason::Unknown,
        "STALE" => return Err("it says itself that its answer is stale".to_owned()),
        "ERROR" => return Err("it says itself that it could not evaluate it".to_owned()),
        other => return Err(format!("its reason `{}` is unknown", short(other))),
    })
}

/// The beginning of a text somebody else wrote.
fn short(text: &str) -> String {
    visible(&text.chars().take(40).collect::<String>())
}

impl Said {
    /// What a service said, at `heard.at`.
    pub fn heard(flag: String, answer: &Answer, heard: Heard) -> Self {
        let Answer { reason, variant, mode } = answer.clone();
        Self { flag, reason, variant, mode, error: None, remote: Some(heard) }
    }

    /// That nothing a service said counts, and why.
    pub fn unheard(flag: String, service: String, why: String) -> Self {
        let remote = Some(Heard { service, at: None, stale: None });
        Self { flag, reason: Reason::Error, variant: None, mode: None, error: Some(why), remote }
    }
}

impl Flagged {
    /// What our own flags and services said together.
    pub fn together(local: Option<Self>, remote: Vec<Said>) -> Option<Self> {
        if remote.is_empty() {
            return local;
        }
        let mut flagged = local.unwrap_or(Self { document: None, said: Vec::new() });
        flagged.said.extend(remote);
        Some(flagged)
    }
}

#[cfg(test)]
mod tests;
