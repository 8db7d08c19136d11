//! `[[evidence]]` and `[[source]]`: what a write must rest on.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::evidence::{Agreement, Outcome, Quantity, ReadRule, Rule, Scope, Usual};
use turnback_core::names::ResourceName;
use turnback_core::robust::{self, Number, Tolerance};
use turnback_core::text::visible;
use turnback_core::tool::Kind;

use super::super::error::ConfigError;
use super::super::read::{Known, Reader};
use super::super::select::Several;
use super::{Source, SourceFrom};

type Text = Spanned<String>;
type Float = Spanned<toml::Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct RawEvidence {
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
pub(in super::super) struct RawSource {
    pub(super) name: Text,
    resource: Option<Spanned<ResourceName>>,
    sql: Option<Text>,
    file: Option<Text>,
    value: Option<Text>,
    observed: Option<Text>,
    max_age: Option<Text>,
    timeout: Option<Text>,
}

/// Most robust deviations that make sense; beyond it nothing would ever be unusual.
const DEVIATIONS_MOST: f64 = 1e6;

impl Reader<'_> {
    pub(super) fn evidence(
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

    pub(super) fn source(&self, raw: RawSource, known: &Known<'_>) -> Result<Source, ConfigError> {
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
}
