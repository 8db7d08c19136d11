//! `turnback labels`.

use turnback_core::gates::flow::Reader;
use turnback_core::names::AgentName;
use turnback_core::trace::TraceId;
use turnback_gateway::operator::protocol::{LabelView, Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// What kind of content agents have read, which some of their actions may not follow on
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 shown or cleared, 1 error.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Clear the labels of an agent or a trace, as if it had not read what it read
    Clear {
        #[command(subcommand)]
        who: Who,
        /// Why, for the record
        #[arg(short, long, global = true, default_value = "")]
        reason: String,
    },
}

#[derive(clap::Subcommand)]
enum Who {
    /// One agent
    Agent { name: AgentName },
    /// Whoever acts in a trace
    Trace {
        /// Its 32 hexadecimal digits
        #[arg(value_parser = trace)]
        id: TraceId,
    },
    /// What was read in traces that were too many to keep apart
    AnyTrace,
}

fn trace(text: &str) -> Result<TraceId, String> {
    TraceId::new(text).ok_or_else(|| "a trace is 32 lowercase hexadecimal digits, not all zero".to_owned())
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    if let Some(What::Clear { who, reason }) = args.what {
        let who = match who {
            Who::Agent { name } => Reader::Agent(name),
            Who::Trace { id } => Reader::Trace(id),
            Who::AnyTrace => Reader::AnyTrace,
        };
        door.ask(&Request::LabelsClear { who, reason })?;
    }
    match door.ask(&Request::Labels)? {
        Reply::Labels(labels) => {
            context.answer(&labels, |labels: &Vec<LabelView>| render::operator::labels(labels, context.now))?;
            Ok(Exit::Fine)
        }
        other => Err(unexpected(&other).into()),
    }
}
