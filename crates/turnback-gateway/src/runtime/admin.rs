//! What operators may do: answer questions, undo, register, revoke, switch. Every change is durable
//! before it is told (`DURABLE-FIRST`), and names who made it.

use std::sync::Arc;

use turnback_core::contract::Actor;
use turnback_core::flags::Change;
use turnback_core::gates::autonomy::{Level, Levels};
use turnback_core::gates::controls::{Deny, Scope, Switch};
use turnback_core::gates::ownership::Agent;
use turnback_core::names::{AgentName, ApprovalId, RunId, TokenId};
use turnback_core::record::{Body, Token};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{self, Answer, Event, State};
use turnback_core::text::visible;
use turnback_journal::{JournalError, Projection, RowFilter, Table};

use super::drive::Live;
use super::{Inner, Runtime, blocking, undo};
use crate::desk::Caller;
use crate::operator::protocol::{Reply, Request, RunView, Status, TokenView, UndoWhat};

/// Who revokes a token that ran out.
pub(super) const NOBODY: &str = "turnback";

/// Longest list one request returns.
const LIST_LIMIT: usize = 10_000;

/// What a person said.
enum Said<'a> {
    /// Yes to the question or run of that name, in full or short.
    Yes(&'a str),
    /// No, for a reason.
    No(String),
}

/// Whether `name` means this question: by its own digits, or by its run.
fn is_meant(question: &ApprovalId, name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    name.strip_prefix("ap_").is_none_or(|digits| question.uuid().simple().to_string().ends_with(digits))
}

impl Runtime {
    /// Answers one operator's request. `by` is the system user the kernel names.
    pub async fn operate(&self, request: Request, by: &str) -> Reply {
        match self.0.operate(request, by).await {
            Ok(reply) => reply,
            Err(refusal) => Reply::Refused(refusal),
        }
    }
}

impl Inner {
    async fn operate(self: &Arc<Self>, request: Request, by: &str) -> Result<Reply, Refusal> {
        if !matches!(request, Request::Kill { .. }) {
            self.caught_up().await;
        }
        match request {
            Request::Status => Ok(Reply::Status(self.status()?)),
            Request::Runs { agent, state, limit } => {
                let filter =
                    RowFilter { agent, state, limit: Some(LIST_LIMIT.min(limit as usize)), ..RowFilter::default() };
                let journal = self.journal.clone();
                let rows = blocking(move || journal.rows(&filter)).await?.map_err(Refusal::from)?;
                Ok(Reply::Runs(rows))
            }
            Request::Show { run } => Ok(Reply::Run(Box::new(self.view(self.find(&run).await?).await?))),
            Request::Approve { approval } => {
                let id = self.find(&approval).await?;
                self.answer(id, by, Said::Yes(&approval)).await.map(|view| Reply::Ended(Box::new(vec![view])))
            }
            Request::Reject { approval, reason } => {
                let id = self.find(&approval).await?;
                self.answer(id, by, Said::No(reason)).await.map(|view| Reply::Ended(Box::new(vec![view])))
            }
            Request::Undo { what, dry_run } => self.undo(what, dry_run, by).await,
            Request::AgentAdd { name, owner, level } => self.add_agent(name, owner, level, by).await,
            Request::AgentLevel { name, level, class, reason } => {
                if reason.trim().is_empty() {
                    return Err(Refusal::new(Code::BadInput, "say why").at("reason").next("--reason <why>"));
                }
                let _one_at_a_time = self.editing.lock().await;
                let mut agent = self.agent(&name)?;
                match class {
                    Some(class) => drop(agent.levels.classes.insert(class, level)),
                    None => agent.levels.level = level,
                }
                self.change_agent(agent, by, Some(reason)).await
            }
            Request::Flags => self.flags(),
            Request::FlagsSet { flag, variant, state, reason } => {
                self.set_flag(&flag, &Change { variant, state }, reason, by).await
            }
            Request::FlagsApply { document, reason } => self.apply_flags(document, reason, by).await,
            Request::FlagsHistory => self.flags_history(),
            Request::FlagsRemote => Ok(Reply::FlagsRemote(self.remote_flags())),
            Request::Agents => Ok(Reply::Agents(self.board.view().agents.values().cloned().collect())),
            Request::AgentSuspend { name, reason } => {
                let _one_at_a_time = self.editing.lock().await;
                let mut agent = self.agent(&name)?;
                agent.suspended = reason;
                self.set_agent(agent, by).await
            }
            Request::TokenNew { agent, on_behalf_of, assignment, lifetime_seconds } => {
                self.new_token(Caller { agent, on_behalf_of, assignment }, lifetime_seconds, by).await
            }
            Request::TokenRevoke { token } => self.revoke(&token, by).await,
            Request::Tokens => {
                let view = self.board.view();
                let tokens = view.tokens.iter().map(|(id, token)| TokenView {
                    id: *id,
                    agent: token.agent.clone(),
                    on_behalf_of: token.on_behalf_of.clone(),
                    assignment: token.assignment.clone(),
                    expires: token.expires,
                });
                Ok(Reply::Tokens(tokens.collect()))
            }
            Request::Kill { scope, reason } => self.kill(scope, reason, by).await,
            Request::Unkill { scope } => self.unkill(&scope, by).await,
            Request::DenyAdd { name, what, reason } => {
                self.add_deny(Deny { name, what, reason, by: None, since: None }, by).await
            }
            Request::DenyRemove { name, reason } => self.remove_deny(&name, reason, by).await,
            Request::Denies => Ok(self.denies()),
            Request::FreezeAdd { freeze } => self.add_freeze(freeze, by).await,
            Request::FreezeLift { name, reason } => self.lift_freeze(&name, reason, by).await,
            Request::Freezes => Ok(self.freezes()),
            Request::Budgets => Ok(self.balances()),
            Request::BudgetRefill { agent, reason } => self.refill(agent, reason, by).await,
            Request::Grant { agent, grant } => self.grant(&agent, grant, by).await,
            Request::GrantRevoke { agent, grant } => self.revoke_grant(&agent, &grant, by).await,
            Request::Switches => Ok(Reply::Switches(self.board.view().controls.switches.clone())),
            Request::Policy { what } => self.policy(what, by).await,
            Request::Labels => Ok(self.labels()),
            Request::LabelsClear { who, reason } => self.clear_labels(who, reason, by).await,
            Request::Leases => Ok(self.leases()),
            Request::LeasesRelease { resource, place, reason } => {
                self.release_leases(&resource, place.as_deref(), reason, by).await
            }
            Request::Plans => Ok(self.list_plans()),
            Request::PlanShow { plan } => self.show_plan(&plan),
            Request::PlanAbort { plan, reason } => self.operator_aborts(&plan, reason, by).await,
            Request::Checkpoint => {
                let journal = self.journal.clone();
                let note = blocking(move || journal.checkpoint()).await?.map_err(Refusal::from)?;
                Ok(Reply::Checkpoint(note))
            }
        }
    }

