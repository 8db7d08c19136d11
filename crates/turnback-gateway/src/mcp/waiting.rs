//! Callers that wait for a person.
//!
//! Owns how long and how visibly a caller is held while its run is parked. Nothing that happens here can
//! approve or reject anything: the agent's own user may be asked to go and look, and whatever that user
//! answers only prolongs or ends the wait. Everybody is held for a bounded time, then told `PENDING`.
//!
//! | caller | what it gets |
//! |---|---|
//! | handshake era with URL elicitation | `elicitation/create` on the stream of its own request, held meanwhile. The error `-32042` would say the same, but clients hand it to the program as a failure, while a request is served by their ordinary elicitation handler |
//! | 2026-07-28 with URL elicitation | `input_required` at once (see [`super::server`]), held when it retries |
//! | everybody else | held, then `PENDING` |

use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, interval_at};

use super::peer::Elicited;
use super::room::Place;
use super::server::{Line, Server, closed};
use super::{catalog, message};
use crate::desk::{Answer, Desk, Pending};

/// How long the desk is asked to wait at once; so much later than wanted a wait may end.
const SLICE: Duration = Duration::from_millis(500);

/// Why a wait ends before its time.
#[derive(Clone, Copy)]
enum Stop {
    /// The user does not want to look, or the door closes.
    Enough,
    /// The peer does not want an answer.
    Cancelled,
}

/// A call whose run is parked.
pub(super) struct Parked<'a> {
    pub(super) pending: Pending,
    /// The request that waits.
    pub(super) id: &'a RawValue,
    /// Where progress is reported, when the client wants it.
    pub(super) progress: Option<&'a RawValue>,
    /// Whether the agent's user is asked to go and look.
    pub(super) asks: bool,
    /// Whether the agent's user already said they would not.
    pub(super) declined: bool,
}

/// Holds a caller until its run ends, it does not want to wait any longer, or the hold is over.
/// `None` when it cancelled or went away.
pub(super) async fn hold<D: Desk>(server: &Server<D>, line: &Line, parked: Parked<'_>, place: Place) -> Option<Answer> {
    let Parked { pending, id, progress, asks, declined } = parked;
    // Whoever only waits must not keep others from being served; too many who wait are sent away.
    let Ok(_waiting) = server.waiting.enter(&line.caller.agent) else {
        return Some(Answer::Pending(pending));
    };
    drop(place);
    let mut closing = server.closing.subscribe();
    let patience = if declined || *closing.borrow_and_update() { Duration::ZERO } else { server.options.hold };

    let running = line.peer.running(id);
    let (question, mut elicited) = match asks.then(|| line.peer.ask()) {
        Some((question, elicited)) => (Some(question), Some(elicited)),
        None => (None, None),
    };
    if let Some(question) = &question {
        let mut params = catalog::elicitation(&pending);
        params["elicitationId"] = json!(pending.approval);
        // No room to ask means a peer that does not read; it is held like one that cannot be asked.
        let _ = line.out.try_send(message::request(&question.id, "elicitation/create", &params));
    }

    // A desk that tells how a run ended marks it as told, and the next identical call is a new one. So a
    // wait is not dropped in favour of `PENDING`, which would make the caller repeat what was done: it
    // is made of short slices, and whatever ends it early waits for the end of its slice.
    let until = Instant::now() + patience;
    let mut stop = None;
    let slice = || {
        let left = until.saturating_duration_since(Instant::now());
        server.desk.wait(&line.caller, pending.clone(), left.min(SLICE))
    };
    let wait = slice();
    tokio::pin!(wait);
    let mut alive = interval_at(Instant::now() + server.options.keep_alive, server.options.keep_alive);
    let mut ticks = 0_u64;
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut wait => match (answer, stop) {
                (Answer::Pending(_), Some(Stop::Cancelled)) => return None,
                (Answer::Pending(_), None) if Instant::now() < until => wait.set(slice()),
                (answer, _) => break answer,
            },
            // Nobody is there to be told, so nothing must be marked as told.
            () = line.out.closed() => return None,
            () = running.cancelled.notified() => stop = Some(Stop::Cancelled),
            () = closed(&mut closing), if stop.is_none() => stop = Some(Stop::Enough),
            answer = answered(&mut elicited) => {
                elicited = None;
                if answer == Elicited::NotAccepted && stop.is_none() {
                    stop = Some(Stop::Enough);
                }
            }
            _ = alive.tick() => {
                ticks += 1;
                if let Some(token) = progress.filter(|_| line.streams) {
                    let text = format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":{ticks},"message":{}}}}}"#,
                        token.get(),
                        json!(format!("waiting for a person to answer {}", pending.approval)),
                    );
                    // To a peer that does not read, the hold must not become longer than it is.
                    let _ = line.out.try_send(text);
                }
            }
        }
    };
    if question.is_some() && !matches!(answer, Answer::Pending(_)) {
        let params = json!({ "elicitationId": pending.approval });
        let _ = line.out.try_send(message::notification("notifications/elicitation/complete", &params));
    }
    Some(answer)
}

/// The user's answer; never, when nobody was asked.
async fn answered(elicited: &mut Option<tokio::sync::oneshot::Receiver<Elicited>>) -> Elicited {
    match elicited {
        Some(receiver) => receiver.await.unwrap_or(Elicited::NotAccepted),
        None => std::future::pending().await,
    }
}
