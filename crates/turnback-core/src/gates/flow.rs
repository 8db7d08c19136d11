//! `flow`: what was read before, and what was refused before.
//!
//! **Labels.** What an agent reads may be untrusted, secret or personal. A rule names labels that must not
//! come together before a certain kind of action. What the agent read counts for a window whatever trace it
//! names; what others read in the same trace counts too.
//!
//! **Denied intent.** What a rule of the policy or a person refused counts as refused when it comes back
//! through another tool: the same agent, the same target, the same places, the same kind of change.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::evidence::Outcome;
use super::{Facts, Measured};
use crate::contract::Contract;
use crate::decision::{Decision, Ruling, Verdict};
use crate::digest::Sha256;
use crate::effect::Touch;
use crate::names::{AgentName, RunId, ToolName};
use crate::run::{Answer, Ended, Measurement, Run, State};
use crate::select::{Selector, within};
use crate::text::visible;
use crate::tool::{Kind, Verb};
use crate::trace::TraceId;

/// This gate's name.
pub const NAME: &str = "flow";

/// What kind of content was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Somebody outside wrote it: it may hold instructions.
    Untrusted,
    /// It must not get out.
    Secret,
    /// It is about people.
    Personal,
}

impl Label {
    /// All of them.
    pub const ALL: [Self; 3] = [Label::Untrusted, Label::Secret, Label::Personal];

    /// The word used in configuration and output.
    pub const fn word(self) -> &'static str {
        match self {
            Label::Untrusted => "untrusted",
            Label::Secret => "secret",
            Label::Personal => "personal",
        }
    }

    /// The label with that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.word() == word)
    }
}

/// When, and by which run, content of some kind was read last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When.
    pub at: Timestamp,
    /// The run that read it.
    pub run: RunId,
}

/// Labels with when they were last read.
pub type Labels = BTreeMap<Label, Seen>;

/// Whose reading a label is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Reader {
    /// An agent.
    Agent(AgentName),
    /// Whoever acts in a trace.
    Trace(TraceId),
    /// Whoever acts in any trace: there were too many to keep them apart.
    AnyTrace,
}

impl std::fmt::Display for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reader::Agent(name) => write!(f, "agent {name}"),
            Reader::Trace(trace) => write!(f, "trace {trace}"),
            Reader::AnyTrace => f.write_str("any trace"),
        }
    }
}

/// One `[[flow]]` rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, or `flow <n>` by its place in the file.
    pub name: String,
    /// All of these were read ...
    pub after: BTreeSet<Label>,
    /// ... and then this is asked for.
    pub then: Selector,
    /// What it comes to.
    pub outcome: Outcome,
    /// Why, for whoever is refused.
    pub reason: String,
}

/// What becomes of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It appears, or holds something else.
    Put,
    /// It is gone.
    Remove,
    /// Its structure or permissions change.
    Structure,
}

/// One place an intent concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Aim {
    /// The place.
    pub place: String,
    /// What was to become of it.
    pub change: Change,
}

/// A write that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The run.
    pub run: RunId,
    /// When it was refused last.
    pub at: Timestamp,
    /// How many times it was refused in the same words.
    pub times: u64,
    /// Through which tool.
    pub tool: ToolName,
    /// The target's identity.
    pub target: String,
    /// A person said no; otherwise a rule of the policy did.
    pub by_person: bool,
    /// The policy it was refused under. Another policy may think otherwise, and decides by itself.
    pub policy: Sha256,
    /// It was measured: `aims` are the places it would have touched, not the one it named.
    pub measured: bool,
    /// The places. Of a measured one that would have touched more than are listed, also what it named and the tables.
    pub aims: BTreeSet<Aim>,
}

/// What an action named before anything was measured: the place, and the changes its verb or statement can
/// come to.
fn named(contract: &Contract) -> BTreeSet<Aim> {
    let changes: &[Change] = match (contract.target.statement.as_str(), contract.verb) {
        ("insert" | "update", _) => &[Change::Put],
        // What is replaced goes first.
        ("replace", _) => &[Change::Put, Change::Remove],
        ("delete", _) | (_, Verb::Delete) => &[Change::Remove],
        ("", Verb::Administer) => &[Change::Structure],
        ("", _) => &[Change::Put],
        _ => &[Change::Structure],
    };
    changes.iter().map(|change| Aim { place: contract.target.place.clone(), change: *change }).collect()
}

