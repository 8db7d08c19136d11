//! `turnback agents`.

use jiff::SignedDuration;
use turnback_core::gates::autonomy::Level;
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use turnback_core::tool::{Risk, Verb};
use turnback_gateway::operator::protocol::{GrantAsked, Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Register, list, suspend and reinstate agents, and grant them things
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
        /// How much it may do alone, 1 to 4; as before, or 3
        #[arg(long)]
        level: Option<Level>,
    },
    /// Set how much an agent may do alone: 1 proposes, 2 with approval, 3 routine alone, 4 alone within bounds
    Level {
        name: AgentName,
        /// 1 to 4
        level: Level,
        /// Only for this class of action, such as `external_effect`
        #[arg(long, value_name = "RISK", value_parser = class)]
        class: Option<Risk>,
        /// Why, for the record
        #[arg(short, long)]
        reason: String,
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
    /// Grant an agent something for a while; asked where `[grants] required = true`
    Grant {
        name: AgentName,
        /// These tools, such as shop__execute
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        tools: Vec<ToolName>,
        /// These resources
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        resources: Vec<ResourceName>,
        /// These environments
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        environments: Vec<EnvironmentName>,
        /// Only to search, read, create, update, delete or administer
        #[arg(long, value_name = "VERB", value_delimiter = ',', value_parser = verb)]
        verbs: Vec<Verb>,
        /// How long, such as 8h
        #[arg(long = "for", value_name = "DURATION")]
        lasts: SignedDuration,
        /// Why, for the record
        #[arg(short, long)]
        reason: String,
    },
    /// Take a grant back before it runs out
    RevokeGrant {
        name: AgentName,
        /// Which, such as g1
        grant: String,
    },
}

fn verb(word: &str) -> Result<Verb, String> {
    Verb::ALL.into_iter().find(|verb| verb.word() == word).ok_or_else(|| {
        let words: Vec<_> = Verb::ALL.into_iter().map(Verb::word).collect();
        format!("there is no such verb; use {}", words.join(", "))
    })
}

/// A class of action that changes something, by its word.
fn class(text: &str) -> Result<Risk, String> {
    let classes = [Risk::ReversibleWrite, Risk::ExternalEffect, Risk::AdminAction, Risk::Irreversible];
    let words: Vec<&str> = classes.iter().map(|class| class.word()).collect();
    classes.into_iter().find(|class| class.word() == text).ok_or_else(|| format!("use {}", words.join(", ")))
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    let token_next = match &args.what {
        What::Add { name, .. } => Some(format!("turnback token new {name}")),
        _ => None,
    };
    let request = match args.what {
        What::Add { name, owner, level } => Some(Request::AgentAdd { name, owner, level }),
        What::Level { name, level, class, reason } => Some(Request::AgentLevel { name, level, class, reason }),
        What::Suspend { name, reason } => Some(Request::AgentSuspend { name, reason: Some(reason) }),
        What::Resume { name } => Some(Request::AgentSuspend { name, reason: None }),
        What::Grant { name, tools, resources, environments, verbs, lasts, reason } => {
            let lifetime_seconds = u64::try_from(lasts.as_secs()).unwrap_or(0);
            let grant = GrantAsked { tools, resources, environments, verbs, lifetime_seconds, reason };
            Some(Request::Grant { agent: name, grant })
        }
        What::RevokeGrant { name, grant } => Some(Request::GrantRevoke { agent: name, grant }),
        What::List => None,
    };
    if let Some(request) = request {
        door.ask(&request)?;
    }
    match door.ask(&Request::Agents)? {
        Reply::Agents(agents) => context.answer(&agents, |agents| render::operator::agents(agents, context.now))?,
        other => return Err(unexpected(&other).into()),
    }
    if let Some(command) = token_next {
        context.notice(&render::style::next(&command));
    }
    Ok(Exit::Fine)
}
