//! What kind of content each agent, and each trace, has read.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use turnback_core::gates::flow::{Label, Labels, Reader, Seen};
use turnback_core::names::AgentName;
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::Run;
use turnback_core::trace::TraceId;
use turnback_journal::{Projection, Table};

use super::super::{Inner, lock};
use crate::operator::protocol::{LabelView, Reply};

/// What the keys of projected labels begin with.
pub(super) const PREFIX: &str = "labels ";

/// A label read again within this time is not written down again; the window is longer by it.
const GRAIN: SignedDuration = SignedDuration::from_secs(60);

/// Traces kept apart. Beyond it, what is read in a further trace counts for every trace.
const TRACES: usize = 10_000;

/// Labels of one reader, as they are projected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    who: Reader,
    labels: Labels,
}

/// Everybody's labels.
#[derive(Debug, Default)]
pub(super) struct Board(HashMap<Reader, Labels>);

fn fresh(seen: &Seen, now: Timestamp, window: SignedDuration) -> bool {
    now.duration_since(seen.at) <= window.saturating_add(GRAIN)
}

impl Board {
    pub(super) fn restore(&mut self, kept: Kept) {
        self.0.insert(kept.who, kept.labels);
    }

    /// What counts against an action: what its agent read, and what was read in its trace.
    pub(super) fn of(
        &self,
        agent: &AgentName,
        trace: Option<&TraceId>,
        now: Timestamp,
        window: SignedDuration,
    ) -> Labels {
        let traced = trace.map(|trace| Reader::Trace(trace.clone()));
        let any = trace.map(|_| Reader::AnyTrace);
        let mut found = Labels::new();
        for who in [Some(Reader::Agent(agent.clone())), traced, any].into_iter().flatten() {
            for (label, seen) in self.0.get(&who).into_iter().flatten().filter(|(_, seen)| fresh(seen, now, window)) {
                if found.get(label).is_none_or(|other: &Seen| other.at < seen.at) {
                    found.insert(*label, seen.clone());
                }
            }
        }
        found
    }

    /// Who must be told to have read these labels now, with all the labels they then have.
    fn told(&self, agent: &AgentName, trace: Option<&TraceId>, labels: &[Label], seen: &Seen) -> Vec<Kept> {
        let traced = trace.map(|trace| {
            let who = Reader::Trace(trace.clone());
            if self.0.contains_key(&who) || self.0.len() < TRACES { who } else { Reader::AnyTrace }
        });
        [Some(Reader::Agent(agent.clone())), traced]
            .into_iter()
            .flatten()
            .filter_map(|who| {
                let mut all = self.0.get(&who).cloned().unwrap_or_default();
                let due = |label: &&Label| all.get(label).is_none_or(|s| seen.at.duration_since(s.at) > GRAIN);
                let new: Vec<Label> = labels.iter().filter(due).copied().collect();
                if new.is_empty() {
                    return None;
                }
                all.extend(new.into_iter().map(|label| (label, seen.clone())));
                Some(Kept { who, labels: all })
            })
            .collect()
    }
}

fn key(who: &Reader) -> String {
    format!("{PREFIX}{who}")
}

impl Inner {
    /// Labels whoever made this run. `DURABLE-FIRST`: on disk, then in memory, then whoever asked hears what
    /// was read.
    pub(super) async fn label(&self, run: &Run, labels: &[Label]) -> Result<(), Refusal> {
        let (Some(agent), false) = (run.contract.actor.agent(), labels.is_empty()) else { return Ok(()) };
        let seen = Seen { at: run.updated, run: run.id };
        let told = lock(&self.context.labels).told(agent, run.contract.trace.as_ref(), labels, &seen);
        if told.is_empty() {
            return Ok(());
        }
        let bodies = told.iter().map(|kept| {
            let body = Body::Labelled { who: kept.who.clone(), labels: kept.labels.clone() };
            (body, Some(Projection::Put { table: Table::Meta, key: key(&kept.who), value: json!(kept) }))
        });
        self.append(bodies.collect()).await?;
        let mut board = lock(&self.context.labels);
        for kept in told {
            // Somebody else may have added to them meanwhile.
            board.0.entry(kept.who).or_default().extend(kept.labels);
        }
        Ok(())
    }

    /// Everybody's labels that still count.
    pub(in super::super) fn labels(&self) -> Reply {
        let (now, window) = (self.now(), self.context.rules.labels_for);
        let mut views: Vec<LabelView> = lock(&self.context.labels)
            .0
            .iter()
            .flat_map(|(who, labels)| labels.iter().map(move |(label, seen)| (who, label, seen)))
            .filter(|(_, _, seen)| fresh(seen, now, window))
            .map(|(who, label, seen)| LabelView {
                who: who.clone(),
                label: *label,
                read: seen.at,
                run: seen.run,
                until: seen.at.saturating_add(window.saturating_add(GRAIN)).unwrap_or(Timestamp::MAX),
            })
            .collect();
        views.sort_by(|a, b| (&a.who, a.label).cmp(&(&b.who, b.label)));
        Reply::Labels(views)
    }

    /// Clears somebody's labels: journaled, then done.
    pub(in super::super) async fn clear_labels(&self, who: Reader, reason: String, by: &str) -> Result<Reply, Refusal> {
        if reason.trim().is_empty() {
            return Err(Refusal::new(Code::BadInput, "clearing labels needs a reason").at("reason"));
        }
        if !lock(&self.context.labels).0.contains_key(&who) {
            return Err(Refusal::new(Code::NotFound, format!("{who} has no labels")).next("see: turnback labels"));
        }
        let body = Body::LabelsCleared { who: who.clone(), by: by.to_owned(), reason };
        self.append(vec![(body, Some(Projection::Delete { table: Table::Meta, key: key(&who) }))]).await?;
        lock(&self.context.labels).0.remove(&who);
        Ok(Reply::Done)
    }
}
