//! `turnback demo`: an agent tries to wreck a database, through the real door.

use turnback_core::refusal::{Code, Refusal};

use crate::context::{Context, Exit, Failure};

/// Watch an agent try to wreck a database, and what happens instead
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 everything was as it should be, 1 something was not.")]
pub(crate) struct Args {
    /// Leave everything running to play with
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(_context: &Context, args: Args) -> Result<Exit, Failure> {
    let _ = args.keep;
    Err(Refusal::new(Code::Unavailable, "this build has no gateway to drive yet").into())
}
