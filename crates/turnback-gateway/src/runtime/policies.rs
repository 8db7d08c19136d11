//! The policy in force, the candidate beside it, and how either changes.
//!
//! Every decision takes one `Arc` of both. Invariant `DURABLE-FIRST`: a change is journaled, with its sources,
//! who and why, before the next decision sees it. Invariant `SHADOW`: what a candidate says is counted and
//! nothing else; it changes no answer and fails none.
//!
//! What a node uses after a start: the policy promoted last, from its record, whatever the configured files say
//! by then; they are compared, and a difference is named in an alert. Where nothing was promoted, or since the
//! configured files were read again, those files. A promoted policy that does not load any more, because a
//! resource it names is gone, permits nothing until an operator reloads or promotes another.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use turnback_core::contract::Contract;
use turnback_core::decision::{Decision, Obligation, Phase, Ruling};
use turnback_core::digest::Sha256;
use turnback_core::gates::{self, Facts};
use turnback_core::names::RunId;
use turnback_core::policy::{Policy, PolicyError, Source};
use turnback_core::record::{Body, PolicyChange};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_core::tool::Tool;
use turnback_journal::{Journal, Projection, Table};

use super::admin::put;
use super::settings::Settings;
use super::{Inner, blocking, lock};
use crate::node::policy_sources;
use crate::operator::policy::{Changed, Example, Origin, PolicyRequest, PolicyState, Staged};
use crate::operator::protocol::Reply;

/// Where the promoted policy and the candidate are kept.
const PROMOTED: &str = "policy.promoted";
const CANDIDATE: &str = "policy.candidate";

/// How many changed decisions are kept as examples.
const EXAMPLES: usize = 20;

/// A policy as it is kept: its files, and who brought it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    sources: Vec<Source>,
    origin: Origin,
}

/// What one decision is judged by.
pub(super) struct Held {
    active: Arc<Policy>,
    /// Who promoted the active policy; `None` while it is the configured files.
    promoted: Option<Arc<Stored>>,
    /// How the configured files differed from it at the start.
    files_differ: Option<String>,
    candidate: Option<Arc<Candidate>>,
}

struct Candidate {
    stored: Stored,
    policy: Result<Policy, PolicyError>,
    counting_since: Timestamp,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    decisions: u64,
    failed: u64,
    changed: BTreeMap<(bool, Ruling, Ruling), u64>,
    examples: VecDeque<Example>,
}

pub(super) struct Policies {
    held: RwLock<Arc<Held>>,
    /// Changes are made one at a time, from what they rest on to what they leave.
    changing: tokio::sync::Mutex<()>,
}

impl Policies {
    /// What is in force at the start, and what an operator should hear of it.
    pub(super) fn load(
        journal: &Journal,
        settings: &Settings,
        tools: &[Tool],
        now: Timestamp,
    ) -> Result<(Self, Vec<String>), Refusal> {
        let mut noticed = Vec::new();
        let stored = |key: &str| -> Result<Option<Stored>, Refusal> {
            let value = journal.get(Table::Meta, key).map_err(Refusal::from)?;
            value.map(serde_json::from_value).transpose().map_err(|e| {
                Refusal::new(Code::Failed, format!("the stored policy cannot be read: {e}")).next("turnback verify")
            })
        };
        let promoted = stored(PROMOTED)?;
        let mut files_differ = None;
        let active = match &promoted {
            None => Arc::clone(&settings.policy),
            Some(stored) => {
                let origin = &stored.origin;
                let whose = format!("the policy `{}` promoted at {}", visible(&origin.by), origin.since);
                files_differ = differs(&stored.sources, &settings.policy_files);
                if let Some(how) = &files_differ {
                    noticed.push(format!(
                        "{whose} is active, and the configured files are not it: {how}; to use them: turnback policy reload"
                    ));
                }
                Arc::new(Policy::compile(&stored.sources, tools).or_else(|errors| {
                    let why = errors.first().map_or_else(String::new, ToString::to_string);
                    noticed.push(format!(
                        "{whose} does not load any more, so nothing is permitted: {why}; turnback policy reload makes the \
                         configured files active"
                    ));
                    Policy::compile(&[], tools).map_err(|errors| refused(&errors))
                })?)
            }
        };
        let candidate = stored(CANDIDATE)?.map(|stored| {
            let candidate = Candidate::new(stored, tools, now);
            if let Err(why) = &candidate.policy {
                noticed.push(format!("the staged policy does not load any more and judges nothing: {why}"));
            }
            Arc::new(candidate)
        });
        let held = Held { active, promoted: promoted.map(Arc::new), files_differ, candidate };
        Ok((Self { held: RwLock::new(Arc::new(held)), changing: tokio::sync::Mutex::default() }, noticed))
    }

