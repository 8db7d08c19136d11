//! `turnback kill`, and what it shares with `turnback unkill`.

use turnback_core::gates::controls::{Scope, Switch};
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use turnback_core::tool::Risk;
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::{Door, unexpected};
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Stop agents at once: everything, or one agent, tool, resource, owner, workflow, risk or environment
#[derive(clap::Args)]
#[command(
    long_about = "Stop agents at once: everything, or one agent, tool, resource, owner, workflow, class of risk or environment.\n\nReads stop too. What people do, \
                  undo included, stays possible. Works without a readable configuration when --state-dir names the state \
                  directory.",
    after_help = "Exit codes: 0 stopped, 1 error: assume that nothing was stopped."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    scope: What,
    /// Why, for whoever is refused
    #[arg(short, long, global = true, default_value = "no reason given")]
    reason: String,
}

/// What a switch concerns.
#[derive(clap::Subcommand)]
pub(super) enum What {
    /// Everything every agent does
    Everything,
    /// One agent
    Agent { name: AgentName },
    /// One tool, such as shop__execute
    Tool { name: ToolName },
    /// One resource
    Resource { name: ResourceName },
    /// Every agent of one owner
    Owner { name: String },
    /// One workflow
    Workflow { name: String },
    /// One class of risk, such as admin_action
    Risk {
        #[arg(value_parser = risk)]
        class: Risk,
    },
    /// One environment
    Environment { name: EnvironmentName },
}

impl From<What> for Scope {
    fn from(what: What) -> Self {
        match what {
            What::Everything => Self::Everything,
            What::Agent { name } => Self::Agent(name),
            What::Tool { name } => Self::Tool(name),
            What::Resource { name } => Self::Resource(name),
            What::Owner { name } => Self::Owner(name),
            What::Workflow { name } => Self::Workflow(name),
            What::Risk { class } => Self::Risk(class),
            What::Environment { name } => Self::Environment(name),
        }
    }
}

fn risk(word: &str) -> Result<Risk, String> {
    Risk::ALL.into_iter().find(|risk| risk.word() == word).ok_or_else(|| {
        let words: Vec<_> = Risk::ALL.into_iter().map(Risk::word).collect();
        format!("there is no such class; use {}", words.join(", "))
    })
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    door.ask(&Request::Kill { scope: args.scope.into(), reason: args.reason })?;
    report(context, &door)
}

/// Prints what is stopped now, as the gateway sees it.
pub(super) fn report(context: &Context, door: &Door) -> Result<Exit, Failure> {
    match door.ask(&Request::Switches)? {
        Reply::Switches(switches) => {
            context.answer(&switches, |switches: &Vec<Switch>| render::operator::switches(switches, context.now))?;
            Ok(Exit::Fine)
        }
        other => Err(unexpected(&other).into()),
    }
}