fn became(touch: &Touch) -> Change {
    if !touch.fields.is_empty() && touch.fields.iter().all(|field| field == "mode") {
        return Change::Structure;
    }
    if touch.after.is_some() { Change::Put } else { Change::Remove }
}

/// The places of a measured effect. Where they are not all listed, also the place that was named and the tables
/// that were counted, which stand for the rest; for a change of schema only what the statement names.
fn touched(contract: &Contract, effect: &crate::effect::Effect, plan: &crate::rollback::RollbackPlan) -> BTreeSet<Aim> {
    if effect.blast.schema_objects > 0 {
        return named(contract);
    }
    let mut aims: BTreeSet<Aim> =
        plan.footprint.places.iter().map(|t| Aim { place: t.place.clone(), change: became(t) }).collect();
    if plan.footprint.more > 0 {
        aims.extend(named(contract));
        for (table, rows) in &effect.blast.rows {
            let changes = [(rows.inserted > 0 || rows.updated > 0, Change::Put), (rows.deleted > 0, Change::Remove)];
            let changes = changes.into_iter().filter(|(is, _)| *is);
            aims.extend(changes.map(|(_, change)| Aim { place: table.clone(), change }));
        }
    }
    aims
}

/// Gates whose refusal is about what was wanted and not about the moment, the size or the way: asking again
/// later, smaller or better prepared is what the others invite to.
const ABOUT_THE_INTENT: [&str; 1] = ["authorization"];

impl Intent {
    /// The intent a run leaves behind, when it was a write of an agent that a rule of the policy denied or
    /// a person rejected.
    pub fn of(run: &Run) -> Option<Self> {
        let (State::Ended { how, before, measurement }, true) = (&run.state, run.contract.writes()) else {
            return None;
        };
        run.contract.actor.agent()?;
        let (by_person, policy) = match how {
            Ended::Denied(decision) if about_the_intent(decision) => (false, decision.policy),
            Ended::Rejected(Answer::Rejected { .. }) => (true, before.as_ref()?.policy),
            _ => return None,
        };
        let measured = measurement.as_deref();
        Some(Self {
            run: run.id,
            at: run.updated,
            times: 1,
            tool: run.contract.tool.clone(),
            target: run.contract.target.identity.clone(),
            by_person,
            policy,
            measured: measured.is_some(),
            aims: measured
                .map_or_else(|| named(&run.contract), |m: &Measurement| touched(&run.contract, &m.effect, &m.plan)),
        })
    }

    /// Whether an action comes to what was refused.
    ///
    /// It does when a place it names or touches is, or lies beneath, a place that was refused, and the same
    /// becomes of it. Of what touches more places than are listed, also when a place that was refused lies
    /// beneath one of its own. One exception: what touches only parts of what rules refused after measuring it,
    /// and all of no such refusal, is a smaller action – what refusals ask for – and is judged by itself; to a
    /// person it is put all the same. `refused` is all that rules refused after measuring it.
    fn returns_in(&self, contract: &Contract, measured: Option<Measured<'_>>, refused: &BTreeSet<&Aim>) -> bool {
        if self.target != contract.target.identity {
            return false;
        }
        let aims = measured.map_or_else(|| named(contract), |m| touched(contract, m.effect, m.plan));
        let listed = measured.is_none_or(|m| m.plan.footprint.more == 0);
        if measured.is_some()
            && listed
            && self.by_rule_measured()
            && aims.iter().all(|aim| refused.contains(aim))
            && !self.aims.is_subset(&aims)
        {
            return false;
        }
        let kind = contract.kind;
        aims.iter().any(|aim| self.aims.iter().any(|was| was.meets(kind, aim) || (!listed && aim.meets(kind, was))))
    }

    /// A rule refused it, knowing what it would have touched.
    const fn by_rule_measured(&self) -> bool {
        self.measured && !self.by_person
    }

    /// Whether another refusal was of the same, in the same words.
    pub fn is_again(&self, other: &Self) -> bool {
        self.tool == other.tool
            && self.target == other.target
            && self.by_person == other.by_person
            && self.policy == other.policy
            && self.measured == other.measured
            && self.aims == other.aims
    }

