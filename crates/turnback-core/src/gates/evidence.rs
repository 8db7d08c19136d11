//! `evidence`: what a write rests on is fresh, still holds, agrees and is nothing unusual.
//!
//! A rule names the writes it concerns and what they must rest on: what the agent read through Turnback
//! before (the read-set), sources of the operator's, and what the agent says of its own confidence. Age and
//! statement are judged before the target is touched; what was read is read again, and sources are asked,
//! after staging, so that nothing lies between the look and the commit but the commit.
//!
//! The age of a read is counted until the write was asked for: how long a person then thinks about it does
//! not make what the agent knew older, and what changed meanwhile is found by reading again.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::contract::Statement;
use crate::decision::{Ruling, Verdict};
use crate::digest::Sha256;
use crate::names::{ResourceName, RunId, ToolName};
use crate::robust::{self, Number, Standing, Tolerance};
use crate::select::Selector;
use crate::text::visible;

/// This gate's name.
pub const NAME: &str = "evidence";

/// What a rule that does not hold comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A person decides.
    Review,
    /// It does not run.
    #[default]
    Deny,
}

impl Outcome {
    /// As a ruling; a person's approval answers a review, and nothing else.
    pub const fn ruling(self, approved: bool) -> Ruling {
        match self {
            Outcome::Review if approved => Ruling::Allow,
            Outcome::Review => Ruling::Review,
            Outcome::Deny => Ruling::Deny,
        }
    }
}

/// Which reads a write depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The agent's reads of the resource it writes to.
    SameResource,
    /// The agent's reads in the trace the write names; all its reads when it names none. What is in a trace
    /// the agent says, so these reads are always required.
    Trace,
    /// All the agent's reads.
    All,
}

/// What a rule wants of the reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRule {
    /// Which reads.
    pub scope: Scope,
    /// How old one may be when the write is asked for. `None`: any age, as long as it still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<SignedDuration>,
    /// A write without any such read is denied.
    pub required: bool,
}

/// Sources that must agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Two or more; every pair of them must agree.
    pub sources: Vec<String>,
    /// How far apart they may be.
    pub within: Tolerance,
}

/// A number that must not be unusual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usual {
    /// Which number: a source, or a field of the arguments.
    pub of: Quantity,
    /// How many robust standard deviations from the median are usual.
    pub limit: Number,
    /// Fewer earlier values say nothing.
    pub least: usize,
    /// What too little history comes to.
    pub short: Outcome,
}

/// A number of an action.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// The value of a source.
    Source(String),
    /// The argument at this JSON Pointer.
    Field(String),
}

impl Quantity {
    /// The name its history is kept under. A field's is kept for each tool.
    pub fn key(&self, tool: &ToolName) -> String {
        match self {
            Quantity::Source(name) => format!("source {name}"),
            Quantity::Field(pointer) => format!("{tool} {pointer}"),
        }
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Quantity::Source(name) => write!(f, "source `{}`", visible(name)),
            Quantity::Field(pointer) => write!(f, "argument `{}`", visible(pointer)),
        }
    }
}

/// One `[[evidence]]` rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, or `evidence <n>` by its place in the file.
    pub name: String,
    /// The writes it concerns.
    pub of: Selector,
    /// What it comes to when it does not hold.
    pub outcome: Outcome,
    /// What must have been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<ReadRule>,
    /// Sources that must answer in time with a value young enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Sources that must agree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agree: Vec<Agreement>,
    /// Numbers that must not be unusual.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usual: Vec<Usual>,
    /// The agent must say that it is at least so sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Number>,
    /// Every `coverage` the agent states in its evidence must be at least this, and one must be stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Number>,
}

/// The digest of what a read answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDigest {
    /// Of the whole answer in canonical form: what is compared.
    pub whole: Sha256,
    /// The beginning of each row's own hash, when the answer has at most [`ReadDigest::ROWS`] rows: only to
    /// say which of them changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<u32>,
}

impl ReadDigest {
    /// Rows hashed one by one.
    pub const ROWS: usize = 100;

