//! The read-set: what each agent read through Turnback.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use turnback_core::contract::Contract;
use turnback_core::digest::Sha256;
use turnback_core::gates::evidence::{Again, Held, ReadDigest, Scope};
use turnback_core::names::{AgentName, ResourceName, RunId, ToolName};
use turnback_core::refusal::Refusal;
use turnback_core::run::{Event, Run};
use turnback_core::trace::TraceId;
use turnback_journal::RowFilter;

use super::super::{Inner, lock};

/// Reads of one agent that are remembered, over all its traces: the latest. A query asked again in the same
/// trace counts once.
pub(super) const KEPT: usize = 256;

/// Longest arguments remembered, in bytes of their canonical form. A read with longer ones is forgotten at
/// once.
const ARGUMENTS_LIMIT: usize = 8 << 10;

/// Most characters of arguments in a sentence.
const SHOWN: usize = 120;

/// One read.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) run: RunId,
    at: Timestamp,
    pub(super) tool: ToolName,
    resource: ResourceName,
    trace: Option<TraceId>,
    pub(super) arguments: Value,
    what: String,
    /// Tool and arguments: the same query.
    query: Sha256,
    digest: ReadDigest,
    too_long: bool,
}

impl Read {
    /// Of a run that was just released.
    pub(super) fn new(run: &Run, digest: ReadDigest) -> Self {
        let contract = &run.contract;
        let arguments = turnback_core::json::canonical(&contract.arguments);
        let text = String::from_utf8_lossy(&arguments);
        let mut what: String = text.chars().take(SHOWN).collect();
        if what.len() < text.len() {
            what.push_str("...");
        }
        if !run.reads.is_empty() {
            let places: Vec<&str> = run.reads.iter().take(5).map(String::as_str).collect();
            what = format!("{} with {what}", places.join(", "));
        }
        Self {
            run: run.id,
            at: run.updated,
            tool: contract.tool.clone(),
            resource: contract.resource.clone(),
            trace: contract.trace.clone(),
            query: Sha256::of_parts("turnback query v1", [contract.tool.as_str().as_bytes(), arguments.as_slice()]),
            too_long: arguments.len() > ARGUMENTS_LIMIT,
            arguments: contract.arguments.clone(),
            what,
            digest,
        }
    }

    /// As the gate sees it, with what reading it again found.
    pub(super) fn held(&self, again: &BTreeMap<RunId, Result<ReadDigest, String>>) -> Held {
        let again = match again.get(&self.run) {
            None => Again::NotYet,
            Some(Ok(now)) if now.whole == self.digest.whole => Again::Same,
            Some(Ok(now)) => Again::Changed { digest: now.clone() },
            Some(Err(why)) => Again::Unreachable { why: why.clone() },
        };
        Held {
            run: self.run,
            at: self.at,
            tool: self.tool.clone(),
            resource: self.resource.clone(),
            what: self.what.clone(),
            digest: self.digest.clone(),
            again,
        }
    }
}

/// What one agent read, oldest first.
#[derive(Debug, Default)]
pub(super) struct Memory {
    reads: VecDeque<Read>,
    /// When the latest read that had to be forgotten was made.
    forgotten: Option<Timestamp>,
}

/// What a rule finds in it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) reads: Vec<Read>,
    pub(super) forgotten: bool,
}

impl Memory {
    pub(super) fn add(&mut self, read: Read) {
        // What the agent decides on is what it saw last.
        self.reads.retain(|r| r.query != read.query || r.trace != read.trace);
        if read.too_long {
            self.forgotten = self.forgotten.max(Some(read.at));
            return;
        }
        self.reads.push_back(read);
        if self.reads.len() > KEPT
            && let Some(oldest) = self.reads.pop_front()
        {
            self.forgotten = self.forgotten.max(Some(oldest.at));
        }
    }

    /// Lets go what is older than the window.
    pub(super) fn forget_before(&mut self, now: Timestamp, window: SignedDuration) {
        let old = |at: Timestamp| now.duration_since(at) > window;
        self.reads.retain(|read| !old(read.at));
        self.forgotten = self.forgotten.filter(|at| !old(*at));
    }

