//! `turnback token`.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use turnback_core::contract::Assignment;
use turnback_core::names::{AgentName, TokenId};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_gateway::desk::Caller;
use turnback_gateway::operator::protocol::{Reply, Request};

use crate::client::{Door, unexpected};
use crate::context::{Context, Exit, Failure};
use crate::render;
use crate::templates::clients::{Client, TOKEN_VARIABLE};

/// Make, list and revoke the tokens agents authenticate with
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 error.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Make a token; the only time its secret is shown
    New {
        agent: AgentName,
        /// The user the agent acts for with it
        #[arg(long, value_name = "USER")]
        on_behalf_of: Option<String>,
        /// The account it works for with it; an account set for a resource wins
        #[arg(long)]
        account: Option<String>,
        /// The region it works in with it; a region set for a resource wins
        #[arg(long)]
        region: Option<String>,
        /// The workflow it is a part of with it
        #[arg(long)]
        workflow: Option<String>,
        /// How long it works, such as `8h`
        #[arg(long, default_value = "720h", value_name = "DURATION")]
        lifetime: String,
        /// Also print what to paste into this client
        #[arg(long, value_enum)]
        client: Option<Client>,
    },
    /// List all tokens, without secrets
    List,
    /// Revoke a token
    Revoke {
        /// In full or short
        token: String,
    },
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    match args.what {
        What::New { agent, on_behalf_of, account, region, workflow, lifetime, client } => {
            let assignment = Assignment { account, region, workflow };
            let token = make(&door, Caller { agent, on_behalf_of, assignment }, lifetime_seconds(&lifetime)?)?;
            context.answer(&json!({ "id": token.id, "secret": token.secret, "expires": token.expires }), |_| {
                format!("export {TOKEN_VARIABLE}={}", token.secret)
            })?;
            if !context.json() {
                let until = render::time::both(context.now, token.expires);
                context.notice(&format!("{} works until {until}; it is not shown again", token.id.short()));
            }
            if let Some(client) = client {
                let Reply::Status(status) = door.ask(&Request::Status)? else {
                    return Err(Refusal::new(Code::Failed, "the gateway does not say how it is").into());
                };
                let url = status.url.ok_or_else(|| {
                    Refusal::new(Code::Unavailable, "the gateway does not listen for agents").next("turnback up")
                })?;
                context.notice(&format!("\n{}\n\n{}", client.place(), client.snippet(&url)));
            }
        }
        What::Revoke { token } => {
            door.ask(&Request::TokenRevoke { token })?;
            list(context, &door)?;
        }
        What::List => list(context, &door)?,
    }
    Ok(Exit::Fine)
}

fn list(context: &Context, door: &Door) -> Result<(), Failure> {
    match door.ask(&Request::Tokens)? {
        Reply::Tokens(tokens) => context.answer(&tokens, |tokens| render::operator::tokens(tokens, context.now)),
        other => Err(unexpected(&other).into()),
    }
}

/// A token just made.
pub(super) struct Made {
    pub(super) id: TokenId,
    pub(super) secret: String,
    pub(super) expires: Timestamp,
}

/// Makes a token.
pub(super) fn make(door: &Door, bearer: Caller, lifetime_seconds: u64) -> Result<Made, Failure> {
    let Caller { agent, on_behalf_of, assignment } = bearer;
    match door.ask(&Request::TokenNew { agent, on_behalf_of, assignment, lifetime_seconds })? {
        Reply::Token { id, secret, expires } => Ok(Made { id, secret, expires }),
        other => Err(unexpected(&other).into()),
    }
}

fn lifetime_seconds(text: &str) -> Result<u64, Refusal> {
    text.parse::<SignedDuration>().ok().and_then(|d| u64::try_from(d.as_secs()).ok()).filter(|s| *s > 0).ok_or_else(
        || {
            Refusal::new(Code::BadInput, format!("`{}` is not a duration", visible(text)))
                .at("--lifetime")
                .next("write it with its unit, such as `8h` or `30m`")
        },
    )
}