    /// Of a domain's answer.
    pub fn of(reply: &serde_json::Value) -> Self {
        let short = |row: &serde_json::Value| {
            let hash = Sha256::of(&crate::json::canonical(row));
            let [a, b, c, d, ..] = *hash.as_bytes();
            u32::from_be_bytes([a, b, c, d])
        };
        let rows = reply.get("rows").and_then(serde_json::Value::as_array).filter(|rows| rows.len() <= Self::ROWS);
        Self {
            whole: Sha256::of(&crate::json::canonical(reply)),
            rows: rows.map_or_else(Vec::new, |rows| rows.iter().map(short).collect()),
        }
    }

    /// In words, what differs in `now`.
    fn difference(&self, now: &Self) -> String {
        let digests = format!("digest {} is now {}", self.whole.short(), now.whole.short());
        if self.rows.is_empty() && now.rows.is_empty() {
            return digests;
        }
        let differ: Vec<String> = (0..self.rows.len().max(now.rows.len()))
            .filter(|at| self.rows.get(*at) != now.rows.get(*at))
            .map(|at| (at + 1).to_string())
            .collect();
        let shown = differ.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
        let more = if differ.len() > 10 { ", ..." } else { "" };
        format!("row {shown}{more} of {} (now {}), {digests}", self.rows.len(), now.rows.len())
    }
}

/// What reading again found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Again {
    /// It was not read again yet.
    NotYet,
    /// The same.
    Same,
    /// Something else.
    Changed {
        /// What it is now.
        digest: ReadDigest,
    },
    /// It could not be read again, or not in time.
    Unreachable {
        /// Why.
        why: String,
    },
}

/// A read the write depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its run.
    pub run: RunId,
    /// When it was answered.
    pub at: Timestamp,
    /// Through which tool.
    pub tool: ToolName,
    /// Of which resource.
    pub resource: ResourceName,
    /// What was read: the places, or the arguments where none are known.
    pub what: String,
    /// What it answered.
    pub digest: ReadDigest,
    /// What reading it again found.
    pub again: Again,
}

/// A rule that concerns the action, with what was found for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The rule.
    pub rule: Rule,
    /// The reads it depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<Held>,
    /// Reads it may have depended on are not remembered any more.
    #[serde(default)]
    pub forgotten: bool,
}

/// What a source answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Its value, or why it has none.
    pub value: Result<Number, String>,
    /// When that was observed, as it says itself, or when it was asked.
    pub at: Timestamp,
    /// How old it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<SignedDuration>,
}

impl Observed {
    /// Its value, when it is young enough.
    fn usable(&self, name: &str, now: Timestamp) -> Result<Number, String> {
        let name = visible(name);
        let value = self.value.clone().map_err(|why| format!("source `{name}`: {}", visible(&why)))?;
        let age = now.duration_since(self.at);
        if age < -LEEWAY {
            return Err(format!("source `{name}` was observed at {}, which has not come yet", self.at));
        }
        match self.max_age.filter(|limit| age > *limit) {
            Some(limit) => Err(format!("source `{name}` is {} old, at most {} are accepted", span(age), span(limit))),
            None => Ok(value),
        }
    }
}

/// How far a source's clock may be ahead of ours.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// What the gate looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When the write was asked for.
    pub asked: Timestamp,
    /// The rules that concern it.
    pub rules: Vec<Applied>,
    /// What their sources answered; empty before staging.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Observed>,
    /// Earlier values of the numbers they compare, oldest first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub histories: BTreeMap<String, Vec<Number>>,
}

