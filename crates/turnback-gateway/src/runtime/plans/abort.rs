//! Aborting: no further step, then the steps that were done are taken back, the last first.
//!
//! Stopping is durable before anything is taken back. What the record then says – aborted, and which of its
//! runs stand – is all that is needed to go on, so an abort that was interrupted is simply asked for again.

use std::sync::Arc;

use turnback_core::contract::Actor;
use turnback_core::gates::{Measured, controls};
use turnback_core::names::{AgentName, PlanId, RunId};
use turnback_core::plan::{End, GOAL_LIMIT, Unwound};
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::State;
use turnback_journal::Entry;

use super::super::{Inner, lock, undo};
use super::RUNNING;
use crate::operator::plans::PlanView;

/// States of a run that is still under way.
const UNDER_WAY: [&str; 3] = [RUNNING, "committing", "done"];

impl Inner {
    /// Aborts a plan and takes back what it did. May be asked again.
    pub(super) async fn abort_plan(
        self: &Arc<Self>,
        agent: &AgentName,
        plan: PlanId,
        by: Actor,
        reason: String,
    ) -> Result<PlanView, Refusal> {
        if reason.trim().is_empty() || reason.len() > GOAL_LIMIT {
            return Err(Refusal::new(Code::BadInput, format!("a reason of at most {GOAL_LIMIT} bytes is expected"))
                .at("reason"));
        }
        let view = self.plan_view(agent, plan)?;
        let completed = || {
            Refusal::new(Code::Exists, "it is completed: nothing of it is left to stop")
                .at(plan.to_string())
                .next("an operator takes its runs back: turnback undo")
        };
        if view.state == End::Completed.word() {
            return Err(completed());
        }
        self.end_plan(agent, plan, End::Aborted { by: by.clone(), reason }).await?;
        // Its last step may have been done meanwhile: then it ended as completed, and stands.
        if self.plan_view(agent, plan)?.state == End::Completed.word() {
            return Err(completed());
        }
        fail::fail_point!("after-abort", |_| turnback_journal::crash());
        self.stands_still(agent, plan).await?;
        // In a task of its own: whoever asked may hang up, the unwinding goes on.
        let (inner, owner) = (Arc::clone(self), agent.clone());
        let task = tokio::spawn(async move { inner.unwind(&owner, plan, by).await });
        task.await.map_err(|e| Refusal::new(Code::Failed, format!("internal failure: {e}")))??;
        self.plan_view(agent, plan)
    }

    /// Waits until none of its steps is being done.
    async fn stands_still(&self, agent: &AgentName, plan: PlanId) -> Result<(), Refusal> {
        let mut moved = self.plans.moved.subscribe();
        let until = tokio::time::Instant::now() + self.settings.bounds.time + self.settings.bounds.lock_wait;
        loop {
            let busy = {
                let known = lock(&self.plans.known);
                let kept = known.get(agent).and_then(|plans| plans.get(&plan));
                kept.and_then(|k| k.progress.values().find(|p| UNDER_WAY.contains(&p.state.as_str())).map(|p| p.run))
            };
            let Some(run) = busy else { return Ok(()) };
            if tokio::time::timeout_at(until, moved.changed()).await.is_err() {
                let message = format!("no further step runs, but run `{}` is still being done", run.short());
                return Err(Refusal::new(Code::Busy, message).at(plan.to_string()).next("abort it again in a moment"));
            }
        }
    }

    async fn unwind(self: &Arc<Self>, agent: &AgentName, plan: PlanId, by: Actor) -> Result<(), Refusal> {
        let _one_at_a_time = self.plans.unwinding.lock().await;
        let done: Vec<(String, RunId, String)> = {
            let known = lock(&self.plans.known);
            let Some(kept) = known.get(agent).and_then(|plans| plans.get(&plan)) else { return Ok(()) };
            let done = |(at, step): (usize, &turnback_core::plan::Step)| {
                let progress = kept.progress.get(&at)?;
                Some((step.name.clone(), progress.run, progress.state.clone()))
            };
            kept.stored.plan.unwinding().filter_map(done).collect()
        };
        let mut unwound = Vec::new();
        for (step, run, state) in done.into_iter().filter(|(.., state)| state != "undone") {
            let (taken, why) = match state.as_str() {
                "settled" | "diverged" => match self.taken_back(&by, run).await {
                    Ok(by) => (Some(by), None),
                    Err(refusal) => (None, Some(refusal.to_string())),
                },
                other => (None, Some(format!("nobody knows whether it happened: it is {other}"))),
            };
            unwound.push(Unwound { step, run, by: taken, why });
            fail::fail_point!("between-unwinds", |_| turnback_journal::crash());
        }
        if unwound.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.plans.editing.lock().await;
        let stored = lock(&self.plans.known).get(agent).and_then(|plans| plans.get(&plan)).map(|k| k.stored.clone());
        let Some(mut stored) = stored else { return Ok(()) };
        // What stood before and is gone now is said once, what could not be taken back as it is now.
        stored.unwound.retain(|earlier| earlier.by.is_some());
        stored.unwound.extend(unwound.iter().cloned());
        let body = Body::PlanUnwound { plan, steps: unwound, by };
        self.append_entry(Entry { at: self.now(), body, project: vec![stored.put()] }).await?;
        if let Some(kept) = lock(&self.plans.known).get_mut(agent).and_then(|plans| plans.get_mut(&plan)) {
            kept.stored = stored;
        }
        Ok(())
    }

    /// Undoes one run; says by which.
    async fn taken_back(self: &Arc<Self>, by: &Actor, run: RunId) -> Result<RunId, Refusal> {
        // An agent takes back its own work as Turnback does when it rolls back: to what was there before. No
        // gate asks about Turnback, and what is switched off for the agent stays off.
        let actor = match by.agent() {
            None => by.clone(),
            Some(agent) => {
                self.not_switched_off(agent, run).await?;
                Actor::Turnback
            }
        };
        let end = self.undo_runs(actor, vec![run], false).await?;
        if !end.plan.blockers.is_empty() {
            return Err(undo::blocked(&end.plan.blockers));
        }
        let by = *end.runs.first().ok_or_else(|| Refusal::new(Code::Failed, "no undo was made"))?;
        let undo = self.load(by).await?;
        match undo.state {
            State::Done(_) => Ok(by),
            other => Err(Refusal::new(Code::Failed, format!("its undo `{}` is {}", by.short(), other.word()))
                .next(format!("an operator looks at: turnback show {}", by.short()))),
        }
    }

    /// Refuses an agent what a switch or a deny keeps it from.
    async fn not_switched_off(&self, agent: &AgentName, run: RunId) -> Result<(), Refusal> {
        let run = self.load(run).await?;
        let measured = run.state.measurement().map(|m| Measured { effect: &m.effect, plan: &m.plan });
        let view = self.board.view();
        match controls::stopped(&run.contract, view.agents.get(agent), &view.controls, measured) {
            None => Ok(()),
            Some(verdict) => {
                Err(Refusal::new(Code::Denied, verdict.reason).next("an operator aborts it: turnback plan abort"))
            }
        }
    }
}
