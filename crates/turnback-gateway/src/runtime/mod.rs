//! The runtime: append, then perform.
//!
//! Owns the one loop every run goes through (`drive.rs`), whether it was proposed by an agent, resumed
//! by an approval, started by an undo or found in the journal after a crash. Decides nothing itself:
//! `turnback_core::run::step` says what to do next.
//!
//! ```text
//! call ─► contract ─► drive ─► step ─► append ─► perform ─┐
//!                       ▲                                  │ events
//!                       └──────────────────────────────────┘
//! ```

mod access;
mod admin;
mod answer;
mod board;
mod budgets;
mod collision;
mod commit;
mod context;
mod drive;
mod explain;
mod flags;
mod forms;
mod grants;
mod ofrep;
mod patience;
mod plans;
mod policies;
mod probes;
mod questions;
mod recover;
mod rules;
mod settings;
mod steady;
mod undo;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use turnback_core::access::Evaluations;
use turnback_core::budget::Books;
use turnback_core::contract::{Actor, Assignment, Contract};
use turnback_core::decision::Verdict;
use turnback_core::digest::ActionDigest;
use turnback_core::names::{ResourceName, RunId};
use turnback_core::record::{Body, Row};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run;
use turnback_core::tool::Tool;
use turnback_journal::{Batch, Entry, Journal, JournalError, Projection, RowFilter};

use crate::desk::{Answer, Call, Caller, Desk, NotPlanned, Pending};

pub use admin::user_name;
pub use flags::wrong_flags;
pub use settings::{Access, Clock, Resource, Settings, tools_of};
pub use undo::UndoEnd;

/// Refused requests that may wait for the journal at once; more are dropped from the record, counted
/// and logged. A stranger must not be able to fill the queue of people who are let in.
const TURNED_LIMIT: usize = 256;

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Bound {
    resource: Resource,
    /// Held by a write from staging to its end, so that writes on one resource never interleave.
    lock: Arc<tokio::sync::Mutex<()>>,
}

