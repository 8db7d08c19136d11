//! How many questions of each agent wait for people.
//!
//! A parked run holds no lock, no thread and no memory but its line here and the digest a repeated call
//! finds it by. What is scarce is people: an agent that asks without end would bury what others ask.

use std::collections::HashMap;
use std::sync::Mutex;

use turnback_core::names::AgentName;
use turnback_core::refusal::{Code, Refusal};

use super::lock;

/// Questions that wait, by agent.
pub(super) struct Questions {
    most: usize,
    waiting: Mutex<HashMap<AgentName, usize>>,
}

impl Questions {
    /// At most `most` of one agent at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default() }
    }

    /// Counts one more. A question asked `again`, because what it is about moved after a person had agreed, is never
    /// refused.
    ///
    /// # Errors
    /// [`Code::Overloaded`] when as many as may be wait already.
    pub(super) fn open(&self, agent: &AgentName, again: bool) -> Result<(), Refusal> {
        let mut waiting = lock(&self.waiting);
        let own = waiting.get(agent).copied().unwrap_or(0);
        if own >= self.most && !again {
            let message =
                format!("{own} questions of agent `{agent}` wait for a person already; the bound is {}", self.most);
            return Err(Refusal::new(Code::Overloaded, message)
                .at("[approvals] most")
                .next("wait until some are answered; an operator sees them with `turnback runs --state parked`"));
        }
        waiting.insert(agent.clone(), own + 1);
        Ok(())
    }

    /// One is answered, or could not be asked.
    pub(super) fn close(&self, agent: &AgentName) {
        let mut waiting = lock(&self.waiting);
        if let Some(own) = waiting.get_mut(agent) {
            *own -= 1;
            if *own == 0 {
                waiting.remove(agent);
            }
        }
    }
}
