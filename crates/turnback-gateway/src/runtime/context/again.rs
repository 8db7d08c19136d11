//! Reading again what was read before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use turnback_core::contract::{Actor, Contract};
use turnback_core::gates::evidence::ReadDigest;
use turnback_core::names::RunId;
use turnback_core::refusal::{Code, Refusal};
use turnback_effects::Bounds;

use super::super::{Inner, started};
use super::reads::Read;

/// How long work that keeps to its own limit is waited for beyond it.
const GRACE: Duration = Duration::from_secs(1);

/// What reading again found for each run that was asked for.
type Found = BTreeMap<RunId, Result<ReadDigest, String>>;

impl Inner {
    /// Reads everything once more, with the same tool and arguments, through the same domain. All of it
    /// together is bounded by `[context] time`; what is not read by then is late.
    pub(super) async fn read_again<'a>(self: &Arc<Self>, reads: impl Iterator<Item = &'a Read>) -> Found {
        let mut wanted: BTreeMap<RunId, Read> = BTreeMap::new();
        for read in reads {
            wanted.entry(read.run).or_insert_with(|| read.clone());
        }
        if wanted.is_empty() {
            return Found::new();
        }
        let time = self.context.rules.time;
        let late = format!("it took longer than {} ms", time.as_millis());
        let runs: Vec<RunId> = wanted.keys().copied().collect();
        let (inner, too_late) = (Arc::clone(self), late.clone());
        let work = started(move || {
            let deadline = Instant::now() + time;
            let read = |read: &Read| {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    Err(too_late.clone())
                } else {
                    inner.once_more(read, left).map_err(|e| e.to_string())
                }
            };
            wanted.iter().map(|(run, one)| (*run, read(one))).collect::<Found>()
        });
        let all = |why: String| runs.iter().map(|run| (*run, Err(why.clone()))).collect();
        match tokio::time::timeout(time + GRACE, work).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => all(format!("internal failure: {e}")),
            Err(_) => all(late),
        }
    }

    fn once_more(&self, read: &Read, left: Duration) -> Result<ReadDigest, Refusal> {
        let gone = || Refusal::new(Code::UnknownTool, "that tool is not there any more").at(read.tool.as_str());
        let tool = self.tools.get(read.tool.as_str()).ok_or_else(gone)?;
        let domain = &self.bound(&tool.resource)?.resource.domain;
        let arguments = turnback_core::json::canonical(&read.arguments);
        let contract = Contract::parse(tool, Actor::Turnback, None, &arguments, None, |l, a| domain.aim(l, a))?;
        let bounds = &self.settings.bounds;
        let bounds = Bounds { time: left.min(bounds.time), lock_wait: left.min(bounds.lock_wait), ..bounds.clone() };
        Ok(ReadDigest::of(&domain.read(&contract, &bounds)?.reply))
    }
}
