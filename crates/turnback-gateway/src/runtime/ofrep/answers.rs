//! What is known of one service, and what to do when somebody asks.
//!
//! Everything in here is bounded: answers by [`HELD_LIMIT`], questions under way by [`ASKING_LIMIT`].

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use turnback_core::digest::Sha256;
use turnback_core::flags::Said;
use turnback_core::flags::remote::{Answer, Heard};

use crate::config::RemoteFlags;

/// Answers kept of one service. The one that was asked for longest ago goes first.
pub(super) const HELD_LIMIT: usize = 10_000;

/// Questions to one service that are under way or wait for their turn. More are not asked.
pub(super) const ASKING_LIMIT: usize = 1_000;

/// How long a service that failed is left alone.
pub(super) const REST: SignedDuration = SignedDuration::from_secs(5);

/// The longest time a service is left alone because it said so.
const REST_LIMIT: SignedDuration = SignedDuration::from_mins(5);

/// A key and the context it is evaluated in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) key: String,
    context: Sha256,
}

impl Question {
    pub(super) fn new(key: String, body: &[u8]) -> Self {
        Self { key, context: Sha256::of(body) }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The service cannot be asked: nobody needs to try for a while, at least as long as it said.
    Down(String, Option<SignedDuration>),
    /// It answered this question with something else.
    Wrong(String),
    /// It was not asked.
    Busy(String),
}

impl Failed {
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Down(why, _) | Self::Wrong(why) | Self::Busy(why) => why,
        }
    }
}

/// What a request came to, for everybody who waits for it.
pub(super) type Came = Result<(Timestamp, Answer), Failed>;

/// Where what a request comes to will be said.
pub(super) type Coming = watch::Receiver<Option<Came>>;

/// What is known of one question.
#[derive(Default)]
struct Held {
    /// The last answer, and when it was asked for.
    answer: Option<(Timestamp, Answer)>,
    /// What it answered instead since then, and when.
    wrong: Option<(Timestamp, String)>,
    turn: u64,
}

/// Since when a service cannot be asked.
struct Down {
    why: String,
    until: Timestamp,
    /// Whoever finds out whether it is back.
    trial: Option<Coming>,
}

/// What to do about a question.
pub(super) enum Next {
    /// This is what counts.
    Known(Said),
    /// The same, and it is time to ask again behind it.
    Refresh(Said, watch::Sender<Option<Came>>),
    /// Somebody asks already.
    Wait(Coming),
    /// Somebody finds out whether the service is back: look again then.
    After(Coming),
    /// Ask, and tell everybody.
    Ask(watch::Sender<Option<Came>>),
}

/// What is known of one service.
#[derive(Default)]
pub(super) struct Answers {
    held: HashMap<Question, Held>,
    /// By when they were asked for.
    turns: BTreeMap<u64, Question>,
    turn: u64,
    asking: HashMap<Question, Coming>,
    down: Option<Down>,
    pub(super) answered: Option<Timestamp>,
    pub(super) failed: Option<(Timestamp, String)>,
}

impl Answers {
    /// What to do about a question now.
    pub(super) fn next(&mut self, question: &Question, settings: &RemoteFlags, now: Timestamp) -> Next {
        let held = self.held.get(question);
        let under_way = self.asking.get(question).cloned();
        if let Some((at, answer)) = held.and_then(|held| held.answer.clone())
            && now.duration_since(at) < settings.refresh
        {
            let said = said(question, &answer, at, None, settings);
            // Asked again in its second half, so that nobody waits at its end.
            let due = now.duration_since(at) > settings.refresh / 2;
            let rests = self.down.is_some() || held.is_some_and(|held| held.rests(now));
            if !due || rests || under_way.is_some() || self.asking.len() >= ASKING_LIMIT {
                return Next::Known(said);
            }
            return Next::Refresh(said, self.ask(question));
        }
        if let Some(coming) = under_way {
            return Next::Wait(coming);
        }
        if let Some(why) = held.and_then(|held| held.wrong.as_ref()).filter(|(at, _)| now.duration_since(*at) < REST) {
            let why = Failed::Wrong(why.1.clone());
            return Next::Known(self.without(question, settings, &why, now));
        }
        let resting = self.down.as_ref().map(|down| {
            // Over, or dropped with its task, it tells nobody anything.
            let trial = down.trial.clone().filter(|trial| trial.has_changed().is_ok() && trial.borrow().is_none());
            (now < down.until, down.why.clone(), trial)
        });
        match resting {
            Some((true, why, _)) => {
                let why = Failed::Busy(format!("{why}; it is asked again in a few seconds"));
                return Next::Known(self.without(question, settings, &why, now));
            }
            Some((false, why, Some(trial))) => {
                // What it said before counts as long as nobody knows better.
                let fallback = self.without(question, settings, &Failed::Down(why, None), now);
                return if fallback.error.is_none() { Next::Known(fallback) } else { Next::After(trial) };
            }
            _ => {}
        }
        if self.asking.len() >= ASKING_LIMIT {
            let why = Failed::Busy(format!("{ASKING_LIMIT} questions to it are under way"));
            return Next::Known(self.without(question, settings, &why, now));
        }
        let tell = self.ask(question);
        if let Some(down) = &mut self.down {
            down.trial = Some(tell.subscribe());
        }
        Next::Ask(tell)
    }

