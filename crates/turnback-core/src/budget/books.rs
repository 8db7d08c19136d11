//! All budgets of a node together.
//!
//! Whoever holds the lock around these books reads what was spent, decides, and reserves: two runs never
//! both fit into what is left for one, of whichever budget.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::Ledger;
use crate::contract::Contract;
use crate::gates::blast_radius::{Budget, Per, Spent};
use crate::gates::ownership::Agent;
use crate::names::{AgentName, RunId};

/// Of which budget, by its number, and for whom.
type Key = (usize, String);

/// One ledger for each budget and each of whom it concerns, and the writes nobody can take back.
#[derive(Clone, Debug, Default)]
pub struct Books {
    budgets: Vec<Budget>,
    ledgers: HashMap<Key, Ledger>,
    /// The ledgers each run under way reserved in.
    open: HashMap<RunId, Vec<Key>>,
    /// Writes without a way back, until a person refills the budget for them. `true` once they happened.
    irreversible: BTreeMap<AgentName, BTreeMap<RunId, bool>>,
}

/// How much of one budget is spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance<'a> {
    /// The budget.
    pub budget: &'a Budget,
    /// Whose; empty for everything.
    pub of: &'a str,
    /// What of it is spent.
    pub spent: Spent,
}

impl Books {
    /// Empty books for these budgets.
    pub fn new(budgets: Vec<Budget>) -> Self {
        Self { budgets, ..Self::default() }
    }

    fn keys(&self, of: impl Fn(Per) -> String) -> Vec<Key> {
        self.budgets.iter().enumerate().map(|(number, budget)| (number, of(budget.per))).collect()
    }

    fn ledger(&mut self, key: Key) -> Option<&mut Ledger> {
        let window = self.budgets.get(key.0)?.window;
        Some(self.ledgers.entry(key).or_insert_with(|| Ledger::new(window)))
    }

    /// What counts of each budget besides the run itself, in the order of the budgets.
    pub fn spent_by_others(
        &self,
        run: RunId,
        contract: &Contract,
        agent: Option<&Agent>,
        now: Timestamp,
    ) -> Vec<Spent> {
        let spent = |key| self.ledgers.get(&key).map_or_else(Spent::default, |l| l.spent_by_others(run, now));
        self.keys(|per| per.of(contract, agent)).into_iter().map(spent).collect()
    }

    /// Writes without a way back of this agent besides the run itself, since a person last refilled.
    pub fn irreversible_by_others(&self, run: RunId, agent: &AgentName) -> u64 {
        self.irreversible.get(agent).map_or(0, |runs| runs.keys().filter(|id| **id != run).count() as u64)
    }

    /// Holds `cost` in every budget that concerns the run until it settles or is released.
    pub fn reserve(
        &mut self,
        run: RunId,
        contract: &Contract,
        agent: Option<&Agent>,
        cost: Spent,
        irreversible: bool,
        now: Timestamp,
    ) {
        // Reserved before, it may have been for somebody else.
        self.release(run);
        let keys = self.keys(|per| per.of(contract, agent));
        for key in &keys {
            if let Some(ledger) = self.ledger(key.clone()) {
                ledger.reserve(run, cost, now);
            }
        }
        self.open.insert(run, keys);
        if let (true, Some(agent)) = (irreversible, contract.actor.agent()) {
            self.irreversible.entry(agent.clone()).or_default().insert(run, false);
        }
    }

    /// The run's commit was recorded at `now`, or nobody knows whether it happened: its cost stays.
    pub fn settle(&mut self, run: RunId, now: Timestamp) {
        for key in self.open.remove(&run).unwrap_or_default() {
            if let Some(ledger) = self.ledgers.get_mut(&key) {
                ledger.settle(run, now);
            }
        }
        if let Some(happened) = self.irreversible.values_mut().find_map(|runs| runs.get_mut(&run)) {
            *happened = true;
        }
    }

    /// The run ended without an effect.
    pub fn release(&mut self, run: RunId) {
        for key in self.open.remove(&run).unwrap_or_default() {
            if let Some(ledger) = self.ledgers.get_mut(&key) {
                ledger.release(run);
            }
        }
        for runs in self.irreversible.values_mut() {
            if runs.get(&run) == Some(&false) {
                runs.remove(&run);
            }
        }
    }

    /// Takes in what runs before a restart cost: whom each counts for, when it was recorded, how much.
    pub fn restore(&mut self, rows: impl IntoIterator<Item = (impl Fn(Per) -> String, Timestamp, Spent)>) {
        let mut found: HashMap<Key, Vec<(Timestamp, Spent)>> = HashMap::new();
        for (of, at, cost) in rows {
            for key in self.keys(of) {
                found.entry(key).or_default().push((at, cost));
            }
        }
        for (key, rows) in found {
            if let Some(budget) = self.budgets.get(key.0) {
                self.ledgers.insert(key, Ledger::restore(budget.window, rows));
            }
        }
    }

    /// Takes in one write without a way back from before a restart.
    pub fn restore_irreversible(&mut self, agent: AgentName, run: RunId) {
        self.irreversible.entry(agent).or_default().insert(run, true);
    }

