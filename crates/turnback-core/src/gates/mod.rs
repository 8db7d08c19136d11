//! The gates, in order.
//!
//! A gate is a pure function from facts to a verdict. To add one: write `gates/<name>.rs` with a
//! `judge`, add one line to [`GATES`], add a scenario. Everything a gate reads is in [`Facts`]; the
//! gateway fetches it, records it, and can replay the decision from the record.

pub mod authorization;
pub mod autonomy;
pub mod blast_radius;
pub mod collision;
pub mod controls;
pub mod evidence;
pub mod flow;
pub mod grants;
pub mod ownership;
pub mod plan;
pub mod recoverability;
pub mod release;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::decision::{Decision, Obligation, Phase, Ruling, Verdict};
use crate::effect::Effect;
use crate::flags::Flagged;
use crate::form::{self, Form};
use crate::gates::autonomy::Ceilings;
use crate::gates::blast_radius::{Limits, Spent};
use crate::gates::collision::Collision;
use crate::gates::controls::Controls;
use crate::gates::evidence::Evidence;
use crate::gates::flow::Flow;
use crate::gates::ownership::Agent;
use crate::gates::plan::Planned;
use crate::gates::recoverability::Floor;
use crate::gates::release::Mode;
use crate::policy::Policy;
use crate::rollback::RollbackPlan;

/// What staging found, for the second group of gates.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// The measured effect.
    pub effect: &'a Effect,
    /// The way back.
    pub plan: &'a RollbackPlan,
}

/// Everything the gates may look at. Plain data: equal facts give equal decisions.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The action.
    pub contract: &'a Contract,
    /// The time of the decision.
    pub now: Timestamp,
    /// What the system's clock says, when it was set back behind `now`.
    pub wall: Option<Timestamp>,
    /// The registered agent, when the actor is an agent and is known.
    pub agent: Option<&'a Agent>,
    /// Switches and freezes.
    pub controls: &'a Controls,
    /// The mode of the action's environment.
    pub mode: Mode,
    /// What the release flags said, in the phase gate `release` speaks in; `None` when there are none.
    pub flags: Option<&'a Flagged>,
    /// How autonomous any agent may be, by class of action.
    pub ceilings: &'a Ceilings,
    /// The compiled policy.
    pub policy: &'a Policy,
    /// Limits per action and the agent's budget.
    pub limits: &'a Limits,
    /// What was spent of each budget of the limits inside its window, reservations of running actions
    /// included, the action's own not.
    pub spent: &'a [Spent],
    /// Writes without a way back the agent did since a person last refilled its budget for them.
    pub irreversible: u64,
    /// What the way back must at least be.
    pub floor: &'a Floor,
    /// A person approved exactly this action and effect.
    pub approved: bool,
    /// What was read before and what was refused, when a rule may concern the action.
    pub flow: Option<&'a Flow>,
    /// What the write rests on, when a rule asks for it.
    pub evidence: Option<&'a Evidence>,
    /// The freezes from which a person excepted exactly this action and effect.
    pub excepted: &'a [String],
    /// An agent does only what it was granted.
    pub grants_required: bool,
    /// Who else is at work there, when a rule asks.
    pub collision: Option<&'a Collision>,
    /// The safer forms of the action's tool.
    pub forms: &'a [Form],
    /// The plans that may concern it.
    pub plan: Option<&'a Planned>,
    /// Present in the second phase.
    pub measured: Option<Measured<'a>>,
}

