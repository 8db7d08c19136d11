//! Plans: which hold, and how far they are.
//!
//! Owns what the gate `plan` is told and what is durable of plans. Which run did which step is read off the
//! runs: kept in memory while a node lives, folded from their rows after a restart. A step is reserved in the
//! moment it is allowed, under the lock its sums are read under, so that it runs at most once and a limit of
//! the plan is never exceeded by one. Every change of a plan is durable before it takes effect or is told.

mod abort;
mod operate;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use turnback_core::contract::Contract;
use turnback_core::decision::{Phase, Ruling};
use turnback_core::digest::ActionDigest;
use turnback_core::gates::plan::{Planned, StepOf, Unstated, Verified};
use turnback_core::names::{AgentName, PlanId, RunId};
use turnback_core::plan::{Amounts, End, Ended, Plan, Rule, Unwound};
use turnback_core::record::{Body, Row};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Event, Run, State};
use turnback_journal::{Entry, Projection, RowFilter, Table};

use super::context::Looked;
use super::{Inner, lock};

/// What the keys of projected plans begin with.
const PREFIX: &str = "plan ";

/// How long an ended plan is remembered: until then its steps are recognised and refused.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);

/// Active plans one agent may have.
const ACTIVE_MOST: usize = 16;

/// Plans of one agent that are remembered at once, ended ones included.
const REMEMBERED_MOST: usize = 256;

/// Bytes all remembered plans of one agent take together, as they are written down; the last one may exceed it.
const REMEMBERED_BYTES: usize = 8 << 20;

/// The state of a step that is allowed and not yet done.
const RUNNING: &str = "running";

/// What is projected of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    plan: Arc<Plan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unwound: Vec<Unwound>,
}

/// The run that does or did a step.
#[derive(Clone, Debug)]
struct Progress {
    run: RunId,
    /// [`RUNNING`], or the run's own state.
    state: String,
    /// What it does.
    spent: Amounts,
}

/// A plan and how far it is.
#[derive(Clone, Debug)]
struct Kept {
    stored: Stored,
    /// By the places of steps.
    progress: BTreeMap<usize, Progress>,
    /// What it takes, written down.
    bytes: usize,
}

type Known = BTreeMap<AgentName, BTreeMap<PlanId, Kept>>;

/// All plans that are remembered.
pub(super) struct Plans {
    rules: Vec<Rule>,
    known: Mutex<Known>,
    /// Plans are added and ended one at a time.
    editing: tokio::sync::Mutex<()>,
    /// Held while a plan is unwound: no run is taken back twice.
    unwinding: tokio::sync::Mutex<()>,
    /// Agents of which one is being verified: an agent's plans are verified one at a time.
    verifying: Mutex<BTreeSet<AgentName>>,
    /// Told whenever a step got further.
    moved: watch::Sender<()>,
}

impl Plans {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        Self {
            rules,
            known: Mutex::default(),
            editing: tokio::sync::Mutex::default(),
            unwinding: tokio::sync::Mutex::default(),
            verifying: Mutex::default(),
            moved: watch::Sender::new(()),
        }
    }
}

impl Stored {
    fn key(&self) -> String {
        format!("{PREFIX}{}", self.plan.id)
    }

    fn put(&self) -> Projection {
        Projection::Put { table: Table::Meta, key: self.key(), value: serde_json::json!(self) }
    }

    /// How it ended, recorded or not.
    fn over(&self, now: Timestamp) -> Option<&'static str> {
        match &self.ended {
            Some(ended) => Some(ended.how.word()),
            None => (now >= self.plan.expires).then_some(End::Expired.word()),
        }
    }

    fn is_forgotten(&self, now: Timestamp) -> bool {
        self.ended.as_ref().is_some_and(|ended| now.duration_since(ended.at) > REMEMBERED)
    }
}

impl Kept {
    fn new(stored: Stored) -> Self {
        let bytes = serde_json::json!(stored).to_string().len();
        Self { stored, progress: BTreeMap::new(), bytes }
    }

