//! What agents and operators see of plans, and what they may ask.

use std::sync::Arc;

use serde_json::{Value, json};
use turnback_core::contract::Actor;
use turnback_core::json as strict;
use turnback_core::names::{AgentName, PlanId};
use turnback_core::plan::Plan;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;

use super::super::{Inner, lock};
use super::Kept;
use crate::desk::{Caller, NotPlanned};
use crate::operator::plans::{PlanView, StepView};
use crate::operator::protocol::Reply;

fn not_found(text: &str) -> Refusal {
    let text: String = text.chars().take(64).collect();
    Refusal::new(Code::NotFound, "no plan has that identity").at(visible(&text))
}

/// Whether it was submitted by the same agent for the same user.
fn is_of(plan: &Plan, caller: &Caller) -> bool {
    plan.agent == caller.agent && plan.on_behalf_of == caller.on_behalf_of
}

impl Inner {
    fn view_of(&self, kept: &Kept) -> PlanView {
        let plan: &Plan = &kept.stored.plan;
        let over = kept.stored.over(self.now());
        let step = |(at, step): (usize, &turnback_core::plan::Step)| {
            let progress = kept.progress.get(&at);
            let settled = |name: &String| kept.state_of(name).as_deref() == Some("settled");
            let open = || if step.after.iter().all(settled) { "ready" } else { "waiting" };
            StepView {
                name: step.name.clone(),
                tool: step.tool.to_string(),
                arguments: step.arguments.clone(),
                state: progress.map_or_else(|| over.map_or_else(open, |_| "not_done").into(), |p| p.state.clone()),
                run: progress.map(|progress| progress.run),
                after: step.after.clone(),
                inferred: step.inferred.clone(),
                effect: step.summary.clone(),
                blast: step.blast.clone(),
                level: step.level.number(),
                ruling: if step.asks.is_empty() { "allow" } else { "review" }.into(),
                asks: step.asks.clone(),
            }
        };
        let (by, reason) = match kept.stored.ended.as_ref().map(|ended| &ended.how) {
            Some(turnback_core::plan::End::Aborted { by, reason }) => (Some(by.to_string()), Some(reason.clone())),
            _ => (None, None),
        };
        PlanView {
            plan: plan.id,
            agent: plan.agent.clone(),
            on_behalf_of: plan.on_behalf_of.clone(),
            goal: plan.goal.clone(),
            state: over.unwrap_or("active").into(),
            submitted: plan.submitted,
            expires: plan.expires,
            ended: kept.stored.ended.as_ref().map(|ended| ended.at),
            by,
            reason,
            never: plan.never.clone(),
            at_most: plan.at_most,
            spent: kept.spent(None),
            steps: plan.steps.iter().enumerate().map(step).collect(),
            unwound: kept.stored.unwound.clone(),
        }
    }

    /// One plan of whoever asks.
    fn own_plan(&self, caller: &Caller, plan: PlanId) -> Result<PlanView, Refusal> {
        let known = lock(&self.plans.known);
        let kept = known.get(&caller.agent).and_then(|plans| plans.get(&plan));
        if kept.is_none_or(|kept| !is_of(&kept.stored.plan, caller)) {
            return Err(not_found(&plan.to_string()));
        }
        drop(known);
        self.plan_view(&caller.agent, plan)
    }

    /// One plan of an agent.
    pub(super) fn plan_view(&self, agent: &AgentName, plan: PlanId) -> Result<PlanView, Refusal> {
        let known = lock(&self.plans.known);
        let kept = known.get(agent).and_then(|plans| plans.get(&plan));
        let kept = kept.filter(|kept| !kept.stored.is_forgotten(self.now()));
        kept.map(|kept| self.view_of(kept)).ok_or_else(|| not_found(&plan.to_string()))
    }

    /// All plans that are remembered, or those of one caller, newest first. How they stand, without what is
    /// called: a list of long ones would be too much for anybody.
    fn plan_views(&self, caller: Option<&Caller>) -> Vec<PlanView> {
        let known = lock(&self.plans.known);
        let all = known.values().flat_map(|plans| plans.values());
        let now = self.now();
        let own = all
            .filter(|kept| !kept.stored.is_forgotten(now))
            .filter(|kept| caller.is_none_or(|caller| is_of(&kept.stored.plan, caller)));
        let mut views: Vec<PlanView> = own.map(|kept| self.view_of(kept)).collect();
        for view in &mut views {
            view.never = Vec::new();
            view.steps.iter_mut().for_each(|step| step.arguments = Value::Null);
        }
        views.sort_by_key(|view| std::cmp::Reverse((view.submitted, view.plan)));
        views
    }

