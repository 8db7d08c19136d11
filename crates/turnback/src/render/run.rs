//! One run: what an approver reads, in the order in which it matters.
//!
//! 1 what, where, how much · 2 the diff · 3 the way back · 4 why it waits · 5 who · 6 what the agent
//! says about itself · 7 the call, its
//! digests and expiry; then, for a run that went on, what happened. An agent's
//! words never stand above measured facts.

use std::fmt::Write as _;

use jiff::Timestamp;
use turnback_core::contract::{Contract, Statement};
use turnback_core::decision::{Decision, Obligation, Ruling};
use turnback_core::effect::Blast;
use turnback_core::names::RunId;
use turnback_core::rollback::{Completeness, Holds, Level, RollbackPlan};
use turnback_core::run::{Answer, Event, Outcome, Standing};
use turnback_core::text::visible;
use turnback_core::tool::Verb;
use turnback_gateway::operator::protocol::{Happened, RunView};

use super::style::{self, BAD, CARE, FAINT, GOOD, STRONG, next, paint};
use super::{diff, error, number, runs, time};

/// How much of a run is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Detail {
    /// Everything the agent says about itself, not only its intent.
    pub(crate) statement: bool,
    /// Every event.
    pub(crate) history: bool,
}

/// The whole view, ending with the one next command.
pub(crate) fn view(view: &RunView, detail: Detail, now: Timestamp) -> String {
    let contract = serde_json::from_value::<Contract>(view.contract.clone()).ok();
    let mut out = String::new();
    // Writing to a String cannot fail, here and below.
    headline(&mut out, view, contract.as_ref());
    if let Some(refusal) = &view.refusal {
        let _ = write!(out, "\n{}", error::refused(refusal));
    }
    if let Some(effect) = &view.effect {
        blast(&mut out, &effect.blast);
    }
    if let Some(text) = view.diff.as_deref().filter(|text| !text.is_empty()) {
        section(&mut out, "what changes");
        out.push_str(&diff::diff(text));
    }
    if let Some(plan) = &view.plan {
        way_back(&mut out, plan, view, now);
    }
    reasons(&mut out, view);
    people(&mut out, view, contract.as_ref());
    if let Some(contract) = &contract {
        statement(&mut out, &contract.statement, detail.statement, view);
    }
    if let Some(contract) = &contract {
        call(&mut out, contract);
    }
    bound_to(&mut out, view, now);
    if let Some(observation) = &view.observation {
        read_back(&mut out, observation);
    }
    if detail.history {
        section(&mut out, "what happened");
        for happened in &view.history {
            let _ = writeln!(
                out,
                "  {}  {}  {}",
                paint(FAINT, &format!("#{}", number::count(happened.seq))),
                time::absolute(happened.at),
                event(happened)
            );
        }
    }
    let _ = write!(out, "\n{}\n", what_next(view));
    out
}

/// One line for a run that just ended, and the one next command.
pub(crate) fn ended(view: &RunView) -> String {
    let state = &view.row.state;
    let mut out = format!(
        "{} {}: {}\n",
        paint(STRONG, &view.row.run.short()),
        paint(style::state(state), &runs::state(state)),
        visible(&view.row.summary)
    );
    if let Some(moved) = &view.moved {
        let _ = writeln!(out, "{} {}", paint(CARE, "moved since it was shown:"), visible(moved));
    }
    if let Some(refusal) = &view.refusal {
        out.push_str(&error::refused(refusal));
    }
    if let Some(observation) = view.observation.as_ref().filter(|o| !o.holds()) {
        read_back(&mut out, observation);
    }
    // A refusal has said what to do already.
    if view.refusal.as_ref().is_none_or(|refusal| refusal.next.is_none()) {
        let _ = writeln!(out, "{}", what_next(view));
    }
    out
}

fn section(out: &mut String, title: &str) {
    let _ = writeln!(out, "\n{}", paint(STRONG, title));
}

