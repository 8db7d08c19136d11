//! `turnback budget`.

use turnback_core::names::AgentName;
use turnback_gateway::operator::protocol::{BudgetView, Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Show what is spent of budgets, and refill the one only people refill
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 error.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show every budget of which something is spent
    List,
    /// Let an agent write again what cannot be taken back, as often as its budget says
    Refill {
        agent: AgentName,
        /// Why, for the record
        #[arg(short, long)]
        reason: String,
    },
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let request = match args.what {
        What::List => Request::Budgets,
        What::Refill { agent, reason } => Request::BudgetRefill { agent, reason },
    };
    match context.door()?.ask(&request)? {
        Reply::Budgets(budgets) => {
            context.answer(&budgets, |budgets: &Vec<BudgetView>| render::rules::budgets(budgets))?;
        }
        other => return Err(unexpected(&other).into()),
    }
    Ok(Exit::Fine)
}