    /// Whether an approved and committed action answers this intent: it came to the same.
    pub fn is_answered_by(&self, run: &Run) -> bool {
        let measured = run.state.measurement().map(|m| Measured { effect: &m.effect, plan: &m.plan });
        run.approval().is_some_and(|approval| approval.question.asked > self.at)
            && self.returns_in(&run.contract, measured, &BTreeSet::new())
    }
}

impl Aim {
    fn meets(&self, kind: Kind, other: &Self) -> bool {
        self.change == other.change && within(kind, &self.place, &other.place)
    }
}

fn about_the_intent(decision: &Decision) -> bool {
    decision.verdicts.iter().any(|v| v.ruling == Ruling::Deny && ABOUT_THE_INTENT.contains(&v.gate.as_str()))
}

/// What the gate looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// What the agent, and its trace, read inside the window.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Rules that may concern the action.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// What the agent was refused on this target inside the window, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Intent>,
}

fn ago(now: Timestamp, at: Timestamp) -> String {
    format!("{} s ago", now.duration_since(at).max(SignedDuration::ZERO).as_secs())
}

/// Asks whether the action may follow on what was read, and whether it was refused before.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Some(flow) = facts.flow else {
        return Verdict::new(NAME, Ruling::Allow, "nothing was read or refused before that concerns it");
    };
    let mut found: Vec<Verdict> = flow.rules.iter().filter_map(|rule| follows(facts, flow, rule)).collect();
    found.extend(returns(facts, flow));
    // Stable: of equals the first of the file speaks.
    found.sort_by_key(|v| std::cmp::Reverse(v.ruling));
    let rest: Vec<Verdict> = found.split_off(found.len().min(1));
    let Some(mut worst) = found.pop() else {
        return Verdict::new(NAME, Ruling::Allow, "it may follow on what was read, and was not refused before");
    };
    for other in rest.into_iter().filter(|v| v.ruling == worst.ruling) {
        worst.reason = format!("{}; {}", worst.reason, other.reason);
        worst.rules.extend(other.rules);
    }
    worst
}

fn follows(facts: &Facts<'_>, flow: &Flow, rule: &Rule) -> Option<Verdict> {
    if !rule.then.concerns(facts.contract, facts.measured) {
        return None;
    }
    let seen: Option<Vec<(Label, &Seen)>> =
        rule.after.iter().map(|label| flow.labels.get(label).map(|seen| (*label, seen))).collect();
    let read: Vec<String> = seen?
        .into_iter()
        .map(|(label, seen)| format!("{} content {} (run {})", label.word(), ago(facts.now, seen.at), seen.run.short()))
        .collect();
    let ruling = rule.outcome.ruling(facts.approved);
    let reason = format!("after reading {}: {}", read.join(" and "), visible(&rule.reason));
    Some(
        Verdict::new(NAME, ruling, reason)
            .rule(rule.name.clone())
            .next("let another agent do it that did not read this, or ask an operator: turnback labels clear"),
    )
}

fn returns(facts: &Facts<'_>, flow: &Flow) -> Option<Verdict> {
    if !facts.contract.writes() {
        return None;
    }
    let policy = facts.policy.digest();
    let under_this = || flow.refused.iter().filter(|intent| intent.policy == policy);
    let measured = under_this().filter(|i| i.by_rule_measured() && i.target == facts.contract.target.identity);
    let refused: BTreeSet<&Aim> = measured.flat_map(|intent| &intent.aims).collect();
    let before: Vec<&Intent> =
        under_this().filter(|intent| intent.returns_in(facts.contract, facts.measured, &refused)).collect();
    let first = before.first()?;
    let ruling = match before.iter().any(|intent| !intent.by_person) {
        true => Ruling::Deny,
        false if facts.approved => Ruling::Allow,
        false => Ruling::Review,
    };
    let by = if first.by_person { "a person" } else { "the policy" };
    let times = match before.iter().fold(0_u64, |sum, intent| sum.saturating_add(intent.times)) {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    Some(
        Verdict::new(
            NAME,
            ruling,
            format!(
                "the same was refused {times} before, first by {by} as run {} through `{}` {}",
                first.run.short(),
                first.tool,
                ago(facts.now, first.at)
            ),
        )
        .rule("denied intent")
        .next("do not look for another way to the same effect; ask an operator to approve it or to change the policy"),
    )
}

#[cfg(test)]
mod tests;
