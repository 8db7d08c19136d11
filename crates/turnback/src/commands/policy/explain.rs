//! `turnback policy explain`.

use turnback_gateway::operator::policy::PolicyRequest;
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run or its approval, in full or short
    run: String,
}

pub(super) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    match context.door()?.ask(&Request::Policy { what: PolicyRequest::Explain { run: args.run } })? {
        Reply::Explained(explanation) => context.answer(&explanation, |explanation| explanation.text())?,
        other => return Err(unexpected(&other).into()),
    }
    Ok(Exit::Fine)
}
