//! `turnback up`: serve, and say how to connect.

use std::io::IsTerminal as _;

use turnback_core::contract::Assignment;
use turnback_core::names::AgentName;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_gateway::config::Config;
use turnback_gateway::desk::Caller;
use turnback_gateway::node::Node;
use turnback_gateway::operator::protocol::{Reply, Request};

use super::init::Places;
use super::{init, serving, token};
use crate::client::{Door, unexpected};
use crate::context::{Context, Exit, Failure};
use crate::render::style::{FAINT, STRONG, next, paint};
use crate::templates::clients::{Client, TOKEN_VARIABLE};

/// The agent registered first when the configuration names none.
const FIRST_AGENT: &str = "agent";

/// How long the first agent's token works: thirty days.
const FIRST_TOKEN_SECONDS: u64 = 30 * 24 * 60 * 60;

/// Serve agents, and print how to connect them
#[derive(clap::Args)]
#[command(
    long_about = "Serve agents, and print how to connect them.\n\nThe first time, name what agents may work in: a \
                  configuration in observe mode and a starting policy are written into the folder `turnback` first.",
    after_help = "Example: turnback up --files ../work\n\nExit codes: 0 stopped in order, 1 error."
)]
pub(crate) struct Args {
    #[command(flatten)]
    places: Places,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    if !args.places.files.is_empty() || !args.places.sqlite.is_empty() {
        let folder = context.first_folder()?;
        context.notice(&init::wrote(&init::write(&folder, &args.places)?));
    }
    let config = context.config()?;
    let missing = config.missing();
    if !missing.is_empty() {
        return Err(Failure::Config(missing));
    }
    serve(context, &config)
}

/// Serves until it is told to stop; greets once both doors are open.
fn serve(context: &Context, config: &Config) -> Result<Exit, Failure> {
    serving::log();
    serving::run(async {
        let stop = serving::told_to_stop()?;
        let node = Node::start(config).await.map_err(serving::not_started)?;
        let url = node.url.clone();
        std::thread::scope(|scope| {
            // The greeting asks through the operators' door like any other operator, so that door has
            // to be served meanwhile.
            let greeting = scope.spawn(|| greet(context, &Door::open(config.socket()), config, &url));
            let served = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(node.serve(stop)));
            // Stopped while it still greeted, it has stopped in order all the same.
            if let Ok(Err(failure)) = greeting.join() {
                context.complain(&failure);
            }
            served.map(|()| Exit::Fine).map_err(Failure::from)
        })
    })
}

/// Says where everything is. When no agent is registered yet, registers the first one, owned by whoever
/// started the gateway, and prints what to paste into its client.
///
/// Both happen on a terminal only: under a service manager nobody asked for an agent, and stdout is a
/// log, where no secret belongs.
fn greet(context: &Context, door: &Door, config: &Config, url: &str) -> Result<(), Failure> {
    let fact = |name: &str, value: &str| format!("  {}  {value}\n", paint(FAINT, &format!("{name:<10}")));
    let mut text = format!("{}\n", paint(STRONG, "turnback is up"));
    text.push_str(&fact("agents", url));
    text.push_str(&fact("state", &visible(&config.state.to_string_lossy())));
    for (name, resource) in &config.resources {
        let mode = config.environments.get(&resource.environment).copied().unwrap_or_default();
        let place = visible(&resource.place.to_string_lossy());
        text.push_str(&fact(
            resource.kind.word(),
            &format!("{name}: {place} ({}, {})", resource.environment, mode.word()),
        ));
    }
    context.notice(&text);
    let agents = match door.ask(&Request::Agents)? {
        Reply::Agents(agents) => agents,
        other => return Err(unexpected(&other).into()),
    };
    if let Some(agent) = agents.first() {
        context.notice(&next(&format!("turnback token new {} --client claude-code", agent.name)));
        return Ok(());
    }
    let name = match &config.stdio_agent {
        Some(name) => name.clone(),
        None => AgentName::new(FIRST_AGENT).map_err(|e| Refusal::new(Code::Failed, e.to_string()))?,
    };
    if !std::io::stdout().is_terminal() {
        context.notice(&next(&format!("turnback agents add {name} --owner <person>")));
        return Ok(());
    }
    let Some(owner) = ["USER", "LOGNAME"].iter().find_map(|v| std::env::var(v).ok()).filter(|v| !v.is_empty()) else {
        context.notice(&next(&format!("turnback agents add {name} --owner <person>")));
        return Ok(());
    };
    door.ask(&Request::AgentAdd { name: name.clone(), owner: owner.clone(), level: None })?;
    context.notice(&format!("agent `{name}` is registered, owned by {}\n", visible(&owner)));
    let made = token::make(
        door,
        Caller { agent: name, on_behalf_of: None, assignment: Assignment::default() },
        FIRST_TOKEN_SECONDS,
    )?;
    context.answer(&serde_json::json!({ "url": url, "secret": made.secret }), |_| connect(url, &made.secret))?;
    Ok(())
}

/// How to connect, for every client.
fn connect(url: &str, secret: &str) -> String {
    let mut out =
        format!("Give the agent's client its token (shown only now):\n\n  export {TOKEN_VARIABLE}={secret}\n");
    for client in Client::ALL {
        let snippet = client.snippet(url).replace('\n', "\n  ");
        out.push_str(&format!("\n{}\n\n  {snippet}\n", paint(STRONG, client.place())));
    }
    out.push_str(&format!("\n{}\n", next("turnback runs")));
    out
}
