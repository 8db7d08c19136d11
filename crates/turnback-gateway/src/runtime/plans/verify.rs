//! Verification: the whole plan, before any of its steps.
//!
//! Every step becomes a contract and meets the gates that need nothing of the target; only when all of them
//! pass is anything rehearsed. Each is then measured on top of those before it and meets the second group of
//! gates with what those before it would have spent already counted. At last the chain: what a later step
//! touches again can only be taken back through that step, so that one needs a way back itself. Nothing stays
//! staged, locked, leased or reserved.

mod chain;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use turnback_core::budget::Books;
use turnback_core::contract::Contract;
use turnback_core::decision::{Decision, Phase, Ruling};
use turnback_core::effect::Touch;
use turnback_core::gates::Measured;
use turnback_core::gates::blast_radius::Spent;
use turnback_core::gates::plan::{NAME, Planned, StepOf};
use turnback_core::gates::recoverability::irreversible;
use turnback_core::names::{AgentName, PlanId, ResourceName, RunId};
use turnback_core::plan::{Amounts, Ask, Draft, Plan, Step};
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{self, Event, Run, State};
use turnback_effects::Unrehearsed;
use turnback_journal::Entry;

use super::super::{Inner, lock};
use super::{ACTIVE_MOST, Kept, REMEMBERED_BYTES, REMEMBERED_MOST, Stored};
use crate::desk::{Call, Caller, NotPlanned};

/// Faults named in the sentence; all of them are in the details.
const NAMED: usize = 8;

/// One step on its way through verification. Steps stand in the order in which they would run.
struct Trial {
    name: String,
    /// Its place in the submission.
    index: usize,
    run: Run,
    before: Option<Decision>,
    touches: Vec<Touch>,
    asks: Vec<Ask>,
}

impl Trial {
    fn contract(&self) -> &Contract {
        &self.run.contract
    }

    fn measured(&self) -> Option<Measured<'_>> {
        self.run.state.measurement().map(|m| Measured { effect: &m.effect, plan: &m.plan })
    }
}

/// Everything that is wrong with a plan.
#[derive(Default)]
struct Faults {
    sentences: Vec<String>,
    gates: Vec<Value>,
    refusals: Vec<Value>,
    next: Option<String>,
}

impl Faults {
    fn gates(&mut self, trial: &Trial, decision: &Decision) {
        if decision.rewriting.is_some() {
            // What would run is another action than the one that was planned.
            let why = format!("step `{}` would run only in a safer form", trial.name);
            self.plan(&[trial], why, "submit that form as the step");
        }
        for verdict in decision.verdicts.iter().filter(|v| !matches!(v.ruling, Ruling::Allow | Ruling::Review)) {
            self.sentences.push(format!("step `{}`: {}: {}", trial.name, verdict.gate, verdict.reason));
            self.gates.push(json!({
                "step": trial.name, "index": trial.index, "gate": verdict.gate, "ruling": verdict.ruling,
                "reason": verdict.reason, "next": verdict.next, "rules": verdict.rules,
            }));
            self.next = self.next.take().or_else(|| verdict.next.clone());
        }
    }

    fn refused(&mut self, trial: &Trial, refusal: &Refusal) {
        self.sentences.push(format!("step `{}`: {refusal}", trial.name));
        self.refusals.push(json!({
            "step": trial.name, "index": trial.index, "code": refusal.code, "place": refusal.place,
            "message": refusal.message, "next": refusal.next,
        }));
        self.next = self.next.take().or_else(|| refusal.next.clone());
    }

    fn plan(&mut self, steps: &[&Trial], reason: String, next: &str) {
        let names: Vec<&str> = steps.iter().map(|trial| trial.name.as_str()).collect();
        let first = steps.first().map(|trial| trial.index);
        self.gates.push(json!({
            "gate": NAME, "ruling": Ruling::Deny, "reason": reason, "next": next, "steps": names, "index": first,
        }));
        self.sentences.push(reason);
        self.next.get_or_insert_with(|| next.to_owned());
    }

