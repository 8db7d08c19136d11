//! Release flags of services: asked before a decision, because the gate itself asks nobody.
//!
//! Every service of `[[flags.remote]]` is asked for the keys that concern an agent's action, all at once, and what it
//! said – or that it said nothing, and why – is a fact of gate `release`, recorded with the decision. An answer is
//! used for `refresh` without asking again; one that cannot be asked for again is used until it is `stale_after` old,
//! for the same key and the same context only, and said to be stale. After that, and before the first answer, the
//! action is denied. Answers are kept in memory: a node that starts while a service is away knows nothing it said.
//!
//! Rooms: `answers` (what is known, what is under way, whether the service is down; no network, no clock) · `service`
//! (asking, one request for all who ask the same) · `request` (HTTP).

mod answers;
mod request;
mod service;

use std::sync::Arc;

use turnback_core::contract::Contract;
use turnback_core::decision::Phase;
use turnback_core::flags::Said;
use turnback_core::flags::remote;

use self::answers::Question;
use self::service::Service;
use super::Inner;
use crate::config::RemoteFlags;
use crate::operator::protocol::RemoteFlagsView;

/// The services that are asked.
pub(super) struct Services(Vec<Arc<Service>>);

impl Services {
    pub(super) fn new(settings: Vec<RemoteFlags>) -> Self {
        Self(settings.into_iter().map(|settings| Arc::new(Service::new(settings))).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Inner {
    /// What services say about an action of an agent. Only the gate of the first phase asks.
    pub(super) async fn hear(&self, phase: Phase, contract: &Contract) -> Vec<Said> {
        let mut said = Vec::new();
        if self.services.is_empty() || phase != Phase::Before {
            return said;
        }
        let Some(agent) = contract.actor.agent() else { return said };
        let body: Arc<[u8]> = remote::question(contract, self.board.view().agents.get(agent)).into();
        // All of them are begun before the first is waited for.
        let mut begun = Vec::new();
        for service in &self.services.0 {
            for key in remote::keys(&service.settings.keys, contract) {
                let question = Question::new(key, &body);
                let next = service.begin(&question, &body, self.now());
                begun.push((service, question, next));
            }
        }
        for (service, question, next) in begun {
            said.push(service.end(question, &body, next, || self.now()).await);
        }
        said
    }

    /// The services as operators see them.
    pub(super) fn remote_flags(&self) -> Vec<RemoteFlagsView> {
        let now = self.now();
        self.services.0.iter().map(|service| service.view(now)).collect()
    }
}
