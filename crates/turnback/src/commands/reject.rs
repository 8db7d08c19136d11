//! `turnback reject`.

use turnback_core::refusal::{Code, Refusal};
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Say no to a waiting run; the agent is told why
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 rejected, 1 error.")]
pub(crate) struct Args {
    /// The approval or its run, in full or short
    approval: String,
    /// Why, for the agent and the record
    reason: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    if args.reason.trim().is_empty() {
        let next = "say in a few words what would be acceptable instead";
        return Err(Refusal::new(Code::BadInput, "the reason is empty").at("REASON").next(next).into());
    }
    match context.door()?.ask(&Request::Reject { approval: args.approval, reason: args.reason })? {
        Reply::Ended(views) => context.answer(&views, |views| views.iter().map(render::run::ended).collect())?,
        Reply::Done => context.answer(&serde_json::json!({ "rejected": true }), |_| "rejected".into())?,
        other => return Err(unexpected(&other).into()),
    }
    Ok(Exit::Fine)
}