    /// The refusal of the plan, when anything is wrong.
    fn check(self) -> Result<(), NotPlanned> {
        if self.sentences.is_empty() {
            return Ok(());
        }
        let more = self.sentences.len().saturating_sub(NAMED);
        let mut message = format!("plan refused: {}", self.sentences[..self.sentences.len() - more].join("; "));
        if more > 0 {
            message.push_str(&format!("; and {more} more"));
        }
        let mut refusal = Refusal::new(Code::Denied, message);
        refusal.next = self.next;
        Err(NotPlanned { refusal, details: Box::new(json!({ "gates": self.gates, "refusals": self.refusals })) })
    }
}

/// Takes an agent's place among those of which a plan is being verified.
struct Turn<'a>(&'a Inner, AgentName);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.plans.verifying).remove(&self.1);
    }
}

impl Inner {
    /// Verifies a plan and keeps it. The agent is told after it is durable.
    pub(super) async fn submit_plan(self: &Arc<Self>, caller: &Caller, bytes: &[u8]) -> Result<Value, NotPlanned> {
        let draft = Draft::parse(bytes)?;
        if !lock(&self.plans.verifying).insert(caller.agent.clone()) {
            let message = "another plan of this agent is being verified";
            return Err(Refusal::new(Code::Busy, message).next("submit one after the other").into());
        }
        let _turn = Turn(self, caller.agent.clone());
        let mut trials = self.trials(caller, &draft)?;
        self.apart(&caller.agent, &trials)?;
        let id = PlanId::new(uuid::Uuid::now_v7());
        // What the plan would spend is counted in books of its own: nobody else is held to it.
        let books = Mutex::new(lock(&self.books).clone());
        let lifetime = i64::try_from(draft.lifetime).map_or(SignedDuration::ZERO, SignedDuration::from_secs);
        let expires = self.now().saturating_add(lifetime).unwrap_or(Timestamp::MAX);

        let mut faults = Faults::default();
        self.must_state(&draft, &trials, &mut faults);
        for trial in &mut trials {
            self.first_group(trial, trial_step(id, trial, &draft, expires, Amounts::default()), &books, &mut faults)
                .await?;
        }
        // What will be refused touches nothing.
        std::mem::take(&mut faults).check()?;
        self.rehearse_all(&mut trials, &mut faults).await?;
        std::mem::take(&mut faults).check()?;
        let mut spent = Amounts::default();
        for trial in &mut trials {
            self.second_group(trial, trial_step(id, trial, &draft, expires, spent), &books, &mut faults).await?;
            spent = spent.plus(trial.measured().map_or_else(Amounts::default, |m| Amounts::of(&m.effect.blast)));
        }
        let inferred = self.chain(&draft, &trials, &mut faults);
        faults.check()?;
        let steps =
            trials.iter().zip(&inferred).filter_map(|(trial, inferred)| step(trial, inferred, &draft)).collect();
        let plan = Plan {
            id,
            agent: caller.agent.clone(),
            on_behalf_of: caller.on_behalf_of.clone(),
            goal: draft.goal,
            steps,
            never: draft.never,
            at_most: draft.at_most,
            submitted: self.now(),
            expires,
        };
        self.keep_plan(plan, &trials).await?;
        Ok(json!(self.plan_view(&caller.agent, id)?))
    }

