//! Why a run was decided as it was: all of it for operators, what it could do instead for the agent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use turnback_core::decision::Phase;
use turnback_core::names::{AgentName, EnvironmentName};
use turnback_core::policy::explain::{Alternative, Explanation, Judged, Recorded, alternatives};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Event, Run};

use super::{Inner, blocking, lock};
use crate::operator::protocol::{Happened, Reply};

/// The agents whose refusals are being looked into. One of each at a time: asking all gates again costs a hundred times
/// what the refusal did, and whoever is refused in a flood must not take the node with it.
#[derive(Default)]
pub(super) struct Looking(Mutex<HashSet<AgentName>>);

/// One that is being looked into.
struct Turn<'l> {
    looking: &'l Looking,
    agent: AgentName,
}

impl Looking {
    /// `None` while another refusal of this agent is looked into.
    fn begin(&self, agent: &AgentName) -> Option<Turn<'_>> {
        lock(&self.0).insert(agent.clone()).then(|| Turn { looking: self, agent: agent.clone() })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.looking.0).remove(&self.agent);
    }
}

/// The last decisions of a run, out of its records. `None` when it was never judged.
fn recorded<'a>(run: &'a Run, history: &'a [Happened]) -> Option<Recorded<'a>> {
    let mut before = None;
    let (mut after, mut found) = (None, None);
    for happened in history {
        match &happened.event {
            Event::Judged { decision, circumstances } => {
                let judged = Judged { decision, circumstances };
                match decision.phase {
                    Phase::Before => (before, after) = (Some(judged), None),
                    Phase::After => after = Some(judged),
                }
            }
            Event::Staged { measurement } => found = Some(measurement),
            _ => {}
        }
    }
    let after = after.zip(found).map(|(judged, found)| (judged, &found.effect, &found.plan));
    Some(Recorded { contract: &run.contract, before: before?, after })
}

impl Inner {
    fn mode(&self) -> impl Fn(&EnvironmentName) -> turnback_core::gates::release::Mode {
        |environment| self.settings.environments.get(environment).copied().unwrap_or_default()
    }

    /// Why a run was decided as it was.
    pub(super) async fn explain(&self, run: &str) -> Result<Reply, Refusal> {
        let id = self.find(run).await?;
        let (run, history) = self.load_with_history(id).await?;
        let Some(recorded) = recorded(&run, &history) else {
            return Err(Refusal::new(Code::NotFound, "this run was not judged")
                .at(id.short())
                .next(format!("turnback show {}", id.short())));
        };
        let held = self.policies.held();
        Ok(Reply::Explained(Box::new(Explanation::new(&recorded, held.active(), &self.mode()))))
    }

    /// What the agent could do itself that would be ruled less strictly: each of these was asked of the gates. Empty
    /// also when it cannot be found out, because a refusal stands without it, and while another refusal of the same
    /// agent is looked into.
    pub(super) async fn acceptable(self: &Arc<Self>, refused: &Run) -> Vec<Alternative> {
        let Some(agent) = refused.contract.actor.agent().cloned() else { return Vec::new() };
        if lock(&self.looking.0).contains(&agent) {
            return Vec::new();
        }
        let Ok((run, history)) = self.load_with_history(refused.id).await else { return Vec::new() };
        let inner = Arc::clone(self);
        // The gates are asked up to a hundred times: not on a thread that serves.
        let found = blocking(move || {
            // Held by the work itself: a caller that goes away does not end it.
            let Some(_turn) = inner.looking.begin(&agent) else { return Vec::new() };
            let Some(recorded) = recorded(&run, &history) else { return Vec::new() };
            let (_, mut found) = alternatives(&recorded, inner.policies.held().active(), &inner.mode());
            found.retain(Alternative::is_for_agents);
            found
        });
        found.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_of_an_agent_at_a_time_is_looked_into() {
        let looking = Looking::default();
        let [coder, cleaner] = ["coder", "cleaner"].map(|name| AgentName::new(name).unwrap());
        let first = looking.begin(&coder).unwrap();
        assert!(looking.begin(&coder).is_none());
        assert!(looking.begin(&cleaner).is_some());
        drop(first);
        assert!(looking.begin(&coder).is_some());
    }
}
