//! What an operator may ask and how it is answered. `-o json` prints [`Reply`]'s payloads as they are,
//! so their fields are a promise: they are only ever added to.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use turnback_core::contract::Assignment;
use turnback_core::decision::Decision;
use turnback_core::flags::{Edition, State, Summary};
use turnback_core::gates::autonomy::Level;
use turnback_core::gates::controls::{Deny, Freeze, Scope, Selector, Switch};
use turnback_core::gates::flow::{Label, Reader};
use turnback_core::gates::ownership::Agent;
use turnback_core::lease::Lease;
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, RunId, TokenId, ToolName};
use turnback_core::policy::explain::Explanation;
use turnback_core::record::Row;
use turnback_core::refusal::Refusal;
use turnback_core::rollback::{Blocker, RollbackPlan};
use turnback_core::run::{Event, Observation};
use turnback_core::tool::{Risk, Verb};
use turnback_core::trace::TraceId;

use super::plans::PlanView;
use super::policy::{PolicyRequest, PolicyState};

/// One request. What it does not know is refused: who writes `by` or `force` must not believe it was heard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op", deny_unknown_fields)]
pub enum Request {
    /// How the node is.
    Status,
    /// Runs, newest first.
    Runs {
        /// Only of this agent.
        agent: Option<AgentName>,
        /// Only in this state.
        state: Option<String>,
        /// At most so many.
        limit: u32,
    },
    /// Everything about one run.
    Show {
        /// Full identity, its short form, or the identity of its approval.
        run: String,
    },
    /// Approve what a question shows.
    Approve {
        /// Full identity or short form of the approval, or of its run.
        approval: String,
    },
    /// Say no.
    Reject {
        /// Full identity or short form of the approval, or of its run.
        approval: String,
        /// Why; the agent is told.
        reason: String,
    },
    /// Undo.
    Undo {
        /// What.
        what: UndoWhat,
        /// Only say what would happen.
        dry_run: bool,
    },
    /// Register an agent, or change its owner.
    AgentAdd {
        /// Its name.
        name: AgentName,
        /// Its human owner.
        owner: String,
        /// How much it may do alone; as before, or 3, when not said.
        #[serde(default)]
        level: Option<Level>,
    },
    /// Set how much an agent may do alone.
    AgentLevel {
        /// Its name.
        name: AgentName,
        /// The level.
        level: Level,
        /// Only for this class of action.
        #[serde(default)]
        class: Option<Risk>,
        /// Why.
        reason: String,
    },
    /// The release flags that hold.
    Flags,
    /// Change one flag.
    FlagsSet {
        /// Its key.
        flag: String,
        /// The variant that holds when targeting names none.
        #[serde(default)]
        variant: Option<String>,
        /// Whether it says anything.
        #[serde(default)]
        state: Option<State>,
        /// Why.
        reason: String,
    },
    /// Replace all flags.
    FlagsApply {
        /// The whole document.
        document: String,
        /// Why.
        reason: String,
    },
    /// The last changes of the flags, newest first.
    FlagsHistory,
    /// The services that are asked for flags.
    FlagsRemote,
    /// All agents.
    Agents,
    /// Suspend an agent, or reinstate it with no reason.
    AgentSuspend {
        /// Its name.
        name: AgentName,
        /// Why; `None` reinstates.
        reason: Option<String>,
    },
    /// Make a token.
    TokenNew {
        /// For this agent.
        agent: AgentName,
        /// The user it acts for.
        on_behalf_of: Option<String>,
        /// The part of the organisation it works for with it.
        #[serde(default)]
        assignment: Assignment,
        /// Seconds until it expires.
        lifetime_seconds: u64,
    },
    /// Revoke a token.
    TokenRevoke {
        /// Full identity or short form.
        token: String,
    },
    /// All tokens, without secrets.
    Tokens,
    /// Throw a kill switch.
    Kill {
        /// What it stops.
        scope: Scope,
        /// Why.
        reason: String,
    },
    /// Lift a kill switch.
    Unkill {
        /// What it stopped.
        scope: Scope,
    },
    /// All switches thrown.
    Switches,
    /// What kind of content agents and traces have read.
    Labels,
    /// Clear somebody's labels.
    LabelsClear {
        /// Whose.
        who: Reader,
        /// Why.
        reason: String,
    },
    /// Add to the denylist.
    DenyAdd {
        /// Its name.
        name: String,
        /// What it denies agents.
        what: Selector,
        /// Why; the agent is told.
        reason: String,
    },
    /// Remove from the denylist.
    DenyRemove {
        /// Its name.
        name: String,
        /// Why, for the record.
        reason: String,
    },
    /// The denylist.
    Denies,
    /// Declare a freeze.
    FreezeAdd {
        /// The freeze. Who declares it is known already.
        freeze: Freeze,
    },
    /// Lift a freeze.
    FreezeLift {
        /// Its name.
        name: String,
        /// Why, for the record.
        reason: String,
    },
    /// All freezes, on or not.
    Freezes,
    /// What is spent of every budget.
    Budgets,
    /// Refill an agent's irreversibility budget.
    BudgetRefill {
        /// The agent.
        agent: AgentName,
        /// Why, for the record.
        reason: String,
    },
    /// Grant an agent something for a while.
    Grant {
        /// The agent.
        agent: AgentName,
        /// What, until when and why.
        grant: GrantAsked,
    },
    /// Take a grant back.
    GrantRevoke {
        /// The agent.
        agent: AgentName,
        /// Its name among the agent's grants.
        grant: String,
    },
    /// Who works on what over several calls.
    Leases,
    /// Take leases from their holders.
    LeasesRelease {
        /// On this resource.
        resource: ResourceName,
        /// On this place of it and beneath; all of them when it is not said.
        #[serde(default)]
        place: Option<String>,
        /// Why.
        reason: String,
    },
    /// Plans that are remembered, newest first.
    Plans,
    /// One plan.
    PlanShow {
        /// Full identity or short form.
        plan: String,
    },
    /// Abort a plan and take back what it did; asked again, it goes on.
    PlanAbort {
        /// Full identity or short form.
        plan: String,
        /// Why.
        reason: String,
    },
    /// Sign a checkpoint now and return it.
    Checkpoint,
    /// Something about the policy.
    Policy {
        /// What.
        what: PolicyRequest,
    },
}

