//! `turnback show`.

use std::time::{Duration, Instant};

use turnback_gateway::operator::protocol::{Reply, Request, RunView};

use crate::client::{Door, unexpected};
use crate::context::{Context, Exit, Failure};
use crate::render;
use crate::render::run::Detail;

/// Show one run: what it changes, the way back, why it was decided so
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 shown, 1 error, 2 shown, and it is diverged, stuck or in doubt.")]
pub(crate) struct Args {
    /// The run or its approval, in full or short
    run: String,
    /// Everything the agent says about it, unverified
    #[arg(long)]
    statement: bool,
    /// Everything that happened, in order
    #[arg(long)]
    history: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let view = fetch(&context.door()?, args.run)?;
    let detail = Detail { statement: args.statement, history: args.history };
    context.answer(&view, |view| render::run::view(view, detail, context.now))?;
    Ok(Exit::findings(matches!(view.row.state.as_str(), "diverged" | "stuck" | "in_doubt")))
}

/// Everything about one run.
pub(super) fn fetch(door: &Door, run: String) -> Result<Box<RunView>, Failure> {
    match door.ask(&Request::Show { run })? {
        Reply::Run(view) => Ok(view),
        other => Err(unexpected(&other).into()),
    }
}

/// Runs as they are once nothing more happens to them by itself, or as they are after half a minute.
/// An answer may come while a commit is still read back.
pub(super) fn settle(door: &Door, views: Vec<RunView>) -> Result<Vec<RunView>, Failure> {
    let patience = Instant::now() + Duration::from_secs(30);
    let moves = |view: &RunView| {
        !view.row.over && !matches!(view.row.state.as_str(), "parked" | "settled" | "diverged" | "in_doubt" | "stuck")
    };
    let mut settled = Vec::with_capacity(views.len());
    for mut view in views {
        while moves(&view) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(50));
            view = *fetch(door, view.row.run.to_string())?;
        }
        settled.push(view);
    }
    Ok(settled)
}
