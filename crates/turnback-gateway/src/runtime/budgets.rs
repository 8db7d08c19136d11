//! Budgets: what is spent of them, what survives a restart, and who refills the one only people refill.
//!
//! Two hundred parallel calls never exceed a budget by one, because [`Inner::judge_within`] reads, decides and
//! reserves under one lock over all of them. A run that did nothing gives back what it held; of one nobody
//! knows the end of, the cost stays.

use std::sync::Mutex;

use jiff::Timestamp;
use turnback_core::budget::Books;
use turnback_core::gates::Measured;
use turnback_core::gates::blast_radius::{self, Per, Spent};
use turnback_core::gates::recoverability::irreversible;
use turnback_core::names::{AgentName, RunId};
use turnback_core::record::{Body, Row};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Event, Measurement, Outcome, Run, Standing};
use turnback_journal::{Entry, Projection, RowFilter, Table};

use super::{Inner, lock};
use crate::operator::protocol::{BudgetView, Reply};

/// Before the identity of each run nobody can take back, until a person refills the budget for it.
const IRREVERSIBLE: &str = "irreversible ";

impl Inner {
    /// Lets `decide` judge with what is spent of every budget, and reserves what the action costs when it may
    /// run, before anybody else is judged.
    pub(super) fn judge_within<T>(
        &self,
        books: &Mutex<Books>,
        run: &Run,
        agent: Option<&turnback_core::gates::ownership::Agent>,
        measured: Option<Measured<'_>>,
        now: Timestamp,
        decide: impl FnOnce(&[Spent], u64) -> (bool, T),
    ) -> T {
        // Before it is measured it spends nothing, and people have no budgets.
        let (Some(name), Some(measured)) = (run.contract.actor.agent(), measured) else { return decide(&[], 0).1 };
        let mut books = lock(books);
        let spent = books.spent_by_others(run.id, &run.contract, agent, now);
        let (runs, decided) = decide(&spent, books.irreversible_by_others(run.id, name));
        if runs {
            let cost = Spent::of(&measured.effect.blast);
            books.reserve(run.id, &run.contract, agent, cost, irreversible(&run.contract, measured), now);
        }
        decided
    }

    /// Gives a reservation back, or makes it stay.
    pub(super) fn budget(&self, run: &Run, spent: bool) {
        if run.contract.actor.agent().is_none() {
            return;
        }
        let mut books = lock(&self.books);
        if spent {
            books.settle(run.id, self.now());
        } else {
            books.release(run.id);
            drop(books);
            self.step_released(run);
        }
    }

    /// Counts what the arguments say of money and recipients into what was measured. What cannot be counted
    /// counts as nothing here and is refused by the gate.
    pub(super) fn count_amounts(&self, run: &Run, measurement: &mut Measurement) {
        let amounts = blast_radius::amounts(&run.contract, &self.settings.limits.measures).unwrap_or_default();
        let blast = &mut measurement.effect.blast;
        (blast.money, blast.recipients) = (amounts.money, amounts.recipients);
    }

    pub(super) fn balances(&self) -> Reply {
        let now = self.now();
        let books = lock(&self.books);
        let mut views: Vec<_> = books
            .balances(now)
            .into_iter()
            .map(|balance| BudgetView {
                per: balance.budget.per.word().to_owned(),
                of: balance.of.to_owned(),
                window_seconds: Some(balance.budget.window.as_secs()),
                amounts: balance
                    .budget
                    .beside(balance.spent)
                    .filter_map(|(what, spent, limit)| Some((what.to_owned(), (spent, limit?))))
                    .collect(),
            })
            .collect();
        if let Some(limit) = self.settings.floor.irreversible {
            views.extend(books.charged().map(|(agent, spent)| BudgetView {
                per: Per::Agent.word().to_owned(),
                of: agent.to_string(),
                window_seconds: None,
                amounts: [("writes without a way back".to_owned(), (spent, limit))].into(),
            }));
        }
        Reply::Budgets(views)
    }

