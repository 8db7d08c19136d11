//! `[context]`, `[[evidence]]`, `[[source]]`, `[[label]]`, `[[flow]]`: what a write must rest on, and what may
//! not follow on what.

pub(super) mod evidence;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::evidence::{Outcome, Rule};
use turnback_core::gates::flow::{self, Label};
use turnback_core::gates::release::Mode;
use turnback_core::names::{EnvironmentName, ResourceName};
use turnback_core::select::{Selector, within};
use turnback_core::text::visible;
use turnback_core::tool::Kind;

use self::evidence::{RawEvidence, RawSource};
use super::Resource;
use super::error::ConfigError;
use super::read::{Known, Reader};
use super::select::Several;

type Text = Spanned<String>;

/// What is remembered and what it is held against. A value of this type is already checked.
#[derive(Clone, Debug)]
pub struct Context {
    /// How long a read is remembered. Default: seven days. Beyond it a write that needs one has none.
    pub reads_for: SignedDuration,
    /// How long a label sticks to who read it. Default: 24 hours.
    pub labels_for: SignedDuration,
    /// How long a refused intent is recognised. Default: one hour.
    pub refused_for: SignedDuration,
    /// How long reading again may take before one write, all reads together. Default: five seconds.
    pub time: Duration,
    /// What writes must rest on, in the order of the file.
    pub evidence: Vec<Rule>,
    /// Sources by name.
    pub sources: BTreeMap<String, Source>,
    /// What is labelled.
    pub labels: Vec<Labelled>,
    /// What may not follow on what was read.
    pub flow: Vec<flow::Rule>,
}

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// How it is asked.
    pub from: SourceFrom,
    /// How old its value may be. It must then say when that was observed.
    pub max_age: Option<SignedDuration>,
    /// How long it may take to answer. Default: five seconds.
    pub timeout: Duration,
}

/// How a source is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceFrom {
    /// A query that answers one row: the value and, in a second column, when it was observed.
    Query {
        /// The database.
        resource: ResourceName,
        /// One read-only statement.
        sql: String,
    },
    /// A JSON file. Without pointers all of it is the number, and it was observed when it was changed last.
    File {
        /// Absolute; written relative, it was beside the configuration file.
        path: PathBuf,
        /// JSON Pointer to the number.
        value: Option<String>,
        /// JSON Pointer to when it was observed.
        observed: Option<String>,
    },
}

/// Content of some kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The resource.
    pub resource: ResourceName,
    /// Paths or tables; empty for everything in it.
    pub places: Vec<String>,
    /// The labels.
    pub labels: Vec<Label>,
}

