//! Recorded decisions made again under another policy, other limits or other flags.
//!
//! A run's record carries everything its decisions rested on, so they can be made again without touching
//! anything. Staging is not repeated: what an action would do today is not looked at, and what was refused
//! before staging has no measured effect. Budgets count as they were recorded, approvals as they were given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::contract::{Actor, Contract};
use crate::decision::{Decision, Obligation, Phase, Ruling};
use crate::effect::Effect;
use crate::flags::{Flagged, Flags};
use crate::gates::autonomy::Ceilings;
use crate::gates::blast_radius::{Budget, Limits, Spent};
use crate::gates::controls::Freeze;
use crate::gates::recoverability::Floor;
use crate::gates::release::Mode;
use crate::gates::{Circumstances, Measured, decide};
use crate::names::EnvironmentName;
use crate::rollback::RollbackPlan;

/// What recorded decisions are made again under.
#[derive(Debug)]
pub struct Under<'a> {
    /// The policy, compiled for the tools there are now.
    pub policy: &'a Policy,
    /// What else is different; `None` leaves it as it was recorded.
    pub settings: Option<&'a Settings>,
    /// Other release flags; `Some(None)` is none at all, `None` leaves what they said as it was recorded. What services
    /// said stays as recorded either way: nobody is asked again.
    pub flags: Option<Option<&'a Flags>>,
}

/// What of a configuration decisions rest on besides policy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits per action, and budgets. What was spent of those there were stays as recorded, and so does where
    /// money and recipients are read.
    pub limits: Limits,
    /// What the way back must at least be.
    pub floor: Floor,
    /// Change freezes, at the time of each decision.
    pub freezes: Vec<Freeze>,
    /// Modes by environment.
    pub environments: BTreeMap<EnvironmentName, Mode>,
    /// How autonomous any agent may be. What agents were raised or lowered to stays as recorded.
    pub ceilings: Ceilings,
}

/// What was said about one round of a run: before staging and, when it came that far, on the measured effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Said {
    /// The stricter ruling.
    pub ruling: Ruling,
    /// The gates that made it so, and why.
    pub reasons: Vec<String>,
    /// The rules they name.
    pub rules: Vec<String>,
    /// What must be done if it runs, in words.
    pub obligations: Vec<String>,
}

/// A decision that comes out otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Who asked.
    pub actor: Actor,
    /// The tool.
    pub tool: String,
    /// The environment.
    pub environment: String,
    /// As recorded.
    pub then: Said,
    /// As it would be.
    pub now: Said,
    /// It was never staged, so that nothing is known of what the gates would say to its effect.
    pub unmeasured: bool,
}

/// What became of one recorded run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    /// It was never judged: nothing to decide again.
    NotJudged,
    /// Decided as recorded, this many times.
    Same(u32),
    /// The first decision that comes out otherwise. What followed it in the record would not have.
    Changed(Box<Change>),
    /// It cannot be decided again, and why.
    Cannot(String),
}

/// One record of a run: its kind, such as `run.judged`, and its payload.
pub type Piece<'r> = (&'r str, &'r [u8]);

// Read by shape alone, not through the tag: the record's kind already says which event it is, and a tagged
// enum would be copied twice on its way here.
#[derive(Deserialize)]
struct Payload<T> {
    event: T,
}

#[derive(Deserialize)]
struct Proposed {
    contract: Contract,
}

#[derive(Deserialize)]
struct Staged {
    measurement: Found,
}

#[derive(Deserialize)]
struct Found {
    effect: Effect,
    plan: RollbackPlan,
}

#[derive(Deserialize)]
struct Judged {
    decision: Decision,
    circumstances: Circumstances,
}

fn read<T: serde::de::DeserializeOwned>(kind: &str, payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice::<Payload<T>>(payload)
        .map(|payload| payload.event)
        .map_err(|e| format!("its `{kind}` record cannot be read: {e}"))
}

/// Both decisions of a round, as recorded and made again.
struct Pair {
    then: Decision,
    now: Decision,
}

impl Pair {
    fn said(&self, after: Option<&Self>) -> (Said, Said) {
        let staged = self.now.rewriting.is_none() && matches!(self.now.ruling, Ruling::Allow | Ruling::Review);
        (
            said(&self.then, after.map(|after| &after.then)),
            // What is not let through to staging is not measured, so the second group is not asked.
            said(&self.now, after.filter(|_| staged).map(|after| &after.now)),
        )
    }
}

