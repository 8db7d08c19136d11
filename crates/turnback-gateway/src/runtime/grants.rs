//! Grants: who may do what until when, given and taken by people.

use jiff::SignedDuration;
use turnback_core::gates::grants::Grant;
use turnback_core::gates::ownership::Agent;
use turnback_core::names::AgentName;
use turnback_core::refusal::{Code, Refusal};

use super::Inner;
use super::admin::NOBODY;
use crate::operator::protocol::{GrantAsked, Reply};

/// Grants of one agent that are kept, run out or not. The oldest that ran out make room.
const KEPT: usize = 256;

impl Inner {
    pub(super) async fn grant(&self, name: &AgentName, asked: GrantAsked, by: &str) -> Result<Reply, Refusal> {
        let GrantAsked { tools, resources, environments, verbs, lifetime_seconds, reason } = asked;
        if tools.is_empty() && resources.is_empty() && environments.is_empty() && verbs.is_empty() {
            let next = "name tools, resources, environments or verbs";
            return Err(Refusal::new(Code::BadInput, "a grant of everything is none").at("grant").next(next));
        }
        if let Some(tool) = tools.iter().find(|tool| !self.tools.contains_key(tool.as_str())) {
            return Err(Refusal::new(Code::NotFound, "no tool has that name").at(tool.as_str()));
        }
        if let Some(resource) = resources.iter().find(|resource| !self.resources.contains_key(resource)) {
            return Err(Refusal::new(Code::NotFound, "no resource has that name").at(resource.as_str()));
        }
        let made = self.now();
        let seconds = i64::try_from(lifetime_seconds).ok().filter(|seconds| *seconds > 0);
        let expires = seconds.and_then(|seconds| made.checked_add(SignedDuration::from_secs(seconds)).ok());
        let expires = expires
            .ok_or_else(|| Refusal::new(Code::BadInput, "a positive number of seconds is expected").at("lifetime"))?;
        let _one_at_a_time = self.editing.lock().await;
        let mut agent = self.agent(name)?;
        while agent.grants.len() >= KEPT {
            let Some(gone) = agent.grants.iter().position(|grant| !grant.holds(made)) else {
                return Err(
                    Refusal::new(Code::Overloaded, format!("`{name}` holds {KEPT} grants already")).next("revoke some")
                );
            };
            agent.grants.remove(gone);
        }
        // Numbers are not used again while any grant with a higher one is kept.
        let number = |grant: &Grant| grant.id.strip_prefix('g').and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let id = format!("g{}", agent.grants.iter().map(number).max().unwrap_or(0) + 1);
        let by = by.to_owned();
        let over = false;
        agent.grants.push(Grant {
            id,
            tools,
            resources,
            environments,
            verbs,
            made,
            expires,
            over,
            reason,
            by: by.clone(),
        });
        self.set_agent(agent, &by).await
    }

    pub(super) async fn revoke_grant(&self, name: &AgentName, id: &str, by: &str) -> Result<Reply, Refusal> {
        let _one_at_a_time = self.editing.lock().await;
        let mut agent = self.agent(name)?;
        let before = agent.grants.len();
        agent.grants.retain(|grant| grant.id != id);
        if agent.grants.len() == before {
            return Err(Refusal::new(Code::NotFound, format!("`{name}` has no such grant"))
                .at(id)
                .next("see: turnback agents list -o json"));
        }
        self.set_agent(agent, by).await
    }

    /// Records the grants that ran out as over, so that they stay over whatever a clock says later.
    pub(super) async fn expire_grants(&self) {
        let now = self.now();
        let ended = |agent: &Agent| agent.grants.iter().any(|grant| !grant.over && grant.expires <= now);
        if !self.board.view().agents.values().any(ended) {
            return;
        }
        let _one_at_a_time = self.editing.lock().await;
        let view = self.board.view();
        for agent in view.agents.values().filter(|agent| ended(agent)) {
            let mut agent = agent.clone();
            agent.grants.iter_mut().for_each(|grant| grant.over |= grant.expires <= now);
            if let Err(refusal) = self.set_agent(agent, NOBODY).await {
                tracing::error!(%refusal, "a grant could not be ended when it ran out");
            }
        }
    }
}