/// What a decision rests on besides contract, policy and measurement, as it is recorded. Together they
/// make the decision again, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstances {
    /// The time of the decision.
    pub now: Timestamp,
    /// What the system's clock said, when it had been set back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall: Option<Timestamp>,
    /// The registered agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// Switches and freezes.
    pub controls: Controls,
    /// The mode of the action's environment.
    pub mode: Mode,
    /// What the release flags said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Flagged>,
    /// How autonomous any agent may be.
    #[serde(default, skip_serializing_if = "Ceilings::is_empty")]
    pub ceilings: Ceilings,
    /// Limits and budget.
    pub limits: Limits,
    /// What of each budget was spent.
    #[serde(deserialize_with = "blast_radius::one_or_many")]
    pub spent: Vec<Spent>,
    /// Writes without a way back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub irreversible: u64,
    /// The floor of the way back.
    pub floor: Floor,
    /// A person had approved.
    pub approved: bool,
    /// What was read before and what was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
    /// What the write rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Who else was at work there, and the leases it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collision: Option<Collision>,
    /// The freezes a person had excepted it from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excepted: Vec<String>,
    /// Grants were required.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grants_required: bool,
    /// The safer forms of the tool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forms: Vec<Form>,
    /// The plans that may have concerned it, and the step it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Planned>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Circumstances {
    /// The facts they stand for, to decide again.
    pub fn facts<'a>(
        &'a self,
        contract: &'a Contract,
        policy: &'a Policy,
        measured: Option<Measured<'a>>,
    ) -> Facts<'a> {
        Facts {
            contract,
            now: self.now,
            wall: self.wall,
            agent: self.agent.as_ref(),
            controls: &self.controls,
            mode: self.mode,
            flags: self.flags.as_ref(),
            ceilings: &self.ceilings,
            policy,
            limits: &self.limits,
            // Records of earlier versions name a sum where there was no budget.
            spent: self.spent.get(..self.limits.budgets.len()).unwrap_or(&self.spent),
            irreversible: self.irreversible,
            floor: &self.floor,
            approved: self.approved,
            flow: self.flow.as_ref(),
            evidence: self.evidence.as_ref(),
            excepted: &self.excepted,
            grants_required: self.grants_required,
            collision: self.collision.as_ref(),
            forms: &self.forms,
            plan: self.plan.as_ref(),
            measured,
        }
    }
}

impl Facts<'_> {
    /// What to record of them.
    pub fn circumstances(&self) -> Circumstances {
        Circumstances {
            now: self.now,
            wall: self.wall,
            agent: self.agent.cloned(),
            controls: self.controls.clone(),
            mode: self.mode,
            flags: self.flags.cloned(),
            ceilings: self.ceilings.clone(),
            limits: self.limits.clone(),
            spent: self.spent.to_vec(),
            irreversible: self.irreversible,
            floor: self.floor.clone(),
            approved: self.approved,
            flow: self.flow.cloned(),
            evidence: self.evidence.cloned(),
            excepted: self.excepted.to_vec(),
            grants_required: self.grants_required,
            collision: self.collision.cloned(),
            forms: self.forms.to_vec(),
            plan: self.plan.cloned(),
        }
    }
}

