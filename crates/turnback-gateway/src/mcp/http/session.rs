//! Sessions of the handshake era, each bound to the principal that began it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use turnback_core::refusal::{Code, Refusal};

use crate::desk::Caller;
use crate::mcp::peer::{Peer, lock};
use crate::mcp::room::Room;

/// All sessions. Bounded; those unused are forgotten.
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    idle: Duration,
}

struct Session {
    caller: Caller,
    peer: Arc<Peer>,
    used: Instant,
}

impl Session {
    /// Whether it may be forgotten. One with a request in flight is in use, however long that takes.
    fn stale(&self, idle: Duration, now: Instant) -> bool {
        Arc::strong_count(&self.peer) == 1 && now.duration_since(self.used) >= idle
    }
}

impl Sessions {
    pub(super) fn new(idle: Duration) -> Self {
        Self { open: Mutex::default(), idle }
    }

    /// Begins a session under an identity nobody can guess.
    pub(super) fn begin(&self, caller: &Caller, peer: Arc<Peer>, most: usize) -> Result<String, Refusal> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)
            .map_err(|e| Refusal::new(Code::Failed, format!("the system has no randomness: {e}")))?;
        let id = hex::encode(secret);
        let full = |message: String| {
            Err(Refusal::new(Code::Overloaded, message)
                .at("initialize")
                .next("end sessions that are not needed with DELETE, or try again later"))
        };
        let now = Instant::now();
        let mut open = lock(&self.open);
        if open.len() >= Room::share(most) {
            open.retain(|_, session| !session.stale(self.idle, now));
        }
        if open.len() >= most {
            return full(format!("{most} sessions are open already"));
        }
        if open.values().filter(|session| session.caller.agent == caller.agent).count() >= Room::share(most) {
            return full(format!("agent `{}` has {} sessions already", caller.agent, Room::share(most)));
        }
        open.insert(id.clone(), Session { caller: caller.clone(), peer, used: now });
        Ok(id)
    }

    /// The peer of a session of `caller`; `None` for one that never was, is over, or is somebody else's.
    pub(super) fn find(&self, id: &str, caller: &Caller) -> Option<Arc<Peer>> {
        let now = Instant::now();
        let mut open = lock(&self.open);
        let session = open.get_mut(id)?;
        if session.stale(self.idle, now) {
            open.remove(id);
            return None;
        }
        if session.caller != *caller {
            return None;
        }
        session.used = now;
        Some(Arc::clone(&session.peer))
    }

    /// Ends a session.
    pub(super) fn end(&self, id: &str) {
        lock(&self.open).remove(id);
    }
}
