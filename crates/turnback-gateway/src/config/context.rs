//! `[context]`, `[[evidence]]`, `[[source]]`, `[[label]]`, `[[flow]]`: what a write must rest on, and what may
//! not follow on what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::evidence::{Agreement, Outcome, Quantity, ReadRule, Rule, Scope, Usual};
use turnback_core::gates::flow::{self, Label};
use turnback_core::gates::release::Mode;
use turnback_core::names::{EnvironmentName, ResourceName, ToolName};
use turnback_core::robust::{self, Number, Tolerance};
use turnback_core::select::{Selector, within};
use turnback_core::text::visible;
use turnback_core::tool::{Kind, Risk, Verb};
use turnback_effects::registry;

use super::Resource;
use super::error::ConfigError;
use super::read::Reader;

type Text = Spanned<String>;
type Float = Spanned<toml::Value>;

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

/// One word, or a list of them.
pub(super) type Several = Spanned<toml::Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEvidence {
    name: Option<Text>,
    tool: Option<Several>,
    verb: Option<Several>,
    risk: Option<Several>,
    resource: Option<Several>,
    environment: Option<Several>,
    reads: Option<Text>,
    max_age: Option<Text>,
    required: Option<Spanned<bool>>,
    on_change: Option<Text>,
    #[serde(default)]
    sources: Vec<Text>,
    #[serde(default)]
    agree: Vec<Spanned<RawAgree>>,
    #[serde(default)]
    usual: Vec<Spanned<RawUsual>>,
    confidence: Option<Float>,
    coverage: Option<Float>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAgree {
    sources: Vec<Text>,
    within: Option<Float>,
    within_percent: Option<Float>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUsual {
    source: Option<Text>,
    field: Option<Text>,
    deviations: Option<Float>,
    history: Option<Spanned<i64>>,
    short: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    name: Text,
    resource: Option<Spanned<ResourceName>>,
    sql: Option<Text>,
    file: Option<Text>,
    value: Option<Text>,
    observed: Option<Text>,
    max_age: Option<Text>,
    timeout: Option<Text>,
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

/// Most robust deviations that make sense; beyond it nothing would ever be unusual.
const DEVIATIONS_MOST: f64 = 1e6;

/// What the rest of the file says.
pub(super) struct Known<'a> {
    pub(super) resources: &'a BTreeMap<ResourceName, Resource>,
    pub(super) environments: &'a BTreeMap<EnvironmentName, Mode>,
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

    fn unknown<T, N: std::fmt::Display>(
        &self,
        at: &Spanned<T>,
        name: &str,
        what: &str,
        known: impl Iterator<Item = N>,
    ) -> ConfigError {
        let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
        let next =
            if known.is_empty() { format!("there is no {what} yet") } else { format!("use {}", known.join(" or ")) };
        self.error(at, format!("unknown {what} `{}`", visible(name)), next)
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

    fn number(&self, value: &Float, from: f64, to: f64, what: &str) -> Result<Number, ConfigError> {
        let number = match value.get_ref() {
            toml::Value::Float(f) => Some(*f),
            // Exact far beyond every number that makes sense here.
            toml::Value::Integer(n) => n.to_string().parse().ok(),
            _ => None,
        };
        number.filter(|n| (from..=to).contains(n)).and_then(Number::new).ok_or_else(|| {
            let next = if to == f64::MAX {
                format!("write a number from {from}")
            } else {
                format!("write a number from {from} to {to}")
            };
            self.error(value, format!("{what} cannot be `{}`", visible(&value.get_ref().to_string())), next)
        })
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

    /// The words of one, or of a list; each complaint about one then points at the list.
    pub(super) fn texts(&self, several: Option<Several>) -> Result<Vec<Text>, ConfigError> {
        let Some(several) = several else { return Ok(Vec::new()) };
        let words: Option<Vec<String>> = match several.get_ref() {
            toml::Value::String(word) => Some(vec![word.clone()]),
            toml::Value::Array(words) => words.iter().map(|word| word.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        match words {
            Some(words) if !words.is_empty() => {
                Ok(words.into_iter().map(|word| Spanned::new(several.span(), word)).collect())
            }
            // A list of none would concern nothing, or everything.
            _ => Err(self.error(
                &several,
                "a word or a list of words is expected",
                "write \"one\" or [\"one\", \"other\"]",
            )),
        }
    }

    fn words<T: serde::de::DeserializeOwned>(&self, words: Option<Several>, what: &str) -> Result<Vec<T>, ConfigError> {
        self.texts(words)?
            .into_iter()
            .map(|word| {
                serde_json::from_value(serde_json::Value::String(word.get_ref().clone())).map_err(|e| {
                    let message = format!("`{}` is not {what}", visible(word.get_ref()));
                    let told = e.to_string();
                    let next =
                        told.split_once("expected").map_or_else(|| told.clone(), |(_, rest)| format!("write{rest}"));
                    self.error(&word, message, visible(&next))
                })
            })
            .collect()
    }

    pub(super) fn selector(
        &self,
        [tools, verbs, risks, resources, environments]: [Option<Several>; 5],
        known: &Known<'_>,
    ) -> Result<Selector, ConfigError> {
        let mut selector = Selector {
            verbs: self.words::<Verb>(verbs, "a verb")?,
            risks: self.words::<Risk>(risks, "a class of risk")?,
            ..Selector::default()
        };
        for name in self.texts(tools)? {
            let there = known.resources.iter().flat_map(|(resource, r)| {
                registry::specs(r.kind).into_iter().filter_map(|spec| ToolName::joined(resource, spec.name).ok())
            });
            match there.clone().find(|tool| tool.as_str() == name.get_ref()) {
                Some(tool) => selector.tools.push(tool),
                None => return Err(self.unknown(&name, name.get_ref(), "tool", there)),
            }
        }
        selector.resources = self.resources(resources, known)?;
        for name in self.texts(environments)? {
            match known.environments.keys().find(|e| e.as_str() == name.get_ref()) {
                Some(environment) => selector.environments.push(environment.clone()),
                None => return Err(self.unknown(&name, name.get_ref(), "environment", known.environments.keys())),
            }
        }
        Ok(selector)
    }

    /// Names of configured resources.
    pub(super) fn resources(
        &self,
        names: Option<Several>,
        known: &Known<'_>,
    ) -> Result<Vec<ResourceName>, ConfigError> {
        self.texts(names)?
            .into_iter()
            .map(|name| match known.resources.keys().find(|r| r.as_str() == name.get_ref()) {
                Some(resource) => Ok(resource.clone()),
                None => Err(self.unknown(&name, name.get_ref(), "resource", known.resources.keys())),
            })
            .collect()
    }

    fn evidence(
        &self,
        number: usize,
        raw: RawEvidence,
        known: &Known<'_>,
        sources: &BTreeMap<String, Source>,
        window: SignedDuration,
    ) -> Result<Rule, ConfigError> {
        let of = self.selector([raw.tool, raw.verb, raw.risk, raw.resource, raw.environment], known)?;
        let max_age = raw.max_age.as_ref().map(|text| self.duration(text, "the age of a read")).transpose()?;
        let reads = match &raw.reads {
            None => {
                let stray = raw.max_age.as_ref().map(Spanned::span).or(raw.required.as_ref().map(Spanned::span));
                if let Some(span) = stray {
                    let next =
                        "add `reads = \"same-resource\"`, \"trace\" or \"all\"; a source has a `max_age` of its own";
                    return Err(self.source.error(span, "this is about reads, and the rule asks for none", next));
                }
                None
            }
            Some(word) => {
                let scope = match word.get_ref().as_str() {
                    "same-resource" => Scope::SameResource,
                    "trace" => Scope::Trace,
                    "all" => Scope::All,
                    other => {
                        let message = format!("`{}` are no reads", visible(other));
                        return Err(self.error(word, message, "write \"same-resource\", \"trace\" or \"all\""));
                    }
                };
                let required = raw.required.as_ref().is_none_or(|r| *r.get_ref());
                if let (Scope::Trace, Some(said)) = (scope, raw.required.as_ref().filter(|_| !required)) {
                    let message = "which trace a write is in the agent says: it would choose one without reads";
                    return Err(self.error(said, message, "remove this line, or ask for \"same-resource\" or \"all\""));
                }
                if let (Some(at), Some(age)) = (&raw.max_age, max_age)
                    && age > window
                {
                    let message = "reads are not remembered for so long";
                    return Err(self.error(at, message, "write less, or raise `reads_for` in [context]"));
                }
                Some(ReadRule { scope, max_age, required })
            }
        };
        let named = |text: &Text| match sources.contains_key(text.get_ref()) {
            true => Ok(text.get_ref().clone()),
            false => Err(self.unknown(text, text.get_ref(), "source", sources.keys())),
        };
        let mut agree = Vec::new();
        for one in raw.agree {
            let span = one.span();
            let one = one.into_inner();
            let wanted = "two or more sources are compared";
            if one.sources.len() < 2 {
                return Err(self.source.error(span, wanted, "write sources = [\"one\", \"other\"]"));
            }
            let within = match (&one.within, &one.within_percent) {
                (Some(n), None) => Tolerance::Absolute(self.number(n, 0.0, f64::MAX, "a tolerance")?),
                (None, Some(n)) => Tolerance::Percent(self.number(n, 0.0, 200.0, "a tolerance in percent")?),
                _ => {
                    let next = "write `within = 5` or `within_percent = 1`";
                    return Err(self.source.error(span, "how far apart they may be is said once", next));
                }
            };
            agree.push(Agreement { sources: one.sources.iter().map(named).collect::<Result<_, _>>()?, within });
        }
        let mut usual = Vec::new();
        for one in raw.usual {
            usual.push(self.usual(one, &named)?);
        }
        let rule = Rule {
            name: raw.name.map_or_else(|| format!("evidence {number}"), Spanned::into_inner),
            of,
            outcome: self.outcome(raw.on_change.as_ref(), Outcome::Deny)?,
            reads,
            sources: raw.sources.iter().map(named).collect::<Result<_, _>>()?,
            agree,
            usual,
            confidence: raw.confidence.as_ref().map(|n| self.number(n, 0.0, 1.0, "a confidence")).transpose()?,
            coverage: raw.coverage.as_ref().map(|n| self.number(n, 0.0, 1.0, "a coverage")).transpose()?,
        };
        let asks = rule.reads.is_some()
            || rule.confidence.is_some()
            || rule.coverage.is_some()
            || !(rule.sources.is_empty() && rule.agree.is_empty() && rule.usual.is_empty());
        if asks {
            return Ok(rule);
        }
        Err(ConfigError::whole(
            &self.source.file,
            format!("[[evidence]] rule {number} asks for nothing"),
            "add `reads`, `sources`, `agree`, `usual`, `confidence` or `coverage`, or remove it",
        ))
    }

    fn usual(
        &self,
        one: Spanned<RawUsual>,
        named: &impl Fn(&Text) -> Result<String, ConfigError>,
    ) -> Result<Usual, ConfigError> {
        let span = one.span();
        let one = one.into_inner();
        let of = match (&one.source, &one.field) {
            (Some(source), None) => Quantity::Source(named(source)?),
            (None, Some(field)) => Quantity::Field(self.pointer(field)?),
            _ => {
                let next = "write `source = \"name\"`, or `field = \"/params/0\"` for an argument";
                return Err(self.source.error(span, "one number is compared with its history", next));
            }
        };
        let limit = match &one.deviations {
            Some(n) => self.number(n, 0.0, DEVIATIONS_MOST, "a number of deviations")?,
            None => robust::DEVIATIONS,
        };
        let least = match &one.history {
            None => 10,
            Some(n) => usize::try_from(*n.get_ref())
                .ok()
                .filter(|n| (1..=256).contains(n))
                .ok_or_else(|| self.error(n, "so much history is never there", "write a number from 1 to 256"))?,
        };
        let short = self.outcome(one.short.as_ref(), Outcome::Review)?;
        Ok(Usual { of, limit, least, short })
    }

    fn pointer(&self, text: &Text) -> Result<String, ConfigError> {
        if text.get_ref().starts_with('/') {
            return Ok(text.get_ref().clone());
        }
        Err(self.error(text, "this is no JSON Pointer", "write it like \"/stock/count\" or \"/params/0\""))
    }

    fn source(&self, raw: RawSource, known: &Known<'_>) -> Result<Source, ConfigError> {
        let max_age = raw.max_age.as_ref().map(|text| self.duration(text, "the age of a source")).transpose()?;
        let five = SignedDuration::from_secs(5);
        let timeout = self.duration_or(raw.timeout.as_ref(), five, "how long a source may take")?.unsigned_abs();
        let pointer = |text: Option<&Text>| text.map(|text| self.pointer(text)).transpose();
        let from = match (raw.resource, raw.sql, raw.file) {
            (Some(resource), Some(sql), None) => {
                if let Some(stray) = raw.value.as_ref().or(raw.observed.as_ref()) {
                    let next = "remove it; a second column of the query is when the value was observed";
                    return Err(self.error(stray, "this is about a file, and the source is a query", next));
                }
                match known.resources.get(resource.get_ref()).map(|r| r.kind) {
                    Some(Kind::Sqlite) => {}
                    Some(_) => {
                        return Err(self.error(&resource, "only a database can be asked a query", "use `file` here"));
                    }
                    None => {
                        return Err(self.unknown(
                            &resource,
                            resource.get_ref().as_str(),
                            "resource",
                            known.resources.keys(),
                        ));
                    }
                }
                SourceFrom::Query { resource: resource.into_inner(), sql: sql.into_inner() }
            }
            (None, None, Some(file)) => SourceFrom::File {
                path: Path::new(self.folder).join(file.get_ref()),
                value: pointer(raw.value.as_ref())?,
                observed: pointer(raw.observed.as_ref())?,
            },
            _ => {
                let message = format!("source `{}` says neither one query nor one file", visible(raw.name.get_ref()));
                return Err(self.error(&raw.name, message, "write `resource` and `sql`, or `file`"));
            }
        };
        Ok(Source { from, max_age, timeout })
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
