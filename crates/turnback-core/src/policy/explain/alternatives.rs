//! What would have been acceptable: the gates asked again, one fact changed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Recorded;
use crate::contract::Contract;
use crate::decision::{Phase, Ruling};
use crate::effect::{Blast, Effect, Rows};
use crate::gates::release::Mode;
use crate::gates::{Circumstances, Measured, decide};
use crate::names::{EnvironmentName, ToolName};
use crate::policy::Policy;
use crate::rollback::{Level, RollbackPlan};
use crate::text::visible;
use crate::tool::{Kind, Tool};

/// What would have to be different, for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Change {
    /// A smaller effect.
    Smaller {
        /// The largest that would do; 0 is none at all.
        at_most: u64,
    },
    /// A person's yes.
    Approval,
    /// Another tool on the same resource.
    Tool {
        /// Its name.
        tool: ToolName,
    },
    /// The same on another resource, in another environment.
    Environment {
        /// The tool there.
        tool: ToolName,
    },
    /// A later time.
    Later {
        /// From when on.
        not_before: Timestamp,
    },
    /// A better way back.
    WayBack {
        /// Its level.
        level: u8,
    },
    /// Something of the operator's: a mode, a switch, a suspension, a budget.
    Operator,
}

impl Change {
    /// Whether the agent itself can do it, without anybody's help.
    const fn is_the_agents(&self) -> bool {
        matches!(self, Change::Smaller { .. } | Change::Tool { .. } | Change::Later { .. })
    }
}

/// One fact that, were it different, would make the answer less strict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alternative {
    /// What it is, for machines.
    #[serde(flatten)]
    pub change: Change,
    /// The fact.
    pub fact: String,
    /// As it was.
    pub from: String,
    /// As it would have to be.
    pub to: String,
    /// What the gates say then.
    pub ruling: Ruling,
    /// What was asked before staging only: what staging would measure is not known.
    pub unmeasured: bool,
}

impl Alternative {
    /// Whether an agent may be told: it can do it itself, and it is about nothing but its own action.
    pub const fn is_for_agents(&self) -> bool {
        self.change.is_the_agents()
    }

    /// It in words.
    pub fn line(&self) -> String {
        let far = if self.unmeasured { ", as far as it can be said before staging" } else { "" };
        format!("{} {} instead of {}: {}{far}", self.fact, visible(&self.to), visible(&self.from), self.ruling.word())
    }
}

/// The recorded facts, free to be changed.
#[derive(Clone)]
struct Asked {
    contract: Contract,
    before: Circumstances,
    after: Option<(Circumstances, Effect, RollbackPlan)>,
}

impl Asked {
    /// The stricter ruling of both groups of gates; of the first alone when it does not let the action be staged.
    fn ruling(&self, policy: &Policy) -> Ruling {
        let before = decide(Phase::Before, &self.before.facts(&self.contract, policy, None)).ruling;
        match &self.after {
            Some((circumstances, effect, plan)) if matches!(before, Ruling::Allow | Ruling::Review) => {
                let measured = Some(Measured { effect, plan });
                decide(Phase::After, &circumstances.facts(&self.contract, policy, measured)).ruling.max(before)
            }
            _ => before,
        }
    }

    /// Changes what both decisions rested on.
    fn each(&self, change: impl Fn(&mut Circumstances)) -> Self {
        let mut changed = self.clone();
        change(&mut changed.before);
        if let Some((circumstances, ..)) = &mut changed.after {
            change(circumstances);
        }
        changed
    }
}

