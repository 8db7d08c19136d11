//! What there was no room for, recorded in bounded form.
//!
//! Every refusal costs a record and its share of a sync. A caller who is refused for want of room thousands of times
//! a second would fill the disk with it and slow down everybody who is let in, so of one caller a few a second are
//! recorded one by one and the rest together, by their number and with the last of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use turnback_core::contract::Actor;
use turnback_core::refusal::Refusal;

use super::peer::lock;
use crate::desk::{Caller, Desk};

/// Refusals of one caller recorded one by one within a [`SECOND`].
const EACH: u64 = 16;
const SECOND: Duration = Duration::from_secs(1);

/// What one caller was refused lately. Who has no credential is one caller.
struct Lately {
    since: Instant,
    recorded: u64,
    more: u64,
    last: Option<(&'static str, Refusal)>,
}

/// Refusals by caller. As large as there are agents.
#[derive(Default)]
pub(super) struct Tally(Mutex<HashMap<Option<Caller>, Lately>>);

impl Tally {
    /// Records a refusal now, or with others like it at the end of this second.
    pub(super) fn note<D: Desk>(
        self: &Arc<Self>,
        desk: &Arc<D>,
        door: &'static str,
        caller: Option<&Caller>,
        refusal: &Refusal,
    ) {
        let now = Instant::now();
        let until = {
            let mut all = lock(&self.0);
            let fresh = || Lately { since: now, recorded: 0, more: 0, last: None };
            let lately = all.entry(caller.cloned()).or_insert_with(fresh);
            if lately.more == 0 && now.duration_since(lately.since) >= SECOND {
                *lately = fresh();
            }
            if lately.recorded < EACH {
                lately.recorded += 1;
                None
            } else {
                lately.more += 1;
                lately.last = Some((door, refusal.clone()));
                if lately.more > 1 {
                    return;
                }
                Some(lately.since + SECOND)
            }
        };
        let actor = caller.map(|caller| Actor::Agent(caller.agent.clone()));
        let Some(until) = until else { return desk.turned(door, actor, refusal) };
        let (tally, desk, caller) = (Arc::clone(self), Arc::clone(desk), caller.cloned());
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let lately = lock(&tally.0).remove(&caller);
            if let Some(Lately { more, last: Some((door, mut refusal)), .. }) = lately {
                refusal.message = format!("{more} more within a second, the last of them: {}", refusal.message);
                desk.turned(door, actor, &refusal);
            }
        });
    }
}