    /// Every step as a contract, in the order in which they would run.
    fn trials(&self, caller: &Caller, draft: &Draft) -> Result<Vec<Trial>, Refusal> {
        let mut trials: Vec<Option<Trial>> = Vec::with_capacity(draft.steps.len());
        for (index, step) in draft.steps.iter().enumerate() {
            let place = |field: &str| format!("steps[{index}].{field}");
            let call = Call {
                caller: caller.clone(),
                tool: step.tool.clone(),
                arguments: step.arguments.to_string().into_bytes(),
                statement: None,
                trace: None,
            };
            let (contract, rule) = self.contract(call).map_err(|refusal| match refusal.code {
                Code::UnknownTool => {
                    let refusal = Refusal { place: None, ..refusal };
                    refusal.at(place("tool")).next("name a tool of tools/list; undos and plans are no steps")
                }
                _ => {
                    let inner = refusal.place.clone().unwrap_or_else(|| "arguments".into());
                    refusal.at(place(&inner))
                }
            })?;
            if !contract.writes() {
                return Err(Refusal::new(
                    Code::BadInput,
                    format!("`{}` only reads, and reads need no plan", step.tool),
                )
                .at(place("tool"))
                .next("leave it out; call it whenever it is needed"));
            }
            let digest = contract.digest();
            let twin = trials.iter().flatten().find(|trial| trial.contract().digest() == digest);
            if let Some(twin) = twin {
                let message = format!("it is the same action as step `{}`, and could not be told from it", twin.name);
                return Err(Refusal::new(Code::BadInput, message)
                    .at(place("arguments"))
                    .next("write it as one step, or let the two differ"));
            }
            let run = run::open(RunId::new(uuid::Uuid::now_v7()), contract, rule, self.now()).run;
            let (name, touches, asks) = (step.name.clone(), Vec::new(), Vec::new());
            trials.push(Some(Trial { name, index, run, before: None, touches, asks }));
        }
        Ok(draft.order.iter().filter_map(|at| trials.get_mut(*at).and_then(Option::take)).collect())
    }

    /// Refuses steps that are steps of another active plan already, and one plan too many.
    fn apart(&self, agent: &AgentName, trials: &[Trial]) -> Result<(), Refusal> {
        let now = self.now();
        let known = lock(&self.plans.known);
        let all = known.get(agent).into_iter().flat_map(|plans| plans.values());
        // Those that are forgotten may still be there until the next record.
        let remembered: Vec<&Kept> = all.filter(|kept| !kept.stored.is_forgotten(now)).collect();
        let active: Vec<&&Kept> = remembered.iter().filter(|kept| kept.stored.over(now).is_none()).collect();
        if active.len() >= ACTIVE_MOST {
            let message = format!("{} plans of this agent are active; the bound is {ACTIVE_MOST}", active.len());
            return Err(Refusal::new(Code::Overloaded, message).next("finish or abort one with turnback__plan_abort"));
        }
        let (count, bytes) = (remembered.len(), remembered.iter().map(|kept| kept.bytes).sum::<usize>());
        let full = if count >= REMEMBERED_MOST {
            Some(format!("{count} plans of this agent are remembered; the bound is {REMEMBERED_MOST}"))
        } else if bytes >= REMEMBERED_BYTES {
            Some(format!("the remembered plans of this agent take {bytes} bytes; the bound is {REMEMBERED_BYTES}"))
        } else {
            None
        };
        if let Some(message) = full {
            return Err(Refusal::new(Code::Overloaded, message).next("one is forgotten 24 hours after it ended"));
        }
        for trial in trials {
            let action = trial.contract().digest();
            if let Some(kept) = active.iter().find(|kept| kept.stored.plan.step_of(&action).is_some()) {
                let message = format!("it is a step of plan `{}` already", kept.stored.plan.id);
                return Err(Refusal::new(Code::Exists, message)
                    .at(format!("steps[{}]", trial.index))
                    .next("finish or abort that plan first"));
            }
        }
        Ok(())
    }

    fn must_state(&self, draft: &Draft, trials: &[Trial], faults: &mut Faults) {
        for rule in &self.plans.rules {
            let Some(step) = trials.iter().find(|trial| rule.concerns(trial.contract())) else { continue };
            for must in rule.must_state.iter().filter(|must| !must.is_stated(&draft.never, &draft.at_most)) {
                let why = format!("a plan with step `{}` must state `{must}` (rule `{}`)", step.name, rule.name);
                faults.plan(&[step], why, "state it in `never` or `at_most` if the plan is meant to keep to it");
            }
        }
    }