    /// What all steps but those of `run` did or are about to do.
    fn spent(&self, run: Option<RunId>) -> Amounts {
        let others = self.progress.values().filter(|progress| Some(progress.run) != run);
        others.fold(Amounts::default(), |sum, progress| sum.plus(progress.spent))
    }

    fn is_done(&self) -> bool {
        (0..self.stored.plan.steps.len()).all(|at| self.progress.get(&at).is_some_and(|p| p.state == "settled"))
    }

    fn state_of(&self, name: &str) -> Option<String> {
        let at = self.stored.plan.steps.iter().position(|step| step.name == name)?;
        self.progress.get(&at).map(|progress| progress.state.clone())
    }

    fn step_of(&self, at: usize, run: RunId, now: Timestamp) -> Option<StepOf> {
        let plan = &self.stored.plan;
        let step = plan.steps.get(at)?;
        let by_other = self.progress.get(&at).filter(|progress| progress.run != run);
        Some(StepOf {
            plan: plan.id,
            step: step.name.clone(),
            ended: self.stored.over(now).map(str::to_owned),
            expires: plan.expires,
            after: step.after.iter().map(|name| (name.clone(), self.state_of(name))).collect(),
            run: by_other.map(|progress| (progress.run, progress.state.clone())),
            verified: Some(Verified {
                summary: step.summary.clone(),
                effect: step.effect,
                places: step.places,
                effect_match: step.effect_match,
            }),
            never: plan.never.clone(),
            at_most: plan.at_most,
            spent: self.spent(Some(run)),
            unstated: None,
        })
    }
}

/// The plan an action is a step of: the active one, or else the one that ended last.
fn find<'a>(
    plans: &'a mut BTreeMap<PlanId, Kept>,
    action: &ActionDigest,
    run: RunId,
    now: Timestamp,
) -> Option<(&'a mut Kept, usize)> {
    let rank = |kept: &Kept, at: usize| {
        let own = kept.progress.get(&at).is_some_and(|progress| progress.run == run);
        (own, kept.stored.over(now).is_none())
    };
    plans
        .iter_mut()
        .filter_map(|(id, kept)| kept.stored.plan.step_of(action).map(|at| (*id, kept, at)))
        .filter(|(_, kept, _)| !kept.stored.is_forgotten(now))
        .max_by_key(|(id, kept, at)| (rank(kept, *at), *id))
        .map(|(_, kept, at)| (kept, at))
}

impl Inner {
    /// Judges a run with what is known of plans, and reserves its step when it is allowed.
    pub(super) fn judge_planned(&self, phase: Phase, run: &Run, looked: &mut Looked) -> Event {
        let mut known = lock(&self.plans.known);
        looked.plan = self.planned(&mut known, run);
        let step = looked.plan.as_ref().is_some_and(|planned| planned.step.is_some());
        if phase == Phase::Before || !step {
            // Only the sums of a plan need what is between looking and reserving to be one moment.
            drop(known);
            return self.judge(phase, run, looked);
        }
        let judged = self.judge(phase, run, looked);
        if let (Event::Judged { decision, .. }, Some(agent), Some(measurement)) =
            (&judged, run.contract.actor.agent(), run.state.measurement())
            && decision.ruling == Ruling::Allow
            && let Some(plans) = known.get_mut(agent)
            && let Some((kept, at)) = find(plans, &run.contract.digest(), run.id, self.now())
        {
            let spent = Amounts::of(&measurement.effect.blast);
            kept.progress.insert(at, Progress { run: run.id, state: RUNNING.into(), spent });
        }
        judged
    }

    fn planned(&self, known: &mut Known, run: &Run) -> Option<Planned> {
        let contract = &run.contract;
        let agent = contract.actor.agent().filter(|_| contract.writes())?;
        let required = self.plans.rules.iter().find(|rule| rule.required && rule.concerns(contract));
        let required = required.map(|rule| rule.name.clone());
        let Some(plans) = known.get_mut(agent) else {
            return required.map(|rule| Planned { required: Some(rule), ..Planned::default() });
        };
        let now = self.now();
        let step = find(plans, &contract.digest(), run.id, now).and_then(|(kept, at)| {
            let unstated = self.unstated(&kept.stored.plan, contract);
            kept.step_of(at, run.id, now).map(|step| StepOf { unstated, ..step })
        });
        let beside = match &step {
            Some(_) => Vec::new(),
            None => {
                let near =
                    |kept: &&Kept| kept.stored.over(now).is_none() && kept.stored.plan.touches(&contract.resource);
                plans.values().filter(near).map(|kept| kept.stored.plan.id).collect()
            }
        };
        let planned = Planned { required, step, beside };
        (planned != Planned::default()).then_some(planned)
    }

