//! The few styles there are.

use anstyle::{AnsiColor, Color, Style};

const fn colour(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(colour)))
}

/// Headings and names.
pub(crate) const STRONG: Style = Style::new().bold();
/// What can be skipped.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// It is as it should be; lines that appear.
pub(crate) const GOOD: Style = colour(AnsiColor::Green);
/// A person is needed.
pub(crate) const CARE: Style = colour(AnsiColor::Yellow);
/// It is not as it should be; lines that disappear.
pub(crate) const BAD: Style = colour(AnsiColor::Red);
/// Commands to type.
pub(crate) const TYPE: Style = colour(AnsiColor::Cyan);

/// `text` in a style.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// The one next command.
pub(crate) fn next(command: &str) -> String {
    format!("next: {}", paint(TYPE, command))
}

/// The style of a run's state.
pub(crate) fn state(word: &str) -> Style {
    match word {
        "settled" | "done" | "released" => GOOD,
        "parked" | "asking" | "approved" | "measured_only" | "undone" => CARE,
        "in_doubt" | "stuck" | "diverged" | "denied" | "refused" => BAD,
        _ => Style::new(),
    }
}

/// The style of a way back's level.
pub(crate) const fn level(number: u8) -> Style {
    match number {
        4.. => GOOD,
        2 | 3 => CARE,
        _ => BAD,
    }
}