struct Inner {
    journal: Journal,
    settings: Settings,
    resources: BTreeMap<ResourceName, Bound>,
    tools: BTreeMap<String, Tool>,
    board: board::Board,
    policies: policies::Policies,
    books: Mutex<Books>,
    context: context::Context,
    collisions: collision::Collisions,
    services: ofrep::Services,
    plans: plans::Plans,
    /// Whose refusals are being looked into.
    looking: explain::Looking,
    /// Runs a repeated call joins: parked ones, and ended ones whose caller has not heard the end.
    joinable: Mutex<HashMap<ActionDigest, RunId>>,
    waiters: Mutex<HashMap<RunId, watch::Sender<()>>>,
    questions: questions::Questions,
    /// Answers to questions are taken one at a time. Invariant `ONE-USE`.
    answering: tokio::sync::Mutex<()>,
    /// Agents, grants, denies, freezes and refills are changed one at a time: no change rests on a reading
    /// another one made stale.
    editing: tokio::sync::Mutex<()>,
    /// Flags are changed one at a time: each change rests on the one before.
    flagging: tokio::sync::Mutex<()>,
    /// Held from reading how a run ended until what changes of its end – that its caller heard it, that it
    /// was undone – is handed to the journal: two such events of one run never rest on the same reading.
    telling: Arc<tokio::sync::Mutex<()>>,
    turned: Arc<AtomicUsize>,
    time: steady::Steady,
    started: Timestamp,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these maps cannot leave it half-changed: every change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime {
    /// Opens the journal, reads the board, resolves what a crash left behind, and is ready to serve.
    ///
    /// # Errors
    /// A [`Refusal`] that names the file or resource at fault.
    pub async fn open(mut settings: Settings) -> Result<Self, Refusal> {
        let options = turnback_journal::Options { checkpoint_every: settings.checkpoint_every, ..Default::default() };
        let opened = Journal::open(&settings.state, options).map_err(|e| {
            let refusal = Refusal::from(e);
            match refusal.place {
                Some(_) => refusal,
                None => refusal.at(turnback_core::text::visible(&settings.state.display().to_string())),
            }
        })?;
        let (journal, fresh) = (opened.journal, opened.fresh);
        let board =
            board::Board::load(&journal, settings.freezes.clone(), settings.denies.clone()).map_err(Refusal::from)?;
        let tools = tools_of(&settings.resources).map_err(|e| Refusal::new(Code::BadInput, e.to_string()))?;
        let resources = std::mem::take(&mut settings.resources)
            .into_iter()
            .map(|resource| (resource.name.clone(), Bound { resource, lock: Arc::default() }))
            .collect();
        let file = settings.flags.take();
        let time = steady::Steady::new(Arc::clone(&settings.clock));
        let started = time.now();
        let (policies, noticed) = policies::Policies::load(&journal, &settings, &tools, started)?;
        let tools = tools.into_iter().map(|tool| (tool.name.as_str().to_owned(), tool)).collect();
        let questions = questions::Questions::new(settings.approvals_most);
        let context = context::Context::new(settings.context.clone());
        let books = Mutex::new(Books::new(settings.limits.budgets.clone()));
        let collisions = collision::Collisions::load(&journal, std::mem::take(&mut settings.collisions))?;
        let services = ofrep::Services::new(std::mem::take(&mut settings.remote_flags));
        let plans = plans::Plans::new(std::mem::take(&mut settings.plans));
        let inner = Arc::new(Inner {
            journal,
            settings,
            resources,
            tools,
            board,
            policies,
            books,
            context,
            editing: tokio::sync::Mutex::default(),
            collisions,
            services,
            plans,
            looking: explain::Looking::default(),
            joinable: Mutex::default(),
            waiters: Mutex::default(),
            questions,
            answering: tokio::sync::Mutex::default(),
            flagging: tokio::sync::Mutex::default(),
            telling: Arc::default(),
            turned: Arc::default(),
            time,
            started,
        });
        let program = env!("CARGO_PKG_VERSION").to_owned();
        let config = inner.settings.config_digest;
        let policy = inner.policies.held().active().digest();
        let mut opening = vec![(Body::Opened { program }, None), (Body::ConfigActive { config, policy }, None)];
        for message in noticed {
            tracing::warn!("{message}");
            opening.push((Body::Alert { run: None, message }, None));
        }
        inner.append(opening).await?;
        inner.adopt_flags(file).await?;
        recover::recover(&inner, fresh).await?;
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            // Silence is a no: questions are looked at every second, and so are tokens. What ran out is
            // recorded as over, so that it stays over whatever a clock says later.
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                tick.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.expire_questions().await;
                inner.expire_tokens().await;
                inner.expire_grants().await;
                inner.tend_plans().await;
            }
        });
        Ok(Self(inner))
    }

    /// Writes the closing record and a last checkpoint.
    ///
    /// # Errors
    /// When the journal cannot be closed in order; nothing acknowledged is lost then either.
    pub async fn close(&self) -> Result<(), Refusal> {
        self.0.append(vec![(Body::Closed, None)]).await?;
        let journal = self.0.journal.clone();
        blocking(move || journal.close()).await
    }

    /// Runs kept in memory while nothing happens to them: those a caller is held for, and those a repeated call
    /// joins. A parked run is only the latter, one digest.
    pub fn kept(&self) -> (usize, usize) {
        (lock(&self.0.waiters).len(), lock(&self.0.joinable).len())
    }

    /// The agent configured to speak over stdio. Whether it is registered is asked by the gates, at every call.
    ///
    /// # Errors
    /// When none is configured.
    pub fn stdio_caller(&self) -> Result<Caller, Refusal> {
        let agent = self.0.settings.stdio_agent.clone().ok_or_else(|| {
            Refusal::new(Code::Unauthenticated, "no agent is configured for stdio")
                .at("[stdio] agent")
                .next("name a registered agent there")
        })?;
        Ok(Caller { agent, on_behalf_of: None, assignment: Assignment::default() })
    }
}

/// What the journal says about a batch it was handed, once it is written.
type Written = oneshot::Receiver<Result<Vec<u64>, JournalError>>;

