//! The other end of a session or pipe: what it declared, what we asked it, what it may still cancel.
//!
//! Owns the bookkeeping between messages of one peer. Bounded by the requests in flight: every entry
//! belongs to one and leaves with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};

use super::message;

/// What the agent's own user answered to a URL elicitation. Never an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elicited {
    /// The user went to look.
    Accepted,
    /// The user does not want to, or the client could not ask.
    NotAccepted,
}

impl Elicited {
    /// Reads an elicitation result; everything but a clear `accept` is none.
    pub(super) fn read(result: Option<&RawValue>) -> Self {
        #[derive(serde::Deserialize)]
        struct Outcome {
            action: String,
        }
        match result.map(|raw| serde_json::from_str::<Outcome>(raw.get())) {
            Some(Ok(outcome)) if outcome.action == "accept" => Self::Accepted,
            _ => Self::NotAccepted,
        }
    }
}

/// One peer.
#[derive(Default)]
pub(super) struct Peer {
    /// Whether it declared URL elicitation in the handshake.
    elicits: AtomicBool,
    next: AtomicU64,
    asked: Mutex<HashMap<String, oneshot::Sender<Elicited>>>,
    running: Mutex<HashMap<String, Arc<Notify>>>,
}

impl Peer {
    pub(super) fn declare(&self, elicits: bool) {
        self.elicits.store(elicits, Ordering::Relaxed);
    }

    pub(super) fn elicits(&self) -> bool {
        self.elicits.load(Ordering::Relaxed)
    }

    /// Opens a question to the peer: its request id, and where the answer arrives. Closes when dropped.
    pub(super) fn ask(self: &Arc<Self>) -> (Asked, oneshot::Receiver<Elicited>) {
        let id = format!("turnback-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        lock(&self.asked).insert(id.clone(), sender);
        (Asked { peer: Arc::clone(self), id }, receiver)
    }

    /// Hands the peer's response to whoever asked. One nobody waits for any more is late, not wrong.
    pub(super) fn answered(&self, id: &RawValue, result: Option<&RawValue>) {
        let sender = message::string(id).and_then(|id| lock(&self.asked).remove(&id));
        if let Some(sender) = sender {
            let _ = sender.send(Elicited::read(result));
        }
    }

    /// Registers a request the peer may cancel.
    pub(super) fn running(self: &Arc<Self>, id: &RawValue) -> Running {
        let cancelled = Arc::new(Notify::new());
        lock(&self.running).insert(id.get().to_owned(), Arc::clone(&cancelled));
        Running { peer: Arc::clone(self), id: id.get().to_owned(), cancelled }
    }

    /// The peer does not want an answer any more. Ends a wait, never a run.
    pub(super) fn cancel(&self, params: Option<&RawValue>) {
        #[derive(serde::Deserialize)]
        struct Params<'a> {
            #[serde(borrow, rename = "requestId")]
            id: &'a RawValue,
        }
        let named = params.and_then(|raw| serde_json::from_str::<Params<'_>>(raw.get()).ok());
        if let Some(cancelled) = named.and_then(|named| lock(&self.running).get(named.id.get()).cloned()) {
            cancelled.notify_one();
        }
    }
}

/// A question to the peer; dropping it forgets it.
pub(super) struct Asked {
    peer: Arc<Peer>,
    pub(super) id: String,
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.peer.asked).remove(&self.id);
    }
}

/// A request of the peer being worked on; dropping it forgets it.
pub(super) struct Running {
    peer: Arc<Peer>,
    id: String,
    pub(super) cancelled: Arc<Notify>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = lock(&self.peer.running);
        // A peer that uses an id twice must not lose the younger entry with the older.
        if running.get(&self.id).is_some_and(|entry| Arc::ptr_eq(entry, &self.cancelled)) {
            running.remove(&self.id);
        }
    }
}

/// The maps stay consistent even if a holder panicked: every operation on them is one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