    fn ask(&mut self, question: &Question) -> watch::Sender<Option<Came>> {
        let (tell, coming) = watch::channel(None);
        self.asking.insert(question.clone(), coming);
        tell
    }

    /// Takes in what a request came to.
    pub(super) fn came(&mut self, question: &Question, came: &Came, now: Timestamp) {
        self.asking.remove(question);
        match came {
            Ok((at, answer)) => {
                self.down = None;
                self.answered = self.answered.max(Some(now));
                self.keep(question, |held| {
                    held.answer = Some((*at, answer.clone()));
                    held.wrong = None;
                });
            }
            Err(Failed::Wrong(why)) => {
                // It answers, if not this.
                self.down = None;
                self.failed = Some((now, format!("`{}`: {why}", question.key)));
                self.keep(question, |held| held.wrong = Some((now, why.clone())));
            }
            Err(Failed::Down(why, rest)) => {
                self.failed = Some((now, why.clone()));
                let rest = rest.unwrap_or(REST).clamp(REST, REST_LIMIT);
                let until = now.saturating_add(rest).unwrap_or(Timestamp::MAX);
                self.down = Some(Down { why: why.clone(), until, trial: None });
            }
            Err(Failed::Busy(why)) => self.failed = Some((now, why.clone())),
        }
    }

    fn keep(&mut self, question: &Question, change: impl FnOnce(&mut Held)) {
        self.turn += 1;
        let held = self.held.entry(question.clone()).or_default();
        self.turns.remove(&held.turn);
        held.turn = self.turn;
        change(held);
        self.turns.insert(self.turn, question.clone());
        if self.held.len() > HELD_LIMIT
            && let Some((_, oldest)) = self.turns.pop_first()
        {
            self.held.remove(&oldest);
        }
    }

    /// What counts of a question that was not answered: what was said before, while it is not too old.
    pub(super) fn without(&self, question: &Question, settings: &RemoteFlags, why: &Failed, now: Timestamp) -> Said {
        let last = self.held.get(question).and_then(|held| held.answer.as_ref());
        match last {
            Some((at, answer)) if now.duration_since(*at) <= settings.stale_after => {
                said(question, answer, *at, Some(why.why().to_owned()), settings)
            }
            Some((at, _)) => {
                let age = now.duration_since(*at).as_secs();
                let why = format!("{}; what it said {age} s ago is too old", why.why());
                Said::unheard(question.key.clone(), settings.url.clone(), why)
            }
            None => Said::unheard(question.key.clone(), settings.url.clone(), why.why().to_owned()),
        }
    }

    /// How many answers are held, and when the oldest was asked for.
    pub(super) fn held(&self) -> (usize, Option<Timestamp>) {
        let at = |held: &Held| held.answer.as_ref().map(|(at, _)| *at);
        (self.held.values().filter_map(at).count(), self.held.values().filter_map(at).min())
    }

    /// When the service is asked again, while it is down.
    pub(super) fn rests_until(&self) -> Option<Timestamp> {
        self.down.as_ref().map(|down| down.until)
    }
}

impl Held {
    fn rests(&self, now: Timestamp) -> bool {
        self.wrong.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < REST)
    }
}

/// What a service said, for the record.
pub(super) fn said(
    question: &Question,
    answer: &Answer,
    at: Timestamp,
    stale: Option<String>,
    settings: &RemoteFlags,
) -> Said {
    let heard = Heard { service: settings.url.clone(), at: Some(at), stale };
    Said::heard(question.key.clone(), answer, heard)
}

#[cfg(test)]
mod tests;