fn said(before: &Decision, after: Option<&Decision>) -> Said {
    let ruling = after.map_or(before.ruling, |after| after.ruling.max(before.ruling));
    let decisions = || std::iter::once(before).chain(after);
    let decisive = || decisions().flat_map(|d| &d.verdicts).filter(|v| v.ruling == ruling);
    let mut rules: Vec<String> = decisive().flat_map(|v| v.rules.iter().cloned()).collect();
    rules.sort_unstable();
    rules.dedup();
    let mut reasons: Vec<String> = match ruling {
        Ruling::Allow => Vec::new(),
        _ => decisive().map(|v| format!("{}: {}", v.gate, v.reason)).collect(),
    };
    reasons.dedup();
    let mut obligations: Vec<String> = decisions().flat_map(Decision::obligations).map(Obligation::words).collect();
    obligations.sort_unstable();
    obligations.dedup();
    Said { ruling, reasons, rules, obligations }
}

/// Decides a recorded run again. `records` are those of one run in their order; kinds that decide nothing are
/// passed over.
pub fn again<'r>(records: impl IntoIterator<Item = Piece<'r>>, under: &Under<'_>) -> Again {
    walk(records, under).unwrap_or_else(Again::Cannot)
}

fn walk<'r>(records: impl IntoIterator<Item = Piece<'r>>, under: &Under<'_>) -> Result<Again, String> {
    let mut contract: Option<Contract> = None;
    let mut found: Option<Found> = None;
    // The last decision before staging, and whether one on the effect followed it.
    let mut before: Option<(Pair, bool)> = None;
    let mut rounds = 0;
    let changed = |contract: &Contract, pair: &Pair, after: Option<&Pair>| {
        let (then, now) = pair.said(after);
        let differs = then.ruling != now.ruling || then.obligations != now.obligations;
        differs.then(|| {
            Again::Changed(Box::new(Change {
                actor: contract.actor.clone(),
                tool: contract.tool.to_string(),
                environment: contract.environment.to_string(),
                then,
                now,
                unmeasured: after.is_none() && contract.writes(),
            }))
        })
    };
    for (kind, payload) in records {
        match kind {
            "run.proposed" => {
                let read: Proposed = read(kind, payload)?;
                if let Some(why) = under.policy.unfit(&read.contract) {
                    return Err(why);
                }
                contract = Some(read.contract);
            }
            "run.staged" => found = Some(read::<Staged>(kind, payload)?.measurement),
            "run.judged" => {
                let contract = contract.as_ref().ok_or("its proposal is not among its records")?;
                let Judged { decision, mut circumstances } = read(kind, payload)?;
                if let Some(settings) = under.settings {
                    settings.apply(&mut circumstances, contract);
                    let tool = under.policy.tools().find(|tool| tool.name == contract.tool);
                    circumstances.forms = tool.map_or_else(Vec::new, |tool| tool.forms.clone());
                }
                // The gate of the flags speaks before staging.
                if let Some(flags) = under.flags.filter(|_| decision.phase == Phase::Before) {
                    circumstances.flags = flagged(flags, &circumstances, contract);
                }
                let measured = match decision.phase {
                    Phase::Before => None,
                    Phase::After => {
                        let found = found.as_ref().ok_or("what staging measured is not among its records")?;
                        Some(Measured { effect: &found.effect, plan: &found.plan })
                    }
                };
                let now = decide(decision.phase, &circumstances.facts(contract, under.policy, measured));
                let pair = Pair { then: decision, now };
                if pair.then.phase == Phase::After {
                    let (first, followed) =
                        before.as_mut().ok_or("its decision before staging is not among its records")?;
                    *followed = true;
                    rounds += 1;
                    if let Some(change) = changed(contract, first, Some(&pair)) {
                        return Ok(change);
                    }
                    continue;
                }
                if let Some((earlier, false)) = &before {
                    rounds += 1;
                    if let Some(change) = changed(contract, earlier, None) {
                        return Ok(change);
                    }
                }
                before = Some((pair, false));
            }
            _ => {}
        }
    }
    if let (Some((last, false)), Some(contract)) = (&before, &contract) {
        rounds += 1;
        if let Some(change) = changed(contract, last, None) {
            return Ok(change);
        }
    }
    Ok(match (rounds, contract) {
        (0, None) => return Err("its proposal is not among its records".to_owned()),
        (0, Some(_)) => Again::NotJudged,
        (rounds, _) => Again::Same(rounds),
    })
}

/// What other flags say, and what services had said.
fn flagged(flags: Option<&Flags>, circumstances: &Circumstances, contract: &Contract) -> Option<Flagged> {
    let recorded = circumstances.flags.iter().flat_map(|flagged| &flagged.said);
    let services: Vec<_> = recorded.filter(|said| said.remote.is_some()).cloned().collect();
    let said = flags.map(|flags| flags.about(contract, circumstances.agent.as_ref(), circumstances.now));
    let mut flagged = match said {
        Some(said) => said,
        None if services.is_empty() => return None,
        None => Flagged { document: None, said: Vec::new() },
    };
    flagged.said.extend(services);
    Some(flagged)
}

