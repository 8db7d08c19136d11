//! `plan`: the step is the one that was verified, in its order, inside the plan's limits.
//!
//! A write is a step when its digest is; what the agent says only ever makes it stricter. Once an agent has
//! a plan on a resource, whatever else it writes there is a deviation and a person looks. Reads are not
//! governed by plans.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Facts, Measured};
use crate::contract::Contract;
use crate::decision::{Ruling, Verdict};
use crate::digest::EffectDigest;
use crate::names::{PlanId, RunId};
use crate::permit::agrees;
use crate::plan::{Amounts, AtMost, Must, Never};
use crate::tool::Match;

/// This gate's name.
pub const NAME: &str = "plan";

/// What is known of plans that may concern a write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The rule under which such a write runs only as a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<String>,
    /// The step it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepOf>,
    /// Active plans of the agent on the same resource, of which it is no step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<PlanId>,
}

/// A step as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOf {
    /// The plan.
    pub plan: PlanId,
    /// The step's name.
    pub step: String,
    /// How the plan ended, when it did: `aborted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// When no further step of the plan runs.
    pub expires: Timestamp,
    /// Every step it waits for, and the state of the run that did it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<(String, Option<String>)>,
    /// Another run that did it or is about to, and that run's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<(RunId, String)>,
    /// What it does as verified; `None` while it is being verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// What none of the steps may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never: Vec<Never>,
    /// What all of them may do at most.
    #[serde(default, skip_serializing_if = "AtMost::is_empty")]
    pub at_most: AtMost,
    /// What the other steps did or are about to do.
    pub spent: Amounts,
    /// What a rule asks of such a plan now and it does not state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unstated: Option<Unstated>,
}

/// A constraint a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unstated {
    /// The rule.
    pub rule: String,
    /// What is to be stated.
    pub must: Must,
}

/// The effect of a step as it was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// It in words.
    pub summary: String,
    /// Names exactly these changes.
    pub effect: EffectDigest,
    /// Names the same places.
    pub places: EffectDigest,
    /// How a later effect must agree.
    pub effect_match: Match,
}

/// The state of a run whose effect stands and was read back.
const SETTLED: &str = "settled";

/// The plan an agent says its action belongs to, when it says so by an identity.
fn claimed(contract: &Contract) -> Option<&str> {
    contract.statement.plan.as_ref()?.as_str().filter(|text| text.starts_with("pl_"))
}

/// Asks whether a write is what was planned.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let contract = facts.contract;
    if contract.actor.agent().is_none() {
        return Verdict::new(NAME, Ruling::Allow, "plans govern agents");
    }
    if !contract.writes() {
        return Verdict::new(NAME, Ruling::Allow, "reads are not governed by plans");
    }
    match facts.plan.and_then(|planned| planned.step.as_ref()) {
        Some(step) => judge_step(step, facts),
        None => judge_other(facts),
    }
}

fn judge_other(facts: &Facts<'_>) -> Verdict {
    let review = |why: String| match facts.approved {
        true => Verdict::new(NAME, Ruling::Allow, format!("a person approved; {why}")),
        false => Verdict::new(NAME, Ruling::Review, why).next("keep to the plan, or submit another one"),
    };
    let planned = facts.plan;
    if let Some(plan) = planned.and_then(|p| p.beside.first()) {
        return review(format!("it is no step of plan `{plan}`, which is under way there")).rule(plan.to_string());
    }
    if let Some(rule) = planned.and_then(|p| p.required.as_ref()) {
        return Verdict::new(NAME, Ruling::Deny, "it runs only as a step of a verified plan, and is none")
            .rule(rule)
            .next("submit it with turnback__plan");
    }
    match claimed(facts.contract) {
        Some(plan) => review(format!("it is no step of plan `{}`, to which it says it belongs", short(plan))),
        None => Verdict::new(NAME, Ruling::Allow, "no plan concerns it"),
    }
}

fn judge_step(step: &StepOf, facts: &Facts<'_>) -> Verdict {
    let plan = step.plan.to_string();
    let deny = |why: String| Verdict::new(NAME, Ruling::Deny, why).rule(&*plan);
    let name = &step.step;
    if let Some((run, state)) = &step.run {
        let why = format!("step `{name}` of plan `{plan}` runs at most once: run `{}` is {state}", run.short());
        return deny(why).next("see how the plan stands with turnback__plan_status; to do it again, submit a new plan");
    }
    let again = "submit what is still wanted as a new plan with turnback__plan";
    if let Some(ended) = &step.ended {
        return deny(format!("step `{name}`: plan `{plan}` is {ended}")).next(again);
    }
    if facts.now >= step.expires {
        return deny(format!("step `{name}`: plan `{plan}` expired at {}", step.expires)).next(again);
    }
    if let Some(Unstated { rule, must }) = &step.unstated {
        // It was verified when no such rule was there.
        let why = format!("step `{name}`: plan `{plan}` does not state `{must}`, which rule `{rule}` asks for now");
        return deny(why).rule(rule).next("abort it, and submit what is still wanted as a plan that states it");
    }
    let missing: Vec<String> = step
        .after
        .iter()
        .filter(|(_, state)| state.as_deref() != Some(SETTLED))
        .map(|(name, state)| format!("`{name}` is {}", state.as_deref().unwrap_or("not done")))
        .collect();
    if !missing.is_empty() {
        let why = format!("step `{name}` of plan `{plan}` is out of order: {}", missing.join(", "));
        return deny(why).next("do first what it waits for");
    }
    if let Some(never) = step.never.iter().find(|never| never.forbids(facts.contract, facts.measured)) {
        return deny(format!("step `{name}`: plan `{plan}` says {}", never.words())).rule(never.words());
    }
    if let Some(Measured { effect, .. }) = facts.measured {
        let all = step.spent.plus(Amounts::of(&effect.blast));
        let exceeded = step.at_most.exceeded(all);
        if !exceeded.is_empty() {
            let parts: Vec<String> =
                exceeded.iter().map(|(what, all, most)| format!("{all} {what}, at most {most}")).collect();
            let verdict = deny(format!("with step `{name}` plan `{plan}` comes to {}", parts.join("; ")));
            return exceeded.iter().fold(verdict, |verdict, (what, ..)| verdict.rule(format!("at_most {what}")));
        }
        if let Some(verified) = &step.verified
            && !agrees(verified.effect, verified.places, effect, verified.effect_match)
            && !facts.approved
        {
            let why = format!(
                "step `{name}` of plan `{plan}` does something else than was verified: it was to `{}`, it would `{}`",
                verified.summary, effect.summary
            );
            return Verdict::new(NAME, Ruling::Review, why)
                .rule(&*plan)
                .next("a person looks, or submit the rest as a new plan");
        }
    }
    match claimed(facts.contract) {
        Some(other) if other != plan && !facts.approved => {
            let why = format!("it is step `{name}` of plan `{plan}`, and says it belongs to `{}`", short(other));
            Verdict::new(NAME, Ruling::Review, why).rule(&*plan).next("name the plan it is a step of, or none")
        }
        _ => Verdict::new(NAME, Ruling::Allow, format!("it is step `{name}` of plan `{plan}`")).rule(&*plan),
    }
}

/// What an agent wrote as an identity, kept short and visible.
fn short(text: &str) -> String {
    crate::text::visible(&text.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests;