    async fn first_group(
        self: &Arc<Self>,
        trial: &mut Trial,
        step: StepOf,
        books: &Mutex<Books>,
        faults: &mut Faults,
    ) -> Result<(), Refusal> {
        let mut looked = self.look_up(Phase::Before, &trial.run).await;
        looked.remote_flags = self.hear(Phase::Before, trial.contract()).await;
        looked.collision = self.in_the_way(&trial.run);
        looked.plan = Some(Planned { step: Some(step), ..Planned::default() });
        let judged = self.judge_by(Phase::Before, &trial.run, &looked, Some(books));
        let Event::Judged { decision, .. } = &judged else { return Ok(()) };
        if decision.measure_only() {
            let why =
                format!("environment `{}` is only observed: no step would run there", trial.contract().environment);
            faults.plan(&[trial], why, "an operator sets its mode");
        }
        faults.gates(trial, decision);
        trial.before = Some(decision.clone());
        trial.run = moved(trial.run.clone(), judged, self.now())?;
        Ok(())
    }

    /// Measures every step, resource by resource.
    async fn rehearse_all(self: &Arc<Self>, trials: &mut [Trial], faults: &mut Faults) -> Result<(), Refusal> {
        let mut places: BTreeMap<ResourceName, Vec<usize>> = BTreeMap::new();
        for (at, trial) in trials.iter().enumerate() {
            places.entry(trial.contract().resource.clone()).or_default().push(at);
        }
        for (resource, places) in places {
            let bound = self.bound(&resource)?;
            let wait = self.settings.bounds.lock_wait;
            let Ok(_hold) = tokio::time::timeout(wait, Arc::clone(&bound.lock).lock_owned()).await else {
                let message = format!("other writes held it for {} s", wait.as_secs());
                return Err(Refusal::new(Code::Busy, message).at(resource.as_str()).next("submit the plan again"));
            };
            let steps: Vec<(RunId, Contract)> = places
                .iter()
                .filter_map(|at| trials.get(*at))
                .map(|trial| (trial.run.id, trial.contract().clone()))
                .collect();
            let Some((_, first)) = steps.first().cloned() else { continue };
            let (domain, bounds) = (Arc::clone(&bound.resource.domain), self.settings.bounds.clone());
            let on_top = domain.rehearses_on_top();
            let rehearsed = self.patiently(&first, move || domain.rehearse(&steps, &bounds)).await?;
            match rehearsed {
                Ok(all) => {
                    for (at, one) in places.iter().zip(all) {
                        let Some(trial) = trials.get_mut(*at) else { continue };
                        let mut measurement = Box::new(one.measurement);
                        measurement.plan.bearer = measurement.plan.bearer.max(bound.resource.bearer);
                        self.count_amounts(&trial.run, &mut measurement);
                        trial.touches = one.touches;
                        trial.run = moved(trial.run.clone(), Event::Staged { measurement }, self.now())?;
                    }
                }
                Err(Unrehearsed { step, refusal }) => {
                    let Some(trial) = places.get(step).and_then(|at| trials.get(*at)) else { continue };
                    let refusal = match step {
                        0 => refusal,
                        _ if on_top => refusal,
                        _ => refusal
                            .next("if it needs what an earlier step makes: submit it as a second plan after the first"),
                    };
                    faults.refused(trial, &refusal);
                }
            }
        }
        Ok(())
    }

