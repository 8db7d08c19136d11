//! What an undo would do, or why it cannot.

use jiff::Timestamp;
use turnback_core::rollback::Level;
use turnback_core::text::visible;
use turnback_gateway::operator::protocol::UndoPlan;

use super::style::{BAD, CARE, GOOD, STRONG, next, paint};
use super::{diff, number, runs, time};

/// The plan. `again` is the command that does it, as it was typed without `--dry-run`.
pub(crate) fn plan(plan: &UndoPlan, again: &str, now: Timestamp) -> String {
    let mut out = String::new();
    let runs_in_all: usize = plan.parts.iter().map(|part| part.runs.len()).sum();
    if runs_in_all == 0 && plan.blockers.is_empty() {
        return "there is nothing to undo\n".into();
    }
    let places = number::of(plan.parts.len() as u64, "resource", "resources");
    let heading = format!("undo {} on {places}", number::of(runs_in_all as u64, "run", "runs"));
    out.push_str(&format!("{}\n", paint(STRONG, &heading)));
    for part in &plan.parts {
        out.push_str(&format!("\n{}  {}\n", paint(STRONG, &visible(&part.resource)), short_list(&part.runs)));
        if let Some(summary) = &part.summary {
            out.push_str(&format!("  it {}\n", visible(summary)));
        }
        if let Some(level) = part.level {
            let name = Level::from_number(level).map_or("unknown", Level::name);
            out.push_str(&format!("  its own way back: {level} {name}\n"));
        }
        for residue in &part.residue {
            out.push_str(&format!("  {} {}\n", paint(CARE, "not restored:"), visible(residue)));
        }
        if let Some(text) = &part.diff {
            out.push_str(&diff::diff(text));
        }
    }
    if !plan.readers.is_empty() {
        out.push_str(&format!("\n{}\n", paint(CARE, "read this data since, and are not undone")));
        for row in &plan.readers {
            out.push_str(&format!(
                "  {}  {}  {}  {}\n",
                row.run.short(),
                runs::who(&row.actor),
                visible(&row.tool),
                time::relative(now, row.proposed)
            ));
        }
    }
    if plan.blockers.is_empty() {
        out.push_str(&format!("\n{}\n{}\n", paint(GOOD, "nothing is in the way"), next(again)));
        return out;
    }
    out.push_str(&format!("\n{}\n", paint(BAD, "in the way; nothing was changed")));
    for blocker in &plan.blockers {
        let conflict = &blocker.conflict;
        let fields = if conflict.fields.is_empty() {
            String::new()
        } else {
            format!(" ({})", visible(&conflict.fields.join(", ")))
        };
        let by = blocker.by.map_or_else(|| "by somebody outside Turnback".into(), |run| format!("by {}", run.short()));
        out.push_str(&format!("  {}{fields}: {}, {by}\n", visible(&conflict.place), visible(&conflict.why)));
    }
    let culprit = plan.blockers.iter().find_map(|blocker| blocker.by);
    out.push_str(&match culprit {
        Some(run) => format!("\n{}\n", next(&format!("turnback show {}", run.short()))),
        None => {
            "\nnext: somebody else's work stands on these places; settle it with them, then ask again\n".to_string()
        }
    });
    out
}

fn short_list(runs: &[String]) -> String {
    runs.iter()
        .map(|run| run.parse::<turnback_core::names::RunId>().map_or_else(|_| visible(run), |id| id.short()))
        .collect::<Vec<_>>()
        .join(", ")
}
