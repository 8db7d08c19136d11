//! Why a run was decided as it was: one sentence, then gates, rules, facts, and what would have been
//! acceptable.
//!
//! Nothing here is written by hand for a case: what would have been acceptable ([`alternatives`]) is what
//! the gates themselves answer when they are asked again with one fact changed.

mod alternatives;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

pub use self::alternatives::{Alternative, Change, alternatives};
use super::{Policy, RulePlace};
use crate::contract::Contract;
use crate::decision::{Decision, Ruling};
use crate::digest::Sha256;
use crate::effect::Effect;
use crate::gates::Circumstances;
use crate::gates::blast_radius::Per;
use crate::gates::release::Mode;
use crate::names::EnvironmentName;
use crate::rollback::RollbackPlan;
use crate::text::visible;

/// One recorded decision and what it rested on.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// What the gates said.
    pub decision: &'a Decision,
    /// What they looked at.
    pub circumstances: &'a Circumstances,
}

/// Everything recorded of the decisions about one run.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// The action.
    pub contract: &'a Contract,
    /// The last decision before staging.
    pub before: Judged<'a>,
    /// The decision on the measured effect that followed it.
    pub after: Option<(Judged<'a>, &'a Effect, &'a RollbackPlan)>,
}

/// One fact a decision rested on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Its name; where a rule can read it, the name it has there.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A rule a decision names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRead {
    /// Its name.
    pub name: String,
    /// Where it stands; `None` when the present policy has no rule of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<RulePlace>,
}

/// Why a run was decided as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The whole answer in one sentence.
    pub sentence: String,
    /// What would be acceptable, in the words of the gate that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The stricter ruling of both decisions.
    pub ruling: Ruling,
    /// The decision before staging.
    pub before: Decision,
    /// The decision on the measured effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Decision>,
    /// The rules named, and where they stand.
    pub rules: Vec<RuleRead>,
    /// The facts read.
    pub facts: Vec<Fact>,
    /// What would be less strictly ruled with one fact changed, the nearest first. Asked of the present policy.
    pub alternatives: Vec<Alternative>,
    /// Digest of the present policy.
    pub present: Sha256,
    /// What the present policy and the recorded facts come to.
    pub now: Ruling,
}

impl Explanation {
    /// Explains a run. `policy` is the present one and `mode` the present mode of an environment.
    pub fn new(recorded: &Recorded<'_>, policy: &Policy, mode: &dyn Fn(&EnvironmentName) -> Mode) -> Self {
        let before = recorded.before.decision;
        let after = recorded.after.map(|(judged, ..)| judged.decision);
        let ruling = after.map_or(before.ruling, |after| before.ruling.max(after.ruling));
        let decisive: Vec<_> =
            std::iter::once(before).chain(after).flat_map(|d| &d.verdicts).filter(|v| v.ruling == ruling).collect();
        let what = match ruling {
            Ruling::Allow => "Allowed",
            Ruling::Constrain => "Only a smaller or safer form is allowed",
            Ruling::Review => "A person decides",
            Ruling::Fallback => "Refused while the system is in a safe degraded mode",
            Ruling::Deny => "Denied",
        };
        let sentence = match (ruling, decisive.as_slice()) {
            (_, []) => format!("{what}: no gate spoke."),
            (Ruling::Allow, _) => format!("{what}: every gate that was asked agrees."),
            (_, verdicts) => {
                let why: Vec<_> = verdicts.iter().map(|v| format!("{} says {}", v.gate, visible(&v.reason))).collect();
                format!("{what}: {}.", why.join("; "))
            }
        };
        let mut names: Vec<&String> =
            std::iter::once(before).chain(after).flat_map(|d| &d.verdicts).flat_map(|v| &v.rules).collect();
        names.sort_unstable();
        names.dedup();
        let rules = names.into_iter().map(|name| RuleRead { name: name.clone(), place: policy.place(name).cloned() });
        let (now, alternatives) = alternatives(recorded, policy, mode);
        Self {
            sentence,
            next: decisive.iter().find_map(|v| v.next.clone()),
            ruling,
            before: before.clone(),
            after: after.cloned(),
            rules: rules.collect(),
            facts: facts(recorded),
            alternatives,
            present: policy.digest(),
            now,
        }
    }