    /// What a rule of today asks of a plan that may have been verified under another configuration.
    fn unstated(&self, plan: &Plan, contract: &Contract) -> Option<Unstated> {
        self.plans.rules.iter().filter(|rule| rule.concerns(contract)).find_map(|rule| {
            let must = rule.must_state.iter().find(|must| !must.is_stated(&plan.never, &plan.at_most))?;
            Some(Unstated { rule: rule.name.clone(), must: must.clone() })
        })
    }

    /// Takes note that a run came to nothing before it was done.
    pub(super) fn step_released(&self, run: &Run) {
        let Some(agent) = run.contract.actor.agent() else { return };
        if let Some(plans) = lock(&self.plans.known).get_mut(agent) {
            for kept in plans.values_mut() {
                kept.progress.retain(|_, progress| progress.run != run.id || progress.state != RUNNING);
            }
        }
        self.plans.moved.send_replace(());
    }

    /// Takes note of how a step stands, and of the plan when it was the last one.
    pub(super) async fn step_noted(&self, run: &Run, action: ActionDigest) {
        let Some(agent) = run.contract.actor.agent().filter(|_| run.contract.writes()) else { return };
        let done = {
            let mut known = lock(&self.plans.known);
            let Some(plans) = known.get_mut(agent) else { return };
            let Some((kept, at)) = find(plans, &action, run.id, self.now()) else { return };
            note(kept, at, run);
            (kept.stored.ended.is_none() && kept.is_done()).then_some(kept.stored.plan.id)
        };
        self.plans.moved.send_replace(());
        if let Some(plan) = done {
            // A crash before this is durable loses nothing: that all steps are done is read off their runs.
            if let Err(refusal) = self.end_plan(agent, plan, End::Completed).await {
                tracing::error!(%plan, %refusal, "the end of a plan could not be recorded");
            }
        }
    }

    /// Takes note that a run was undone, or stands again.
    pub(super) fn step_flipped(&self, run: &Run) {
        let Some(agent) = run.contract.actor.agent() else { return };
        if let Some(plans) = lock(&self.plans.known).get_mut(agent) {
            for progress in plans.values_mut().flat_map(|kept| kept.progress.values_mut()) {
                if progress.run == run.id {
                    run.state.word().clone_into(&mut progress.state);
                }
            }
        }
    }

    /// Ends a plan that has not ended. Durable before it takes effect.
    async fn end_plan(&self, agent: &AgentName, plan: PlanId, how: End) -> Result<(), Refusal> {
        let _one_at_a_time = self.plans.editing.lock().await;
        let now = self.now();
        let stored = lock(&self.plans.known).get(agent).and_then(|plans| plans.get(&plan)).map(|k| k.stored.clone());
        let Some(mut stored) = stored.filter(|stored| {
            stored.ended.is_none() || (matches!(how, End::Aborted { .. }) && stored.over(now) == Some("expired"))
        }) else {
            return Ok(());
        };
        stored.ended = Some(Ended { at: now, how: how.clone() });
        let project = self.forgotten(now).into_iter().chain([stored.put()]).collect();
        let body = Body::PlanEnded { plan, agent: agent.clone(), how };
        self.append_entry(Entry { at: now, body, project }).await?;
        if let Some(kept) = lock(&self.plans.known).get_mut(agent).and_then(|plans| plans.get_mut(&plan)) {
            kept.stored = stored;
        }
        Ok(())
    }