async fn durable(written: Written) -> Result<(), Refusal> {
    match written.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(Refusal::from(e)),
        Err(_) => Err(Refusal::new(Code::Unavailable, "the journal is closed")),
    }
}

/// Runs blocking work on a thread made for that. A panic inside is a failure, not the end of the node.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    joined(started(work).await)
}

/// [`blocking`] work under way, to be waited for later.
fn started<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

fn joined<T>(done: Result<T, JoinError>) -> Result<T, Refusal> {
    done.map_err(|e| Refusal::new(Code::Failed, format!("internal failure: {e}")).next("report it with the log"))
}

/// The journal's blobs as the domains read them back.
struct Stored(turnback_journal::Blobs);

impl turnback_effects::Artifacts for Stored {
    fn get(&self, hash: &turnback_core::digest::Sha256) -> Result<Vec<u8>, Refusal> {
        self.0.get(hash)
    }
}

impl Inner {
    fn stored(&self) -> Stored {
        Stored(self.journal.blobs())
    }

    fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// Appends records and waits until they are durable.
    async fn append(&self, bodies: Vec<(Body, Option<Projection>)>) -> Result<(), Refusal> {
        let at = self.now();
        let entries = bodies
            .into_iter()
            .map(|(body, project)| Entry { at, body, project: project.into_iter().collect() })
            .collect();
        self.append_batch(Batch { entries, blobs: Vec::new() }).await
    }

    async fn append_entry(&self, entry: Entry) -> Result<(), Refusal> {
        self.append_batch(Batch { entries: vec![entry], blobs: Vec::new() }).await
    }

    async fn append_batch(&self, batch: Batch) -> Result<(), Refusal> {
        durable(self.hand_over(batch)).await
    }

    /// Hands records to the journal; what comes back says when they are durable.
    fn hand_over(&self, batch: Batch) -> Written {
        let (done, written) = oneshot::channel();
        self.journal.append(batch, move |result| {
            // Nobody waits any more when the caller's task was dropped; the record stands anyway.
            let _ = done.send(result);
        });
        written
    }

    /// Hands records to the journal that nobody waits for: outcomes a domain marked itself, what a read
    /// returned, refused requests. A failure poisons the journal, so that nothing follows what is missing.
    /// Whoever reads the journal waits for those before it ([`Inner::caught_up`]), so that everybody sees
    /// what was answered to anybody.
    fn append_behind(&self, batch: Batch, then: impl FnOnce() + Send + 'static) {
        self.journal.append_behind(batch, move |result| {
            if let Err(error) = result {
                tracing::error!(%error, "not recorded");
            }
            then();
        });
    }

    /// Waits until everything appended behind an answer so far is on disk.
    async fn caught_up(&self) {
        let (done, settled) = oneshot::channel();
        self.journal.settled(move || {
            let _ = done.send(());
        });
        // Dropped untold, the journal is closed and everything in it is on disk.
        let _ = settled.await;
    }

    fn bound(&self, name: &ResourceName) -> Result<&Bound, Refusal> {
        self.resources.get(name).ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("resource `{name}` is not configured any more"))
                .next("configure it again, or undo by hand from the vault")
        })
    }

    fn row_of(&self, id: RunId) -> Result<Row, Refusal> {
        self.journal
            .row(id)
            .map_err(Refusal::from)?
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("no run `{id}`")))
    }

    /// Wakes everybody who waits for a run.
    fn wake(&self, id: RunId) {
        if let Some(sender) = lock(&self.waiters).remove(&id) {
            // No receiver left means nobody waits any more.
            let _ = sender.send(());
        }
    }
}

impl Desk for Runtime {
    fn authenticate(&self, token: &str) -> Result<Caller, Refusal> {
        let view = self.0.board.view();
        let token = view.token(token, self.0.now())?;
        Ok(Caller {
            agent: token.agent.clone(),
            on_behalf_of: token.on_behalf_of.clone(),
            assignment: token.assignment.clone(),
        })
    }

    fn tools(&self, _caller: &Caller) -> Vec<Tool> {
        self.0.tools.values().cloned().collect()
    }