/// What to grant an agent. Everything that is said must hold; at least one list says something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantAsked {
    /// The tools.
    #[serde(default)]
    pub tools: Vec<ToolName>,
    /// The resources.
    #[serde(default)]
    pub resources: Vec<ResourceName>,
    /// The environments.
    #[serde(default)]
    pub environments: Vec<EnvironmentName>,
    /// What for.
    #[serde(default)]
    pub verbs: Vec<Verb>,
    /// Seconds until it runs out.
    pub lifetime_seconds: u64,
    /// Why, for the record.
    pub reason: String,
}

/// What is spent of one budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    /// Whose actions it adds up: `agent`, `owner`, `resource`, `tool`, `everything`.
    pub per: String,
    /// Which of them; empty for everything.
    pub of: String,
    /// Length of its window; `None` for the one only a person refills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<i64>,
    /// What it limits: spent, and at most.
    pub amounts: BTreeMap<String, (u64, u64)>,
}

/// What to undo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum UndoWhat {
    /// These runs.
    Runs {
        /// Full identities or short forms.
        runs: Vec<String>,
    },
    /// Everything an agent did since a time.
    Agent {
        /// The agent.
        agent: AgentName,
        /// Since when.
        since: Timestamp,
    },
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply", content = "value")]
pub enum Reply {
    /// How the node is.
    Status(Status),
    /// Runs.
    Runs(Vec<Row>),
    /// One run.
    Run(Box<RunView>),
    /// How an approval or undo went.
    Ended(Box<Vec<RunView>>),
    /// What an undo would do, or why it cannot.
    UndoPlan(Box<UndoPlan>),
    /// Agents.
    Agents(Vec<Agent>),
    /// A new token. The only time its secret is shown.
    Token {
        /// Its identity.
        id: TokenId,
        /// The secret.
        secret: String,
        /// When it stops working.
        expires: Timestamp,
    },
    /// Tokens.
    Tokens(Vec<TokenView>),
    /// Switches.
    Switches(Vec<Switch>),
    /// What kind of content was read.
    Labels(Vec<LabelView>),
    /// The denylist.
    Denies(Vec<Deny>),
    /// Freezes.
    Freezes(Vec<Freeze>),
    /// Budgets of which something is spent.
    Budgets(Vec<BudgetView>),
    /// The release flags.
    Flags(Box<FlagsView>),
    /// Changes of the flags, newest first.
    FlagsHistory(Vec<Edition>),
    /// The services that are asked for flags, in the order of the configuration.
    FlagsRemote(Vec<RemoteFlagsView>),
    /// Leases: those that stand, or those that were released.
    Leases(Vec<LeaseView>),
    /// Plans, newest first.
    Plans(Vec<PlanView>),
    /// One plan.
    Plan(Box<PlanView>),
    /// A signed checkpoint in C2SP note form.
    Checkpoint(String),
    /// Why a run was decided as it was.
    Explained(Box<Explanation>),
    /// How the policy stands.
    Policy(Box<PolicyState>),
    /// It is done and there is nothing to show.
    Done,
    /// It was refused.
    Refused(Refusal),
}