/// What the recorded facts come to under `policy`, and which single facts would make that less strict, the
/// least strict outcome first and among equals what an agent can change itself before what people would.
pub fn alternatives(
    recorded: &Recorded<'_>,
    policy: &Policy,
    mode: &dyn Fn(&EnvironmentName) -> Mode,
) -> (Ruling, Vec<Alternative>) {
    let asked = Asked {
        contract: recorded.contract.clone(),
        before: recorded.before.circumstances.clone(),
        after: recorded
            .after
            .map(|(judged, effect, plan)| (judged.circumstances.clone(), effect.clone(), plan.clone())),
    };
    let now = asked.ruling(policy);
    if now == Ruling::Allow {
        return (now, Vec::new());
    }
    let mut found = Vec::new();
    let unmeasured = asked.after.is_none();
    let mut offer = |changed: &Asked, change: Change, fact: &str, from: String, to: String| {
        let ruling = changed.ruling(policy);
        if ruling < now {
            let unmeasured = changed.contract.writes() && (unmeasured || changed.after.is_none());
            found.push(Alternative { change, fact: fact.to_owned(), from, to, ruling, unmeasured });
        }
    };

    sizes(&asked, now, policy, &mut offer);
    if !asked.before.approved {
        offer(&asked.each(|c| c.approved = true), Change::Approval, "approved by a person", "no".into(), "yes".into());
    }
    tools(&asked, policy, mode, &mut offer);
    times(&asked, &mut offer);
    levels(&asked, now, policy, &mut offer);
    let present = asked.before.mode;
    for other in [Mode::Draft, Mode::Enforce].into_iter().filter(|other| *other > present) {
        offer(&asked.each(|c| c.mode = other), Change::Operator, "mode", present.word().into(), other.word().into());
    }
    if let Some(switch) = asked.before.controls.switches.first() {
        let thrown = format!("switched off ({})", switch.scope);
        offer(&asked.each(|c| c.controls.switches.clear()), Change::Operator, "kill switches", thrown, "lifted".into());
    }
    if let Some(why) = asked.before.agent.as_ref().and_then(|agent| agent.suspended.clone()) {
        let reinstated = asked.each(|c| c.agent.iter_mut().for_each(|agent| agent.suspended = None));
        offer(&reinstated, Change::Operator, "agent", format!("suspended ({why})"), "reinstated".into());
    }
    if let Some((circumstances, ..)) = &asked.after {
        let nothing = crate::gates::blast_radius::Spent::default();
        if circumstances.spent.iter().any(|spent| *spent != nothing) {
            let each = circumstances.spent.iter().map(ToString::to_string);
            let from = each.collect::<Vec<_>>().join("; ");
            offer(&asked.each(|c| c.spent.fill(nothing)), Change::Operator, "budget spent", from, "nothing".into());
        }
    }
    found.sort_by_key(|alternative| alternative.ruling);
    (now, found)
}

type Offer<'o> = &'o mut dyn FnMut(&Asked, Change, &str, String, String);

/// A smaller effect: for each number alone, the largest that would do.
fn sizes(asked: &Asked, now: Ruling, policy: &Policy, offer: Offer<'_>) {
    let Some((_, effect, _)) = &asked.after else { return };
    type Size = (&'static str, fn(&Blast) -> u64, fn(&mut Blast, u64));
    let all: [Size; 6] = [
        ("rows deleted", Blast::rows_deleted, |blast, most| fewer(blast, most, |rows| &mut rows.deleted)),
        ("rows touched", Blast::rows_total, |blast, most| {
            let left = most.min(blast.rows_total());
            let mut over = blast.rows_total() - left;
            for rows in blast.rows.values_mut() {
                for part in [&mut rows.deleted, &mut rows.updated, &mut rows.inserted] {
                    let less = over.min(*part);
                    *part -= less;
                    over -= less;
                }
            }
        }),
        ("files deleted", |blast| blast.files_deleted, |blast, most| blast.files_deleted = most),
        ("files touched", Blast::files_total, |blast, most| {
            let mut over = blast.files_total().saturating_sub(most);
            for part in [&mut blast.files_deleted, &mut blast.files_changed, &mut blast.files_created] {
                let less = over.min(*part);
                *part -= less;
                over -= less;
            }
        }),
        ("bytes touched", |blast| blast.bytes, |blast, most| blast.bytes = most),
        ("schema objects changed", |blast| blast.schema_objects, |blast, most| blast.schema_objects = most),
    ];
    let mut told: Vec<(u64, u64)> = Vec::new();
    for (name, size, set) in all {
        let is = size(&effect.blast);
        let with = |most: u64| {
            let mut changed = asked.clone();
            if let Some((_, effect, _)) = &mut changed.after {
                set(&mut effect.blast, most);
            }
            changed
        };
        if is == 0 {
            continue;
        }
        let least = with(0).ruling(policy);
        if least >= now {
            continue;
        }
        // Largest that is ruled as nothing at all is; whatever is found was asked.
        let (mut good, mut bad) = (0, is);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if with(middle).ruling(policy) <= least { good = middle } else { bad = middle }
        }
        // Deleted rows are touched rows: the same bound is said once.
        if told.contains(&(is, good)) {
            continue;
        }
        told.push((is, good));
        let change = Change::Smaller { at_most: good };
        offer(
            &with(good),
            change,
            name,
            is.to_string(),
            if good == 0 { "none".into() } else { format!("at most {good}") },
        );
    }
}