    async fn call(&self, call: Call) -> Answer {
        let inner = Arc::clone(&self.0);
        let actor = Actor::Agent(call.caller.agent.clone());
        match inner.contract(call) {
            Err(refusal) => {
                self.turned("call", Some(actor), &refusal);
                answer::refused(None, refusal)
            }
            // In a task of its own: a caller that hangs up must not stop a run half way.
            Ok((contract, tool_match)) => {
                let task = tokio::spawn(async move { inner.propose(contract, tool_match).await });
                task.await.unwrap_or_else(|e| {
                    answer::refused(None, Refusal::new(Code::Failed, format!("internal failure: {e}")))
                })
            }
        }
    }

    async fn evaluate(&self, caller: &Caller, asked: &Evaluations) -> Result<Vec<Verdict>, Refusal> {
        self.0.evaluate(caller, asked).await
    }

    async fn plan(&self, caller: &Caller, tool: &str, arguments: Vec<u8>) -> Result<serde_json::Value, NotPlanned> {
        let (inner, caller, tool) = (Arc::clone(&self.0), caller.clone(), tool.to_owned());
        let actor = Actor::Agent(caller.agent.clone());
        // In a task of its own: a caller that hangs up must not stop it half way.
        let task = tokio::spawn(async move { inner.plan_tool(&caller, &tool, &arguments).await });
        let answer =
            task.await.unwrap_or_else(|e| Err(Refusal::new(Code::Failed, format!("internal failure: {e}")).into()));
        if let Err(not) = &answer {
            self.turned("plan", Some(actor), &not.refusal);
        }
        answer
    }

    fn plans(&self) -> bool {
        true
    }

    async fn wait(&self, caller: &Caller, pending: Pending, patience: Duration) -> Answer {
        let run = pending.run;
        let answer = self.watched(caller, pending, patience).await;
        // Whoever waits last takes the entry along: for a run that is over nobody would wake and remove it.
        let mut waiters = lock(&self.0.waiters);
        if waiters.get(&run).is_some_and(|sender| sender.receiver_count() == 0) {
            waiters.remove(&run);
        }
        answer
    }

