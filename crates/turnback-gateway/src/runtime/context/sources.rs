//! Asking the operator's sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use turnback_core::gates::evidence::{Observed, Quantity, Rule};
use turnback_core::robust::Number;
use turnback_effects::Bounds;

use super::super::probes;
use super::super::{Inner, started};
use crate::config::{Source, SourceFrom};

/// How long work that keeps to its own limit is waited for beyond it.
const GRACE: Duration = Duration::from_secs(1);

/// Largest file a source is read from, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// A value and, when the source says so, when it was observed.
type Found = Result<(Number, Option<Timestamp>), String>;

impl Inner {
    /// Asks every source some rules name, at the same time, each within its own limit.
    pub(super) async fn ask_sources<'a>(
        self: &Arc<Self>,
        rules: impl Iterator<Item = &'a Rule>,
    ) -> BTreeMap<String, Observed> {
        let mut names: BTreeSet<&String> = BTreeSet::new();
        for rule in rules {
            names.extend(&rule.sources);
            names.extend(rule.agree.iter().flat_map(|a| &a.sources));
            names.extend(rule.usual.iter().filter_map(|u| match &u.of {
                Quantity::Source(name) => Some(name),
                Quantity::Field(_) => None,
            }));
        }
        let mut asked = Vec::new();
        for name in names {
            // Without such a source there is no value, and the gate says so.
            let Some(source) = self.context.rules.sources.get(name).cloned() else { continue };
            let inner = Arc::clone(self);
            let limit = source.timeout;
            let max_age = source.max_age;
            let work = started(move || inner.ask_source(&source));
            asked.push((name.clone(), limit, max_age, work));
        }
        let mut observed = BTreeMap::new();
        let begun = tokio::time::Instant::now();
        for (name, limit, max_age, work) in asked {
            let found = match tokio::time::timeout_at(begun + limit + GRACE, work).await {
                Ok(Ok(found)) => found,
                Ok(Err(e)) => Err(format!("internal failure: {e}")),
                Err(_) => Err(format!("did not answer within {} ms", limit.as_millis())),
            };
            let now = self.now();
            let (value, at) = match found {
                Ok((_, None)) if max_age.is_some() => {
                    (Err("does not say when it was observed, and has a `max_age`".into()), now)
                }
                Ok((value, at)) => (Ok(value), at.unwrap_or(now)),
                Err(why) => (Err(why), now),
            };
            observed.insert(name, Observed { value, at, max_age });
        }
        observed
    }

    fn ask_source(&self, source: &Source) -> Found {
        match &source.from {
            SourceFrom::Query { resource, sql } => {
                let domain = &self.bound(resource).map_err(|e| e.to_string())?.resource.domain;
                let tools: Vec<_> = self.tools.values().filter(|t| t.resource == *resource).cloned().collect();
                let bounds = Bounds {
                    time: source.timeout,
                    lock_wait: source.timeout.min(self.settings.bounds.lock_wait),
                    ..self.settings.bounds.clone()
                };
                let reply = probes::read(domain.as_ref(), &tools, "query", &json!({ "sql": sql }), &bounds)
                    .map_err(|e| e.to_string())?;
                let rows = reply.get("rows").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let [Value::Array(cells)] = rows else {
                    return Err(format!("answers {} rows, one is expected", rows.len()));
                };
                match cells.as_slice() {
                    [value] => Ok((number(value)?, None)),
                    [value, at] => Ok((number(value)?, Some(moment(at)?))),
                    _ => {
                        Err(format!("answers {} columns; a value, or a value and its time, are expected", cells.len()))
                    }
                }
            }
            SourceFrom::File { path, value, observed } => file(path, value.as_deref(), observed.as_deref()),
        }
    }
}

fn number(value: &Value) -> Result<Number, String> {
    Number::of_json(value).ok_or_else(|| {
        let what = match value {
            Value::Null => "nothing",
            Value::String(_) => "text",
            Value::Number(_) => "a number too large",
            _ => "something else",
        };
        format!("answers {what} where a number is expected")
    })
}

/// RFC 3339, or seconds since 1970.
fn moment(value: &Value) -> Result<Timestamp, String> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(n) => n.as_i64().and_then(|seconds| Timestamp::from_second(seconds).ok()),
        _ => None,
    }
    .ok_or_else(|| "its time is neither RFC 3339 nor seconds since 1970".to_owned())
}

/// A file that is one number, or JSON with the number at a pointer. Its time is at a pointer, or when it was
/// changed last.
fn file(path: &Path, value: Option<&str>, observed: Option<&str>) -> Found {
    let failed = |e: std::io::Error| format!("its file cannot be read: {e}");
    let found = std::fs::metadata(path).map_err(failed)?;
    // Opening a pipe would wait for whoever writes to it.
    if !found.is_file() {
        return Err("its file is not a plain file".into());
    }
    if found.len() > FILE_LIMIT {
        return Err(format!("its file is larger than {FILE_LIMIT} bytes"));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let json = turnback_core::json::parse_with(&bytes, turnback_core::json::Numbers::Any)
        .map_err(|e| format!("its file is not JSON: {e}"))?;
    let at = |pointer: &str| json.pointer(pointer).ok_or_else(|| format!("its file has nothing at `{pointer}`"));
    let value = number(value.map_or(Ok(&json), at)?)?;
    let changed = || found.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    let time = observed.map_or_else(|| Ok(changed()), |pointer| at(pointer).and_then(moment).map(Some))?;
    Ok((value, time))
}