    /// Forgets plans that ended long ago; what to remove of them goes with the next record.
    fn forgotten(&self, now: Timestamp) -> Vec<Projection> {
        let mut gone = Vec::new();
        let mut known = lock(&self.plans.known);
        for plans in known.values_mut() {
            plans.retain(|_, kept| {
                let keep = !kept.stored.is_forgotten(now);
                if !keep {
                    gone.push(Projection::Delete { table: Table::Meta, key: kept.stored.key() });
                }
                keep
            });
        }
        known.retain(|_, plans| !plans.is_empty());
        gone
    }

    /// Ends plans whose time is over, and those whose last step was done before a restart.
    pub(super) async fn tend_plans(&self) {
        let now = self.now();
        let over: Vec<(AgentName, PlanId, End)> = {
            let known = lock(&self.plans.known);
            let all = known.iter().flat_map(|(agent, plans)| plans.values().map(move |kept| (agent, kept)));
            all.filter(|(_, kept)| kept.stored.ended.is_none())
                .filter_map(|(agent, kept)| {
                    let how = match (kept.is_done(), now >= kept.stored.plan.expires) {
                        (true, _) => End::Completed,
                        (false, true) => End::Expired,
                        (false, false) => return None,
                    };
                    Some((agent.clone(), kept.stored.plan.id, how))
                })
                .collect()
        };
        for (agent, plan, how) in over {
            if let Err(refusal) = self.end_plan(&agent, plan, how).await {
                tracing::error!(%plan, %refusal, "the end of a plan could not be recorded");
            }
        }
    }

    /// Reads plans back after a restart, and off the runs how far they are.
    pub(super) async fn restore_plans(&self) -> Result<(), Refusal> {
        let now = self.now();
        let mut found: Vec<Kept> = Vec::new();
        for (key, value) in self.journal.table(Table::Meta).map_err(Refusal::from)? {
            if key.starts_with(PREFIX) {
                let stored: Stored = serde_json::from_value(value).map_err(|e| {
                    Refusal::new(Code::Failed, format!("a plan cannot be read back: {e}")).next("turnback verify")
                })?;
                // What is forgotten as well: it is removed with the next record about a plan.
                found.push(Kept::new(stored));
            }
        }
        // Newest first: a run did a step of the last plan that was there when it was committed.
        found.sort_by_key(|kept| std::cmp::Reverse(kept.stored.plan.submitted));
        let mut taken: BTreeSet<RunId> = BTreeSet::new();
        for kept in found.iter_mut().filter(|kept| !kept.stored.is_forgotten(now)) {
            let plan = Arc::clone(&kept.stored.plan);
            let filter = RowFilter {
                agent: Some(plan.agent.clone()),
                committed_since: Some(plan.submitted),
                ..RowFilter::default()
            };
            let mut rows: Vec<Row> = self.journal.rows(&filter).map_err(Refusal::from)?;
            rows.sort_by_key(|row| (row.committed, row.run));
            for row in rows {
                let Some(at) = plan.step_of(&ActionDigest(row.action)) else { continue };
                if kept.progress.contains_key(&at) || !taken.insert(row.run) {
                    continue;
                }
                let run = self.load(row.run).await?;
                note(kept, at, &run);
            }
        }
        let mut known = lock(&self.plans.known);
        for kept in found {
            known.entry(kept.stored.plan.agent.clone()).or_default().insert(kept.stored.plan.id, kept);
        }
        Ok(())
    }
}

/// Notes how the run of a step stands.
fn note(kept: &mut Kept, at: usize, run: &Run) {
    let state = run.state.word();
    let Some(measurement) = run.state.measurement() else {
        kept.progress.retain(|_, progress| progress.run != run.id);
        return;
    };
    match &run.state {
        State::Committing(_) | State::InDoubt(_) | State::Stuck(_) | State::Done(_) => {
            let spent = Amounts::of(&measurement.effect.blast);
            let known = kept.progress.entry(at).or_insert_with(|| Progress { run: run.id, state: state.into(), spent });
            // An automatic rollback has been noted before the run it took back.
            if known.run == run.id && known.state != "undone" {
                state.clone_into(&mut known.state);
            }
        }
        _ => kept.progress.retain(|_, progress| progress.run != run.id),
    }
}
