//! What `up` and `stdio` share: the async runtime, the log, the signal to stop.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use turnback_core::refusal::{Code, Refusal};
use turnback_gateway::node::NotStarted;

use crate::context::{Exit, Failure};

/// Runs to its end on all cores.
pub(super) fn run(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Refusal::new(Code::Failed, format!("cannot start: {e}")))?
        .block_on(work)
}

/// Writes the log to stderr: warnings, and what `TURNBACK_LOG` asks for (`debug`, `turnback_gateway=trace`).
pub(super) fn log() {
    let filter = EnvFilter::try_from_env("TURNBACK_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second call in one process would find the log set already, which is as well.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
}

/// Listens for Ctrl-C and SIGTERM from now on, and ends at the first of them. Called before anything is
/// served, so that whoever was answered once can also stop the gateway in order.
pub(super) fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Why a node did not start, for people.
pub(super) fn not_started(error: NotStarted) -> Failure {
    match error {
        NotStarted::Refused(refusal) => refusal.into(),
        NotStarted::Policy(errors) => {
            let more = errors.len().saturating_sub(1);
            let refusal = match errors.into_iter().next() {
                Some(first) => Refusal::new(Code::BadInput, first.message)
                    .at(format!("{}:{}:{}", first.file, first.line, first.column))
                    .next(if more == 0 {
                        "turnback policy lint".to_owned()
                    } else {
                        format!("turnback policy lint ({more} more)")
                    }),
                None => Refusal::new(Code::BadInput, "the policy does not compile").next("turnback policy lint"),
            };
            refusal.into()
        }
    }
}