/// A length of time for people: the two largest units.
fn span(length: SignedDuration) -> String {
    let seconds = length.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10 => format!("{}.{} s", seconds, length.subsec_millis().max(0) / 100),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// One thing that does not hold.
struct Problem {
    rule: String,
    ruling: Ruling,
    why: String,
    next: &'static str,
}

const READ_AGAIN: &str = "read it again, decide on what it says now, then ask again";

/// Asks whether what the write rests on holds.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Some(evidence) = facts.evidence else {
        return Verdict::new(NAME, Ruling::Allow, "no rule asks for evidence here");
    };
    let mut problems = Vec::new();
    for applied in evidence.rules.iter().filter(|a| a.rule.of.concerns(facts.contract, facts.measured)) {
        let rule = &applied.rule;
        let mut problem = |outcome: Outcome, why: String, next| {
            problems.push(Problem { rule: rule.name.clone(), ruling: outcome.ruling(facts.approved), why, next });
        };
        if let Some(reads) = &rule.reads {
            read_set(facts, evidence, applied, reads, &mut problem);
        }
        stated(rule, &facts.contract.statement, &mut problem);
        if facts.measured.is_some() {
            asked(facts, evidence, rule, &mut problem);
        }
    }
    // Stable, so that rules speak in the order of the file.
    problems.sort_by_key(|p| std::cmp::Reverse(p.ruling));
    let Some(worst) = problems.first() else {
        return Verdict::new(NAME, Ruling::Allow, "what it rests on is fresh, still holds and agrees");
    };
    let decisive: Vec<&Problem> = problems.iter().filter(|p| p.ruling == worst.ruling).collect();
    let reasons: Vec<&str> = decisive.iter().map(|p| p.why.as_str()).collect();
    let approved = if worst.ruling == Ruling::Allow { "a person approved although " } else { "" };
    let mut verdict = Verdict::new(NAME, worst.ruling, format!("{approved}{}", reasons.join("; "))).next(worst.next);
    for problem in &decisive {
        if !verdict.rules.contains(&problem.rule) {
            verdict.rules.push(problem.rule.clone());
        }
    }
    verdict
}

