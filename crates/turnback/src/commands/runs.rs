//! `turnback runs`.

use turnback_core::names::AgentName;
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// List what agents did and tried, newest first
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 listed, 1 error.")]
pub(crate) struct Args {
    /// Only runs of this agent
    #[arg(long)]
    agent: Option<AgentName>,
    /// Only runs in this state: parked, settled, denied, refused, undone, ...
    #[arg(long, conflicts_with = "waiting")]
    state: Option<String>,
    /// Only runs that wait for a person
    #[arg(long)]
    waiting: bool,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: u32,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let state = if args.waiting { Some("parked".to_owned()) } else { args.state };
    let request = Request::Runs { agent: args.agent, state, limit: args.limit };
    match context.door()?.ask(&request)? {
        Reply::Runs(rows) => context.answer(&rows, |rows| render::runs::runs(rows, context.now))?,
        other => return Err(unexpected(&other).into()),
    }
    Ok(Exit::Fine)
}
