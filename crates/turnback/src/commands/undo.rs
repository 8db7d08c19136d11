//! `turnback undo`.

use jiff::{SignedDuration, Timestamp};
use turnback_core::names::AgentName;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_gateway::operator::protocol::{Reply, Request, RunView, UndoPlan, UndoWhat};

use super::show;
use crate::client::{Door, unexpected};
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Undo runs: all of them, or nothing and why not
#[derive(clap::Args)]
#[command(
    long_about = "Undo runs: all of them, or nothing and why not.\n\nLater work by others is never overwritten. The plan is \
                  shown first. An undo is a run of its own and can be undone.",
    after_help = "Exit codes: 0 undone, or nothing was to be done; 1 error; 2 something is in the way, or the undo did not \
                  settle."
)]
pub(crate) struct Args {
    /// The runs, in full or short
    #[arg(required_unless_present = "agent", conflicts_with = "agent")]
    runs: Vec<String>,
    /// Everything this agent did
    #[arg(long, requires = "since")]
    agent: Option<AgentName>,
    /// Since when: `2h`, `30m`, or a time such as 2026-11-20T12:00:00Z
    #[arg(long, requires = "agent", value_name = "WHEN")]
    since: Option<String>,
    /// Only print the plan, what is in the way, and what would not be restored
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let (what, again) = match (args.agent, args.since) {
        (Some(agent), Some(since)) => {
            let since = moment(&since, context.now)?;
            // The exact time, so that the command printed undoes what the plan shows.
            (UndoWhat::Agent { agent: agent.clone(), since }, format!("turnback undo --agent {agent} --since {since}"))
        }
        _ => {
            let again = format!("turnback undo {}", visible(&args.runs.join(" ")));
            (UndoWhat::Runs { runs: args.runs }, again)
        }
    };
    let door = context.door()?;
    if args.dry_run || !args.yes {
        let plan = plan(&door, what.clone())?;
        if args.dry_run {
            context.answer(&plan, |plan| render::undo::plan(plan, &again, context.now))?;
            return Ok(Exit::findings(!plan.blockers.is_empty()));
        }
        if !plan.blockers.is_empty() || plan.parts.is_empty() {
            context.answer(&plan, |plan| render::undo::plan(plan, &again, context.now))?;
            return Ok(Exit::findings(!plan.blockers.is_empty()));
        }
        context.notice(&render::undo::plan(&plan, &again, context.now));
        let Some(answer) = context.question("Type `undo` to undo, anything else to leave it as it is:") else {
            return Err(Refusal::new(Code::BadInput, "there is no terminal to ask on")
                .next(format!("{again} --yes"))
                .into());
        };
        if answer != "undo" {
            context.notice("nothing was changed");
            return Ok(Exit::Fine);
        }
    }
    let reply = match door.ask(&Request::Undo { what, dry_run: false }) {
        // What `--dry-run` finds in the way is found in the way here too.
        Err(refusal) if refusal.code == Code::Moved => {
            context.complain(&refusal.into());
            return Ok(Exit::Findings);
        }
        reply => reply?,
    };
    match reply {
        Reply::Ended(views) => {
            let views = show::settle(&door, *views)?;
            context.answer(&views, |views: &Vec<RunView>| views.iter().map(render::run::ended).collect())?;
            Ok(Exit::findings(!views.iter().all(|view| matches!(view.row.state.as_str(), "settled" | "done"))))
        }
        Reply::UndoPlan(plan) => {
            context.answer(&plan, |plan| render::undo::plan(plan, &again, context.now))?;
            Ok(Exit::findings(!plan.blockers.is_empty()))
        }
        other => Err(unexpected(&other).into()),
    }
}

fn plan(door: &Door, what: UndoWhat) -> Result<Box<UndoPlan>, Failure> {
    match door.ask(&Request::Undo { what, dry_run: true })? {
        Reply::UndoPlan(plan) => Ok(plan),
        other => Err(unexpected(&other).into()),
    }
}

/// A time, or a length of time before now.
pub(super) fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Refusal> {
    let bad = || {
        Refusal::new(Code::BadInput, format!("`{}` is not a time", visible(text)))
            .at("--since")
            .next("write how long ago, such as `7d`, `2h` or `30m`, or a time such as 2026-11-20T12:00:00Z")
    };
    // Days of 24 hours: a length of time before now knows no calendar.
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let ago = days.map_or_else(|| text.parse(), |days| Ok(SignedDuration::from_hours(i64::from(days) * 24)));
    let at = match ago {
        Ok(ago) if ago.is_positive() => now.checked_sub(ago).map_err(|_| bad())?,
        Ok(_) => return Err(bad()),
        Err(_) => text.parse().map_err(|_| bad())?,
    };
    if at > now {
        return Err(bad());
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_ago_or_a_time() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let at = |text: &str| moment(text, now).map(|at| at.to_string());
        assert_eq!(at("2h").unwrap(), "2026-11-20T10:00:00Z");
        assert_eq!(at("7d").unwrap(), "2026-11-13T12:00:00Z");
        assert_eq!(at("2026-11-19T00:00:00+01:00").unwrap(), "2026-11-18T23:00:00Z");
        for bad in ["yesterday", "-2h", "0s", "0d", "2026-11-21T00:00:00Z", ""] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
