//! What was refused to each agent.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use turnback_core::gates::flow::Intent;
use turnback_core::names::AgentName;
use turnback_core::refusal::Refusal;
use turnback_core::run::Run;
use turnback_journal::RowFilter;

use super::super::{Inner, lock};

/// Different refusals of one agent that are kept apart.
const KEPT: usize = 256;

/// What was refused to one agent, oldest first.
#[derive(Debug, Default)]
pub(super) struct Memory(VecDeque<Intent>);

impl Memory {
    pub(super) fn add(&mut self, intent: Intent) {
        if let Some(known) = self.0.iter_mut().find(|known| known.is_again(&intent)) {
            known.times = known.times.saturating_add(1);
            known.at = known.at.max(intent.at);
            return;
        }
        self.0.push_back(intent);
        if self.0.len() > KEPT
            && let Some(mut oldest) = self.0.pop_front()
        {
            // Whoever is refused so much does not get rid of a refusal that way: places that are not kept
            // apart any more are all of them.
            oldest.aims.clear();
            oldest.measured = true;
            let next = self.0.front().map_or(oldest.at, |next| next.at);
            oldest.at = oldest.at.max(next);
            match self.0.iter_mut().find(|known| known.aims.is_empty() && known.target == oldest.target) {
                Some(known) => {
                    known.times = known.times.saturating_add(oldest.times);
                    known.at = known.at.max(oldest.at);
                }
                None => self.0.push_back(oldest),
            }
        }
    }

    /// What was refused on a target inside the window.
    pub(super) fn on(&mut self, target: &str, now: Timestamp, window: SignedDuration) -> Vec<Intent> {
        self.0.retain(|intent| now.duration_since(intent.at) <= window);
        self.0.iter().filter(|intent| intent.target == target).cloned().collect()
    }

    /// A person approved a run, and it is done: what it came to is not refused any more.
    pub(super) fn answered(&mut self, run: &Run) {
        self.0.retain(|intent| !intent.is_answered_by(run));
    }
}

impl Inner {
    /// Reads back what was refused to an agent, and what was approved since.
    pub(super) async fn restore_refused(self: &Arc<Self>, agent: &AgentName) -> Result<(), Refusal> {
        let since = self.started.saturating_sub(self.context.rules.refused_for).unwrap_or(Timestamp::MIN);
        let agent_rows = |filter: RowFilter| {
            self.journal.rows(&RowFilter { agent: Some(agent.clone()), ..filter }).map_err(Refusal::from)
        };
        let mut rows = Vec::new();
        for state in ["denied", "rejected"] {
            let filter = RowFilter { state: Some(state.into()), limit: Some(4 * KEPT), ..RowFilter::default() };
            rows.extend(agent_rows(filter)?);
        }
        rows.extend(agent_rows(RowFilter { committed_since: Some(since), ..RowFilter::default() })?);
        rows.retain(|row| row.updated >= since && (row.committed.is_none() || row.question.is_some()));
        rows.sort_by_key(|row| row.updated);
        let mut memory = Memory::default();
        for row in rows {
            let run = self.load(row.run).await?;
            if let Some(intent) = Intent::of(&run) {
                memory.add(intent);
            }
            if run.approval().is_some() {
                memory.answered(&run);
            }
        }
        lock(&self.context.refused).insert(agent.clone(), memory);
        Ok(())
    }
}
