//! The desk between the agents' doors and the runtime: what a door may ask and how it is answered.
//!
//! A door authenticates nobody and decides nothing itself; it turns wire messages into these calls and
//! these answers into wire messages. The runtime is the one real implementation.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use turnback_core::access::Evaluations;
use turnback_core::contract::{Actor, Assignment, Statement};
use turnback_core::decision::Verdict;
use turnback_core::names::{AgentName, ApprovalId, RunId};
use turnback_core::refusal::Refusal;
use turnback_core::tool::Tool;
use turnback_core::trace::TraceId;

/// An authenticated agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The agent the credential is bound to.
    pub agent: AgentName,
    /// The user it acts for, bound to the same credential.
    pub on_behalf_of: Option<String>,
    /// The part of the organisation it works for, bound to the same credential.
    pub assignment: Assignment,
}

/// One tool call as it came in.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// The tool's name, unchecked.
    pub tool: String,
    /// The raw bytes of the arguments object; `{}` when there were none.
    pub arguments: Vec<u8>,
    /// What `_meta` says about the call, for clients that know it. The `turnback` argument wins.
    pub statement: Option<Statement>,
    /// The trace `_meta.traceparent` names.
    pub trace: Option<TraceId>,
}

/// How a call was answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It ran.
    Done {
        /// Its run.
        run: RunId,
        /// The tool's answer.
        reply: Value,
        /// What happened beside the answer, for the model: the way back, what was only measured.
        note: Option<String>,
        /// What is not as it was asked, when it was made over into a safer form.
        constrained: Option<Value>,
    },
    /// It did not run.
    Refused {
        /// Its run, when it became one.
        run: Option<RunId>,
        /// Why, and what would be acceptable.
        refusal: Refusal,
        /// The same in a machine-readable shape: gates, rules, measured numbers.
        details: Value,
    },
    /// It waits for a person.
    Pending(Pending),
}

/// A call that waits for a person.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its run.
    pub run: RunId,
    /// The question.
    pub approval: ApprovalId,
    /// What is asked, one sentence with numbers.
    pub message: String,
    /// Where a person reads how to answer; never a place where the agent's side could answer itself.
    pub url: String,
    /// Silence until then is a no.
    pub expires: Timestamp,
}

/// Why nothing came of what was asked about a plan.
#[derive(Clone, Debug)]
pub struct NotPlanned {
    /// In a sentence.
    pub refusal: Refusal,
    /// The same in a machine-readable shape: every step and gate at fault.
    pub details: Box<Value>,
}

impl From<Refusal> for NotPlanned {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, details: Box::new(serde_json::json!({})) }
    }
}

/// What a door may ask.
pub trait Desk: Send + Sync + 'static {
    /// The agent a bearer token belongs to.
    ///
    /// # Errors
    /// [`turnback_core::refusal::Code::Unauthenticated`] for unknown, expired and revoked tokens alike.
    fn authenticate(&self, token: &str) -> Result<Caller, Refusal>;

    /// The tools this agent can see.
    fn tools(&self, caller: &Caller) -> Vec<Tool>;

    /// Performs one call. Answers [`Answer::Pending`] as soon as it is durably parked. A call with the
    /// digest of one that waits joins it; the first such call after its end is told how it ended.
    fn call(&self, call: Call) -> impl Future<Output = Answer> + Send;

    /// Decides what the caller enforces itself; nothing is done. Answers in the order asked, durable in the record
    /// before they are given; fewer when the list ends early.
    ///
    /// # Errors
    /// When the caller may not ask at all, or the journal failed.
    fn evaluate(
        &self,
        caller: &Caller,
        asked: &Evaluations,
    ) -> impl Future<Output = Result<Vec<Verdict>, Refusal>> + Send;

    /// Submits a plan (`plan`), says how plans stand (`plan_status`) or aborts one (`plan_abort`), given the raw
    /// bytes of the arguments. A plan is durable before its agent hears of it. A desk without plans refuses.
    ///
    /// # Errors
    /// [`NotPlanned`]; nothing changed then, unless an abort says that it has begun.
    fn plan(
        &self,
        _caller: &Caller,
        _tool: &str,
        _arguments: Vec<u8>,
    ) -> impl Future<Output = Result<Value, NotPlanned>> + Send {
        let refusal = Refusal::new(turnback_core::refusal::Code::UnknownTool, "there are no plans here");
        async { Err(refusal.into()) }
    }

    /// Whether there are plans here, so that the tools about them are shown.
    fn plans(&self) -> bool {
        false
    }

    /// Waits at most `patience` for a parked run to end; [`Answer::Pending`] again when it did not.
    fn wait(&self, caller: &Caller, pending: Pending, patience: Duration) -> impl Future<Output = Answer> + Send;

    /// Records a request that was turned away before it could become a call. Does not wait for the
    /// disk: a stranger must not be able to make the node slow.
    fn turned(&self, door: &'static str, actor: Option<Actor>, refusal: &Refusal);

    /// The node's time.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// What a person who followed a [`Pending::url`] is shown: a plain-text page without any means to
    /// answer. `None` when there is no such question.
    fn question_page(&self, approval: &str) -> Option<String>;
}
