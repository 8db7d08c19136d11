//! What an action rests on and follows on: the facts of the gates `evidence` and `flow`.
//!
//! Owns what is remembered between actions – reads, labels, refused intents, histories – and what is asked
//! about them before a decision. Everything here can be read back from the journal, and is after a restart.
//! Decides nothing.

mod again;
mod labels;
mod reads;
mod refused;
mod sources;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use turnback_core::contract::Contract;
use turnback_core::decision::Phase;
use turnback_core::gates::evidence::{Applied, Evidence, Quantity, ReadDigest, Scope};
use turnback_core::gates::flow::{Flow, Label};
use turnback_core::names::AgentName;
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::robust::Number;
use turnback_core::run::{Outcome, Run, State};
use turnback_core::tool::Risk;
use turnback_effects::Reading;
use turnback_journal::{Entry, Journal, Projection, Table};

use super::drive::Live;
use super::{Inner, lock};
use crate::config::Context as Rules;

/// Values of one history that are kept, the latest.
const HISTORY_KEPT: usize = 256;

/// What is remembered between actions.
pub(super) struct Context {
    rules: Rules,
    reads: Mutex<HashMap<AgentName, reads::Memory>>,
    labels: Mutex<labels::Board>,
    refused: Mutex<HashMap<AgentName, refused::Memory>>,
    histories: Mutex<HashMap<String, Vec<Number>>>,
}

/// What was looked up for one decision.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) flow: Option<Flow>,
    pub(super) evidence: Option<Evidence>,
    pub(super) collision: Option<turnback_core::gates::collision::Collision>,
    pub(super) remote_flags: Vec<turnback_core::flags::Said>,
    pub(super) plan: Option<turnback_core::gates::plan::Planned>,
}

