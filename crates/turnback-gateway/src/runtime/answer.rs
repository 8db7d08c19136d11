//! What callers are told.
//!
//! A refusal says which gate, which fact, and what would be acceptable – as a sentence and in a
//! machine-readable shape. Never somebody else's data: numbers and names of the caller's own resource.

use serde_json::{Value, json};
use turnback_core::decision::{Decision, Obligation, Ruling};
use turnback_core::form::Formed;
use turnback_core::names::{ApprovalId, RunId};
use turnback_core::policy::explain::Alternative;
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
    let no = |refusal, mut details: Value| {
        if let Some(formed) = &run.contract.form {
            details["constrained"] = constrained(formed);
        }
        Answer::Refused { run: Some(id), refusal, details }
    };
    let made_over = run.contract.form.as_ref();
    let words =
        made_over.map_or_else(String::new, |formed| format!(" It was constrained and done {}.", formed.sentence()));
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
                "{} {}. Way back: level {} ({}). An operator can undo it: turnback undo {}.",
                if run.contract.undoes.is_empty() { "Done: it" } else { "Undone: it" },
                measurement.effect.summary,
                plan.level().number(),
                plan.level().name(),
                id.short(),
            );
            let reply = measurement.effect.reply.clone();
            Answer::Done { run: id, reply, note: Some(note + &words), constrained: made_over.map(constrained) }
        }
        State::Ended { how, before, measurement } => match how {
            Ended::Released => match reading {
                Some(reading) => {
                    let note = made_over.map(|_| words.trim_start().to_owned());
                    Answer::Done { run: id, reply: reading.reply, note, constrained: made_over.map(constrained) }
                }
                None => no(Refusal::new(Code::Failed, "the result of this read was released before"), json!({})),
            },
            Ended::Denied(decision) => {
                no(denial(decision, measurement.as_deref()), details(decision, measurement.as_deref()))
            }
            // Its safer form is a run of its own; nobody was there to be answered with it.
            Ended::Constrained(decision) => no(
                Refusal::new(Code::Denied, format!("nothing was changed: {}", only_as(decision)))
                    .next("call again: the safer form is done instead, when nothing else stands against it"),
                details(decision, measurement.as_deref()),
            ),
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
        .map(|v| json!({ "gate": v.gate, "ruling": v.ruling, "reason": v.told(), "rules": v.rules, "next": v.next }))
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
    let reasons: Vec<String> = decision.decisive().map(|v| format!("{}: {}", v.gate, v.told())).collect();
    let mut message = reasons.join("; ");
    if let Some(measured) = measurement.filter(|m| !message.contains(&m.effect.summary)) {
        message.push_str(&format!("; it was only measured: it {}", measured.effect.summary));
    }
    let mut refusal = Refusal::new(Code::Denied, message);
    if let Some(next) = decision.decisive().find_map(|v| v.next.clone()) {
        refusal = refusal.next(next);
    }
    refusal
}

impl Answer {
    /// Adds to a refusal what would be ruled less strictly: for machines, and the nearest of it in words.
    pub(super) fn with_acceptable(mut self, acceptable: &[Alternative]) -> Self {
        if let Answer::Refused { refusal, details, .. } = &mut self {
            if let Some(nearest) = acceptable.first() {
                let would = match nearest.ruling {
                    Ruling::Allow => "would be allowed",
                    Ruling::Review => "a person would be asked",
                    _ => "would be ruled less strictly",
                };
                let far = if nearest.unmeasured { ", as far as can be said before it is measured" } else { "" };
                let nearest = format!("{} {}: {would}{far}", nearest.fact, visible(&nearest.to));
                refusal.next = Some(refusal.next.take().map_or(nearest.clone(), |next| format!("{next}; {nearest}")));
            }
            details["acceptable"] = acceptable.iter().map(told).collect();
        }
        self
    }
}

/// One alternative as an agent is told: nothing of what is, which may be somebody else's, only what would do.
fn told(alternative: &Alternative) -> Value {
    let mut value = json!(alternative.change);
    value["fact"] = json!(alternative.fact);
    value["to"] = json!(alternative.to);
    value["ruling"] = json!(alternative.ruling);
    value["unmeasured"] = json!(alternative.unmeasured);
    value
}

/// What a safer form changed and why, for machines.
fn constrained(formed: &Formed) -> Value {
    json!({ "forms": formed.forms, "from_run": formed.from, "changed": formed.changed, "why": formed.why })
}

/// The sentence of a decision that allows a safer form only.
pub(super) fn only_as(decision: &Decision) -> String {
    let forms = decision.rewriting.iter().flat_map(|rewriting| &rewriting.forms);
    let forms: Vec<String> = forms.map(|form| format!("`{}`", visible(form))).collect();
    let asking = decision.verdicts.iter().filter(|v| v.obligations.iter().any(|o| o.form().is_some()));
    let reasons: Vec<String> = asking.map(|v| format!("{}: {}", v.gate, v.reason)).collect();
    format!("it may run only as {}; {}", forms.join(" and "), reasons.join("; "))
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
    let formed = run.contract.form.as_ref();
    let formed = formed
        .map_or_else(String::new, |formed| format!(". It is a safer form of what was asked, {}", formed.sentence()));
    format!(
        "a person must approve `{}` on `{}` in `{}`: it {}{moved}. Why: {}{formed}",
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
