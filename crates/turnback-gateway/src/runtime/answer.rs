//! What callers are told.
//!
//! A refusal says which gate, which fact, and what would be acceptable – as a sentence and in a
//! machine-readable shape. Never somebody else's data: numbers and names of the caller's own resource.

use serde_json::{Value, json};
use turnback_core::decision::{Decision, Obligation, Ruling};
use turnback_core::names::{ApprovalId, RunId};
use turnback_core::record::Row;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Answer as Answered, Ended, Measurement, Parked, Run, State};
use turnback_core::text::visible;
use turnback_effects::Reading;

use crate::desk::Answer;

/// A refusal that never became a run, or whose run could not go on.
pub(super) fn refused(run: Option<RunId>, refusal: Refusal) -> Answer {
    Answer::Refused { run, refusal, details: json!({}) }
}

/// The answer to a run that is over or waits for nothing the caller could wait for.
pub(super) fn of(run: &Run, reading: Option<Reading>) -> Answer {
    let id = run.id;
    let no = |refusal, details| Answer::Refused { run: Some(id), refusal, details };
    match &run.state {
        State::Done(done) => {
            let measurement = &done.allowed.measurement;
            if let Some(by) = done.undone_by {
                let refusal = Refusal::new(Code::Moved, format!("it was done and has been undone since by run `{by}`"));
                return no(refusal, effect(measurement));
            }
            if let Some(seen) = done.observation.as_ref().filter(|o| !o.holds()) {
                return diverged(run, &format!("differences: {}", seen.differences.join("; ")));
            }
            let plan = &measurement.plan;
            let note = format!(
                "{} {}. Way back: level {} ({}). An operator can undo it: turnback undo {}",
                if run.contract.undoes.is_empty() { "Done: it" } else { "Undone: it" },
                measurement.effect.summary,
                plan.level().number(),
                plan.level().name(),
                id.short(),
            );
            Answer::Done { run: id, reply: measurement.effect.reply.clone(), note: Some(note) }
        }
        State::Ended { how, before, measurement } => match how {
            Ended::Released => match reading {
                Some(reading) => Answer::Done { run: id, reply: reading.reply, note: None },
                None => no(Refusal::new(Code::Failed, "the result of this read was released before"), json!({})),
            },
            Ended::Denied(decision) => {
                no(denial(decision, measurement.as_deref()), details(decision, measurement.as_deref()))
            }
            Ended::Refused(refusal) => no(refusal.clone(), json!({})),
            Ended::Rejected(Answered::Rejected { by, reason }) => {
                no(Refusal::new(Code::Rejected, format!("`{}` said no: {}", visible(by), visible(reason))), json!({}))
            }
            Ended::Rejected(_) => no(
                Refusal::new(Code::Rejected, "nobody answered in time, which is a no")
                    .next("ask again when somebody is there"),
                json!({}),
            ),
            Ended::MeasuredOnly(after) => {
                let asked = before.as_ref().map_or(after.ruling, |b| b.ruling.max(after.ruling));
                let would = if asked == Ruling::Allow { "have been done" } else { "have waited for a person" };
                let it = measurement.as_ref().map_or_else(String::new, |m| format!("; it {}", m.effect.summary));
                let environment = &run.contract.environment;
                // A release flag may be the reason; then the gate names it, and who changes it.
                let flagged = before.iter().flat_map(|before| &before.verdicts).find(|verdict| {
                    verdict.obligations.contains(&Obligation::MeasureOnly) && !verdict.rules.is_empty()
                });
                let (why, next) = match flagged {
                    Some(verdict) => (verdict.reason.clone(), verdict.next.clone()),
                    None => (format!("environment `{environment}` is only observed"), None),
                };
                let next = next.unwrap_or_else(|| {
                    "an operator sets the environment's mode to \"draft\" or \"enforce\"".to_owned()
                });
                no(
                    Refusal::new(Code::Denied, format!("nothing was changed: {why}. It would {would}{it}")).next(next),
                    measurement.as_deref().map_or_else(|| json!({}), effect),
                )
            }
            Ended::Abandoned(why) => {
                no(Refusal::new(Code::Unavailable, format!("nothing was changed: {why}")).next("call again"), json!({}))
            }
        },
        State::Stuck(s) => no(
            Refusal::new(Code::Failed, format!("it stopped half way and needs a person: {}", s.why))
                .next(format!("an operator looks at: turnback show {}", id.short())),
            effect(&s.allowed.measurement),
        ),
        State::InDoubt(s) => no(
            Refusal::new(Code::Failed, format!("nobody knows yet whether it happened: {}", s.why))
                .next("do not repeat it; it is probed when the node restarts"),
            effect(&s.allowed.measurement),
        ),
        other => no(Refusal::new(Code::Busy, format!("it is under way ({})", other.word())), json!({})),
    }
}