impl Labelled {
    /// Whether it covers something read. `None`: read nobody knows where, so it may.
    pub fn covers(&self, kind: Kind, places: Option<&[String]>) -> bool {
        self.places.is_empty()
            || places.is_none_or(|places| {
                // What lists a folder from above lists what is labelled in it.
                let meets = |a: &String, b: &String| within(kind, a, b) || within(kind, b, a);
                places.iter().any(|place| self.places.iter().any(|labelled| meets(labelled, place)))
            })
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawContext {
    reads_for: Option<Text>,
    labels_for: Option<Text>,
    refused_for: Option<Text>,
    time: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLabel {
    resource: Spanned<ResourceName>,
    #[serde(default)]
    places: Vec<Text>,
    labels: Spanned<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFlow {
    name: Option<Text>,
    after: Spanned<Vec<Text>>,
    #[serde(default)]
    then: RawThen,
    outcome: Option<Text>,
    reason: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThen {
    tools: Option<Several>,
    verbs: Option<Several>,
    risks: Option<Several>,
    resources: Option<Several>,
    environments: Option<Several>,
    #[serde(default)]
    places: Vec<Text>,
}

/// Everything of the file that is read here.
pub(super) struct Raw {
    pub(super) context: RawContext,
    pub(super) evidence: Vec<RawEvidence>,
    pub(super) source: Vec<RawSource>,
    pub(super) label: Vec<RawLabel>,
    pub(super) flow: Vec<RawFlow>,
    /// `labels` of the resources.
    pub(super) labelled: Vec<(ResourceName, Vec<Text>)>,
}

impl Reader<'_> {
    /// Reads all of it.
    pub(super) fn context(
        &self,
        raw: Raw,
        resources: &BTreeMap<ResourceName, Resource>,
        environments: &BTreeMap<EnvironmentName, Mode>,
    ) -> Result<Context, ConfigError> {
        let known = Known { resources, environments };
        let hours = SignedDuration::from_hours;
        let window = |text: &Option<Text>, default, what| self.duration_or(text.as_ref(), default, what);
        let reads_for = window(&raw.context.reads_for, hours(168), "how long reads are remembered")?;
        let labels_for = window(&raw.context.labels_for, hours(24), "how long labels stick")?;
        let refused_for = window(&raw.context.refused_for, hours(1), "how long a refused intent is recognised")?;
        let time = window(&raw.context.time, SignedDuration::from_secs(5), "how long reading again may take")?;
        let mut sources = BTreeMap::new();
        for source in raw.source {
            let name = source.name.clone();
            let source = self.source(source, &known)?;
            if name.get_ref().trim().is_empty() {
                return Err(self.error(&name, "a source needs a name", "name it after what it tells"));
            }
            if sources.insert(name.get_ref().clone(), source).is_some() {
                let message = format!("two sources are named `{}`", visible(name.get_ref()));
                return Err(self.error(&name, message, "give each source its own name"));
            }
        }
        let mut evidence = Vec::new();
        for (index, rule) in raw.evidence.into_iter().enumerate() {
            evidence.push(self.evidence(index + 1, rule, &known, &sources, reads_for)?);
        }
        let mut labels = Vec::new();
        for (resource, words) in raw.labelled.into_iter().filter(|(_, words)| !words.is_empty()) {
            labels.push(Labelled { resource, places: Vec::new(), labels: self.labels(&words)? });
        }
        for label in raw.label {
            if !known.resources.contains_key(label.resource.get_ref()) {
                return Err(self.unknown(
                    &label.resource,
                    label.resource.get_ref().as_str(),
                    "resource",
                    known.resources.keys(),
                ));
            }
            if label.labels.get_ref().is_empty() {
                return Err(self.error(&label.labels, "no label is named", LABELS));
            }
            let words = self.labels(label.labels.get_ref())?;
            labels.push(Labelled {
                resource: label.resource.into_inner(),
                places: self.places(label.places)?,
                labels: words,
            });
        }
        let mut rules = Vec::new();
        for (index, rule) in raw.flow.into_iter().enumerate() {
            rules.push(self.flow(index + 1, rule, &known)?);
        }
        Ok(Context {
            reads_for,
            labels_for,
            refused_for,
            time: time.unsigned_abs(),
            evidence,
            sources,
            labels,
            flow: rules,
        })
    }

    fn labels(&self, words: &[Text]) -> Result<Vec<Label>, ConfigError> {
        words
            .iter()
            .map(|word| {
                Label::from_word(word.get_ref())
                    .ok_or_else(|| self.error(word, format!("there is no label `{}`", visible(word.get_ref())), LABELS))
            })
            .collect()
    }

    /// Paths and tables as domains name them: no leading `./`, no `/` at the end.
    fn places(&self, places: Vec<Text>) -> Result<Vec<String>, ConfigError> {
        places
            .into_iter()
            .map(|place| {
                let text = place.get_ref().trim_start_matches("./").trim_end_matches('/');
                if text.is_empty() || text.starts_with('/') || text.split('/').any(|part| part == "..") {
                    let next = "write a path inside the resource, or the name of a table; leave it out for everything";
                    return Err(self.error(&place, "this is no place inside a resource", next));
                }
                Ok(text.to_owned())
            })
            .collect()
    }

    fn outcome(&self, word: Option<&Text>, default: Outcome) -> Result<Outcome, ConfigError> {
        let Some(word) = word else { return Ok(default) };
        match word.get_ref().as_str() {
            "deny" => Ok(Outcome::Deny),
            "review" => Ok(Outcome::Review),
            other => {
                Err(self.error(word, format!("`{}` is no outcome", visible(other)), "write \"deny\" or \"review\""))
            }
        }
    }

    fn flow(&self, number: usize, raw: RawFlow, known: &Known<'_>) -> Result<flow::Rule, ConfigError> {
        let after: BTreeSet<Label> = self.labels(raw.after.get_ref())?.into_iter().collect();
        if after.is_empty() {
            return Err(self.error(&raw.after, "this rule follows on nothing", LABELS));
        }
        let RawThen { tools, verbs, risks, resources, environments, places } = raw.then;
        let then = self.selector([tools, verbs, risks, resources, environments], known)?;
        Ok(flow::Rule {
            name: raw.name.map_or_else(|| format!("flow {number}"), Spanned::into_inner),
            after,
            then: Selector { places: self.places(places)?, ..then },
            outcome: self.outcome(raw.outcome.as_ref(), Outcome::Deny)?,
            reason: raw.reason.into_inner(),
        })
    }
}

const LABELS: &str = "use \"untrusted\", \"secret\" or \"personal\"";

#[cfg(test)]
mod tests;
