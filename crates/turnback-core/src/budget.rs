//! What was spent inside a sliding window: the ledger behind each budget of `blast_radius`, and the books
//! that keep them all (`budget/books.rs`).
//!
//! A run reserves its cost before it is judged, so that two runs under way at once cannot both fit
//! into what is left for one; it then settles (the cost counts until it leaves the window) or releases
//! it. Invariant `COUNTED-ONCE`: at any moment the cost of a run is in the sum exactly once or not at
//! all.
//!
//! The sum is exact for every entry still held and never too low: when more than [`ENTRIES`] costs lie
//! inside one window, the two oldest are merged and leave together, with the younger of the two.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::gates::blast_radius::Spent;
use crate::names::RunId;

mod books;

pub use books::{Balance, Books};

/// Most settled costs kept apart. Bounds the memory of one ledger to about 3 MiB.
pub const ENTRIES: usize = 65_536;

/// The sliding-window ledger of one budget and one of whom it concerns. Kept in memory; rebuilt from the journal with
/// [`Ledger::restore`].
#[derive(Clone, Debug)]
pub struct Ledger {
    window: SignedDuration,
    /// Settled costs, oldest first.
    settled: VecDeque<(Timestamp, Spent)>,
    /// Their sum.
    total: Sum,
    /// Costs of runs under way. They never expire by themselves: a commit whose answer is late is
    /// still a commit.
    reserved: HashMap<RunId, Spent>,
    limit: usize,
}

impl Ledger {
    /// An empty ledger over `window`. A window of zero or less holds only what is reserved.
    pub fn new(window: SignedDuration) -> Self {
        Self { window, settled: VecDeque::new(), total: Sum::default(), reserved: HashMap::new(), limit: ENTRIES }
    }

    /// A ledger that holds `rows`, in any order: when each committed run was recorded and what it cost.
    pub fn restore(window: SignedDuration, rows: impl IntoIterator<Item = (Timestamp, Spent)>) -> Self {
        let mut ledger = Self::new(window);
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|(at, _)| *at);
        for (at, cost) in rows {
            ledger.push(at, cost);
        }
        ledger
    }

    /// The window.
    pub const fn window(&self) -> SignedDuration {
        self.window
    }

    /// What counts at `now`: everything reserved, and everything settled less than a window ago. A
    /// cost from the future (the clock went back) counts until the clock has caught up.
    pub fn spent(&self, now: Timestamp) -> Spent {
        self.reserved.values().fold(self.settled_at(now), |sum, cost| sum.plus(*cost))
    }

    /// What counts at `now` besides the run's own reservation: what a gate that adds the run's cost
    /// itself must be told.
    pub fn spent_by_others(&self, run: RunId, now: Timestamp) -> Spent {
        let others = self.reserved.iter().filter(|(id, _)| **id != run);
        others.fold(self.settled_at(now), |sum, (_, cost)| sum.plus(*cost))
    }

    /// Entries are in order of time, so those that left the window are the first ones.
    fn settled_at(&self, now: Timestamp) -> Spent {
        let gone = self.settled.iter().take_while(|(at, _)| !self.counts(*at, now));
        gone.fold(self.total, |sum, (_, cost)| sum.less(*cost)).spent()
    }

    /// Holds `cost` for a run until it settles or is released. Reserving again replaces the cost.
    pub fn reserve(&mut self, run: RunId, cost: Spent, now: Timestamp) {
        self.reserved.insert(run, cost);
        self.forget(now);
    }

    /// The run's commit was recorded at `now`: its cost counts until it leaves the window. Does
    /// nothing, and says so, when nothing was reserved.
    pub fn settle(&mut self, run: RunId, now: Timestamp) -> bool {
        let Some(cost) = self.reserved.remove(&run) else { return false };
        self.push(now, cost);
        self.forget(now);
        true
    }

    /// The run ended without an effect. Does nothing, and says so, when nothing was reserved.
    pub fn release(&mut self, run: RunId) -> bool {
        self.reserved.remove(&run).is_some()
    }

    fn counts(&self, at: Timestamp, now: Timestamp) -> bool {
        now.duration_since(at) < self.window
    }

    fn push(&mut self, at: Timestamp, cost: Spent) {
        // Costs come in order except after the clock went back.
        let position = self.settled.partition_point(|(other, _)| *other <= at);
        self.settled.insert(position, (at, cost));
        self.total = self.total.more(cost);
        while self.settled.len() > self.limit {
            let (Some((_, oldest)), Some((_, next))) = (self.settled.pop_front(), self.settled.front_mut()) else {
                break;
            };
            // A merged cost that no longer fits 64 bits stays at the end of the scale, and so does the sum.
            let merged = next.plus(oldest);
            self.total = self.total.less(oldest).less(*next).more(merged);
            *next = merged;
        }
    }

    fn forget(&mut self, now: Timestamp) {
        while self.settled.front().is_some_and(|(at, _)| !self.counts(*at, now)) {
            if let Some((_, cost)) = self.settled.pop_front() {
                self.total = self.total.less(cost);
            }
        }
    }
}

/// A sum too wide to overflow, so that taking away again is exact.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    actions: u128,
    deletions: u128,
    rows: u128,
    files: u128,
    bytes: u128,
    recipients: u128,
    money: u128,
}

impl Sum {
    fn more(self, cost: Spent) -> Self {
        Self {
            actions: self.actions + u128::from(cost.actions),
            deletions: self.deletions + u128::from(cost.deletions),
            rows: self.rows + u128::from(cost.rows),
            files: self.files + u128::from(cost.files),
            bytes: self.bytes + u128::from(cost.bytes),
            recipients: self.recipients + u128::from(cost.recipients),
            money: self.money + u128::from(cost.money),
        }
    }