    /// The writes without a way back of an agent that happened since a person last refilled.
    pub fn irreversible(&self, agent: &AgentName) -> Vec<RunId> {
        let runs = self.irreversible.get(agent).into_iter().flatten();
        runs.filter(|(_, happened)| **happened).map(|(run, _)| *run).collect()
    }

    /// A person refilled the budget for these.
    pub fn forgive(&mut self, agent: &AgentName, forgiven: &[RunId]) {
        if let Some(runs) = self.irreversible.get_mut(agent) {
            runs.retain(|run, happened| !*happened || !forgiven.contains(run));
        }
    }

    /// Every budget of which something is spent at `now`.
    pub fn balances(&self, now: Timestamp) -> Vec<Balance<'_>> {
        let mut keys: Vec<_> = self.ledgers.keys().collect();
        keys.sort_unstable();
        let balance = |key: &&'_ Key| -> Option<Balance<'_>> {
            let (key, ledger) = self.ledgers.get_key_value(*key)?;
            let spent = ledger.spent(now);
            let budget = self.budgets.get(key.0)?;
            (spent != Spent::default()).then_some(Balance { budget, of: &key.1, spent })
        };
        keys.iter().filter_map(balance).collect()
    }

    /// How many writes without a way back each agent is charged with.
    pub fn charged(&self) -> impl Iterator<Item = (&AgentName, u64)> {
        self.irreversible.iter().map(|(agent, runs)| (agent, runs.len() as u64)).filter(|(_, runs)| *runs > 0)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::fixtures::{World, agent, at, run_id};
    use crate::gates::blast_radius::Caps;

    fn books() -> Books {
        let budget =
            |per| Budget { per, window: SignedDuration::from_secs(60), actions: Some(3), most: Caps::default() };
        Books::new([Per::Agent, Per::Owner, Per::Resource, Per::Tool, Per::Everything].map(budget).to_vec())
    }

    const COST: Spent = Spent { actions: 1, deletions: 0, rows: 0, files: 0, bytes: 0, recipients: 0, money: 0 };

    fn actions(books: &Books, run: u128, world: &World, agent: &Agent) -> Vec<u64> {
        books.spent_by_others(run_id(run), &world.contract, Some(agent), at(0)).iter().map(|s| s.actions).collect()
    }

    #[test]
    fn each_budget_adds_up_its_own() {
        let mut books = books();
        let (coder, shop) = (agent(), World::new("", "shop__execute"));
        let cleaner = Agent { name: AgentName::new("cleaner").unwrap(), ..agent() };
        let mut notes = World::new("", "notes__write_file");
        notes.contract.actor = crate::contract::Actor::Agent(cleaner.name.clone());
        books.reserve(run_id(1), &shop.contract, Some(&coder), COST, false, at(0));
        books.reserve(run_id(2), &notes.contract, Some(&cleaner), COST, false, at(0));
        assert_eq!(actions(&books, 3, &shop, &coder), [1, 2, 1, 1, 2]);
        assert_eq!(actions(&books, 1, &shop, &coder), [0, 1, 0, 0, 1], "its own reservation does not count");
        books.release(run_id(1));
        books.settle(run_id(2), at(0));
        books.release(run_id(2));
        assert_eq!(actions(&books, 3, &shop, &coder), [0, 1, 0, 0, 1], "settled is not released");
        let ben = Agent { owner: "ben".into(), ..agent() };
        assert_eq!(actions(&books, 3, &shop, &ben), [0, 0, 0, 0, 1]);
        assert_eq!(books.balances(at(59)).len(), 5, "the five of the run that was done");
        assert_eq!(books.balances(at(60)).len(), 0);
    }

    #[test]
    fn restored_books_hold_what_was_there() {
        let mut books = books();
        let of = |per: Per| match per {
            Per::Agent => "coder".to_owned(),
            Per::Owner => "anna".to_owned(),
            Per::Resource => "shop".to_owned(),
            Per::Tool => "shop__execute".to_owned(),
            Per::Everything => String::new(),
        };
        books.restore([(of, at(-61), COST), (of, at(-1), COST), (of, at(0), COST)]);
        let shop = World::new("", "shop__execute");
        assert_eq!(actions(&books, 3, &shop, &agent()), [2, 2, 2, 2, 2]);
    }

    #[test]
    fn what_cannot_be_taken_back_counts_until_a_person_refills() {
        let mut books = books();
        let world = World::new("", "shop__execute");
        let coder = agent().name;
        let reserve = |books: &mut Books, run| {
            books.reserve(run_id(run), &world.contract, Some(&agent()), COST, true, at(0));
        };
        reserve(&mut books, 1);
        reserve(&mut books, 2);
        reserve(&mut books, 3);
        assert_eq!(books.irreversible_by_others(run_id(2), &coder), 2);
        books.settle(run_id(1), at(0));
        books.release(run_id(2));
        books.release(run_id(1));
        assert_eq!(books.irreversible_by_others(run_id(9), &coder), 2, "done stays, under way counts");
        let done = books.irreversible(&coder);
        assert_eq!(done, [run_id(1)]);
        books.forgive(&coder, &[run_id(1), run_id(3)]);
        assert_eq!(books.irreversible_by_others(run_id(9), &coder), 1, "what is under way is not forgiven");
        assert_eq!(books.charged().collect::<Vec<_>>(), [(&coder, 1)]);
    }
}
