//! `turnback stdio`: one agent over stdin and stdout, named by the configuration.
//!
//! When a gateway runs on the state directory, its operators' door hands out the stream; otherwise this
//! process becomes the gateway until the client hangs up. Either way stdout carries the protocol and
//! nothing else.

use std::sync::Arc;

use tokio::io::{AsyncWriteExt as _, copy, stdin, stdout};
use tokio::net::UnixStream;
use turnback_core::refusal::{Code, Refusal};
use turnback_gateway::config::Config;
use turnback_gateway::mcp;
use turnback_gateway::node::Node;
use turnback_gateway::operator;

use super::serving;
use crate::client::Door;
use crate::context::{Context, Exit, Failure};

/// Serve the agent named under `stdio` in the configuration, over stdin and stdout
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 the client hung up, 1 error.")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<Exit, Failure> {
    let config = context.config()?;
    let missing = config.missing();
    if !missing.is_empty() {
        return Err(Failure::Config(missing));
    }
    if config.stdio_agent.is_none() {
        return Err(Refusal::new(Code::BadInput, "the configuration names no agent for stdio")
            .at("stdio.agent")
            .next("add [stdio] with agent = \"...\" to turnback.toml")
            .into());
    }
    serving::log();
    serving::run(async {
        match Door::open(config.socket()) {
            Door::Socket(socket) => relay(UnixStream::connect(socket).await?).await?,
            Door::Nobody(_) => serve(&config).await?,
        }
        Ok(Exit::Fine)
    })
}

/// Passes bytes both ways between the client and the gateway that runs already.
async fn relay(stream: UnixStream) -> std::io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    to.write_all(format!("{}\n", operator::STDIO_LINE).as_bytes()).await?;
    let mut out = stdout();
    let upwards = async {
        copy(&mut stdin(), &mut to).await?;
        // The client has said everything; what it asked is still answered.
        to.shutdown().await
    };
    let downwards = async {
        copy(&mut from, &mut out).await?;
        out.flush().await
    };
    tokio::select! {
        ended = downwards => ended,
        Err(e) = upwards => Err(e),
    }
}

/// Becomes the gateway, both doors open as always, until the client hangs up.
async fn serve(config: &Config) -> Result<(), Failure> {
    let stop = serving::told_to_stop()?;
    let node = Node::start(config).await.map_err(serving::not_started)?;
    let caller = node.runtime.stdio_caller()?;
    let client = mcp::serve_stdio(Arc::new(node.runtime.clone()), caller, stdin(), stdout(), node.options.clone());
    let over = async {
        tokio::select! {
            served = client => {
                if let Err(error) = served {
                    tracing::warn!(%error, "the client's pipe broke");
                }
            }
            () = stop => {}
        }
    };
    Ok(node.serve(over).await?)
}
