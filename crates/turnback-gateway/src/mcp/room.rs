//! Bounded room, shared fairly: nobody is queued, and no single agent can take all of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use turnback_core::names::AgentName;

use super::peer::lock;

/// So many places, of which one agent may have three quarters.
pub(super) struct Room {
    most: usize,
    taken: Mutex<HashMap<AgentName, usize>>,
}

impl Room {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// What one agent may have of `most`.
    pub(super) const fn share(most: usize) -> usize {
        most.saturating_mul(3).div_ceil(4)
    }

    /// A place for `agent` until it is dropped.
    pub(super) fn enter(self: &Arc<Self>, agent: &AgentName) -> Result<Place, Full> {
        let mut taken = lock(&self.taken);
        let own = taken.get(agent).copied().unwrap_or(0);
        if taken.values().sum::<usize>() >= self.most {
            return Err(Full::Room);
        }
        if own >= Self::share(self.most) {
            return Err(Full::Share);
        }
        taken.insert(agent.clone(), own + 1);
        Ok(Place { room: Arc::clone(self), agent: agent.clone() })
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All places are taken.
    Room,
    /// The agent has its share.
    Share,
}

/// A place taken.
pub(super) struct Place {
    room: Arc<Room>,
    agent: AgentName,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.room.taken);
        // An entry without places is removed, so the map never outgrows the room.
        if let Some(own) = taken.get_mut(&self.agent) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_cannot_take_all_of_it() {
        let room = Room::new(8);
        let (alice, bob) = (AgentName::new("alice").unwrap(), AgentName::new("bob").unwrap());
        let mut places: Vec<Place> = std::iter::from_fn(|| room.enter(&alice).ok()).collect();
        assert_eq!(places.len(), 6);
        assert_eq!(room.enter(&alice).err(), Some(Full::Share));
        places.extend(std::iter::from_fn(|| room.enter(&bob).ok()));
        assert_eq!(places.len(), 8);
        assert_eq!(room.enter(&alice).err(), Some(Full::Room));
        places.remove(0);
        assert!(room.enter(&alice).is_ok());
        places.clear();
        assert!(lock(&room.taken).is_empty());
        assert!(Room::new(1).enter(&alice).is_ok());
        assert!(Room::new(0).enter(&alice).is_err());
    }
}
