//! `turnback up`: serve, and say how to connect.

use std::io::IsTerminal as _;

use turnback_core::names::AgentName;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_gateway::config::Config;
use turnback_gateway::node::{Node, NotStarted};
use turnback_gateway::operator::protocol::{Reply, Request};

use super::policy::wrong;
use super::token;
use crate::client::{Door, unexpected};
use crate::context::{Context, Exit, Failure};
use crate::render::style::{FAINT, STRONG, next, paint};
use crate::templates::clients::{Client, TOKEN_VARIABLE};

/// The agent registered first when the configuration names none.
const FIRST_AGENT: &str = "agent";

/// The variable that says how much is logged to stderr: `info`, `turnback_gateway=debug`. Default: `warn`.
const LOG_VARIABLE: &str = "TURNBACK_LOG";

/// How long the first agent's token works: thirty days.
const FIRST_TOKEN_SECONDS: u64 = 30 * 24 * 60 * 60;

/// Serve agents, and print how to connect them
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 stopped in order, 1 error.")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<Exit, Failure> {
    let config = context.config()?;
    let missing = config.missing();
    if !missing.is_empty() {
        return Err(Failure::Config(missing));
    }
    serve(context, &config)
}

/// Starts the gateway, greets once it listens on both doors, and serves until it is told to stop.
fn serve(context: &Context, config: &Config) -> Result<Exit, Failure> {
    let filter = tracing_subscriber::EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Refusal::new(Code::Failed, format!("cannot start threads: {e}")))?;
    let node = runtime.block_on(Node::start(config)).map_err(|e| match e {
        NotStarted::Policy(errors) => wrong(errors.first()),
        NotStarted::Refused(refusal) => refusal,
    })?;
    let url = node.url.clone();
    std::thread::scope(|scope| {
        // The greeting asks through the operator's door like anybody else, so it runs beside it.
        scope.spawn(|| {
            if let Err(failure) = greet(context, &Door::Socket(config.socket()), config, &url) {
                context.complain(&failure);
            }
        });
        runtime.block_on(node.serve(told_to_stop()))
    })?;
    Ok(Exit::Fine)
}

/// Ends when the process is told to stop: Ctrl-C, or the signal service managers send.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals still end the process; the journal is made for that.
        _ => std::future::pending().await,
    }
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
    door.ask(&Request::AgentAdd { name: name.clone(), owner: owner.clone() })?;
    context.notice(&format!("agent `{name}` is registered, owned by {}\n", visible(&owner)));
    let made = token::make(door, name, None, FIRST_TOKEN_SECONDS)?;
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
