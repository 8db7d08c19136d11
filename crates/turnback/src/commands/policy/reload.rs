//! `turnback policy reload`.

use turnback_gateway::operator::policy::PolicyRequest;

use super::staged;
use crate::context::{Context, Exit, Failure};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Why; it stands in the record with who you are
    #[arg(short, long)]
    reason: String,
}

pub(super) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let state = staged::ask(context, PolicyRequest::Reload { reason: args.reason })?;
    context.answer(state.as_ref(), staged::text)?;
    Ok(Exit::Fine)
}
