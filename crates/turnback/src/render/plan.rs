//! Plans.

use jiff::Timestamp;
use turnback_core::text::visible;
use turnback_gateway::operator::plans::{PlanView, StepView};

use super::style::{BAD, GOOD, STRONG, next};
use super::table::{Cell, table};
use super::time;

fn state(plan: &PlanView) -> Cell {
    match plan.state.as_str() {
        "active" | "completed" => Cell::styled(GOOD, plan.state.clone()),
        _ => Cell::styled(BAD, plan.state.clone()),
    }
}

fn done(plan: &PlanView) -> usize {
    plan.steps.iter().filter(|step| step.state == "settled").count()
}

/// All plans, one a line.
pub(crate) fn list(plans: &[PlanView], now: Timestamp) -> String {
    let Some(first) = plans.first() else { return "no agent has a plan\n".into() };
    let rows = plans
        .iter()
        .map(|plan| {
            vec![
                Cell::styled(STRONG, plan.plan.short()),
                Cell::new(plan.agent.as_str()),
                state(plan),
                Cell::new(format!("{} of {}", done(plan), plan.steps.len())),
                Cell::new(time::relative(now, plan.submitted)),
                Cell::new(time::relative(now, plan.expires)),
                Cell::new(visible(&plan.goal)),
            ]
        })
        .collect();
    let told = table(&["PLAN", "AGENT", "STATE", "DONE", "SUBMITTED", "EXPIRES", "GOAL"], rows);
    format!("{told}{}\n", next(&format!("turnback plan show {}", first.plan.short())))
}

/// One plan, step by step.
pub(crate) fn one(plan: &PlanView, now: Timestamp) -> String {
    let mut text = format!(
        "plan {} of agent {}: {}\n{}, submitted {}, expires {}\n",
        plan.plan,
        plan.agent,
        visible(&plan.goal),
        plan.state,
        time::relative(now, plan.submitted),
        time::relative(now, plan.expires),
    );
    if let (Some(by), Some(reason)) = (&plan.by, &plan.reason) {
        text.push_str(&format!("aborted by {}: {}\n", visible(by), visible(reason)));
    }
    for never in &plan.never {
        text.push_str(&format!("{}\n", visible(&never.words())));
    }
    let row = |step: &StepView| {
        let good = matches!(step.state.as_str(), "settled" | "ready" | "waiting" | "running" | "undone");
        vec![
            Cell::styled(STRONG, visible(&step.name)),
            Cell::new(visible(&step.tool)),
            Cell::styled(if good { GOOD } else { BAD }, visible(&step.state)),
            Cell::new(step.run.map_or_else(|| "-".into(), |run| run.short())),
            Cell::new(if step.after.is_empty() { "-".into() } else { visible(&step.after.join(", ")) }),
            Cell::new(step.level.to_string()),
            Cell::new(step.ruling.clone()),
            Cell::new(visible(&step.effect)),
        ]
    };
    text.push('\n');
    text.push_str(&table(
        &["STEP", "TOOL", "STATE", "RUN", "AFTER", "LEVEL", "RULING", "DOES"],
        plan.steps.iter().map(row).collect(),
    ));
    for unwound in &plan.unwound {
        match (&unwound.by, &unwound.why) {
            (Some(by), _) => text.push_str(&format!("taken back: {} by {}\n", visible(&unwound.step), by.short())),
            (None, why) => {
                let why = visible(why.as_deref().unwrap_or("nobody knows why"));
                text.push_str(&format!("still stands: {}: {why}\n", visible(&unwound.step)));
            }
        }
    }
    let stands = plan.unwound.iter().any(|unwound| unwound.by.is_none());
    // An abort goes on where it was stopped.
    if plan.state == "active" || stands {
        let short = plan.plan.short();
        text.push_str(&format!("{}\n", next(&format!("turnback plan abort {short} --reason \"...\""))));
    }
    text
}
