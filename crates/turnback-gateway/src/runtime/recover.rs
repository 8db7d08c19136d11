//! After a restart: what was under way is resolved through the same loop.
//!
//! Nothing is repeated blindly. What was not intended is abandoned, because its caller and its staged
//! work are gone; what was approved is judged and staged again; what was intended is probed.

use std::sync::Arc;

use jiff::Timestamp;
use turnback_core::refusal::Refusal;
use turnback_effects::Fate;
use turnback_journal::RowFilter;

use super::drive::Live;
use super::steady::LEEWAY;
use super::{Inner, lock};

/// Resolves every run that was under way, sweeps what staging left behind, restores budgets.
///
/// With a `fresh` journal nothing is swept: what lies in the slots then belongs to a journal that is gone,
/// and may be the only copy of what an agent deleted.
pub(super) async fn recover(inner: &Arc<Inner>, fresh: bool) -> Result<(), Refusal> {
    if fresh {
        return Ok(());
    }
    super::budgets::restore(inner)?;
    inner.restore_context().await?;
    inner.restore_plans().await?;
    restore_joinable(inner)?;
    // First, because what was approved is staged again under the same name.
    sweep(inner)?;
    let open = inner.journal.rows(&RowFilter { open: true, ..RowFilter::default() }).map_err(Refusal::from)?;
    // A question from the future means that the clock was set back while nothing ran. It would be open to
    // answers for as long again as the clock was set back.
    let latest = inner.now().saturating_add(LEEWAY).unwrap_or(Timestamp::MAX);
    for row in open.iter().filter(|row| row.state == "parked" && row.updated > latest) {
        tracing::warn!(run = %row.run, asked = %row.updated, "the clock went back: its question counts as expired");
        inner.silence(inner.load(row.run).await?).await?;
    }
    // Oldest first, so that a run is resolved before an undo of it is.
    let under_way: Vec<_> = open.into_iter().rev().filter(|row| row.state != "parked").collect();
    for row in &under_way {
        let run = inner.load(row.run).await?;
        let commands = run.resume();
        let state = run.state.word();
        match inner.drive_to_end(Live::resumed(run, commands)).await {
            Ok(live) => {
                tracing::info!(run = %row.run, was = state, now = live.run.state.word(), "resolved after restart")
            }
            Err(refusal) if inner.journal.poisoned().is_some() => return Err(refusal),
            // A resource that is gone must not keep the others from being served.
            Err(refusal) => tracing::error!(run = %row.run, was = state, %refusal, "could not be resolved"),
        }
    }
    inner.restore_unsettled().await?;
    // Again, because a probe may have found that what was intended never happened.
    if under_way.is_empty() { Ok(()) } else { sweep(inner) }
}

/// Removes what was staged by runs of which nothing was ever done. Only while nothing is staged.
fn sweep(inner: &Inner) -> Result<(), Refusal> {
    // One look at an index for the many that are kept; what it does not name is looked up in full, whose
    // sum is checked, before it is removed.
    let acted = inner.journal.runs_with_effect().map_err(Refusal::from)?;
    let fate = |id| {
        if acted.binary_search(&id).is_ok() {
            return Fate::Alive;
        }
        match inner.journal.row(id) {
            // Set from the intent on, for as long as the effect is not known to be absent.
            Ok(Some(row)) if row.committed.is_none() => Fate::Nothing,
            Ok(None) => Fate::Unheard,
            // Unknown is kept: a pre-image thrown away cannot be brought back.
            Ok(Some(_)) | Err(_) => Fate::Alive,
        }
    };
    inner.resources.values().try_for_each(|bound| bound.resource.domain.sweep(&fate))
}

fn restore_joinable(inner: &Inner) -> Result<(), Refusal> {
    let rows = inner.journal.rows(&RowFilter { unanswered: true, ..RowFilter::default() }).map_err(Refusal::from)?;
    let mut joinable = lock(&inner.joinable);
    for row in rows.into_iter().filter(|row| row.undelivered) {
        joinable.insert(turnback_core::digest::ActionDigest(row.action), row.run);
        if let (Some(agent), "parked") = (row.actor.agent(), row.state.as_str()) {
            // Asked before, and perhaps under a larger bound: what waits, waits on.
            inner.questions.open(agent, true)?;
        }
    }
    Ok(())
}