fn line(out: &mut String, label: &str, value: &str) {
    let _ = writeln!(out, "  {}  {value}", paint(FAINT, &format!("{label:<14}")));
}

fn headline(out: &mut String, view: &RunView, contract: Option<&Contract>) {
    let row = &view.row;
    let heading = match contract {
        Some(contract) => {
            let what = if contract.verb == Verb::Undo {
                let runs: Vec<String> = contract.undoes.iter().map(RunId::short).collect();
                format!("undo {} on", runs.join(", "))
            } else if contract.target.statement.is_empty() {
                format!("{} {} in", contract.verb.word(), visible(&contract.target.place))
            } else {
                format!("{} statement on", visible(&contract.target.statement.replace('_', " ")))
            };
            let (resource, kind) = (visible(&row.resource), contract.kind.word());
            format!("{what} {resource} ({kind}, {})", visible(&row.environment))
        }
        None => format!("{} on {} ({})", visible(&row.tool), visible(&row.resource), visible(&row.environment)),
    };
    let _ = writeln!(out, "{}", paint(STRONG, &heading));
    let state = paint(style::state(&row.state), &runs::state(&row.state));
    let _ = writeln!(out, "{}  {state}", row.run.short());
    match &view.effect {
        Some(effect) => {
            let _ = writeln!(out, "it {}", visible(&effect.summary));
        }
        None => {
            let _ = writeln!(out, "{}", visible(&row.summary));
        }
    }
    if let Some(moved) = &view.moved {
        let _ = writeln!(out, "{} {}", paint(CARE, "moved since it was last shown:"), visible(moved));
    }
}

fn blast(out: &mut String, blast: &Blast) {
    section(out, "how much");
    if blast.is_empty() {
        let _ = writeln!(out, "  it changes nothing");
        return;
    }
    for (table, rows) in &blast.rows {
        let parts: Vec<String> = [("inserted", rows.inserted), ("updated", rows.updated), ("deleted", rows.deleted)]
            .into_iter()
            .filter(|(_, number)| *number > 0)
            .map(|(what, number)| {
                let text = format!("{} {what}", number::of(number, "row", "rows"));
                if what == "deleted" { paint(BAD, &text) } else { text }
            })
            .collect();
        line(out, &visible(table), &parts.join(", "));
    }
    for (what, number, bad) in [
        ("schema", blast.schema_objects, true),
        ("created", blast.files_created, false),
        ("changed", blast.files_changed, false),
        ("deleted", blast.files_deleted, true),
    ] {
        if number > 0 {
            let text = match what {
                "schema" => number::of(number, "object", "objects"),
                _ => number::of(number, "file or folder", "files and folders"),
            };
            line(out, what, &if bad { paint(BAD, &text) } else { text });
        }
    }
    if blast.bytes > 0 {
        line(out, "content", &number::bytes(blast.bytes));
    }
    if blast.rows.len() > 1 {
        let all = number::of(blast.rows_total(), "row", "rows");
        line(out, "in all", &format!("{all}, {} of them deleted", number::count(blast.rows_deleted())));
    }
}