    /// What is in force now.
    pub(super) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, held: Held) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
    }
}

impl Candidate {
    fn new(stored: Stored, tools: &[Tool], now: Timestamp) -> Self {
        let policy = Policy::compile(&stored.sources, tools).map_err(first);
        Self { stored, policy, counting_since: now, tally: Mutex::default() }
    }

    fn view(&self) -> Staged {
        let tally = lock(&self.tally);
        let changed = tally.changed.iter().map(|((after, then, now), count)| Changed {
            phase: if *after { Phase::After } else { Phase::Before },
            then: *then,
            now: *now,
            count: *count,
        });
        Staged {
            policy: match &self.policy {
                Ok(policy) => policy.digest(),
                Err(_) => files_digest(&self.stored.sources),
            },
            origin: self.stored.origin.clone(),
            broken: self.policy.as_ref().err().cloned(),
            counting_since: self.counting_since,
            decisions: tally.decisions,
            failed: tally.failed,
            changed: changed.collect(),
            examples: tally.examples.iter().cloned().collect(),
        }
    }

    /// Counts what the candidate says where `decision` stands. Upholds `SHADOW`.
    fn count(&self, run: RunId, contract: &Contract, decision: &Decision, ask: impl FnOnce() -> Decision) {
        // Nothing of the candidate is kept over a panic, and the tally is only touched after it.
        let said = catch_unwind(AssertUnwindSafe(ask));
        let mut tally = lock(&self.tally);
        tally.decisions += 1;
        let Ok(said) = said else {
            tally.failed += 1;
            return;
        };
        let must = |decision: &Decision| decision.obligations().cloned().collect::<Vec<Obligation>>();
        if said.ruling == decision.ruling && must(&said) == must(decision) {
            return;
        }
        *tally.changed.entry((decision.phase == Phase::After, decision.ruling, said.ruling)).or_default() += 1;
        if tally.examples.len() == EXAMPLES {
            tally.examples.pop_front();
        }
        let reasons: Vec<&str> = said.decisive().map(|verdict| verdict.reason.as_str()).collect();
        tally.examples.push_back(Example {
            run,
            actor: contract.actor.clone(),
            tool: contract.tool.to_string(),
            phase: decision.phase,
            then: decision.ruling,
            now: said.ruling,
            reason: reasons.join("; "),
        });
    }
}

impl Held {
    /// The policy that decides.
    pub(super) fn active(&self) -> &Policy {
        &self.active
    }

    /// Asks the candidate, when there is one, what has just been decided.
    pub(super) fn beside(&self, phase: Phase, run: RunId, facts: &Facts<'_>, decision: &Decision) {
        let Some(candidate) = &self.candidate else { return };
        let Ok(policy) = &candidate.policy else { return };
        candidate.count(run, facts.contract, decision, || gates::decide(phase, &Facts { policy, ..*facts }));
    }

    fn view(&self) -> PolicyState {
        PolicyState {
            active: self.active.digest(),
            promoted: self.promoted.as_ref().map(|stored| stored.origin.clone()),
            files_differ: self.files_differ.clone(),
            staged: self.candidate.as_ref().map(|candidate| candidate.view()),
        }
    }
}

fn first(errors: Vec<PolicyError>) -> PolicyError {
    errors.into_iter().next().unwrap_or_else(|| PolicyError {
        file: "policy".to_owned(),
        line: 1,
        column: 1,
        message: "it does not load".to_owned(),
        next: None,
    })
}

fn refused(errors: &[PolicyError]) -> Refusal {
    let error = first(errors.to_vec());
    let refusal = Refusal::new(Code::BadInput, error.message)
        .at(format!("{}:{}:{}", error.file, error.line, error.column))
        .next("correct it; the active policy stays");
    match error.next {
        Some(next) => refusal.next(format!("{next}; the active policy stays")),
        None => refusal,
    }
}

fn files_digest(sources: &[Source]) -> Sha256 {
    let parts = sources.iter().flat_map(|source| [source.name.as_bytes(), source.text.as_bytes()]);
    Sha256::of_parts("turnback policy files v1", parts)
}