    async fn second_group(
        self: &Arc<Self>,
        trial: &mut Trial,
        step: StepOf,
        books: &Mutex<Books>,
        faults: &mut Faults,
    ) -> Result<(), Refusal> {
        let Some(measurement) = trial.run.state.measurement().cloned() else {
            return Err(Refusal::new(Code::Failed, format!("step `{}` was not measured", trial.name)));
        };
        let measured = Measured { effect: &measurement.effect, plan: &measurement.plan };
        let mut looked = self.look_up(Phase::After, &trial.run).await;
        looked.remote_flags = self.hear(Phase::After, trial.contract()).await;
        // Given back where this ends.
        let mut claim = self.claim(&trial.run);
        if claim.as_mut().is_some_and(|claim| !claim.take(&trial.run, measured)) {
            faults.plan(&[trial], format!("step `{}`: somebody else is at work there", trial.name), "submit it later");
        }
        looked.collision = claim.as_ref().map(super::super::collision::Claim::found);
        looked.plan = Some(Planned { step: Some(step), ..Planned::default() });
        let judged = self.judge_by(Phase::After, &trial.run, &looked, Some(books));
        let Event::Judged { decision, .. } = judged else { return Ok(()) };
        faults.gates(trial, &decision);
        if decision.ruling != Ruling::Allow {
            // What a person will be asked about is spent as well when it comes.
            let contract = trial.contract();
            let view = self.board.view();
            let agent = contract.actor.agent().and_then(|name| view.agents.get(name));
            let cost = Spent::of(&measurement.effect.blast);
            lock(books).reserve(trial.run.id, contract, agent, cost, irreversible(contract, measured), self.now());
        }
        let before = trial.before.iter().flat_map(|before| &before.verdicts);
        let asking = before.chain(&decision.verdicts).filter(|verdict| verdict.ruling == Ruling::Review);
        trial.asks = asking.map(|v| Ask { gate: v.gate.clone(), reason: v.reason.clone() }).collect();
        trial.asks.dedup();
        Ok(())
    }

    /// Makes a verified plan durable and lets it hold.
    async fn keep_plan(&self, plan: Plan, trials: &[Trial]) -> Result<(), Refusal> {
        let _one_at_a_time = self.plans.editing.lock().await;
        // Again: another one may have been kept since.
        self.apart(&plan.agent, trials)?;
        let at = plan.submitted;
        let stored = Stored { plan: Arc::new(plan.clone()), ended: None, unwound: Vec::new() };
        let project = self.forgotten(at).into_iter().chain([stored.put()]).collect();
        let (agent, id) = (plan.agent.clone(), plan.id);
        self.append_entry(Entry { at, body: Body::PlanVerified { plan: Box::new(plan) }, project }).await?;
        let kept = Kept::new(stored);
        lock(&self.plans.known).entry(agent).or_default().insert(id, kept);
        Ok(())
    }
}

/// A step as the gate sees it while it is verified: in its order, by nobody yet.
fn trial_step(plan: PlanId, trial: &Trial, draft: &Draft, expires: Timestamp, spent: Amounts) -> StepOf {
    StepOf {
        plan,
        step: trial.name.clone(),
        ended: None,
        expires,
        after: Vec::new(),
        run: None,
        verified: None,
        never: draft.never.clone(),
        at_most: draft.at_most,
        spent,
        unstated: None,
    }
}

/// A run one event on.
fn moved(run: Run, event: Event, now: Timestamp) -> Result<Run, Refusal> {
    run::step(run, event, now).map(|step| step.run).map_err(|e| Refusal::new(Code::Failed, e.to_string()))
}

/// A verified step.
fn step(trial: &Trial, inferred: &BTreeSet<usize>, draft: &Draft) -> Option<Step> {
    let State::Measured(found) = &trial.run.state else { return None };
    let (contract, effect) = (trial.contract(), &found.measurement.effect);
    let name = |index: usize| draft.steps.get(index).map(|step| step.name.clone());
    let inferred: Vec<String> = inferred.iter().filter_map(|at| draft.order.get(*at).copied().and_then(name)).collect();
    let said = draft.steps.get(trial.index)?.after.iter().filter_map(|index| name(*index));
    Some(Step {
        name: trial.name.clone(),
        tool: contract.tool.clone(),
        resource: contract.resource.clone(),
        environment: contract.environment.clone(),
        arguments: contract.arguments.clone(),
        action: contract.digest(),
        after: said.chain(inferred.iter().cloned()).collect(),
        inferred,
        summary: effect.summary.clone(),
        blast: effect.blast.clone(),
        effect: effect.digest,
        places: effect.places,
        effect_match: trial.run.effect_match,
        level: found.measurement.plan.level(),
        asks: trial.asks.clone(),
    })
}