/// How the node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process identity.
    pub pid: u32,
    /// The agents' URL, when it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where state lives.
    pub state: String,
    /// Records in the journal.
    pub records: u64,
    /// Runs that wait for a person.
    pub waiting: u64,
    /// Runs nobody knows the end of: in doubt or stuck.
    pub in_doubt: u64,
    /// Switches thrown.
    pub switches: u64,
    /// Why the node refuses everything, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poisoned: Option<String>,
}

/// One label that counts against whoever read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelView {
    /// Who read it, or the trace it was read in.
    pub who: Reader,
    /// The label.
    pub label: Label,
    /// When it was read last.
    pub read: Timestamp,
    /// The run that read it.
    pub run: RunId,
    /// When it stops to count.
    pub until: Timestamp,
}

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// The resource.
    pub resource: ResourceName,
    /// The place in it; absent when it is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The agent that holds it.
    pub agent: AgentName,
    /// The user it acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The trace, where a rule tells traces apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
    /// Its fencing token.
    pub token: u64,
    /// Since when.
    pub since: Timestamp,
    /// When it runs out.
    pub until: Timestamp,
    /// The run that took or renewed it last.
    pub run: RunId,
}

impl From<Lease> for LeaseView {
    fn from(lease: Lease) -> Self {
        Self {
            resource: lease.spot.resource,
            place: lease.spot.place.map(|place| place.at),
            agent: lease.holder.agent,
            on_behalf_of: lease.holder.on_behalf_of,
            trace: lease.holder.trace,
            token: lease.token,
            since: lease.since,
            until: lease.until,
            run: lease.run,
        }
    }
}

/// The release flags that hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlagsView {
    /// Since when, by whom and why.
    pub edition: Edition,
    /// Each flag.
    pub flags: Vec<Summary>,
    /// The exact document.
    pub document: String,
}

/// A service that is asked for release flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemoteFlagsView {
    /// Its address.
    pub url: String,
    /// The keys it is asked for; `*` stands for every name.
    pub keys: Vec<String>,
    /// How it is.
    pub state: RemoteFlagsState,
    /// When it last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Timestamp>,
    /// When a question last came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Timestamp>,
    /// And why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// While it is down: when the next call asks it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_again: Option<Timestamp>,
    /// Answers that are kept.
    pub held: usize,
    /// When the oldest of them was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// Seconds an answer is used without asking again.
    pub refresh_seconds: f64,
    /// Seconds an answer is used that cannot be asked for again.
    pub stale_after_seconds: f64,
}

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteFlagsState {
    /// Nobody has asked it since the node started.
    Unasked,
    /// It answered within the time an answer is fresh.
    Fresh,
    /// It answered, and nobody asked since that became old.
    Stale,
    /// The last question could not be put to it.
    Down,
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its identity.
    pub id: TokenId,
    /// Its agent.
    pub agent: AgentName,
    /// The user it acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The part of the organisation it works for with it.
    #[serde(default, skip_serializing_if = "Assignment::is_empty")]
    pub assignment: Assignment,
    /// When it stops working.
    pub expires: Timestamp,
}

/// Everything about one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// The line of the list. Not flattened: it has a `level` and a `question` of its own.
    pub row: Row,
    /// Its agent's owner, when the agent is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The contract.
    pub contract: Value,
    /// What the first group of gates said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Decision>,
    /// What the second group of gates said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Decision>,
    /// Measured numbers and the tool's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<turnback_core::effect::Effect>,
    /// The diff, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// The way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<RollbackPlan>,
    /// Number of its level, completeness considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// The question and what moved since it was last shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<turnback_core::approval::Question>,
    /// What moved since it was last shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<String>,
    /// Why it was refused or how it failed, when it was or did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// What reading back found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
    /// Everything that happened, in order.
    pub history: Vec<Happened>,
}

/// One line of a run's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Happened {
    /// Sequence number of its record.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: Event,
}

/// What an undo would do, or why it cannot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UndoPlan {
    /// One part for each resource, in the order they would run.
    pub parts: Vec<UndoPart>,
    /// What is in the way; empty when it can go ahead.
    pub blockers: Vec<Blocker>,
    /// Runs that read data this undo changes: listed, not undone.
    pub readers: Vec<Row>,
}

/// The part of an undo on one resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UndoPart {
    /// The resource.
    pub resource: String,
    /// The runs it counters, latest first.
    pub runs: Vec<String>,
    /// What it would do, when it can be staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Its own way back: an undo can be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// What it does not restore.
    pub residue: Vec<String>,
    /// The diff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}
