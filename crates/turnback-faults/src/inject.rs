//! A judge that strikes once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::call::{Call, Kind};
use crate::tracer::{Judge, Verdict};

/// What was struck, for whoever waits for it.
#[derive(Clone, Debug, Default)]
pub struct Struck(Arc<Mutex<Hit>>);

#[derive(Debug, Default)]
struct Hit {
    held: bool,
    at: Option<PathBuf>,
}

impl Struck {
    /// Nothing is counted before [`Struck::now`].
    #[must_use]
    pub fn later() -> Self {
        Self(Arc::new(Mutex::new(Hit { held: true, at: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Hit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on calls are counted.
    pub fn now(&self) {
        self.lock().held = false;
    }

    /// The file of the call that was struck, once one was.
    #[must_use]
    pub fn at(&self) -> Option<PathBuf> {
        self.lock().at.clone()
    }
}

/// Strikes at the `nth` call of a kind, counted from zero, that concerns certain files.
pub struct Injector {
    /// Which calls count.
    pub kind: Kind,
    /// Which files count.
    pub counts: fn(&Call) -> bool,
    /// How many are let pass before.
    pub nth: usize,
    /// What becomes of it. A short write where nothing can be shortened passes over to the next call.
    pub verdict: Verdict,
    /// Hears of it.
    pub struck: Struck,
}

impl Judge for Injector {
    fn enters(&mut self, call: &Call) -> Verdict {
        let short = matches!(self.verdict, Verdict::Short(_));
        if call.kind() != self.kind || !(self.counts)(call) || (short && !call.can_be_short()) {
            return Verdict::Pass;
        }
        let mut hit = self.struck.lock();
        if hit.held || hit.at.is_some() {
            return Verdict::Pass;
        }
        if self.nth > 0 {
            self.nth -= 1;
            return Verdict::Pass;
        }
        hit.at = Some(call.path().to_owned());
        self.verdict
    }
}
