//! `turnback plan`.

use turnback_gateway::operator::plans::PlanView;
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Plans of agents: several changes verified together before any of them runs
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 shown or aborted, 1 error, 2 aborted and something of it still stands.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show the plans that are remembered; so does no command at all
    List,
    /// Show one plan, step by step
    Show {
        /// The plan, its identity in full or short
        plan: String,
    },
    /// Stop a plan and take back what it did, the last step first; asked again, it goes on where it stopped
    Abort {
        /// The plan, its identity in full or short
        plan: String,
        /// Why; the agent is told
        #[arg(short, long)]
        reason: String,
    },
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    let (request, aborts) = match args.what {
        None | Some(What::List) => (Request::Plans, false),
        Some(What::Show { plan }) => (Request::PlanShow { plan }, false),
        Some(What::Abort { plan, reason }) => (Request::PlanAbort { plan, reason }, true),
    };
    match door.ask(&request)? {
        Reply::Plans(plans) => {
            context.answer(&plans, |plans: &Vec<PlanView>| render::plan::list(plans, context.now))?;
            Ok(Exit::Fine)
        }
        Reply::Plan(plan) => {
            context.answer(&*plan, |plan: &PlanView| render::plan::one(plan, context.now))?;
            let stands = aborts && plan.unwound.iter().any(|unwound| unwound.by.is_none());
            Ok(if stands { Exit::Findings } else { Exit::Fine })
        }
        other => Err(unexpected(&other).into()),
    }
}