    fn turned(&self, door: &'static str, actor: Option<Actor>, refusal: &Refusal) {
        let inner = &self.0;
        if inner.turned.fetch_add(1, Ordering::Relaxed) >= TURNED_LIMIT {
            inner.turned.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(door, %refusal, "refused request not recorded: too many at once");
            return;
        }
        let body = Body::Turned { door: door.to_owned(), actor, refusal: refusal.clone() };
        let batch = Batch { entries: vec![Entry { at: inner.now(), body, project: Vec::new() }], blobs: Vec::new() };
        let counter = Arc::clone(&inner.turned);
        inner.append_behind(batch, move || {
            counter.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn question_page(&self, approval: &str) -> Option<String> {
        let id = approval.parse::<turnback_core::names::ApprovalId>().ok()?;
        let filter = RowFilter { question: Some(id), limit: Some(1), ..RowFilter::default() };
        let row = self.0.journal.rows(&filter).ok()?.pop()?;
        Some(answer::question_page(&row, id))
    }
}

impl Runtime {
    async fn watched(&self, caller: &Caller, pending: Pending, patience: Duration) -> Answer {
        let inner = &self.0;
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            // Registered before the state is read, so that an end in between is not missed.
            let mut ended = {
                let mut waiters = lock(&inner.waiters);
                waiters.entry(pending.run).or_insert_with(|| watch::channel(()).0).subscribe()
            };
            match inner.load(pending.run).await {
                Ok(run) if run.contract.actor != Actor::Agent(caller.agent.clone()) => {
                    return answer::refused(None, Refusal::new(Code::NotFound, "no such run"));
                }
                Ok(run) if run.state.is_over() => return inner.deliver(run).await,
                Ok(_) => {}
                Err(refusal) => return answer::refused(Some(pending.run), refusal),
            }
            // A run parked again wakes its waiters too; they look and wait on.
            match tokio::time::timeout_at(deadline, ended.changed()).await {
                Ok(_) => {}
                Err(_) => return Answer::Pending(pending),
            }
        }
    }
}

impl Inner {
    /// Makes a contract of a call.
    fn contract(&self, call: Call) -> Result<(Contract, turnback_core::tool::Match), Refusal> {
        if let Some(why) = self.journal.poisoned() {
            return Err(Refusal::new(Code::Unavailable, format!("the node refuses everything: {why}"))
                .next("an operator restarts it; what was in doubt is then resolved"));
        }
        let Some(tool) = self.tools.get(&call.tool) else {
            return Err(Refusal::new(Code::UnknownTool, "no tool has that name").at(&call.tool).next("see tools/list"));
        };
        let resource = &self.bound(&tool.resource)?.resource;
        let domain = &resource.domain;
        let mut contract = Contract::parse(
            tool,
            Actor::Agent(call.caller.agent),
            call.caller.on_behalf_of,
            &call.arguments,
            call.statement,
            |local, arguments| {
                let mut target = domain.aim(local, arguments)?;
                target.identity = domain.identity();
                Ok(target)
            },
        )?;
        contract.trace = call.trace;
        contract.assignment = Assignment::of(call.caller.assignment, &resource.assignment);
        Ok((contract, tool.effect_match))
    }

    /// Opens a run for a contract, or joins the one that waits for the same action.
    async fn propose(self: Arc<Self>, contract: Contract, effect_match: turnback_core::tool::Match) -> Answer {
        if contract.writes() {
            let joined = lock(&self.joinable).get(&contract.digest()).copied();
            if let Some(id) = joined {
                return self.join(id, &contract.digest()).await;
            }
        }
        let id = RunId::new(uuid::Uuid::now_v7());
        let first = run::Event::Proposed { contract: Box::new(contract.clone()) };
        let step = run::open(id, contract, effect_match, self.now());
        let mut live = drive::Live::new(step);
        live.note(self.now(), first);
        self.drive(live).await
    }

    /// What a repeated call is told: that its run still waits, or, once, how it ended.
    async fn join(&self, id: RunId, action: &ActionDigest) -> Answer {
        match self.joined(id, action).await {
            Ok(run) if run.state.is_over() => self.deliver(run).await,
            Ok(run) => self.pending(&run),
            Err(refusal) => answer::refused(Some(id), refusal),
        }
    }

    /// The run another call for the same action is about to park. It is joined before its question is
    /// durable, so it may have to be waited for.
    async fn joined(&self, id: RunId, action: &ActionDigest) -> Result<run::Run, Refusal> {
        loop {
            let missing = match self.load(id).await {
                Err(refusal) if refusal.code == Code::NotFound => refusal,
                found => return found,
            };
            // Registered before it is looked for again, so that its wake in between is not missed.
            let mut parked = lock(&self.waiters).entry(id).or_insert_with(|| watch::channel(()).0).subscribe();
            if lock(&self.joinable).get(action) != Some(&id) {
                return Err(missing);
            }
            if let found @ Ok(_) = self.load(id).await {
                return found;
            }
            // A sender that is gone has woken everybody.
            let _ = parked.changed().await;
        }
    }

    /// Tells the caller of a parked run how it ended, and remembers that it was told.
    async fn deliver(&self, run: run::Run) -> Answer {
        let told = answer::of(&run, None);
        if run.undelivered {
            // Two who hear it at once both hear it; the record says so once.
            let _one_at_a_time = self.telling.lock().await;
            let run = match self.load(run.id).await {
                Ok(run) if run.undelivered => run,
                Ok(_) => return told,
                Err(refusal) => return answer::refused(Some(run.id), refusal),
            };
            let digest = run.contract.digest();
            let id = run.id;
            match run::step(run, run::Event::Delivered, self.now()) {
                Ok(step) => {
                    lock(&self.joinable).remove(&digest);
                    let body = Body::Run { run: id, event: run::Event::Delivered };
                    let row = view::row(&step.run, digest);
                    // Lost in a crash, the caller hears the same end twice: harmless.
                    if let Err(refusal) = self.append(vec![(body, Some(Projection::Run(Box::new(row))))]).await {
                        return answer::refused(Some(id), refusal);
                    }
                }
                Err(illegal) => tracing::error!(%illegal, "delivery"),
            }
        }
        told
    }
}
