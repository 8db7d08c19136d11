//! Errors: what, where, and what to do next.

use turnback_core::refusal::Refusal;
use turnback_core::text::visible;
use turnback_gateway::config::ConfigError;

use super::style::{BAD, paint};

/// A refusal of what this command asked, as message, place and next step.
pub(crate) fn refusal(refusal: &Refusal) -> String {
    told("error:", refusal)
}

/// A refusal of what somebody else asked.
pub(crate) fn refused(refusal: &Refusal) -> String {
    told("refused:", refusal)
}

fn told(word: &str, refusal: &Refusal) -> String {
    let mut out = format!("{} {}\n", paint(BAD, word), visible(&refusal.message));
    if let Some(place) = &refusal.place {
        out.push_str(&format!("   at: {}\n", visible(place)));
    }
    if let Some(next) = &refusal.next {
        out.push_str(&format!(" next: {}\n", visible(next)));
    }
    out
}

/// A configuration error with its line and caret.
pub(crate) fn config(error: &ConfigError) -> String {
    // Its own text is harmless already: the line shown passed `visible`.
    format!("{} {error}\n", paint(BAD, "error:"))
}