/// The answer to a run whose effect is not as predicted or failed its verification.
pub(super) fn diverged(run: &Run, how: &str) -> Answer {
    let failed = match &run.state {
        State::Done(done) => done.observation.as_ref().map_or_else(String::new, |o| {
            let probes = o.probes.iter().filter(|p| !p.passed).map(|p| format!("probe `{}`: {}", p.name, p.detail));
            o.differences.iter().cloned().chain(probes).collect::<Vec<_>>().join("; ")
        }),
        _ => String::new(),
    };
    Answer::Refused {
        run: Some(run.id),
        refusal: Refusal::new(Code::Failed, format!("it was done but is not as it should be ({failed}); {how}"))
            .next(format!("an operator looks at: turnback show {}", run.id.short())),
        details: run.state.measurement().map_or_else(|| json!({}), effect),
    }
}

fn effect(measurement: &Measurement) -> Value {
    json!({
        "effect": { "summary": measurement.effect.summary, "blast": measurement.effect.blast },
        "way_back": { "level": measurement.plan.level().number(), "evidence": measurement.plan.evidence },
    })
}

fn details(decision: &Decision, measurement: Option<&Measurement>) -> Value {
    let gates: Vec<Value> = decision
        .decisive()
        .map(|v| json!({ "gate": v.gate, "ruling": v.ruling, "reason": v.reason, "rules": v.rules, "next": v.next }))
        .collect();
    let mut details = measurement.map_or_else(|| json!({}), effect);
    if let Value::Object(map) = &mut details {
        map.insert("ruling".into(), json!(decision.ruling));
        map.insert("gates".into(), Value::Array(gates));
    }
    details
}

/// The sentence of a decision that is not `allow`.
pub(super) fn denial(decision: &Decision, measurement: Option<&Measurement>) -> Refusal {
    let reasons: Vec<String> = decision.decisive().map(|v| format!("{}: {}", v.gate, v.reason)).collect();
    let mut message = reasons.join("; ");
    if let Some(measured) = measurement.filter(|m| !message.contains(&m.effect.summary)) {
        message.push_str(&format!("; it was only measured: it {}", measured.effect.summary));
    }
    if decision.ruling == Ruling::Constrain {
        message.push_str(" (only a safer form may run, and this tool has none configured)");
    }
    let mut refusal = Refusal::new(Code::Denied, message);
    if let Some(next) = decision.decisive().find_map(|v| v.next.clone()) {
        refusal = refusal.next(next);
    }
    refusal
}

/// What a waiting question asks, in one sentence.
pub(super) fn question(run: &Run, parked: &Parked) -> String {
    let why: Vec<&str> = parked
        .before
        .verdicts
        .iter()
        .chain(&parked.after.verdicts)
        .filter(|v| v.ruling == Ruling::Review)
        .map(|v| v.reason.as_str())
        .collect();
    let moved = parked.moved.as_ref().map_or_else(String::new, |m| format!(" ({m})"));
    format!(
        "a person must approve `{}` on `{}` in `{}`: it {}{moved}. Why: {}",
        run.contract.tool,
        run.contract.resource,
        run.contract.environment,
        parked.measurement.effect.summary,
        why.join("; "),
    )
}

/// The page a [`crate::desk::Pending::url`] leads to.
pub(super) fn question_page(row: &Row, id: ApprovalId) -> String {
    format!(
        "Turnback: {} waits for a person.\n\n{}\n\ntool         {}\nenvironment  {}\nasked by     {}\nstate        {}\n\n\
         This page cannot answer. On the machine that runs Turnback:\n\n    turnback show {short}\n    turnback approve {short}\n    turnback reject {short} --reason \"...\"\n",
        id.short(),
        visible(&row.summary),
        row.tool,
        row.environment,
        row.actor,
        row.state,
        short = id.short(),
    )
}
