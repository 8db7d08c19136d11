//! Work that does not stop.
//!
//! SQLite can be interrupted between two instructions of a statement, and one call of a built-in function
//! on large values is one instruction: it can take hours and hold the database's lock meanwhile. No
//! thread can be stopped from outside, so the node stops itself – which it may do at any moment without
//! losing anything – after it stopped the agent, durably.

use std::sync::Arc;

use turnback_core::contract::Contract;
use turnback_core::gates::controls::Scope;
use turnback_core::names::AgentName;
use turnback_core::record::Body;
use turnback_core::refusal::Refusal;
use turnback_core::tool::Kind;

use super::{Inner, blocking};

/// Who throws the switch.
const BY: &str = "turnback";

impl Inner {
    /// Runs a domain's work for an agent. SQL that goes on long after its time limit ends the node.
    pub(super) async fn patiently<T: Send + 'static>(
        self: &Arc<Self>,
        contract: &Contract,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (Kind::Sqlite, Some(agent)) = (contract.kind, contract.actor.agent()) else {
            return blocking(work).await;
        };
        let bounds = &self.settings.bounds;
        // Twice: the limit itself ends everything that can be ended.
        let patience = (bounds.time + bounds.lock_wait) * 2;
        match tokio::time::timeout(patience, blocking(work)).await {
            Ok(done) => done,
            Err(_) => self.run_away_from(agent, contract).await,
        }
    }

    async fn run_away_from(&self, agent: &AgentName, contract: &Contract) -> ! {
        let reason = format!(
            "a statement of `{}` on `{}` could not be stopped and ended the node: {}",
            contract.tool, contract.resource, contract.arguments
        );
        tracing::error!(%agent, "{reason}");
        let alert = Body::Alert { run: None, message: format!("agent `{agent}`: {reason}") };
        // Failing to record it changes nothing: the lock on the database has to go.
        let _ = self.throw(Scope::Agent(agent.clone()), reason, BY).await;
        let _ = self.append(vec![(alert, None)]).await;
        turnback_journal::crash()
    }
}