    /// Refills an agent's irreversibility budget, for what happened until now.
    pub(super) async fn refill(&self, agent: AgentName, reason: String, by: &str) -> Result<Reply, Refusal> {
        self.agent(&agent)?;
        let _one_at_a_time = self.editing.lock().await;
        let forgiven = lock(&self.books).irreversible(&agent);
        if forgiven.is_empty() {
            return Err(Refusal::new(
                Code::NotFound,
                format!("nothing is spent of the irreversibility budget of `{agent}`"),
            )
            .next("see: turnback budget list"));
        }
        let delete = |run: &RunId| Projection::Delete { table: Table::Meta, key: format!("{IRREVERSIBLE}{run}") };
        let project = forgiven.iter().map(delete).collect();
        let body = Body::BudgetRefilled { agent: agent.clone(), forgiven: forgiven.clone(), by: by.to_owned(), reason };
        self.append_entry(Entry { at: self.now(), body, project }).await?;
        lock(&self.books).forgive(&agent, &forgiven);
        Ok(self.balances())
    }
}

/// What must be remembered of a run's event besides the run: a write without a way back, from its intent on
/// unless it is certain that nothing happened.
pub(super) fn remembered(run: &Run, body: &Body) -> Option<Projection> {
    let Body::Run { run: id, event } = body else { return None };
    let key = format!("{IRREVERSIBLE}{id}");
    let (Some(agent), true) = (run.contract.actor.agent(), *id == run.id) else { return None };
    match event {
        Event::Intended => {
            let m = run.state.measurement()?;
            let counts = irreversible(&run.contract, Measured { effect: &m.effect, plan: &m.plan });
            counts.then(|| Projection::Put { table: Table::Meta, key, value: agent.as_str().into() })
        }
        Event::Committed { outcome: Outcome::Failed { .. } } | Event::Probed { standing: Standing::Before } => {
            Some(Projection::Delete { table: Table::Meta, key })
        }
        _ => None,
    }
}

/// Takes in what was spent before a restart.
pub(super) fn restore(inner: &Inner) -> Result<(), Refusal> {
    let limits = &inner.settings.limits;
    let mut books = Books::new(limits.budgets.clone());
    if let Some(window) = limits.budgets.iter().map(|budget| budget.window).max() {
        let since = inner.started.saturating_sub(window).unwrap_or(Timestamp::MIN);
        let filter = RowFilter { committed_since: Some(since), ..RowFilter::default() };
        let rows = inner.journal.rows(&filter).map_err(Refusal::from)?;
        let view = inner.board.view();
        books.restore(rows.iter().filter_map(|row| {
            let agent = row.actor.agent()?;
            // Not later than now: a clock that was set back must not make a window longer.
            let at = row.committed?.min(inner.started);
            let owner = view.agents.get(agent).map_or_else(String::new, |agent| agent.owner.clone());
            Some((move |per| counts_for(row, &owner, per), at, row.spent))
        }));
    }
    for (key, value) in inner.journal.table(Table::Meta).map_err(Refusal::from)? {
        let Some(run) = key.strip_prefix(IRREVERSIBLE) else { continue };
        let misread = |e: String| Refusal::new(Code::Failed, e).at(format!("entry `{key}` of the journal"));
        let run = run.parse().map_err(|e| misread(format!("{e}")))?;
        let agent = AgentName::new(value.as_str().unwrap_or_default()).map_err(|e| misread(e.to_string()))?;
        books.restore_irreversible(agent, run);
    }
    *lock(&inner.books) = books;
    Ok(())
}

/// Whom a run in the list counts for, as [`Per::of`] says of a contract. Of owners the present one.
fn counts_for(row: &Row, owner: &str, per: Per) -> String {
    match per {
        Per::Agent => row.actor.agent().map_or_else(String::new, ToString::to_string),
        Per::Owner => owner.to_owned(),
        Per::Resource => row.resource.clone(),
        Per::Tool => row.tool.clone(),
        Per::Everything => String::new(),
    }
}
