//! `turnback leases`.

use turnback_core::names::ResourceName;
use turnback_gateway::operator::protocol::{LeaseView, Reply, Request};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;

/// Who works on what over several calls, and keeps others from it meanwhile
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 shown or released, 1 error.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show the leases that stand; so does no command at all
    List,
    /// Take leases from their holders: what they have staged under them is not committed
    Release {
        /// The resource they are on
        resource: ResourceName,
        /// Only on this place of it, and beneath
        #[arg(long)]
        place: Option<String>,
        /// Why, for the record
        #[arg(short, long, default_value = "")]
        reason: String,
    },
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    if let Some(What::Release { resource, place, reason }) = args.what {
        door.ask(&Request::LeasesRelease { resource, place, reason })?;
    }
    match door.ask(&Request::Leases)? {
        Reply::Leases(leases) => {
            context.answer(&leases, |leases: &Vec<LeaseView>| render::operator::leases(leases, context.now))?;
            Ok(Exit::Fine)
        }
        other => Err(unexpected(&other).into()),
    }
}