fn way_back(out: &mut String, plan: &RollbackPlan, view: &RunView, now: Timestamp) {
    section(out, "the way back");
    let level = view.level.and_then(Level::from_number).unwrap_or_else(|| plan.level());
    let claim = format!("{} {}", level.number(), level.name());
    line(out, "level", &format!("{}: {}", paint(style::level(level.number()), &claim), visible(&plan.evidence)));
    let places = plan.footprint.more.saturating_add(plan.footprint.places.len() as u64);
    let sure = match plan.footprint.completeness {
        Completeness::Closed => "closed: nothing else can have changed",
        Completeness::Bounded => "bounded: only a known set can have changed",
        Completeness::Unknown => "unknown: something else may change too",
    };
    line(out, "footprint", &format!("{}, {sure}", number::of(places, "place", "places")));
    if !plan.snapshots.is_empty() {
        let bytes = plan.snapshots.iter().fold(0, |sum: u64, s| sum.saturating_add(s.bytes));
        let held = number::of(plan.snapshots.len() as u64, "pre-image", "pre-images");
        line(out, "held", &format!("{held}, {}", number::bytes(bytes)));
    }
    match plan.window.closes {
        Some(closes) => line(out, "open until", &time::both(now, closes)),
        None => line(out, "open until", "somebody changes the same places"),
    }
    for event in &plan.window.closed_by {
        line(out, "closed by", &visible(event));
    }
    for assumption in &plan.assumptions {
        let (mark, style) = match assumption.holds {
            Holds::True => ("holds", GOOD),
            Holds::False => ("does not hold", BAD),
            Holds::Unknown => ("not known", BAD),
        };
        let checked = format!("good for {}", number::seconds(assumption.ttl_seconds));
        line(out, "assumes", &format!("{} ({}, {checked})", visible(&assumption.claim), paint(style, mark)));
    }
    for who in &plan.exposure {
        line(out, "seen by", &paint(CARE, &visible(who)));
    }
    for residue in &plan.residue {
        line(out, "not restored", &paint(CARE, &visible(residue)));
    }
    let bearer = format!("{:?}", plan.bearer).to_lowercase();
    let pays = if plan.bearer.is_third_party() { paint(BAD, &bearer) } else { bearer };
    line(out, "if it fails", &format!("the {pays} pays"));
    // By hand is what is left when the program could not finish.
    if matches!(view.row.state.as_str(), "stuck" | "diverged" | "in_doubt") {
        for (number, step) in plan.steps.iter().enumerate() {
            line(out, &format!("step {}", number + 1), &visible(&step.operation));
            line(out, "", &format!("when {}; done when {}", visible(&step.precondition), visible(&step.done_when)));
        }
    }
}

fn reasons(out: &mut String, view: &RunView) {
    let decisions: Vec<&Decision> = view.before.iter().chain(&view.after).collect();
    let Some(ruling) = decisions.iter().map(|d| d.ruling).max() else { return };
    let title = match ruling {
        Ruling::Allow => "why it was allowed",
        Ruling::Constrain => "why only a smaller form is allowed",
        Ruling::Review if view.row.over => "why a person had to decide",
        Ruling::Review => "why a person decides",
        Ruling::Fallback | Ruling::Deny => "why it was refused",
    };
    section(out, title);
    for decision in &decisions {
        for verdict in &decision.verdicts {
            // An allow is worth a line only when all gates allowed: then it is the reason.
            if verdict.ruling == Ruling::Allow && ruling != Ruling::Allow {
                continue;
            }
            let style = match verdict.ruling {
                Ruling::Allow => GOOD,
                Ruling::Review | Ruling::Constrain => CARE,
                Ruling::Fallback | Ruling::Deny => BAD,
            };
            line(
                out,
                &visible(&verdict.gate),
                &format!("{}: {}", paint(style, verdict.ruling.word()), visible(&verdict.reason)),
            );
            if !verdict.rules.is_empty() {
                line(out, "", &format!("by {}", visible(&verdict.rules.join(", "))));
            }
            if let Some(next) = &verdict.next {
                line(out, "", &format!("acceptable: {}", visible(next)));
            }
            for obligation in &verdict.obligations {
                line(out, "", &obliged(obligation));
            }
        }
    }
    if let Some(decision) = decisions.last() {
        line(out, "policy", &decision.policy.short());
    }
}

fn obliged(obligation: &Obligation) -> String {
    match obligation {
        Obligation::Approvers { names } => format!("only {} may approve", visible(&names.join(", "))),
        Obligation::SaferForm { form } => format!("only as {}", visible(form)),
        Obligation::MeasureOnly => "measured, never committed".into(),
        Obligation::FreezeException { freeze } => format!("an exception from freeze `{}`", visible(freeze)),
    }
}