/// How the configured files differ from stored ones, by the names of the files without their folders.
fn differs(stored: &[Source], files: &[Source]) -> Option<String> {
    let by_name = |sources: &[Source]| -> BTreeMap<String, String> {
        let base = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        sources.iter().map(|source| (base(&source.name), source.text.clone())).collect()
    };
    let (stored, files) = (by_name(stored), by_name(files));
    let changed = files.iter().filter_map(|(name, text)| match stored.get(name) {
        None => Some(format!("`{}` is new", visible(name))),
        Some(then) => (then != text).then(|| format!("`{}` is another", visible(name))),
    });
    let gone =
        stored.keys().filter(|name| !files.contains_key(*name)).map(|name| format!("`{}` is not there", visible(name)));
    let all: Vec<String> = changed.chain(gone).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

impl Inner {
    /// Answers one request about the policy.
    pub(super) async fn policy(&self, what: PolicyRequest, by: &str) -> Result<Reply, Refusal> {
        match what {
            PolicyRequest::Explain { run } => return self.explain(&run).await,
            PolicyRequest::Staged => {}
            PolicyRequest::Stage { sources, reason } => self.stage_policy(sources, reason, by).await?,
            PolicyRequest::Promote { reason } => self.promote_policy(reason, by).await?,
            PolicyRequest::Drop { reason } => self.drop_policy(reason, by).await?,
            PolicyRequest::Reload { reason } => self.reload_policy(reason, by).await?,
        }
        Ok(Reply::Policy(Box::new(self.policies.held().view())))
    }

    fn all_tools(&self) -> Vec<Tool> {
        self.tools.values().cloned().collect()
    }

    fn origin(&self, reason: String, by: &str) -> Result<Origin, Refusal> {
        if reason.trim().is_empty() {
            return Err(Refusal::new(Code::BadInput, "say why: it stands in the record").at("reason"));
        }
        Ok(Origin { by: by.to_owned(), reason, since: self.now() })
    }

    async fn stage_policy(&self, sources: Vec<Source>, reason: String, by: &str) -> Result<(), Refusal> {
        let origin = self.origin(reason, by)?;
        if sources.is_empty() {
            return Err(Refusal::new(Code::NotFound, "no policy file: without one every action would be denied"));
        }
        let (tools, now) = (self.all_tools(), self.now());
        let stored = Stored { sources, origin };
        let candidate = blocking(move || Candidate::new(stored, &tools, now)).await?;
        let digest = match &candidate.policy {
            Ok(policy) => policy.digest(),
            Err(error) => return Err(refused(std::slice::from_ref(error))),
        };
        let _one_at_a_time = self.policies.changing.lock().await;
        let put = put(Table::Meta, CANDIDATE, &candidate.stored)?;
        self.record(PolicyChange::Staged, digest, &candidate.stored, vec![put]).await?;
        let held = self.policies.held();
        self.policies.set(held.with(Some(Arc::new(candidate))));
        Ok(())
    }

    async fn promote_policy(&self, reason: String, by: &str) -> Result<(), Refusal> {
        let origin = self.origin(reason, by)?;
        let _one_at_a_time = self.policies.changing.lock().await;
        let candidate = self.candidate()?;
        if let Err(error) = &candidate.policy {
            return Err(refused(std::slice::from_ref(error)));
        }
        // Compiled again rather than moved: decisions under way still count by the candidate.
        let (tools, sources) = (self.all_tools(), candidate.stored.sources.clone());
        let policy = blocking(move || Policy::compile(&sources, &tools)).await?.map_err(|errors| refused(&errors))?;
        let stored = Stored { sources: candidate.stored.sources.clone(), origin };
        let projections = vec![
            put(Table::Meta, PROMOTED, &stored)?,
            Projection::Delete { table: Table::Meta, key: CANDIDATE.to_owned() },
        ];
        self.record(PolicyChange::Promoted, policy.digest(), &stored, projections).await?;
        self.policies.set(Held {
            active: Arc::new(policy),
            promoted: Some(Arc::new(stored)),
            files_differ: None,
            candidate: None,
        });
        Ok(())
    }

    async fn drop_policy(&self, reason: String, by: &str) -> Result<(), Refusal> {
        let origin = self.origin(reason, by)?;
        let _one_at_a_time = self.policies.changing.lock().await;
        let candidate = self.candidate()?;
        let stored = Stored { sources: candidate.stored.sources.clone(), origin };
        let delete = Projection::Delete { table: Table::Meta, key: CANDIDATE.to_owned() };
        self.record(PolicyChange::Dropped, candidate.view().policy, &stored, vec![delete]).await?;
        let held = self.policies.held();
        self.policies.set(held.with(None));
        Ok(())
    }

    async fn reload_policy(&self, reason: String, by: &str) -> Result<(), Refusal> {
        let origin = self.origin(reason, by)?;
        let (path, tools) = (self.settings.policy_path.clone(), self.all_tools());
        let read = move || -> Result<_, Refusal> {
            let sources = policy_sources(&path)?;
            let policy = Policy::compile(&sources, &tools).map_err(|errors| refused(&errors))?;
            Ok((sources, policy))
        };
        let (sources, policy) = blocking(read).await??;
        let _one_at_a_time = self.policies.changing.lock().await;
        let stored = Stored { sources, origin };
        let delete = Projection::Delete { table: Table::Meta, key: PROMOTED.to_owned() };
        self.record(PolicyChange::Reloaded, policy.digest(), &stored, vec![delete]).await?;
        let candidate = self.policies.held().candidate.clone();
        self.policies.set(Held { active: Arc::new(policy), promoted: None, files_differ: None, candidate });
        Ok(())
    }

    fn candidate(&self) -> Result<Arc<Candidate>, Refusal> {
        self.policies.held().candidate.clone().ok_or_else(|| {
            Refusal::new(Code::NotFound, "no policy is staged").next("turnback policy stage <dir> --reason <why>")
        })
    }

    /// Makes a change durable, and what is active after it.
    async fn record(
        &self,
        change: PolicyChange,
        policy: Sha256,
        stored: &Stored,
        project: Vec<Projection>,
    ) -> Result<(), Refusal> {
        let Origin { by, reason, .. } = stored.origin.clone();
        tracing::info!("policy {policy} {} by {}: {}", change.word(), visible(&by), visible(&reason));
        let body = Body::PolicySet { change, policy, sources: stored.sources.clone(), by, reason };
        let at = self.now();
        let mut entries = vec![turnback_journal::Entry { at, body, project }];
        if matches!(change, PolicyChange::Promoted | PolicyChange::Reloaded) {
            let body = Body::ConfigActive { config: self.settings.config_digest, policy };
            entries.push(turnback_journal::Entry { at, body, project: Vec::new() });
        }
        self.append_batch(turnback_journal::Batch { entries, blobs: Vec::new() }).await
    }
}

impl Held {
    /// The same with another candidate, or none.
    fn with(&self, candidate: Option<Arc<Candidate>>) -> Self {
        Self {
            active: Arc::clone(&self.active),
            promoted: self.promoted.clone(),
            files_differ: self.files_differ.clone(),
            candidate,
        }
    }
}

#[cfg(test)]
mod tests {
    use turnback_core::contract::Actor;
    use turnback_core::decision::Verdict;
    use turnback_core::names::{EnvironmentName, ResourceName};
    use turnback_core::tool::Kind;

    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), text: text.to_owned() }
    }

    /// Invariant `SHADOW`: what fails or differs is counted, and nothing comes back.
    #[test]
    #[allow(clippy::panic, reason = "a candidate that panics is what it is about")]
    fn a_candidate_that_panics_is_counted_and_nothing_else() {
        let origin = Origin { by: "anna".into(), reason: "try".into(), since: Timestamp::UNIX_EPOCH };
        let candidate = Candidate::new(Stored { sources: Vec::new(), origin }, &[], Timestamp::UNIX_EPOCH);
        let contract = Contract::undo(
            Actor::Turnback,
            ResourceName::new("work").unwrap(),
            Kind::Files,
            EnvironmentName::new("test").unwrap(),
            "id".into(),
            Vec::new(),
        )
        .unwrap();
        let run = RunId::new(uuid::Uuid::nil());
        let decision = |ruling| {
            Decision::combine(Phase::After, Sha256::of(b""), vec![Verdict::new("authorization", ruling, "so")])
        };
        let allowed = decision(Ruling::Allow);
        candidate.count(run, &contract, &allowed, || panic!("a candidate's own fault"));
        candidate.count(run, &contract, &allowed, || decision(Ruling::Allow));
        for _ in 0..30 {
            candidate.count(run, &contract, &allowed, || decision(Ruling::Deny));
        }
        let view = candidate.view();
        assert_eq!((view.decisions, view.failed, view.examples.len()), (32, 1, EXAMPLES));
        let changed = Changed { phase: Phase::After, then: Ruling::Allow, now: Ruling::Deny, count: 30 };
        assert_eq!(view.changed, [changed]);
    }

    #[test]
    fn files_are_compared_by_name_and_content() {
        let stored = [source("a.cedar", "1"), source("b.cedar", "2")];
        assert_eq!(differs(&stored, &[source("/x/a.cedar", "1"), source("/x/b.cedar", "2")]), None);
        let now = [source("/x/a.cedar", "9"), source("/x/c.cedar", "3")];
        assert_eq!(differs(&stored, &now).unwrap(), "`a.cedar` is another, `c.cedar` is new, `b.cedar` is not there");
    }
}
