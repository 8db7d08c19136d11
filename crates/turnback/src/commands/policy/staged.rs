//! `turnback policy staged`, and how the policy stands after any change to it.

use turnback_core::decision::Phase;
use turnback_core::text::visible;
use turnback_gateway::operator::policy::{Origin, PolicyRequest, PolicyState};
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render::number;
use crate::render::runs::who;
use crate::render::style::{BAD, CARE, GOOD, STRONG, next, paint};

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    let state = ask(context, PolicyRequest::Staged)?;
    context.answer(state.as_ref(), text)?;
    let differs =
        state.staged.is_some_and(|staged| staged.broken.is_some() || staged.failed > 0 || !staged.changed.is_empty());
    Ok(Exit::findings(differs))
}

pub(super) fn ask(context: &Context, what: PolicyRequest) -> Result<Box<PolicyState>, Failure> {
    match context.door()?.ask(&Request::Policy { what })? {
        Reply::Policy(state) => Ok(state),
        other => Err(unexpected(&other).into()),
    }
}

fn origin(origin: &Origin) -> String {
    format!("by {} at {}: {}", visible(&origin.by), origin.since, visible(&origin.reason))
}

pub(super) fn text(state: &PolicyState) -> String {
    let mut out = format!("active  {}\n", state.active);
    out.push_str(&match &state.promoted {
        Some(from) => format!("  promoted {}\n", origin(from)),
        None => "  the configured files\n".to_owned(),
    });
    if let Some(how) = &state.files_differ {
        out.push_str(&format!("  {} {}\n", paint(CARE, "the configured files are not it:"), visible(how)));
    }
    let Some(staged) = &state.staged else {
        out.push_str(&format!("nothing is staged\n{}\n", next("turnback policy stage <dir> --reason <why>")));
        return out;
    };
    out.push_str(&format!("staged  {}\n  staged {}\n", staged.policy, origin(&staged.origin)));
    if let Some(error) = &staged.broken {
        out.push_str(&format!(
            "  {} {}\n",
            paint(BAD, "it does not load and judges nothing:"),
            visible(&error.to_string())
        ));
    }
    let since = staged.counting_since;
    out.push_str(&format!(
        "  asked beside the active one since {since}: {}\n",
        number::of(staged.decisions, "decision", "decisions")
    ));
    if staged.failed > 0 {
        out.push_str(&format!(
            "  {} it failed at {}\n",
            paint(BAD, "failed:"),
            number::of(staged.failed, "decision", "decisions")
        ));
    }
    if staged.changed.is_empty() {
        out.push_str(&format!("  {} no decision would have come out otherwise\n", paint(GOOD, "alike:")));
    }
    for kind in &staged.changed {
        out.push_str(&format!(
            "  {}  {} instead of {}, {}\n",
            paint(STRONG, &number::count(kind.count)),
            kind.now.word(),
            kind.then.word(),
            phase(kind.phase)
        ));
    }
    for example in staged.examples.iter().rev() {
        out.push_str(&format!(
            "    {}  {}  {}: {} instead of {}: {}\n",
            example.run.short(),
            visible(&who(&example.actor)),
            visible(&example.tool),
            example.now.word(),
            example.then.word(),
            visible(&example.reason)
        ));
    }
    out.push_str(&format!(
        "{}\n",
        next("turnback policy promote --reason <why>, or: turnback policy drop --reason <why>")
    ));
    out
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Before => "before staging",
        Phase::After => "on the measured effect",
    }
}