fn people(out: &mut String, view: &RunView, contract: Option<&Contract>) {
    section(out, "who");
    line(out, "asked by", &view.row.actor.to_string());
    if let Some(owner) = &view.owner {
        line(out, "owner", &visible(owner));
    }
    if let Some(user) = contract.and_then(|c| c.on_behalf_of.as_deref()) {
        line(out, "on behalf of", &visible(user));
    }
    let answer = view.history.iter().rev().find_map(|happened| match &happened.event {
        Event::Answered { answer } => Some(answer),
        _ => None,
    });
    match answer {
        Some(Answer::Approved { approval }) => line(out, "approved by", &visible(&approval.by)),
        Some(Answer::Rejected { by, reason }) => {
            line(out, "rejected by", &format!("{}: {}", visible(by), visible(reason)));
        }
        Some(Answer::Expired) => line(out, "answer", "nobody answered in time"),
        None => {}
    }
}

fn statement(out: &mut String, statement: &Statement, whole: bool, view: &RunView) {
    if *statement == Statement::default() {
        return;
    }
    section(out, "written by the agent, unverified");
    if !whole {
        let intent = statement.intent.as_deref().unwrap_or_default();
        let first = intent.lines().next().unwrap_or_default();
        let mut short: String = first.chars().take(100).collect();
        if short.len() < intent.len() {
            short.push('…');
        }
        if !short.is_empty() {
            out.push_str(&diff::quoted(&short, |_| FAINT));
        }
        let _ = writeln!(out, "  all of it: turnback show {} --statement", view.row.run.short());
        return;
    }
    let mut fields: Vec<(&str, String)> = Vec::new();
    let mut text = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
    text("intent", statement.intent.clone());
    text("reasoning", statement.reasoning.clone());
    for evidence in &statement.evidence {
        text("evidence", Some(said(evidence)));
    }
    text("confidence", statement.confidence.map(|c| c.to_string()));
    text("plan", statement.plan.as_ref().map(said));
    text("alternatives", statement.alternatives.as_ref().map(said));
    text("expects", statement.expects.as_ref().map(said));
    for (name, value) in fields {
        let _ = writeln!(out, "  {}", paint(FAINT, name));
        out.push_str(&diff::quoted(&value, |_| anstyle::Style::new()));
    }
}

fn said(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    }
}

/// What was called, in the caller's own words: below what was measured, because a comment in a
/// statement can say anything.
fn call(out: &mut String, contract: &Contract) {
    let Some(arguments) = contract.arguments.as_object().filter(|arguments| !arguments.is_empty()) else { return };
    section(out, if contract.form.is_some() { "as it was made over from what was called" } else { "as it was called" });
    line(out, "tool", contract.tool.as_str());
    if let Some(formed) = &contract.form {
        line(out, "asked for in", &formed.from.to_string());
        line(out, "safer form", &visible(&formed.sentence()));
    }
    for (name, value) in arguments {
        let _ = writeln!(out, "  {}", paint(FAINT, &visible(name)));
        out.push_str(&diff::quoted(&said(value), |_| anstyle::Style::new()));
    }
}

fn bound_to(out: &mut String, view: &RunView, now: Timestamp) {
    section(out, "bound to");
    line(out, "run", &view.row.run.to_string());
    line(out, "proposed", &time::both(now, view.row.proposed));
    line(out, "action", &view.row.action.to_string());
    if let Some(effect) = &view.effect {
        line(out, "effect", &effect.digest.to_string());
    }
    if let Some(question) = &view.question {
        line(out, "approval", &question.id.to_string());
        line(out, "expires", &time::both(now, question.expires));
        if !question.approvers.is_empty() {
            line(out, "approvers", &visible(&question.approvers.join(", ")));
        }
    }
}

