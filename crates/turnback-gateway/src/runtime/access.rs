//! Decisions others enforce.
//!
//! An agent may ask about itself and the tools it could call here; that is answered by the gates that need
//! nothing of the target. Whoever is named in `[access] callers` may ask about anybody and anything; that
//! is answered by the policies of `[access] path`. A yes here does nothing and permits nothing here: what
//! goes through Turnback is decided again, with what it measured.

use turnback_core::access::{Evaluation, Evaluations};
use turnback_core::contract::Actor;
use turnback_core::decision::{Decision, Phase, Ruling, Verdict};
use turnback_core::digest::Sha256;
use turnback_core::gates::controls::Scope;
use turnback_core::names::{AgentName, RunId};
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{self, Event};
use turnback_core::text::visible;

use super::Inner;
use crate::desk::{Call, Caller};

/// The subject type of an agent of ours.
const AGENT: &str = "agent";

impl Inner {
    pub(super) async fn evaluate(&self, caller: &Caller, asked: &Evaluations) -> Result<Vec<Verdict>, Refusal> {
        if let Some(why) = self.journal.poisoned() {
            return Err(Refusal::new(Code::Unavailable, format!("the node refuses everything: {why}")));
        }
        let mut verdicts = Vec::new();
        let mut bodies = Vec::new();
        for one in &asked.asked {
            let (verdict, policy) = match one {
                Ok(question) => self.evaluated(caller, question).await?,
                Err(refusal) => (Verdict::new("request", Ruling::Deny, refusal.to_string()), Sha256::of(b"")),
            };
            let by = caller.agent.clone();
            bodies.push((
                Body::Evaluated { by, asked: one.clone().ok().map(Box::new), verdict: verdict.clone(), policy },
                None,
            ));
            let yes = verdict.ruling == Ruling::Allow;
            verdicts.push(verdict);
            if asked.ends_with(yes) {
                break;
            }
        }
        // On disk before anybody acts on them.
        self.append(bodies).await?;
        Ok(verdicts)
    }

    async fn evaluated(&self, caller: &Caller, question: &Evaluation) -> Result<(Verdict, Sha256), Refusal> {
        let about = &question.subject;
        let itself = about.kind == AGENT && about.id == caller.agent.as_str();
        let access = self.settings.access.as_ref().filter(|access| access.callers.contains(&caller.agent));
        let resource = self.resources.keys().find(|name| name.as_str() == question.resource.id);
        let ours = resource.and_then(|name| {
            self.tools.values().find(|tool| {
                tool.resource == *name
                    && tool.kind.word() == question.resource.kind
                    && tool.local == question.action.name
            })
        });
        if let (AGENT, Some(tool), true) = (about.kind.as_str(), ours, itself || access.is_some()) {
            let Ok(agent) = AgentName::new(&about.id) else {
                return Ok((Verdict::new("request", Ruling::Deny, "no agent has such a name"), Sha256::of(b"")));
            };
            return Ok(self.own(caller, itself, agent, tool.name.as_str(), question).await);
        }
        let Some(access) = access else {
            let message = format!("agent `{}` may ask about itself and the tools here only", caller.agent);
            return Err(Refusal::new(Code::Denied, message)
                .at("subject")
                .next("an operator names it in [access] callers"));
        };
        Ok((self.stopped(caller).unwrap_or_else(|| access.policy.judge(question)), access.policy.digest()))
    }

    /// What the first group of gates says of an agent's call, its arguments being the action's properties.
    async fn own(
        &self,
        caller: &Caller,
        itself: bool,
        agent: AgentName,
        tool: &str,
        question: &Evaluation,
    ) -> (Verdict, Sha256) {
        let arguments = serde_json::Value::Object(question.action.properties.clone()).to_string().into_bytes();
        // Only its own credential says for whom and where an agent acts.
        let actor =
            if itself { caller.clone() } else { Caller { agent, on_behalf_of: None, assignment: Default::default() } };
        let call = Call { caller: actor, tool: tool.to_owned(), arguments, statement: None, trace: None };
        let (contract, matched) = match self.contract(call) {
            Ok(made) => made,
            Err(refusal) => return (Verdict::new("request", Ruling::Deny, refusal.to_string()), Sha256::of(b"")),
        };
        debug_assert!(matches!(contract.actor, Actor::Agent(_)));
        let step = run::open(RunId::new(uuid::Uuid::now_v7()), contract, matched, self.now());
        let remote_flags = self.hear(Phase::Before, &step.run.contract).await;
        let collision = self.in_the_way(&step.run);
        let mut known = super::context::Looked { collision, remote_flags, ..self.known(&step.run) };
        let Event::Judged { decision, .. } = self.judge_planned(Phase::Before, &step.run, &mut known) else {
            return (Verdict::new("request", Ruling::Deny, "it could not be judged"), Sha256::of(b""));
        };
        let policy = decision.policy;
        (summed(&decision), policy)
    }

    /// Why nobody with this credential is answered yes just now.
    pub(super) fn stopped(&self, caller: &Caller) -> Option<Verdict> {
        let view = self.board.view();
        let deny = |gate, reason: String| Some(Verdict::new(gate, Ruling::Deny, reason));
        match view.agents.get(&caller.agent) {
            None => return deny("ownership", format!("agent `{}` is not registered", caller.agent)),
            Some(agent) if agent.suspended.is_some() => {
                return deny("ownership", format!("agent `{}` is suspended", caller.agent));
            }
            Some(_) => {}
        }
        let switch = view.controls.switches.iter().find(|switch| match &switch.scope {
            Scope::Everything => true,
            Scope::Agent(name) => *name == caller.agent,
            Scope::Owner(name) => view.agents.get(&caller.agent).is_none_or(|agent| agent.owner == *name),
            _ => false,
        })?;
        deny(
            "controls",
            format!("kill switch on {} by {}: {}", switch.scope, visible(&switch.by), visible(&switch.reason)),
        )
    }
}

/// A whole decision as one verdict: the strictest gates' reasons.
fn summed(decision: &Decision) -> Verdict {
    let reasons: Vec<String> = decision.decisive().map(|v| format!("{}: {}", v.gate, v.told())).collect();
    let mut verdict = if decision.ruling == Ruling::Allow && decision.measure_only() {
        Verdict::new("gates", Ruling::Deny, "the environment is only observed: nothing would be done")
    } else {
        Verdict::new("gates", decision.ruling, reasons.join("; "))
    };
    verdict.next = decision.decisive().find_map(|v| v.next.clone());
    verdict.rules = decision.decisive().flat_map(|v| v.rules.iter().cloned()).collect();
    verdict
}
