//! `turnback freeze`.

use jiff::{SignedDuration, Timestamp};
use turnback_core::gates::controls::{Freeze, Selector};
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Stop all writes for a while; reads and undo stay possible
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 error: assume that nothing is frozen.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Declare a freeze from now on
    Add {
        /// What to call it
        name: String,
        /// Only these environments; all of them when none is named
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        environment: Vec<EnvironmentName>,
        /// How long, such as 8h; until it is lifted when not said
        #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
        lasts: Option<SignedDuration>,
        /// Until when, such as 2026-12-24T18:00:00Z
        #[arg(long, value_name = "TIME")]
        until: Option<Timestamp>,
        /// An agent about whose writes a person decides, each by itself
        #[arg(long, value_name = "NAME")]
        except_agent: Vec<AgentName>,
        /// A tool about whose writes a person decides, each by itself
        #[arg(long, value_name = "NAME")]
        except_tool: Vec<ToolName>,
        /// A resource about whose writes a person decides, each by itself
        #[arg(long, value_name = "NAME")]
        except_resource: Vec<ResourceName>,
        /// Stage what is refused, so that the refusal says how much it would have been
        #[arg(long)]
        measure: bool,
        /// Why, for whoever is refused
        #[arg(short, long)]
        reason: String,
    },
    /// Lift what was declared with `freeze add`
    Lift {
        name: String,
        /// Why, for the record
        #[arg(short, long)]
        reason: String,
    },
    /// Show all freezes, on or not
    List,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let request = match args.what {
        What::Add { name, environment, lasts, until, except_agent, except_tool, except_resource, measure, reason } => {
            let until = match lasts {
                Some(lasts) => Some(context.now.saturating_add(lasts).unwrap_or(Timestamp::MAX)),
                None => until,
            };
            // Each of them by itself: what stands in one exception must hold together.
            let agents = except_agent.into_iter().map(|name| Selector { agents: vec![name], ..Selector::default() });
            let tools = except_tool.into_iter().map(|name| Selector { tools: vec![name], ..Selector::default() });
            let resources =
                except_resource.into_iter().map(|name| Selector { resources: vec![name], ..Selector::default() });
            let exceptions = agents.chain(tools).chain(resources).collect();
            let freeze =
                Freeze { name, reason, environments: environment, until, exceptions, measure, ..Freeze::default() };
            Request::FreezeAdd { freeze }
        }
        What::Lift { name, reason } => Request::FreezeLift { name, reason },
        What::List => Request::Freezes,
    };
    match context.door()?.ask(&request)? {
        Reply::Freezes(freezes) => {
            context.answer(&freezes, |freezes: &Vec<Freeze>| render::rules::freezes(freezes, context.now))?;
        }
        other => return Err(unexpected(&other).into()),
    }
    Ok(Exit::Fine)
}
