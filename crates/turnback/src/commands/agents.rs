//! `turnback agents`.

use turnback_core::names::AgentName;
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Register, list, suspend and reinstate agents
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 error.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Register an agent, or change its owner
    Add {
        name: AgentName,
        /// The person who answers for it: a system user name
        #[arg(long)]
        owner: String,
    },
    /// List all agents
    List,
    /// Refuse everything an agent asks for
    Suspend {
        name: AgentName,
        /// Why, for the agent and the record
        #[arg(short, long)]
        reason: String,
    },
    /// Let a suspended agent ask again
    Resume { name: AgentName },
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    let token_next = match &args.what {
        What::Add { name, .. } => Some(format!("turnback token new {name}")),
        _ => None,
    };
    let request = match args.what {
        What::Add { name, owner } => Some(Request::AgentAdd { name, owner }),
        What::Suspend { name, reason } => Some(Request::AgentSuspend { name, reason: Some(reason) }),
        What::Resume { name } => Some(Request::AgentSuspend { name, reason: None }),
        What::List => None,
    };
    if let Some(request) = request {
        door.ask(&request)?;
    }
    match door.ask(&Request::Agents)? {
        Reply::Agents(agents) => context.answer(&agents, |agents| render::operator::agents(agents))?,
        other => return Err(unexpected(&other).into()),
    }
    if let Some(command) = token_next {
        context.notice(&render::style::next(&command));
    }
    Ok(Exit::Fine)
}
