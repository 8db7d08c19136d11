//! The demo's gateway: this very program started as `turnback up`, stopped in order or killed.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use turnback_gateway::operator::protocol::{Reply, Request, Status};
use turnback_gateway::operator::socket_path;

use super::agent::Failure;
use super::world::World;
use crate::client::Door;

/// Longest time a gateway may take to answer after it was started.
const START: Duration = Duration::from_secs(20);

pub(super) struct Gateway {
    child: Child,
    socket: PathBuf,
    /// Where agents connect.
    pub(super) url: String,
}

impl Gateway {
    pub(super) fn start(world: &World) -> Result<Self, Failure> {
        let log = File::options().create(true).append(true).open(world.root.join("gateway.log"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["up", "--config"])
            .arg(world.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let socket = socket_path(&world.state());
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(world.root.join("gateway.log"))?;
                return Err(format!("the gateway ended with {status}:\n{log}").into());
            }
            match Door::Socket(socket.clone()).ask(&Request::Status) {
                // A socket left by a killed gateway could be answered by nobody else, but be sure.
                Ok(Reply::Status(Status { pid, url: Some(url), .. })) if pid == child.id() => {
                    return Ok(Self { child, socket, url });
                }
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Ok(reply) => return Err(format!("the gateway answered {reply:?}").into()),
                Err(refusal) => {
                    child.kill()?;
                    return Err(format!("the gateway did not start in {} s: {refusal}", START.as_secs()).into());
                }
            }
        }
    }

    /// Asks as the operator.
    pub(super) fn ask(&self, request: &Request) -> Result<Reply, turnback_core::refusal::Refusal> {
        Door::Socket(self.socket.clone()).ask(request)
    }

    /// `kill -9`: no chance to put anything in order.
    pub(super) fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop and waits until it did.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).ok_or("no such process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the gateway ended with {status}").into()) }
    }

    /// Waits until somebody else ends it.
    pub(super) fn wait(mut self) -> Result<(), Failure> {
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Whatever went wrong, no gateway is left behind; one that has ended cannot be killed again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