fn read_back(out: &mut String, observation: &turnback_core::run::Observation) {
    section(out, "read back after the commit");
    let compared = number::of(observation.compared, "place", "places");
    if observation.differences.is_empty() {
        let _ = writeln!(out, "  {compared} compared, {}", paint(GOOD, "all as predicted"));
    } else {
        let different = format!("{} not as predicted", number::count(observation.differences.len() as u64));
        let _ = writeln!(out, "  {compared} compared, {}", paint(BAD, &different));
        for difference in &observation.differences {
            let _ = writeln!(out, "    {}", visible(difference));
        }
    }
    for probe in &observation.probes {
        let mark = if probe.passed { paint(GOOD, "passed") } else { paint(BAD, "failed") };
        let _ = writeln!(out, "  {mark}  {}: {}", visible(&probe.name), visible(&probe.detail));
    }
}

fn event(happened: &Happened) -> String {
    match &happened.event {
        Event::Proposed { contract } => format!("proposed by {}", contract.actor),
        Event::Judged { decision, .. } => format!("judged: {}", decision.ruling.word()),
        Event::Staged { measurement } => format!("staged: it {}", visible(&measurement.effect.summary)),
        Event::Refused { refusal } => format!("refused: {}", visible(&refusal.to_string())),
        Event::Released { read, .. } => format!("read released: {}", visible(&read.join(", "))),
        Event::Parked { question, moved } => {
            let moved = moved.as_ref().map_or_else(String::new, |m| format!("; moved: {}", visible(m)));
            format!("asked {}{moved}", question.id.short())
        }
        Event::Answered { answer } => match answer {
            Answer::Approved { approval } => format!("approved by {}", visible(&approval.by)),
            Answer::Rejected { by, reason } => format!("rejected by {}: {}", visible(by), visible(reason)),
            Answer::Expired => "nobody answered in time".into(),
        },
        Event::Intended => "intended: durable before the commit".into(),
        Event::MeasuredOnly => "only measured, then discarded".into(),
        Event::Committed { outcome } => match outcome {
            Outcome::Succeeded => "committed".into(),
            Outcome::Failed { refusal } => format!("commit failed cleanly: {}", visible(&refusal.to_string())),
            Outcome::Unknown { why } => format!("commit without an answer: {}", visible(why)),
        },
        Event::Progressed { step } => format!("step done: {}", visible(step)),
        Event::Probed { standing } => match standing {
            Standing::Before => "looked: nothing of it is done".into(),
            Standing::After => "looked: all of it is done".into(),
            Standing::Between { done, of } => format!("looked: {done} of {of} steps are done"),
            Standing::Neither { why } => format!("looked: cannot go on: {}", visible(why)),
            Standing::Unreachable { why } => format!("could not look: {}", visible(why)),
        },
        Event::Observed { observation } => {
            if observation.holds() {
                "read back: as predicted".into()
            } else {
                "read back: not as predicted".into()
            }
        }
        Event::Undone { by } => format!("undone by {}", by.short()),
        Event::Redone { by } => format!("its undo was undone by {}", by.short()),
        Event::Delivered => "the caller heard the end".into(),
        Event::Abandoned { why } => format!("abandoned: {}", visible(why)),
    }
}

fn what_next(view: &RunView) -> String {
    let run = view.row.run.short();
    match view.row.state.as_str() {
        "parked" => {
            let id = view.question.as_ref().map_or(run, |question| question.id.short());
            format!(
                "{}\n  or: {}",
                next(&format!("turnback reject {id} \"why\"")),
                paint(style::TYPE, &format!("turnback approve {id}"))
            )
        }
        "settled" | "done" | "diverged" if view.level != Some(0) => next(&format!("turnback undo {run} --dry-run")),
        "undone" => match view.row.undone_by {
            Some(by) => next(&format!("turnback show {}", by.short())),
            None => next("turnback runs"),
        },
        "in_doubt" => "next: restart the gateway; it looks how the world stands and never repeats blindly".into(),
        "stuck" => "next: do the steps of the way back by hand, then turnback undo or reject what is left".into(),
        "measured_only" => format!(
            "next: to let such writes run, set mode = \"draft\" or \"enforce\" for `{}` in turnback.toml",
            visible(&view.row.environment)
        ),
        _ => next("turnback runs"),
    }
}
