//! Work that does not stop.
//!
//! SQLite can be interrupted between two instructions of a statement, and one call of a built-in function
//! on large values is one instruction: it can take hours and hold the database's lock meanwhile. No
//! thread can be stopped from outside, so the node stops itself – which it may do at any moment without
//! losing anything – after it stopped the agent, durably.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use turnback_core::contract::Contract;
use turnback_core::gates::controls::Scope;
use turnback_core::names::AgentName;
use turnback_core::record::Body;
use turnback_core::refusal::Refusal;
use turnback_core::tool::Kind;

use super::{Inner, joined, started};

/// Who throws the switch.
const BY: &str = "turnback";

/// How long work is waited for, and what is said about whoever asked for it when it does not end.
pub(super) struct Patience {
    time: Duration,
    agent: AgentName,
    work: String,
    arguments: Value,
}

impl Inner {
    /// Runs a domain's work for an agent. SQL that goes on long after its time limit ends the node.
    pub(super) async fn patiently<T: Send + 'static>(
        self: &Arc<Self>,
        contract: &Contract,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.ends(self.patience(contract), started(work)).await
    }

    /// How long work on this contract is waited for, and who is held to it when it does not end; `None`
    /// where it always ends.
    pub(super) fn patience(&self, contract: &Contract) -> Option<Patience> {
        let (Kind::Sqlite, Some(agent)) = (contract.kind, contract.actor.agent()) else { return None };
        let bounds = &self.settings.bounds;
        Some(Patience {
            // Twice: the limit itself ends everything that can be ended.
            time: (bounds.time + bounds.lock_wait) * 2,
            agent: agent.clone(),
            work: format!("a statement of `{}` on `{}`", contract.tool, contract.resource),
            arguments: contract.arguments.clone(),
        })
    }

    /// Waits for work that was started.
    pub(super) async fn ends<T>(&self, patience: Option<Patience>, work: JoinHandle<T>) -> Result<T, Refusal> {
        let Some(patience) = patience else { return joined(work.await) };
        match tokio::time::timeout(patience.time, work).await {
            Ok(done) => joined(done),
            Err(_) => self.run_away_from(patience).await,
        }
    }

    async fn run_away_from(&self, Patience { agent, work, arguments, .. }: Patience) -> ! {
        let reason = format!("{work} could not be stopped and ended the node: {arguments}");
        tracing::error!(%agent, "{reason}");
        let alert = Body::Alert { run: None, message: format!("agent `{agent}`: {reason}") };
        // Failing to record it changes nothing: the lock on the database has to go.
        let _ = self.throw(Scope::Agent(agent.clone()), reason, BY).await;
        let _ = self.append(vec![(alert, None)]).await;
        turnback_journal::crash()
    }
}