    fn status(&self) -> Result<Status, Refusal> {
        let count = |state: &str| {
            let filter = RowFilter { state: Some(state.to_owned()), limit: Some(LIST_LIMIT), ..RowFilter::default() };
            self.journal.rows(&filter).map(|rows| rows.len() as u64).map_err(Refusal::from)
        };
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            url: Some(format!("{}/mcp", self.settings.url)),
            state: self.settings.state.display().to_string(),
            records: self.journal.len(),
            waiting: count("parked")?,
            in_doubt: count("in_doubt")? + count("stuck")?,
            switches: self.board.view().controls.switches.len() as u64,
            poisoned: self.journal.poisoned(),
        })
    }

    /// Answers a question. Invariant `ONE-USE`: answers are taken one at a time, the run must still be
    /// parked, and the answer is durable before anything follows.
    async fn answer(self: &Arc<Self>, id: RunId, by: &str, said: Said<'_>) -> Result<RunView, Refusal> {
        let live = {
            let _one_at_a_time = self.answering.lock().await;
            let run = self.load(id).await?;
            let State::Parked(parked) = &run.state else {
                return Err(Refusal::new(Code::Exists, format!("it is `{}` and waits for nobody", run.state.word()))
                    .at(id.short())
                    .next(format!("turnback show {}", id.short())));
            };
            let now = self.now();
            let answer = match said {
                Said::No(reason) => Answer::Rejected { by: by.to_owned(), reason },
                Said::Yes(question) => {
                    // A run that moved asks again. Who was shown the earlier question has not seen what this
                    // one asks, so a yes to the earlier one is none to this.
                    if !is_meant(&parked.question.id, question) {
                        let message = format!("`{}` was asked again as `{}`", visible(question), parked.question.id);
                        return Err(Refusal::new(Code::Moved, message)
                            .at(id.short())
                            .next(format!("look at what it asks now: turnback show {}", id.short())));
                    }
                    let approval = parked.question.approve(&run.contract, by, now);
                    let approval = approval.map_err(|e| Refusal::new(Code::Rejected, e.to_string()).at(id.short()))?;
                    Answer::Approved { approval: Box::new(approval) }
                }
            };
            self.answered(run, answer).await?
        };
        // From here on nobody can answer again; the run goes on whether or not the operator waits.
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move { inner.drive_to_end(live).await });
        task.await.map_err(|e| Refusal::new(Code::Failed, format!("internal failure: {e}")))??;
        self.end(id).await
    }

    /// How a run ended, for whoever had it done. What a domain marked itself is written behind: when that
    /// failed the journal still holds the run as under way, which is no answer.
    async fn end(&self, id: RunId) -> Result<RunView, Refusal> {
        let view = self.view(id).await?;
        match self.journal.poisoned() {
            Some(why) => Err(Refusal::from(JournalError::Unknown { why }).at(id.short())),
            None => Ok(view),
        }
    }

    /// Makes an answer durable and hands back the run, ready to be driven on.
    async fn answered(&self, run: run::Run, answer: Answer) -> Result<Live, Refusal> {
        let mut live = Live::resumed(run, Vec::new()).happen(self.now(), Event::Answered { answer })?;
        fail::fail_point!("before-answer", |_| turnback_journal::crash());
        self.write(&mut live).await?;
        live.run.contract.actor.agent().into_iter().for_each(|agent| self.questions.close(agent));
        fail::fail_point!("after-answer", |_| turnback_journal::crash());
        Ok(live)
    }

    /// Ends the questions nobody answered in time.
    pub(super) async fn expire_questions(self: &Arc<Self>) {
        let filter = RowFilter { expired_by: Some(self.now()), ..RowFilter::default() };
        let journal = self.journal.clone();
        let rows = match blocking(move || journal.rows(&filter)).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return tracing::error!(%error, "questions could not be looked at"),
            Err(refusal) => return tracing::error!(%refusal, "questions could not be looked at"),
        };
        for row in rows {
            let ended = async {
                let _one_at_a_time = self.answering.lock().await;
                let run = self.load(row.run).await?;
                match &run.state {
                    State::Parked(parked) if parked.question.expires <= self.now() => self.silence(run).await,
                    _ => Ok(()),
                }
            };
            if let Err(refusal) = ended.await {
                tracing::error!(run = %row.run, %refusal, "question could not be ended");
            }
        }
    }

    /// Takes silence for a no.
    pub(super) async fn silence(self: &Arc<Self>, run: run::Run) -> Result<(), Refusal> {
        let live = self.answered(run, Answer::Expired).await?;
        self.drive_to_end(live).await.map(drop)
    }

    /// Revokes the tokens that ran out.
    pub(super) async fn expire_tokens(&self) {
        let now = self.now();
        let view = self.board.view();
        for (id, _) in view.tokens.iter().filter(|(_, token)| token.expires <= now) {
            if let Err(refusal) = self.drop_token(*id, NOBODY).await {
                tracing::error!(token = %id, %refusal, "token could not be revoked when it ran out");
            }
        }
    }

    async fn drop_token(&self, id: TokenId, by: &str) -> Result<(), Refusal> {
        let delete = Projection::Delete { table: Table::Tokens, key: id.to_string() };
        self.append(vec![(Body::TokenRevoked { token: id, by: by.to_owned() }, Some(delete))]).await?;
        self.board.drop_token(id);
        Ok(())
    }

    async fn undo(self: &Arc<Self>, what: UndoWhat, dry_run: bool, by: &str) -> Result<Reply, Refusal> {
        let runs = match what {
            UndoWhat::Runs { runs } => {
                let mut ids = Vec::with_capacity(runs.len());
                for run in &runs {
                    ids.push(self.find(run).await?);
                }
                ids
            }
            UndoWhat::Agent { agent, since } => self.done_since(&agent, since)?,
        };
        let end = self.undo_runs(Actor::Operator(by.to_owned()), runs, dry_run).await?;
        if dry_run {
            return Ok(Reply::UndoPlan(Box::new(end.plan)));
        }
        if !end.plan.blockers.is_empty() {
            return Err(undo::blocked(&end.plan.blockers));
        }
        let mut views = Vec::with_capacity(end.runs.len());
        for id in end.runs {
            views.push(self.end(id).await?);
        }
        Ok(Reply::Ended(Box::new(views)))
    }

    pub(super) fn agent(&self, name: &AgentName) -> Result<Agent, Refusal> {
        self.board.view().agents.get(name).cloned().ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("no agent `{name}`"))
                .next(format!("turnback agents add {name} --owner <person>"))
        })
    }

    async fn add_agent(
        &self,
        name: AgentName,
        owner: String,
        level: Option<Level>,
        by: &str,
    ) -> Result<Reply, Refusal> {
        let owner = owner.trim().to_owned();
        if owner.is_empty() || owner.contains(',') {
            return Err(Refusal::new(Code::BadInput, "exactly one person must answer for an agent").at("owner"));
        }
        let _one_at_a_time = self.editing.lock().await;
        let before = self.board.view().agents.get(&name).cloned();
        let new = Agent { name, owner: owner.clone(), suspended: None, grants: Vec::new(), levels: Levels::default() };
        let mut agent = Agent { owner, ..before.unwrap_or(new) };
        agent.levels.level = level.unwrap_or(agent.levels.level);
        self.set_agent(agent, by).await
    }

    pub(super) async fn set_agent(&self, agent: Agent, by: &str) -> Result<Reply, Refusal> {
        self.change_agent(agent, by, None).await
    }

    async fn change_agent(&self, agent: Agent, by: &str, reason: Option<String>) -> Result<Reply, Refusal> {
        let put = put(Table::Agents, agent.name.as_str(), &agent)?;
        let body = Body::AgentSet { agent: agent.clone(), by: by.to_owned(), reason };
        self.append(vec![(body, Some(put))]).await?;
        self.board.set_agent(agent);
        Ok(Reply::Done)
    }

    async fn new_token(&self, bearer: Caller, lifetime: u64, by: &str) -> Result<Reply, Refusal> {
        self.agent(&bearer.agent)?;
        if bearer.on_behalf_of.as_deref() == Some(bearer.agent.as_str()) {
            let next = "name the person it acts for";
            return Err(Refusal::new(Code::BadInput, "an agent is not the user it acts for")
                .at("on_behalf_of")
                .next(next));
        }
        let now = self.now();
        let expires = i64::try_from(lifetime)
            .ok()
            .filter(|seconds| *seconds > 0)
            .and_then(|seconds| now.checked_add(jiff::SignedDuration::from_secs(seconds)).ok())
            .ok_or_else(|| Refusal::new(Code::BadInput, "a positive number of seconds is expected").at("lifetime"))?;
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| Refusal::new(Code::Failed, format!("no randomness: {e}")))?;
        let secret = format!("tb_{}", hex::encode(random));
        let id = TokenId::new(uuid::Uuid::now_v7());
        let token = Token {
            secret: turnback_core::digest::Sha256::of(secret.as_bytes()),
            agent: bearer.agent,
            on_behalf_of: bearer.on_behalf_of,
            assignment: bearer.assignment,
            made: now,
            expires,
        };
        let put = put(Table::Tokens, &id.to_string(), &token)?;
        let body = Body::TokenMade { token: id, details: token.clone(), by: by.to_owned() };
        self.append(vec![(body, Some(put))]).await?;
        self.board.set_token(id, token);
        Ok(Reply::Token { id, secret, expires })
    }

    async fn revoke(&self, text: &str, by: &str) -> Result<Reply, Refusal> {
        let view = self.board.view();
        let mut found = view.tokens.keys().filter(|id| id.to_string() == text || id.short() == text);
        let (Some(id), None) = (found.next().copied(), found.next()) else {
            return Err(Refusal::new(Code::NotFound, "no single token has that identity")
                .at(text)
                .next("see: turnback token list"));
        };
        self.drop_token(id, by).await?;
        Ok(Reply::Done)
    }

    async fn kill(&self, scope: Scope, reason: String, by: &str) -> Result<Reply, Refusal> {
        self.throw(scope, reason, by).await?;
        Ok(Reply::Switches(self.board.view().controls.switches.clone()))
    }

    /// Throws a switch.
    pub(super) async fn throw(&self, scope: Scope, reason: String, by: &str) -> Result<(), Refusal> {
        let switch = Switch { scope, reason, by: by.to_owned(), since: self.now() };
        // The one change that takes effect before it is durable: a switch only ever makes things
        // stricter, and whoever throws it cannot wait for a slow disk.
        self.board.throw(switch.clone());
        let put = put(Table::Switches, &key(&switch.scope), &switch)?;
        tracing::warn!("kill switch on {} thrown by {}: {}", switch.scope, visible(by), visible(&switch.reason));
        self.append(vec![(Body::SwitchThrown { switch }, Some(put))]).await
    }

    async fn unkill(&self, scope: &Scope, by: &str) -> Result<Reply, Refusal> {
        let view = self.board.view();
        let Some(switch) = view.controls.switches.iter().find(|s| s.scope == *scope).cloned() else {
            return Err(Refusal::new(Code::NotFound, format!("no switch on {scope} is thrown")));
        };
        let delete = Projection::Delete { table: Table::Switches, key: key(scope) };
        let body = Body::SwitchLifted { switch: switch.clone(), by: by.to_owned() };
        self.append(vec![(body, Some(delete))]).await?;
        self.board.lift(&switch);
        Ok(Reply::Switches(self.board.view().controls.switches.clone()))
    }
}

fn key(scope: &Scope) -> String {
    scope.to_string()
}

pub(super) fn put(table: Table, key: &str, value: &impl serde::Serialize) -> Result<Projection, Refusal> {
    let value = serde_json::to_value(value).map_err(|e| Refusal::new(Code::Failed, e.to_string()))?;
    Ok(Projection::Put { table, key: key.to_owned(), value })
}

/// The name of a system user, for records: from `/etc/passwd`, else the number.
pub fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .next()
        .unwrap_or_else(|| format!("uid {uid}"))
}
