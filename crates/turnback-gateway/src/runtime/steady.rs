//! The node's time: the system's clock, except that it never goes back and never stands still.
//!
//! Invariant `NEVER-BACK`: whatever was over stays over, and nothing lasts longer because somebody set a
//! clock back. A clock set forward is believed at once, because late is the worse mistake. One set back
//! is not: time goes on from the latest that was seen, at the pace of the machine's own counter, until
//! the system's clock has caught up or the node is restarted. (Linux slews both alike, so without a step
//! the two do not drift apart.)
//!
//! What must hold over a restart does not rest on this: records are in the order of their numbers, and
//! what ran out is recorded as over, at most a second later.

use std::sync::Mutex;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use super::lock;
use super::settings::Clock;

/// How far back a clock may be found at a restart before what was recorded after it counts as foreign.
pub(super) const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

pub(super) struct Steady {
    clock: Clock,
    /// The latest time the clock showed, and when that was.
    latest: Mutex<(Timestamp, Instant)>,
}

impl Steady {
    pub(super) fn new(clock: Clock) -> Self {
        let latest = Mutex::new((clock(), Instant::now()));
        Self { clock, latest }
    }

    /// What the system's clock shows.
    pub(super) fn wall(&self) -> Timestamp {
        (self.clock)()
    }

    /// The node's time.
    pub(super) fn now(&self) -> Timestamp {
        let wall = self.wall();
        let mut latest = lock(&self.latest);
        let (seen, when) = *latest;
        let least = seen.saturating_add(when.elapsed()).unwrap_or(Timestamp::MAX);
        if wall < least {
            return least;
        }
        *latest = (wall, Instant::now());
        wall
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn forward_is_believed_and_back_is_not() {
        let shows = Arc::new(AtomicI64::new(1_000));
        let clock = Arc::clone(&shows);
        let steady = Steady::new(Arc::new(move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap()));
        let mut before = steady.now();
        for second in [1_001, 50_000, 1_000, -50_000, 49_999, 60_000] {
            shows.store(second, Ordering::SeqCst);
            let now = steady.now();
            assert!(now > before || now.as_second() == second, "{second}: {now}");
            assert!(now.as_second() >= second && steady.wall().as_second() == second);
            before = now;
        }
    }
}