impl Settings {
    fn apply(&self, circumstances: &mut Circumstances, contract: &Contract) {
        // A sum belongs to its budget: the recorded one adding up the same actions over the same time. What was
        // spent of a budget nobody had is not recorded, and counts as nothing.
        let recorded: Vec<_> = circumstances.limits.budgets.iter().zip(&circumstances.spent).collect();
        let same = |budget: &Budget| {
            let found = recorded.iter().find(|(b, _)| (b.per, b.window) == (budget.per, budget.window));
            found.map_or_else(Spent::default, |(_, spent)| **spent)
        };
        circumstances.spent = self.limits.budgets.iter().map(same).collect();
        // Amounts were measured as the recorded measures say.
        let measures = std::mem::take(&mut circumstances.limits.measures);
        circumstances.limits = Limits { measures, ..self.limits.clone() };
        circumstances.floor.clone_from(&self.floor);
        circumstances.ceilings.clone_from(&self.ceilings);
        circumstances.controls.freezes.clone_from(&self.freezes);
        // As the node reads it: an environment nobody names is only observed.
        circumstances.mode = self.environments.get(&contract.environment).copied().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{World, blast, measurement, policy, run_id};
    use crate::record::{Body, encode};
    use crate::run::Event;

    const ALL: &str = "@id(\"all\") permit(principal, action, resource);\n";
    const MANY: &str = "@id(\"many\") @outcome(\"review\") forbid(principal, action, resource) \
                        when { context has effect && context.effect.rows_deleted > 2 } unless { context.approved };";

    /// The records a world leaves.
    fn records(world: &mut World, staged: bool) -> Vec<(String, Vec<u8>)> {
        let measurement = world.measurement.take();
        let mut events = vec![Event::Proposed { contract: Box::new(world.contract.clone()) }];
        let judged = |phase, world: &World| Event::Judged {
            decision: decide(phase, &world.facts()),
            circumstances: Box::new(world.facts().circumstances()),
        };
        events.push(judged(Phase::Before, world));
        if staged {
            let found = measurement.clone().unwrap();
            world.measurement = measurement;
            events.push(Event::Staged { measurement: Box::new(found) });
            events.push(judged(Phase::After, world));
        }
        let body = |event| Body::Run { run: run_id(1), event };
        events.into_iter().map(body).map(|body| (body.kind(), encode(&body).unwrap())).collect()
    }

    fn asked(records: &[(String, Vec<u8>)], policy: &Policy, settings: Option<&Settings>) -> Again {
        let pieces = records.iter().map(|(kind, payload)| (kind.as_str(), payload.as_slice()));
        again(pieces, &Under { policy, settings, flags: None })
    }

    fn world(text: &str, rows: u64) -> World {
        let mut world = World::new(text, "shop__execute");
        world.measurement = Some(measurement(blast(rows), "x"));
        world
    }

    #[test]
    fn under_the_same_policy_nothing_changes() {
        for (text, rows, staged, rounds) in [(ALL, 3, true, 1), ("", 3, false, 1), (MANY, 3, false, 1)] {
            let mut world = world(text, rows);
            let records = records(&mut world, staged);
            assert_eq!(asked(&records, &world.policy, None), Again::Same(rounds));
        }
    }

    #[test]
    fn a_change_names_both_answers() {
        let mut world = world(ALL, 3);
        let records = records(&mut world, true);
        let Again::Changed(change) = asked(&records, &policy(&format!("{ALL}{MANY}")), None) else { panic!() };
        assert_eq!((change.then.ruling, change.now.ruling), (Ruling::Allow, Ruling::Review));
        assert_eq!(change.now.rules, ["many"]);
        assert!(!change.unmeasured);
        // Not enough rows for that rule.
        let mut world = self::world(ALL, 2);
        let records = self::records(&mut world, true);
        assert_eq!(asked(&records, &policy(&format!("{ALL}{MANY}")), None), Again::Same(1));
    }

    #[test]
    fn what_was_never_staged_is_said_to_be_unmeasured() {
        let mut world = world("", 3);
        let records = records(&mut world, false);
        let Again::Changed(change) = asked(&records, &policy(ALL), None) else { panic!() };
        assert_eq!((change.then.ruling, change.now.ruling, change.unmeasured), (Ruling::Deny, Ruling::Allow, true));
    }

    #[test]
    fn what_would_not_be_staged_is_not_judged_by_its_effect() {
        let mut world = world(ALL, 3);
        let records = records(&mut world, true);
        let Again::Changed(change) = asked(&records, &policy(""), None) else { panic!() };
        assert_eq!(change.now.reasons.len(), 1, "{change:?}");
    }

    #[test]
    fn limits_floor_freezes_and_modes_take_the_place_of_the_recorded() {
        let base = Settings {
            limits: Limits::default(),
            floor: Floor::default(),
            freezes: Vec::new(),
            environments: [(crate::names::EnvironmentName::new("production").unwrap(), Mode::Enforce)].into(),
            ceilings: Ceilings::default(),
        };
        let mut world = world(ALL, 3);
        let records = records(&mut world, true);
        let now = |settings: Settings| match asked(&records, &world.policy, Some(&settings)) {
            Again::Changed(change) => change.now.ruling,
            Again::Same(_) => Ruling::Allow,
            other => panic!("{other:?}"),
        };
        let rows = |rows| {
            let action = crate::gates::blast_radius::Caps { rows: Some(rows), ..Default::default() };
            Limits { action, ..Limits::default() }
        };
        assert_eq!(now(base.clone()), Ruling::Allow);
        assert_eq!(now(Settings { limits: rows(2), ..base.clone() }), Ruling::Deny);
        assert_eq!(now(Settings { environments: BTreeMap::new(), ..base.clone() }), Ruling::Allow);
        let draft = [(crate::names::EnvironmentName::new("production").unwrap(), Mode::Draft)].into();
        assert_eq!(now(Settings { environments: draft, ..base.clone() }), Ruling::Review);
        let freeze = Freeze {
            name: "all".into(),
            reason: "calm".into(),
            environments: Vec::new(),
            from: None,
            until: None,
            ..Freeze::default()
        };
        assert_eq!(now(Settings { freezes: vec![freeze], ..base }), Ruling::Deny);
    }

    #[test]
    fn other_flags_take_the_place_of_the_recorded_and_services_are_not_asked_again() {
        let flags = |word: &str| {
            let flag = serde_json::json!({ "state": "ENABLED", "variants": { "v": word }, "defaultVariant": "v" });
            let document = serde_json::json!({ "flags": { "release": flag } });
            Flags::read(&document.to_string(), &crate::fixtures::registry()).unwrap()
        };
        let mut world = world(ALL, 3);
        let recorded = flags("draft_write");
        world.flags = Some(recorded.about(&world.contract, world.agent.as_ref(), world.now));
        let records = records(&mut world, true);
        let now = |flags: Option<Option<&Flags>>| {
            let pieces = records.iter().map(|(kind, payload)| (kind.as_str(), payload.as_slice()));
            match again(pieces, &Under { policy: &world.policy, settings: None, flags }) {
                Again::Changed(change) => change.now.ruling,
                Again::Same(_) => Ruling::Review,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(now(None), Ruling::Review);
        assert_eq!(now(Some(None)), Ruling::Allow);
        assert_eq!(now(Some(Some(&flags("autonomous")))), Ruling::Allow);
        assert_eq!(now(Some(Some(&flags("off")))), Ruling::Deny);
        // What a service had said stays, whatever the file says now.
        let mut said = world.flags.take().unwrap();
        let at = world.now;
        said.said[0].remote = Some(crate::flags::remote::Heard {
            service: "https://flags.example.com".into(),
            at: Some(at),
            stale: None,
        });
        world.flags = Some(said);
        world.measurement = Some(measurement(blast(3), "x"));
        let records = self::records(&mut world, true);
        let pieces = records.iter().map(|(kind, payload)| (kind.as_str(), payload.as_slice()));
        let under = Under { policy: &world.policy, settings: None, flags: Some(None) };
        assert_eq!(again(pieces, &under), Again::Same(1));
    }

    #[test]
    fn what_cannot_be_decided_again_says_why() {
        let mut world = world(ALL, 3);
        let whole = records(&mut world, true);
        let cannot = |records: &[(String, Vec<u8>)], policy: &Policy| match asked(records, policy, None) {
            Again::Cannot(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(cannot(&whole[1..], &world.policy).contains("proposal"));
        let without: Vec<_> = whole.iter().filter(|(kind, _)| kind != "run.staged").cloned().collect();
        assert!(cannot(&without, &world.policy).contains("staging"));
        let mut broken = whole.clone();
        broken[1].1.truncate(30);
        assert!(cannot(&broken, &world.policy).contains("`run.judged` record cannot be read"));
        let few = Policy::compile(&crate::fixtures::sources(ALL), &[]).unwrap();
        assert!(cannot(&whole, &few).contains("not registered"));
        assert_eq!(asked(&whole[..1], &world.policy, None), Again::NotJudged);
    }
}