    /// The plan a person means, by its identity in full or short.
    fn meant_plan(&self, text: &str) -> Result<PlanView, Refusal> {
        let text = text.trim();
        let is = |view: &PlanView| view.plan.to_string() == text || view.plan.short() == text;
        let mut found = self.plan_views(None).into_iter().filter(is);
        match (found.next(), found.next()) {
            (Some(view), None) => self.plan_view(&view.agent, view.plan),
            (Some(_), Some(_)) => Err(Refusal::new(Code::BadInput, "more than one plan has that short identity")
                .at(visible(text))
                .next("give the whole identity: turnback plan list")),
            (None, _) => Err(not_found(text).next("see: turnback plan list")),
        }
    }

    pub(in super::super) fn list_plans(&self) -> Reply {
        Reply::Plans(self.plan_views(None))
    }

    pub(in super::super) fn show_plan(&self, text: &str) -> Result<Reply, Refusal> {
        self.meant_plan(text).map(|view| Reply::Plan(Box::new(view)))
    }

    pub(in super::super) async fn operator_aborts(
        self: &Arc<Self>,
        text: &str,
        reason: String,
        by: &str,
    ) -> Result<Reply, Refusal> {
        let view = self.meant_plan(text)?;
        let view = self.abort_plan(&view.agent, view.plan, Actor::Operator(by.to_owned()), reason).await?;
        Ok(Reply::Plan(Box::new(view)))
    }

    /// What an agent asks about plans, by the tool's own name.
    pub(in super::super) async fn plan_tool(
        self: &Arc<Self>,
        caller: &Caller,
        tool: &str,
        arguments: &[u8],
    ) -> Result<Value, NotPlanned> {
        if let Some(why) = self.journal.poisoned() {
            return Err(Refusal::new(Code::Unavailable, format!("the node refuses everything: {why}")).into());
        }
        if tool == "plan" {
            return self.submit_plan(caller, arguments).await;
        }
        let fields: &[&str] = match tool {
            "plan_status" => &["plan"],
            "plan_abort" => &["plan", "reason"],
            _ => return Err(Refusal::new(Code::UnknownTool, "no tool has that name").next("see tools/list").into()),
        };
        let [plan, reason] = read(arguments, fields)?;
        let Some(plan) = plan else {
            if tool == "plan_abort" {
                return Err(Refusal::new(Code::BadInput, "the identity of a plan is expected").at("plan").into());
            }
            return Ok(json!({ "plans": self.plan_views(Some(caller)) }));
        };
        // Of another agent's plan, or another user's, not even that it exists.
        let id = plan.parse::<PlanId>().map_err(|_| not_found(&plan))?;
        let view = self.own_plan(caller, id)?;
        let view = if tool == "plan_status" {
            view
        } else {
            if let Some(stopped) = self.stopped(caller) {
                return Err(Refusal::new(Code::Denied, format!("{}: {}", stopped.gate, stopped.reason)).into());
            }
            let by = Actor::Agent(caller.agent.clone());
            self.abort_plan(&caller.agent, id, by, reason.unwrap_or_else(|| "the agent gave no reason".into())).await?
        };
        Ok(json!(view))
    }
}

/// The texts of an argument object with at most these fields.
fn read(arguments: &[u8], fields: &[&str]) -> Result<[Option<String>; 2], Refusal> {
    let bad = |place: &str, why: String| Refusal::new(Code::BadInput, why).at(place);
    let value = strict::parse(arguments).map_err(|e| bad("arguments", e.to_string()))?;
    let map = value.as_object().ok_or_else(|| bad("arguments", "an object is expected".into()))?;
    if let Some(key) = map.keys().find(|key| !fields.contains(&key.as_str())) {
        return Err(bad(key, "unknown argument".into()));
    }
    let text = |field: &str| match map.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(bad(field, "a text is expected".into())),
    };
    Ok([text("plan")?, text("reason")?])
}