/// One gate of the list.
pub struct Gate {
    /// Its name in verdicts, records and documentation.
    pub name: &'static str,
    /// It speaks before the target is touched.
    pub before: bool,
    /// It speaks after staging.
    pub after: bool,
    /// Its judgement.
    pub judge: fn(&Facts<'_>) -> Verdict,
}

/// All gates in the order they are asked. The order is for the reader of a record; the combine rule
/// does not depend on it.
pub const GATES: &[Gate] = &[
    Gate { name: ownership::NAME, before: true, after: false, judge: ownership::judge },
    Gate { name: grants::NAME, before: true, after: false, judge: grants::judge },
    Gate { name: controls::NAME, before: true, after: true, judge: controls::judge },
    Gate { name: release::NAME, before: true, after: false, judge: release::judge },
    Gate { name: autonomy::NAME, before: true, after: false, judge: autonomy::judge },
    Gate { name: authorization::NAME, before: true, after: true, judge: authorization::judge },
    Gate { name: flow::NAME, before: true, after: true, judge: flow::judge },
    Gate { name: plan::NAME, before: true, after: true, judge: plan::judge },
    Gate { name: evidence::NAME, before: true, after: true, judge: evidence::judge },
    Gate { name: blast_radius::NAME, before: false, after: true, judge: blast_radius::judge },
    Gate { name: recoverability::NAME, before: false, after: true, judge: recoverability::judge },
    Gate { name: collision::NAME, before: true, after: true, judge: collision::judge },
];

/// Asks every gate of `phase`. All of them speak, so that the record names each that would have said
/// no, not only the first.
pub fn decide(phase: Phase, facts: &Facts<'_>) -> Decision {
    let mut verdicts: Vec<Verdict> = GATES
        .iter()
        .filter(|gate| match phase {
            Phase::Before => gate.before,
            Phase::After => gate.after,
        })
        .map(|gate| (gate.judge)(facts))
        .collect();
    verdicts.extend(form::judge(facts));
    constrained(Decision::combine(phase, facts.policy.digest(), verdicts), facts)
}

/// Finds the form the action becomes, when one is asked for and nothing refuses it anyway. A form that is not there,
/// or that this action cannot take, is a deny, also where a degraded mode refuses for now: more rules never loosen.
fn constrained(mut decision: Decision, facts: &Facts<'_>) -> Decision {
    let wanted: BTreeSet<&str> = decision.obligations().filter_map(Obligation::form).collect();
    if wanted.is_empty() || decision.ruling == Ruling::Deny {
        return decision;
    }
    match form::rewritten(facts.contract, &wanted, facts.forms) {
        // A person who is asked besides is asked about the safer form.
        Ok((rewriting, _)) if decision.ruling <= Ruling::Review => decision.rewriting = Some(rewriting),
        Ok(_) => {}
        Err(why) => {
            let next = "an operator adds [[safer]] with that name, or changes the rule";
            decision.verdicts.push(Verdict::new(form::NAME, Ruling::Deny, why).next(next));
            decision.ruling = Ruling::Deny;
        }
    }
    decision
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Ruling;
    use crate::fixtures::{World, blast, measurement};

    const ALL: &str = "permit(principal, action, resource);";

    #[test]
    fn every_gate_of_a_phase_speaks_under_its_own_name() {
        let mut world = World::new(ALL, "shop__execute");
        for phase in [Phase::Before, Phase::After] {
            let expected: Vec<_> = GATES
                .iter()
                .filter(|gate| if phase == Phase::Before { gate.before } else { gate.after })
                .map(|gate| gate.name)
                .collect();
            let decision = decide(phase, &world.facts());
            let spoke: Vec<_> = decision.verdicts.iter().map(|v| v.gate.as_str()).collect();
            assert_eq!(spoke, expected);
            assert_eq!(decision.ruling, Ruling::Allow, "{decision:?}");
            assert_eq!(decision.policy, world.policy.digest());
            assert!(decision.verdicts.iter().all(|v| !v.reason.is_empty()));
            world.measurement = Some(measurement(blast(3), "x"));
        }
        assert!(GATES.iter().all(|gate| gate.before || gate.after));
    }

    #[test]
    fn one_gate_that_refuses_is_enough_and_all_that_refuse_are_named() {
        let mut world = World::new("", "shop__execute");
        world.agent = None;
        world.mode = release::Mode::Off;
        let decision = decide(Phase::Before, &world.facts());
        let refused: Vec<_> = decision.decisive().map(|v| v.gate.as_str()).collect();
        assert_eq!(refused, ["ownership", "release", "autonomy", "authorization"]);
    }

    #[test]
    fn equal_facts_give_equal_decisions() {
        let mut world = World::new(ALL, "shop__execute");
        world.measurement = Some(measurement(blast(3), "x"));
        for phase in [Phase::Before, Phase::After] {
            assert_eq!(decide(phase, &world.facts()), decide(phase, &world.facts()));
        }
    }

    #[test]
    fn the_second_group_refuses_what_was_never_measured() {
        assert_eq!(decide(Phase::After, &World::new(ALL, "shop__execute").facts()).ruling, Ruling::Deny);
    }
}
