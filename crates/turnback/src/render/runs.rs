//! The list of runs.

use jiff::Timestamp;
use turnback_core::contract::Actor;
use turnback_core::record::Row;
use turnback_core::rollback::Level;
use turnback_core::text::visible;

use super::style::{self, STRONG};
use super::table::{Cell, table};
use super::{number, time};

/// Runs, newest first, and the one next command.
pub(crate) fn runs(rows: &[Row], now: Timestamp) -> String {
    if rows.is_empty() {
        return "no runs\n".into();
    }
    let cells = rows
        .iter()
        .map(|row| {
            vec![
                Cell::styled(STRONG, row.run.short()),
                Cell::new(time::relative(now, row.proposed)),
                Cell::new(who(&row.actor)),
                Cell::new(visible(&row.tool)),
                Cell::styled(style::state(&row.state), state(&row.state)),
                way_back(row.level),
                Cell::new(short(&visible(&row.summary))),
            ]
        })
        .collect();
    let mut out = table(&["RUN", "WHEN", "WHO", "TOOL", "STATE", "WAY BACK", "WHAT"], cells);
    let waiting: Vec<&Row> = rows.iter().filter(|row| row.question.is_some() && !row.over).collect();
    let doubtful = rows.iter().find(|row| matches!(row.state.as_str(), "in_doubt" | "stuck" | "diverged"));
    out.push('\n');
    if let Some(row) = doubtful {
        out.push_str(&format!("one run needs a look: it is {}\n", state(&row.state)));
        out.push_str(&style::next(&format!("turnback show {}", row.run.short())));
    } else if let Some(row) = waiting.first() {
        let count = number::of(waiting.len() as u64, "run waits", "runs wait");
        let silence = waiting.iter().filter_map(|row| row.expires).min();
        let silence = silence.map_or_else(String::new, |at| format!("; silence is a no {}", time::relative(now, at)));
        out.push_str(&format!("{count} for a person{silence}\n"));
        out.push_str(&style::next(&format!("turnback show {}", row.run.short())));
    } else if let Some(row) = rows.first() {
        out.push_str(&style::next(&format!("turnback show {}", row.run.short())));
    }
    out.push('\n');
    out
}

/// Characters of what a run does, in a list. The names in it are an agent's: one of five thousand letters
/// would push every other run off the screen. `turnback show` shows all of it.
const WHAT: usize = 160;

fn short(text: &str) -> String {
    match text.char_indices().nth(WHAT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Who acted, in one word.
pub(crate) fn who(actor: &Actor) -> String {
    match actor {
        Actor::Agent(name) => name.to_string(),
        Actor::Operator(name) => format!("@{}", visible(name)),
        Actor::Turnback => "turnback".into(),
    }
}

/// A state's word as people read it.
pub(crate) fn state(word: &str) -> String {
    match word {
        "parked" => "waits for a person".into(),
        "in_doubt" => "in doubt".into(),
        "measured_only" => "measured only".into(),
        other => visible(other),
    }
}

fn way_back(level: Option<u8>) -> Cell {
    match level.map(|number| (number, Level::from_number(number))) {
        Some((number, Some(level))) => Cell::styled(style::level(number), format!("{number} {}", level.name())),
        Some((number, None)) => Cell::new(number.to_string()),
        None => Cell::new("-"),
    }
}