    /// The explanation for the person who asks why. The first line is the whole answer.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.sentence);
        // Writing to a String cannot fail.
        if let Some(next) = &self.next {
            let _ = writeln!(out, "next: {}", visible(next));
        }
        for (title, decision) in
            [("before staging", Some(&self.before)), ("on the measured effect", self.after.as_ref())]
        {
            let Some(decision) = decision else { continue };
            let _ = writeln!(out, "\n{title}: {}", decision.ruling.word());
            let width = decision.verdicts.iter().map(|v| v.gate.len()).max().unwrap_or(0);
            for verdict in &decision.verdicts {
                let (gate, word) = (&verdict.gate, verdict.ruling.word());
                let _ = writeln!(out, "  {gate:width$}  {word:9}  {}", visible(&verdict.reason));
                for rule in &verdict.rules {
                    let place = self.rules.iter().find(|read| read.name == *rule).and_then(|read| read.place.as_ref());
                    let place = place.map_or_else(String::new, |at| format!(" ({}:{})", visible(&at.file), at.line));
                    let _ = writeln!(out, "  {:width$}  {:9}  rule {}{place}", "", "", visible(rule));
                }
                for obligation in &verdict.obligations {
                    let _ = writeln!(out, "  {:width$}  {:9}  {}", "", "", visible(&obligation.words()));
                }
            }
        }
        out.push_str("\nfacts read:\n");
        let width = self.facts.iter().map(|fact| fact.name.len()).max().unwrap_or(0);
        for fact in &self.facts {
            let _ = writeln!(out, "  {:width$}  {}", fact.name, visible(&fact.value));
        }
        if self.ruling != Ruling::Allow {
            match self.alternatives.as_slice() {
                [] if self.now == Ruling::Allow => {}
                [] => out.push_str("\nno single fact, changed alone, would make the answer less strict\n"),
                [nearest, rest @ ..] => {
                    let _ = writeln!(out, "\nnearest acceptable: {}", nearest.line());
                    for other in rest {
                        let _ = writeln!(out, "  or: {}", other.line());
                    }
                }
            }
        }
        let _ = writeln!(out, "\npolicy {}", self.before.policy);
        if let Some(other) = self.after.as_ref().filter(|after| after.policy != self.before.policy) {
            let _ = writeln!(out, "policy {} on the measured effect", other.policy);
        }
        if self.after.as_ref().unwrap_or(&self.before).policy != self.present {
            let _ = writeln!(
                out,
                "the present policy is {}: places and alternatives are its; on the recorded facts it says {}",
                self.present,
                self.now.word()
            );
        }
        out
    }
}

/// What the gates looked at.
fn facts(recorded: &Recorded<'_>) -> Vec<Fact> {
    let contract = recorded.contract;
    // The later decision's circumstances hold for both unless something changed in between; it is the one that counts.
    let circumstances = recorded.after.map_or(recorded.before, |(judged, ..)| judged).circumstances;
    let mut facts = Vec::new();
    let mut add = |name: &str, value: String| facts.push(Fact { name: name.to_owned(), value });
    add("principal", contract.actor.to_string());
    if let Some(agent) = &circumstances.agent {
        add("principal.owner", agent.owner.clone());
        if let Some(why) = &agent.suspended {
            add("suspended", why.clone());
        }
    }
    if let Some(user) = &contract.on_behalf_of {
        add("principal.on_behalf_of", user.clone());
    }
    add("action", contract.tool.as_str().to_owned());
    add("resource", contract.resource.as_str().to_owned());
    add("context.environment", contract.environment.as_str().to_owned());
    add("context.verb", contract.verb.word().to_owned());
    add("context.risk", contract.risk.word().to_owned());
    let assignment = &contract.assignment;
    for (name, value) in [
        ("context.account", &assignment.account),
        ("context.region", &assignment.region),
        ("context.workflow", &assignment.workflow),
    ] {
        value.iter().for_each(|value| add(name, value.clone()));
    }
    add("context.place", contract.target.place.clone());
    if !contract.target.statement.is_empty() {
        add("context.statement", contract.target.statement.clone());
    }
    if let Some(confidence) = contract.statement.confidence {
        add("context.confidence", format!("{confidence} by its own word"));
    }
    add("context.approved", circumstances.approved.to_string());
    add("mode", circumstances.mode.word().to_owned());
    if let Some((_, effect, plan)) = recorded.after {
        let blast = &effect.blast;
        for (name, value) in [
            ("context.effect.rows", blast.rows_total()),
            ("context.effect.rows_deleted", blast.rows_deleted()),
            ("context.effect.files", blast.files_total()),
            ("context.effect.files_deleted", blast.files_deleted),
            ("context.effect.bytes", blast.bytes),
            ("context.effect.schema_objects", blast.schema_objects),
            ("context.effect.level", u64::from(plan.level().number())),
            ("context.effect.unlisted", plan.footprint.more),
        ] {
            if value > 0 || name.ends_with("level") {
                add(name, value.to_string());
            }
        }
        for (budget, spent) in circumstances.limits.budgets.iter().zip(&circumstances.spent) {
            let name = match budget.per {
                Per::Agent => "budget spent".to_owned(),
                per => format!("budget of {} spent", per.word()),
            };
            add(&name, spent.to_string());
        }
    }
    add("time", circumstances.now.to_string());
    facts
}

#[cfg(test)]
mod tests;