fn fewer(blast: &mut Blast, most: u64, part: fn(&mut Rows) -> &mut u64) {
    let mut left = most;
    for rows in blast.rows.values_mut() {
        let part = part(rows);
        *part = left.min(*part);
        left -= *part;
    }
}

/// Another tool on the same resource, and the same tool in another environment.
fn tools(asked: &Asked, policy: &Policy, mode: &dyn Fn(&EnvironmentName) -> Mode, offer: Offer<'_>) {
    let contract = &asked.contract;
    // What flags say of another tool was not asked, and an alternative that is refused when it is tried is none.
    if contract.actor.agent().is_none() || asked.before.flags.is_some() {
        return;
    }
    let mut tools: Vec<&Tool> = policy.tools().collect();
    tools.sort_by_key(|tool| (tool.risk, tool.name.as_str()));
    // A read is no form of a write, nor the other way round, and which statement another tool of a database
    // would be given nobody knows.
    let form = |tool: &&&Tool| {
        tool.resource == contract.resource
            && tool.name != contract.tool
            && tool.risk.writes() == contract.writes()
            && tool.kind == Kind::Files
    };
    for tool in tools.iter().filter(form) {
        let mut changed = asked.clone();
        become_tool(&mut changed, tool);
        changed.after = None;
        offer(
            &changed,
            Change::Tool { tool: tool.name.clone() },
            "tool",
            contract.tool.to_string(),
            tool.name.to_string(),
        );
    }
    for tool in tools {
        let same = tool.local == contract.local && tool.kind == contract.kind;
        if same && tool.environment != contract.environment {
            let mut changed = asked.each(|c| c.mode = mode(&tool.environment));
            become_tool(&mut changed, tool);
            let name = |resource: &dyn std::fmt::Display, environment: &EnvironmentName| {
                format!("`{environment}` (`{resource}`)")
            };
            offer(
                &changed,
                Change::Environment { tool: tool.name.clone() },
                "environment",
                name(&contract.resource, &contract.environment),
                name(&tool.resource, &tool.environment),
            );
        }
    }
}

fn become_tool(asked: &mut Asked, tool: &Tool) {
    asked.before.forms.clone_from(&tool.forms);
    let contract = &mut asked.contract;
    // It would be called as it is: a form of another tool is none of this one.
    contract.form = None;
    contract.call_instead(tool);
}

/// The end of each freeze.
fn times(asked: &Asked, offer: Offer<'_>) {
    let now = asked.before.now;
    let ends = asked.before.controls.freezes.iter().filter_map(|freeze| freeze.until).filter(|until| *until > now);
    for until in ends {
        let later = asked.each(|c| {
            c.now = until;
            c.wall = None;
        });
        offer(&later, Change::Later { not_before: until }, "time", now.to_string(), format!("from {until} on"));
    }
}

/// A better way back: the lowest level that would do.
fn levels(asked: &Asked, now: Ruling, policy: &Policy, offer: Offer<'_>) {
    let Some((_, _, plan)) = &asked.after else { return };
    let level = plan.level();
    for better in [Level::Declared, Level::Compensable, Level::Snapshotted, Level::Proved] {
        if better <= level {
            continue;
        }
        let mut changed = asked.clone();
        if let Some((_, _, old)) = &mut changed.after {
            *old = old.supposing(better);
        }
        if changed.ruling(policy) < now {
            let name = |level: Level| format!("level {} ({})", level.number(), level.name());
            let change = Change::WayBack { level: better.number() };
            return offer(&changed, change, "way back", name(level), name(better));
        }
    }
}