    /// The reads a write depends on. A query asked again counts with its latest answer.
    pub(super) fn find(&self, scope: Option<Scope>, contract: &Contract) -> Found {
        let Some(scope) = scope else { return Found::default() };
        let counts = |read: &Read| match (scope, &contract.trace) {
            (Scope::SameResource, _) => read.resource == contract.resource,
            (Scope::Trace, Some(trace)) => read.trace.as_ref() == Some(trace),
            (Scope::Trace, None) | (Scope::All, _) => true,
        };
        let mut queries = HashSet::new();
        let mut reads: Vec<Read> =
            self.reads.iter().rev().filter(|r| counts(r) && queries.insert(r.query)).cloned().collect();
        reads.reverse();
        Found { reads, forgotten: self.forgotten.is_some() }
    }
}

impl Inner {
    /// Reads back what an agent read: as many reads as are kept, from the record of each.
    pub(super) async fn restore_reads(self: &Arc<Self>, agent: &AgentName) -> Result<(), Refusal> {
        if self.context.rules.evidence.iter().all(|rule| rule.reads.is_none()) {
            return Ok(());
        }
        let filter = RowFilter {
            agent: Some(agent.clone()),
            state: Some("released".into()),
            limit: Some(KEPT),
            ..RowFilter::default()
        };
        let rows = self.journal.rows(&filter).map_err(Refusal::from)?;
        let mut memory = Memory::default();
        // Whether there were more nobody has looked.
        let full = rows.len() == KEPT;
        if let Some(oldest) = rows.last().filter(|_| full) {
            memory.forgotten = Some(oldest.updated);
        }
        for row in rows.iter().rev() {
            if self.started.duration_since(row.updated) > self.context.rules.reads_for {
                continue;
            }
            let (run, history) = self.load_with_history(row.run).await?;
            let released = history.into_iter().find_map(|happened| match happened.event {
                Event::Released { digest, .. } => digest,
                _ => None,
            });
            if let Some(digest) = released {
                memory.add(Read::new(&run, digest));
            }
        }
        lock(&self.context.reads).insert(agent.clone(), memory);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(n: u128, query: &str, trace: Option<&str>, at: i64) -> Read {
        Read {
            run: RunId::new(uuid::Uuid::from_u128(n)),
            at: Timestamp::from_second(at).unwrap(),
            tool: ToolName::new("shop__query").unwrap(),
            resource: ResourceName::new("shop").unwrap(),
            trace: trace.map(|t| TraceId::new(&t.repeat(32)).unwrap()),
            arguments: Value::Null,
            what: String::new(),
            query: Sha256::of(query.as_bytes()),
            digest: ReadDigest::of(&Value::Null),
            too_long: false,
        }
    }

    #[test]
    fn a_query_asked_again_counts_once_in_its_trace() {
        let mut memory = Memory::default();
        memory.add(read(1, "a", Some("1"), 1));
        memory.add(read(2, "a", Some("2"), 2));
        memory.add(read(3, "a", Some("1"), 3));
        let runs: Vec<u128> = memory.reads.iter().map(|r| r.run.uuid().as_u128()).collect();
        assert_eq!(runs, [2, 3]);
    }

    #[test]
    fn what_had_to_be_forgotten_is_known_to_be_forgotten_until_the_window_is_over() {
        let mut memory = Memory::default();
        for n in 0..KEPT as i64 {
            memory.add(read(1, &n.to_string(), None, n));
        }
        assert_eq!((memory.reads.len(), memory.forgotten), (KEPT, None));
        memory.add(read(1, "one more", None, KEPT as i64));
        assert_eq!(memory.reads.len(), KEPT);
        assert_eq!(memory.forgotten, Some(Timestamp::from_second(0).unwrap()));
        let now = Timestamp::from_second(100).unwrap();
        memory.forget_before(now, SignedDuration::from_secs(100));
        assert!(memory.forgotten.is_some());
        memory.forget_before(now, SignedDuration::from_secs(99));
        assert!(memory.forgotten.is_none());
        let long = Read { too_long: true, ..read(1, "long", None, 500) };
        memory.add(long);
        assert_eq!(memory.forgotten, Some(Timestamp::from_second(500).unwrap()));
    }
}
