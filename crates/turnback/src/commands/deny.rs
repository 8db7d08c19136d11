//! `turnback deny`.

use turnback_core::gates::controls::{Deny, Selector};
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Deny agents what they must not do, until it is removed
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 error: assume that nothing was denied.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Add to the denylist; everything that is said must hold, of several values of one kind any
    Add {
        /// What to call it
        name: String,
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        agent: Vec<AgentName>,
        #[arg(long, value_name = "PERSON", value_delimiter = ',')]
        owner: Vec<String>,
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        tool: Vec<ToolName>,
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        resource: Vec<ResourceName>,
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        environment: Vec<EnvironmentName>,
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        workflow: Vec<String>,
        /// The user an agent acts for
        #[arg(long, value_name = "PERSON", value_delimiter = ',')]
        user: Vec<String>,
        /// A path or a table; with * at its end everything that begins so
        #[arg(long)]
        place: Vec<String>,
        /// Why, for whoever is refused
        #[arg(short, long)]
        reason: String,
    },
    /// Remove from the denylist what was added with `deny add`
    Remove {
        name: String,
        /// Why, for the record
        #[arg(short, long)]
        reason: String,
    },
    /// Show the denylist
    List,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let request = match args.what {
        What::Add { name, agent, owner, tool, resource, environment, workflow, user, place, reason } => {
            let what = Selector {
                agents: agent,
                owners: owner,
                tools: tool,
                resources: resource,
                environments: environment,
                workflows: workflow,
                users: user,
                places: place,
            };
            Request::DenyAdd { name, what, reason }
        }
        What::Remove { name, reason } => Request::DenyRemove { name, reason },
        What::List => Request::Denies,
    };
    match context.door()?.ask(&request)? {
        Reply::Denies(denies) => context.answer(&denies, |denies: &Vec<Deny>| render::rules::denies(denies))?,
        other => return Err(unexpected(&other).into()),
    }
    Ok(Exit::Fine)
}
