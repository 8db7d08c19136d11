//! Errors: what, where, and what to do next.

use turnback_core::refusal::Refusal;
use turnback_core::text::visible;
use turnback_gateway::config::ConfigError;

use super::style::{BAD, paint};

/// A refusal as message, place and next step.
pub(crate) fn refusal(refusal: &Refusal) -> String {
    let mut out = format!("{} {}\n", paint(BAD, "error:"), visible(&refusal.message));
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