    fn less(self, cost: Spent) -> Self {
        Self {
            actions: self.actions.saturating_sub(u128::from(cost.actions)),
            deletions: self.deletions.saturating_sub(u128::from(cost.deletions)),
            rows: self.rows.saturating_sub(u128::from(cost.rows)),
            files: self.files.saturating_sub(u128::from(cost.files)),
            bytes: self.bytes.saturating_sub(u128::from(cost.bytes)),
            recipients: self.recipients.saturating_sub(u128::from(cost.recipients)),
            money: self.money.saturating_sub(u128::from(cost.money)),
        }
    }

    fn spent(self) -> Spent {
        let narrow = |value| u64::try_from(value).unwrap_or(u64::MAX);
        Spent {
            actions: narrow(self.actions),
            deletions: narrow(self.deletions),
            rows: narrow(self.rows),
            files: narrow(self.files),
            bytes: narrow(self.bytes),
            recipients: narrow(self.recipients),
            money: narrow(self.money),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{at, run_id};

    const fn cost(rows: u64) -> Spent {
        Spent { actions: 1, deletions: rows, rows, files: rows, bytes: rows, recipients: rows, money: rows }
    }

    #[test]
    fn a_cost_counts_from_reservation_until_it_leaves_the_window() {
        let mut ledger = Ledger::new(SignedDuration::from_secs(60));
        ledger.reserve(run_id(1), cost(5), at(0));
        assert_eq!(ledger.spent(at(1000)), cost(5));
        assert_eq!(ledger.spent_by_others(run_id(1), at(0)), Spent::default());
        assert!(ledger.settle(run_id(1), at(10)));
        assert!(!ledger.settle(run_id(1), at(10)));
        assert_eq!(ledger.spent(at(69)), cost(5));
        assert_eq!(ledger.spent(at(70)), Spent::default());
        ledger.reserve(run_id(2), cost(7), at(20));
        assert!(ledger.release(run_id(2)));
        assert!(!ledger.release(run_id(2)));
        assert_eq!(ledger.spent(at(20)), cost(5));
    }

    #[test]
    fn a_clock_that_goes_back_forgets_nothing() {
        let mut ledger = Ledger::new(SignedDuration::from_secs(60));
        ledger.reserve(run_id(1), cost(5), at(0));
        ledger.settle(run_id(1), at(0));
        ledger.reserve(run_id(2), cost(1), at(-1_000_000));
        assert_eq!(ledger.spent(at(-1_000_000)).rows, 6);
    }

    #[test]
    fn memory_is_bounded_and_the_sum_never_too_low() {
        let mut ledger = Ledger::new(SignedDuration::from_secs(1000));
        ledger.limit = 4;
        let mut sum = 0;
        for i in 0..20 {
            ledger.reserve(run_id(i), cost(u64::try_from(i).unwrap()), at(i64::try_from(i).unwrap()));
            ledger.settle(run_id(i), at(i64::try_from(i).unwrap()));
            sum += u64::try_from(i).unwrap();
            assert!(ledger.settled.len() <= 4);
            assert_eq!(ledger.spent(at(20)).rows, sum);
        }
        assert_eq!(ledger.spent(at(20)).actions, 20);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Reserve(u128, u64),
        Settle(u128),
        Release(u128),
        Wait(i64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..6u128, 0..50u64).prop_map(|(id, rows)| Op::Reserve(id, rows)),
            (0..6u128).prop_map(Op::Settle),
            (0..6u128).prop_map(Op::Release),
            (-3..20i64).prop_map(Op::Wait),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_list_of_everything(ops in prop::collection::vec(op(), 0..80)) {
            const WINDOW: i64 = 30;
            let mut ledger = Ledger::new(SignedDuration::from_secs(WINDOW));
            let mut open: Vec<(u128, u64)> = Vec::new();
            let mut done: Vec<(i64, u64)> = Vec::new();
            let mut now = 0i64;
            let mut latest = 0i64;
            for op in ops {
                match op {
                    Op::Reserve(id, rows) => {
                        open.retain(|(other, _)| *other != id);
                        open.push((id, rows));
                        ledger.reserve(run_id(id), cost(rows), at(now));
                    }
                    Op::Settle(id) => {
                        let found = open.iter().position(|(other, _)| *other == id);
                        prop_assert_eq!(ledger.settle(run_id(id), at(now)), found.is_some());
                        if let Some(i) = found {
                            done.push((now, open.remove(i).1));
                        }
                    }
                    Op::Release(id) => {
                        let before = open.len();
                        open.retain(|(other, _)| *other != id);
                        prop_assert_eq!(ledger.release(run_id(id)), open.len() != before);
                    }
                    Op::Wait(seconds) => now += seconds,
                }
                latest = latest.max(now);
                // What left the window at the latest moment seen may stay forgotten when the clock
                // goes back; everything else must be there.
                let sum = |at: i64| {
                    done.iter().filter(|(t, _)| at - t < WINDOW).map(|(_, r)| r).sum::<u64>()
                        + open.iter().map(|(_, r)| r).sum::<u64>()
                };
                let rows = ledger.spent(at(now)).rows;
                prop_assert!(rows <= sum(now) && rows >= sum(latest));
                if now == latest {
                    prop_assert_eq!(rows, sum(now));
                }
            }
            let restored = Ledger::restore(
                SignedDuration::from_secs(WINDOW),
                done.iter().rev().map(|(t, r)| (at(*t), cost(*r))),
            );
            let expected: u64 = done.iter().filter(|(t, _)| latest - t < WINDOW).map(|(_, r)| r).sum();
            prop_assert_eq!(restored.spent(at(latest)).rows, expected);
        }
    }
}