/// The reads a write depends on: there, young enough, and read again the same.
fn read_set(
    facts: &Facts<'_>,
    evidence: &Evidence,
    applied: &Applied,
    wanted: &ReadRule,
    problem: &mut impl FnMut(Outcome, String, &'static str),
) {
    let outcome = applied.rule.outcome;
    if applied.forgotten {
        let why = "the agent read more than is remembered, and what was forgotten cannot be held against the present";
        problem(
            if wanted.required { Outcome::Deny } else { outcome },
            why.into(),
            "wait until older reads leave the window, or read less before writing",
        );
    }
    if applied.reads.is_empty() && wanted.required {
        let of = match wanted.scope {
            Scope::SameResource => format!("of `{}`", facts.contract.resource),
            Scope::Trace if facts.contract.trace.is_some() => "in its trace".to_owned(),
            Scope::Trace | Scope::All => "at all".to_owned(),
        };
        problem(Outcome::Deny, format!("it rests on no read {of}"), "read what it depends on through Turnback first");
    }
    for held in &applied.reads {
        // A clock that went back makes nothing younger than new.
        let age = evidence.asked.duration_since(held.at).max(SignedDuration::ZERO);
        let read =
            format!("`{}` read {} {} before (run {})", held.tool, visible(&held.what), span(age), held.run.short());
        if let Some(limit) = wanted.max_age.filter(|limit| age > *limit) {
            problem(outcome, format!("{read}, at most {} are accepted", span(limit)), READ_AGAIN);
        }
        match &held.again {
            Again::Same => {}
            Again::NotYet if facts.measured.is_none() => {}
            Again::NotYet => problem(Outcome::Deny, format!("{read} and was not read again"), READ_AGAIN),
            Again::Changed { digest } => {
                problem(
                    outcome,
                    format!("{read} and it changed since: {}", held.digest.difference(digest)),
                    READ_AGAIN,
                );
            }
            Again::Unreachable { why } => {
                problem(
                    Outcome::Deny,
                    format!("{read} and cannot be read again: {}", visible(why)),
                    "ask again when it can be read",
                );
            }
        }
    }
}

/// What the agent says of itself: only ever a reason to be stricter.
fn stated(rule: &Rule, said: &Statement, problem: &mut impl FnMut(Outcome, String, &'static str)) {
    if let Some(floor) = rule.confidence {
        const NEXT: &str = "say it in `turnback.confidence`, or leave this to a person";
        match said.confidence.and_then(Number::new) {
            None => {
                problem(Outcome::Deny, format!("it does not say its confidence, at least {floor} is asked for"), NEXT)
            }
            Some(sure) if sure < floor => {
                problem(rule.outcome, format!("its confidence is {sure}, at least {floor} is asked for"), NEXT);
            }
            Some(_) => {}
        }
    }
    if let Some(floor) = rule.coverage {
        const NEXT: &str = "say in `turnback.evidence` what share was looked at: {\"coverage\": 0.9}";
        let mut stated: Vec<Option<Number>> = said
            .evidence
            .iter()
            .filter_map(|entry| entry.get("coverage"))
            .map(|share| Number::of_json(share).filter(|n| (0.0..=1.0).contains(&n.get())))
            .collect();
        stated.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        match stated.first() {
            None => {
                problem(Outcome::Deny, format!("its evidence states no coverage, at least {floor} is asked for"), NEXT)
            }
            Some(None) => {
                problem(Outcome::Deny, "its evidence states a coverage that is no number from 0 to 1".into(), NEXT)
            }
            Some(Some(least)) if *least < floor => {
                problem(rule.outcome, format!("its evidence covers {least}, at least {floor} is asked for"), NEXT);
            }
            Some(Some(_)) => {}
        }
    }
}

/// What the operator's sources say.
fn asked(facts: &Facts<'_>, evidence: &Evidence, rule: &Rule, problem: &mut impl FnMut(Outcome, String, &'static str)) {
    const NEXT: &str = "ask again when the source is right, or ask an operator";
    let value = |name: &str| match evidence.sources.get(name) {
        Some(observed) => observed.usable(name, facts.now),
        None => Err(format!("source `{}` was not asked", visible(name))),
    };
    let agreeing = rule.agree.iter().flat_map(|a| &a.sources);
    let compared = rule.usual.iter().filter_map(|u| match &u.of {
        Quantity::Source(name) => Some(name),
        Quantity::Field(_) => None,
    });
    let mut known = BTreeMap::new();
    for name in rule.sources.iter().chain(agreeing).chain(compared) {
        if known.contains_key(name) {
            continue;
        }
        let value = value(name);
        if let Err(why) = &value {
            let stale = evidence.sources.get(name).is_some_and(|o| o.value.is_ok());
            // Too old is what the rule says it is; no value at all is a deny.
            problem(if stale { rule.outcome } else { Outcome::Deny }, why.clone(), NEXT);
        }
        known.insert(name.clone(), value.ok());
    }
    let known = |name: &String| known.get(name).copied().flatten();
    for agreement in &rule.agree {
        for (at, a) in agreement.sources.iter().enumerate() {
            for b in agreement.sources.iter().skip(at + 1) {
                if let (Some(x), Some(y)) = (known(a), known(b))
                    && !agreement.within.holds(x, y)
                {
                    let (a, b, within) = (visible(a), visible(b), agreement.within);
                    problem(
                        rule.outcome,
                        format!("sources `{a}` ({x}) and `{b}` ({y}) differ by more than {within}"),
                        NEXT,
                    );
                }
            }
        }
    }
    for usual in &rule.usual {
        let value = match &usual.of {
            Quantity::Source(name) => known(name),
            Quantity::Field(pointer) => {
                let found = facts.contract.arguments.pointer(pointer).and_then(Number::of_json);
                if found.is_none() {
                    problem(Outcome::Deny, format!("{} is no number", usual.of), "give it as a number");
                }
                found
            }
        };
        let Some(value) = value else { continue };
        let history = evidence.histories.get(&usual.of.key(&facts.contract.tool)).map_or(&[][..], Vec::as_slice);
        match robust::compare(value, history, usual.limit, usual.least) {
            Standing::Usual => {}
            Standing::Short => {
                let (have, least) = (history.len(), usual.least);
                problem(
                    usual.short,
                    format!("{} has a history of {have} values, {least} are needed to judge {value}", usual.of),
                    NEXT,
                );
            }
            Standing::Unusual { score, median } => problem(
                rule.outcome,
                format!(
                    "{} is {value}, {score:.1} robust deviations from its median {median} over {} values, at most {} are usual",
                    usual.of,
                    history.len(),
                    usual.limit
                ),
                NEXT,
            ),
        }
    }
}

#[cfg(test)]
mod tests;