impl Context {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            reads: Mutex::default(),
            labels: Mutex::default(),
            refused: Mutex::default(),
            histories: Mutex::default(),
        }
    }

    /// The digest of what a read answered, when a write may have to rest on it. Hashing is the cost of
    /// remembering, so nothing else is hashed.
    pub(super) fn digest(&self, contract: &Contract, reading: &Reading) -> Option<ReadDigest> {
        contract.actor.agent()?;
        let wanted = self.rules.evidence.iter().any(|rule| match rule.reads.as_ref().map(|r| r.scope) {
            None => false,
            Some(Scope::SameResource) => rule.of.resources.is_empty() || rule.of.resources.contains(&contract.resource),
            Some(Scope::Trace | Scope::All) => true,
        });
        wanted.then(|| ReadDigest::of(&reading.reply))
    }

    /// The labels of what was read at some places of the contract's resource. `None`: nobody knows where.
    fn labels_of(&self, contract: &Contract, places: Option<&[String]>) -> Vec<Label> {
        let mut found: Vec<Label> = if contract.risk == Risk::SensitiveRead { vec![Label::Secret] } else { Vec::new() };
        for labelled in self.rules.labels.iter().filter(|l| l.resource == contract.resource) {
            if labelled.covers(contract.kind, places) {
                found.extend(&labelled.labels);
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// A value projected by this module, read back.
fn kept<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|e| {
        Refusal::new(Code::Failed, format!("what is remembered cannot be read back: {e}")).next("turnback verify")
    })
}

impl Inner {
    /// Looks up what the gates of a phase want to know. After staging what was read is read again and
    /// sources are asked: nobody is told anything before that ended or its time is over.
    pub(super) async fn look_up(self: &Arc<Self>, phase: Phase, run: &Run) -> Looked {
        let (mut looked, found) = self.remembered(run);
        if let (Some(evidence), Phase::After) = (&mut looked.evidence, phase) {
            let again = self.read_again(found.iter().flat_map(|f| &f.reads)).await;
            evidence.sources = self.ask_sources(evidence.rules.iter().map(|a| &a.rule)).await;
            for (applied, found) in evidence.rules.iter_mut().zip(found) {
                applied.reads = found.reads.iter().map(|read| read.held(&again)).collect();
            }
        }
        looked
    }

    /// What the first group of gates wants to know: everything that is known without asking anybody.
    pub(super) fn known(&self, run: &Run) -> Looked {
        self.remembered(run).0
    }

    /// What is remembered that concerns a run; the reads once more, rule by rule, for reading them again.
    fn remembered(&self, run: &Run) -> (Looked, Vec<reads::Found>) {
        let Some(agent) = run.contract.actor.agent() else { return (Looked::default(), Vec::new()) };
        let (evidence, found) = self.evidence(agent, run).unzip();
        (Looked { flow: self.flow(agent, &run.contract), evidence, ..Looked::default() }, found.unwrap_or_default())
    }

    fn flow(&self, agent: &AgentName, contract: &Contract) -> Option<Flow> {
        let (context, now) = (&self.context, self.now());
        let rules: Vec<_> = context.rules.flow.iter().filter(|rule| rule.then.may_concern(contract)).cloned().collect();
        let labels = if rules.is_empty() {
            BTreeMap::new()
        } else {
            lock(&context.labels).of(agent, contract.trace.as_ref(), now, context.rules.labels_for)
        };
        let refused = if contract.writes() {
            lock(&context.refused)
                .get_mut(agent)
                .map_or_else(Vec::new, |memory| memory.on(&contract.target.identity, now, context.rules.refused_for))
        } else {
            Vec::new()
        };
        let silent = labels.is_empty() && refused.is_empty();
        (!silent).then_some(Flow { labels, rules, refused })
    }

    fn evidence(&self, agent: &AgentName, run: &Run) -> Option<(Evidence, Vec<reads::Found>)> {
        let (context, contract) = (&self.context, &run.contract);
        if !contract.writes() {
            return None;
        }
        let mut rules: Vec<Applied> = context
            .rules
            .evidence
            .iter()
            .filter(|rule| rule.of.may_concern(contract))
            .map(|rule| Applied { rule: rule.clone(), reads: Vec::new(), forgotten: false })
            .collect();
        if rules.is_empty() {
            return None;
        }
        let found: Vec<reads::Found> = {
            let mut memories = lock(&context.reads);
            let memory = memories.entry(agent.clone()).or_default();
            memory.forget_before(self.now(), context.rules.reads_for);
            rules.iter().map(|a| memory.find(a.rule.reads.as_ref().map(|r| r.scope), contract)).collect()
        };
        for (applied, found) in rules.iter_mut().zip(&found) {
            applied.forgotten = found.forgotten;
            applied.reads = found.reads.iter().map(|read| read.held(&BTreeMap::new())).collect();
        }
        let histories = lock(&context.histories);
        let histories = rules
            .iter()
            .flat_map(|a| &a.rule.usual)
            .map(|usual| usual.of.key(&contract.tool))
            .filter_map(|key| histories.get(&key).map(|values| (key, values.clone())))
            .collect();
        Some((Evidence { asked: run.proposed, rules, sources: BTreeMap::new(), histories }, found))
    }

    /// Remembers a read that is about to be released. What it was labelled with is durable when this
    /// returns: the agent must not know what the record does not say it knows.
    pub(super) async fn remember(&self, run: &Run, digest: Option<ReadDigest>) -> Result<(), Refusal> {
        let contract = &run.contract;
        let Some(agent) = contract.actor.agent() else { return Ok(()) };
        if let Some(digest) = digest {
            let read = reads::Read::new(run, digest);
            lock(&self.context.reads).entry(agent.clone()).or_default().add(read);
        }
        let labels = self.context.labels_of(contract, Some(&run.reads));
        self.label(run, &labels).await
    }

    /// Takes note of how a run ended, before anybody is told.
    pub(super) async fn ended(&self, run: &Run) -> Result<(), Refusal> {
        let Some(agent) = run.contract.actor.agent() else { return Ok(()) };
        if let Some(intent) = turnback_core::gates::flow::Intent::of(run) {
            lock(&self.context.refused).entry(agent.clone()).or_default().add(intent);
        }
        let State::Done(done) = &run.state else { return Ok(()) };
        if run.approval().is_some()
            && let Some(memory) = lock(&self.context.refused).get_mut(agent)
        {
            memory.answered(run);
        }
        let reply = &done.allowed.measurement.effect.reply;
        if reply.get("rows").and_then(serde_json::Value::as_array).is_some_and(|rows| !rows.is_empty()) {
            // A write that answers with rows has read them, from which tables is not told.
            let labels = self.context.labels_of(&run.contract, None);
            self.label(run, &labels).await?;
        }
        Ok(())
    }

    /// Adds the numbers a committed action rested on to their histories. Only those: what was refused must
    /// not become what is usual.
    pub(super) fn note_values(&self, live: &mut Live, outcome: &Outcome) {
        let (Outcome::Succeeded, Some(evidence)) = (outcome, live.evidence.take()) else { return };
        let contract = &live.run.contract;
        let mut values = BTreeMap::new();
        for usual in evidence.rules.iter().flat_map(|a| &a.rule.usual) {
            let value = match &usual.of {
                Quantity::Source(name) => evidence.sources.get(name).and_then(|o| o.value.clone().ok()),
                Quantity::Field(pointer) => contract.arguments.pointer(pointer).and_then(Number::of_json),
            };
            values.extend(value.map(|value| (usual.of.key(&contract.tool), value)));
        }
        if values.is_empty() {
            return;
        }
        let mut project = Vec::new();
        {
            let mut histories = lock(&self.context.histories);
            for (key, value) in &values {
                let history = histories.entry(key.clone()).or_default();
                history.push(*value);
                let over = history.len().saturating_sub(HISTORY_KEPT);
                history.drain(..over);
                let value = serde_json::json!(history);
                project.push(Projection::Put { table: Table::Meta, key: format!("history {key}"), value });
            }
        }
        live.also(Entry { at: self.now(), body: Body::Noted { run: live.run.id, values }, project });
    }

    /// Reads back what a restart took from memory.
    pub(super) async fn restore_context(self: &Arc<Self>) -> Result<(), Refusal> {
        self.restore_projected(&self.journal)?;
        let agents: Vec<AgentName> = self.board.view().agents.keys().cloned().collect();
        for agent in agents {
            self.restore_reads(&agent).await?;
            self.restore_refused(&agent).await?;
        }
        Ok(())
    }

    fn restore_projected(&self, journal: &Journal) -> Result<(), Refusal> {
        for (key, value) in journal.table(Table::Meta).map_err(Refusal::from)? {
            if let Some(name) = key.strip_prefix("history ") {
                lock(&self.context.histories).insert(name.to_owned(), kept(value)?);
            } else if key.starts_with(labels::PREFIX) {
                lock(&self.context.labels).restore(kept(value)?);
            }
        }
        Ok(())
    }
}
