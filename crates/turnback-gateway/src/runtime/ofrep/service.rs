//! Asking one service.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use turnback_core::flags::Said;

use super::super::{lock, started};
use super::answers::{Answers, Came, Coming, Failed, Next, Question, said};
use super::request;
use crate::config::RemoteFlags;
use crate::operator::protocol::{RemoteFlagsState, RemoteFlagsView};

/// Requests to one service at once. Each has a thread while it lasts.
const ROOM: usize = 32;

/// How long a request that keeps to its own limit is waited for beyond it.
const GRACE: Duration = Duration::from_secs(1);

/// A service and what it said.
pub(super) struct Service {
    pub(super) settings: RemoteFlags,
    agent: ureq::Agent,
    room: Semaphore,
    answers: Mutex<Answers>,
}

impl Service {
    pub(super) fn new(settings: RemoteFlags) -> Self {
        let agent = request::agent();
        Self { settings, agent, room: Semaphore::new(ROOM), answers: Mutex::default() }
    }

    /// Finds out what to do about a question, and has it asked when it is time.
    pub(super) fn begin(self: &Arc<Self>, question: &Question, body: &Arc<[u8]>, now: Timestamp) -> Next {
        match lock(&self.answers).next(question, &self.settings, now) {
            Next::Ask(tell) => {
                let coming = tell.subscribe();
                self.ask(question.clone(), Arc::clone(body), now, tell);
                Next::Wait(coming)
            }
            Next::Refresh(said, tell) => {
                self.ask(question.clone(), Arc::clone(body), now, tell);
                Next::Known(said)
            }
            next => next,
        }
    }

    /// Waits for what was begun.
    pub(super) async fn end(
        self: &Arc<Self>,
        question: Question,
        body: &Arc<[u8]>,
        next: Next,
        now: impl Fn() -> Timestamp,
    ) -> Said {
        let next = match next {
            Next::After(trial) => {
                // What came of it is known to all who ask after it.
                let _ = self.wait(trial).await;
                self.begin(&question, body, now())
            }
            next => next,
        };
        let failed = match next {
            Next::Known(said) | Next::Refresh(said, _) => return said,
            Next::Wait(coming) => match self.wait(coming).await {
                Ok((at, answer)) => return said(&question, &answer, at, None, &self.settings),
                Err(failed) => failed,
            },
            // The service broke down again while this one waited.
            Next::After(_) | Next::Ask(_) => Failed::Busy("it is being asked whether it is back".to_owned()),
        };
        lock(&self.answers).without(&question, &self.settings, &failed, now())
    }

    async fn wait(&self, mut coming: Coming) -> Came {
        let came = tokio::time::timeout(self.settings.timeout + GRACE, coming.wait_for(Option::is_some)).await;
        match came {
            Ok(Ok(came)) => came.clone().unwrap_or_else(|| Err(request::late(&self.settings))),
            Ok(Err(_)) => Err(Failed::Busy("internal failure: the request was dropped".to_owned())),
            Err(_) => Err(request::late(&self.settings)),
        }
    }

    /// Asks in a task of its own: whoever asked may go away, and others wait for the same answer.
    fn ask(self: &Arc<Self>, question: Question, body: Arc<[u8]>, at: Timestamp, tell: watch::Sender<Option<Came>>) {
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let begun = Instant::now();
            let came = service.requested(&question, body, begun).await.map(|answer| (at, answer));
            let passed = SignedDuration::try_from(begun.elapsed()).unwrap_or(SignedDuration::ZERO);
            let now = at.saturating_add(passed).unwrap_or(at);
            // Known before anybody who waited looks again.
            let (before, after) = {
                let mut answers = lock(&service.answers);
                let before = answers.rests_until();
                answers.came(&question, &came, now);
                (before, answers.rests_until())
            };
            let url = &service.settings.url;
            match (before, after, &came) {
                (None, Some(_), Err(failed)) => {
                    tracing::warn!(service = %url, why = failed.why(), "release flags: down")
                }
                (Some(_), None, _) => tracing::info!(service = %url, "release flags: back"),
                _ => {}
            }
            // Nobody may be left to hear it.
            let _ = tell.send(Some(came));
        });
    }

    async fn requested(
        self: &Arc<Self>,
        question: &Question,
        body: Arc<[u8]>,
        begun: Instant,
    ) -> Result<turnback_core::flags::remote::Answer, Failed> {
        let limit = begun + self.settings.timeout;
        let Ok(Ok(_place)) = tokio::time::timeout_at(limit, self.room.acquire()).await else {
            return Err(Failed::Busy(format!("{ROOM} other requests to it took too long")));
        };
        let left = limit.saturating_duration_since(Instant::now());
        let (service, key) = (Arc::clone(self), question.key.clone());
        let work = started(move || request::evaluate(&service.agent, &service.settings, &key, &body, left));
        work.await.unwrap_or_else(|e| Err(Failed::Busy(format!("internal failure: {e}"))))
    }

    /// The service as operators see it.
    pub(super) fn view(&self, now: Timestamp) -> RemoteFlagsView {
        let settings = &self.settings;
        let answers = lock(&self.answers);
        let (held, oldest) = answers.held();
        let state = match (answers.rests_until(), answers.answered) {
            (Some(_), _) => RemoteFlagsState::Down,
            (None, None) => RemoteFlagsState::Unasked,
            (None, Some(at)) if now.duration_since(at) < settings.refresh => RemoteFlagsState::Fresh,
            (None, Some(_)) => RemoteFlagsState::Stale,
        };
        RemoteFlagsView {
            url: settings.url.clone(),
            keys: settings.keys.iter().map(ToString::to_string).collect(),
            state,
            answered: answers.answered,
            failed: answers.failed.as_ref().map(|(at, _)| *at),
            why: answers.failed.as_ref().map(|(_, why)| why.clone()),
            asked_again: answers.rests_until(),
            held,
            oldest,
            refresh_seconds: settings.refresh.as_secs_f64(),
            stale_after_seconds: settings.stale_after.as_secs_f64(),
        }
    }
}
