//! `turnback unkill`.

use turnback_gateway::operator::protocol::Request;

use super::kill::{What, report};
use crate::context::{Context, Exit, Failure};

/// Lift a kill switch
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 lifted, 1 error.")]
pub(crate) struct Args {
    #[command(subcommand)]
    scope: What,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    door.ask(&Request::Unkill { scope: args.scope.into() })?;
    report(context, &door)
}
