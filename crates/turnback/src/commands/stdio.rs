//! `turnback stdio`: one agent over stdin and stdout, named by the configuration.
//!
//! Only carries bytes between the client and the running gateway; nothing else is ever written to
//! stdout, which belongs to the protocol.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use turnback_core::refusal::{Code, Refusal};
use turnback_gateway::operator::STDIO_LINE;

use crate::client::nobody;
use crate::context::{Context, Exit, Failure};

/// Serve the agent named in [stdio] over stdin and stdout
#[derive(clap::Args)]
#[command(
    long_about = "Serve the agent named in [stdio] over stdin and stdout.\n\nFor clients that start their servers. It \
                  carries their messages to the gateway that `turnback up` runs.",
    after_help = "Exit codes: 0 the client hung up, 1 error."
)]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<Exit, Failure> {
    let config = context.config()?;
    if config.stdio_agent.is_none() {
        return Err(Refusal::new(Code::BadInput, "the configuration names no agent for stdio")
            .at("stdio.agent")
            .next("add [stdio] with agent = \"...\" to turnback.toml")
            .into());
    }
    let socket = config.socket();
    let gateway = UnixStream::connect(&socket).map_err(|_| nobody(&socket))?;
    let lost =
        |e: io::Error| Refusal::new(Code::Unavailable, format!("the gateway went away: {e}")).next("turnback up");
    writeln!(&gateway, "{STDIO_LINE}").map_err(lost)?;
    let to_gateway = gateway.try_clone().map_err(lost)?;
    // Not joined: it may wait for a client that says nothing more after the gateway is gone.
    std::thread::spawn(move || {
        // Either side hanging up ends it; the other direction still drains.
        let _ = io::copy(&mut io::stdin().lock(), &mut &to_gateway);
        let _ = to_gateway.shutdown(Shutdown::Write);
    });
    io::copy(&mut &gateway, &mut Flushed(io::stdout().lock())).map_err(lost)?;
    Ok(Exit::Fine)
}

/// A writer that holds nothing back: the client waits for each line.
struct Flushed<W>(W);

impl<W: io::Write> io::Write for Flushed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
