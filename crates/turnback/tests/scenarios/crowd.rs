//! Many at once: requests that race each other, and somebody who changes the world while one is made.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use super::Wrong;
use super::doors::Answer;
use super::format::Step;
use super::place::{self, Picture};
use super::story::{Heard, Player, strings};

/// How one request ended.
struct Ended {
    outcome: String,
    refusal: Value,
    /// It became a run, so that its refusal stands there.
    run: bool,
    /// Everything it was told.
    text: String,
}

impl Ended {
    fn agent(answer: &Answer) -> Self {
        let heard = Heard::of(answer);
        let text = format!("{}\n{}", strings(&answer.json), answer.body);
        Self { outcome: heard.outcome.into(), refusal: heard.refusal.clone(), run: heard.run.is_some(), text }
    }

    fn operator(answer: &Value) -> Self {
        let outcome = answer["reply"].as_str().unwrap_or_default().to_owned();
        Self { outcome, refusal: answer["value"].clone(), run: true, text: strings(answer) }
    }
}

impl Player<'_> {
    /// One request, whoever makes it.
    fn once(&self, step: &Step) -> Result<Ended, Wrong> {
        match &step.operator {
            Some(request) => {
                let line = match self.fill_json(request)? {
                    Value::String(line) => line,
                    request => request.to_string(),
                };
                Ok(Ended::operator(&self.doors()?.operator(&line)?))
            }
            None => Ok(Ended::agent(&self.agent(step)?)),
        }
    }

    /// The same request many times at the same moment.
    pub(crate) fn crowd(&mut self, step: &Step, count: u32, before: &Picture) -> Result<(), Wrong> {
        if step.call.is_none() && step.http.is_none() && step.operator.is_none() {
            return Err("only call, http and operator are made at once".into());
        }
        let ready = Barrier::new(count as usize);
        let this = &*self;
        let ended: Vec<Ended> = std::thread::scope(|scope| {
            let one = || {
                ready.wait();
                this.once(step)
            };
            let all: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|one| one.join().map_err(|_| "a request broke".to_owned())?).collect::<Result<_, _>>()
        })?;
        let mut tally = BTreeMap::<String, u32>::new();
        for ended in &ended {
            *tally.entry(ended.outcome.clone()).or_default() += 1;
        }
        let expect = &step.expect;
        let fits = match expect.any_of.as_slice() {
            [] => tally == expect.tally,
            any => tally.keys().all(|outcome| any.contains(outcome)),
        };
        if !fits {
            let mut told = BTreeMap::new();
            for ended in &ended {
                told.entry(&ended.outcome).or_insert_with(|| ended.text.chars().take(400).collect::<String>());
            }
            let wanted = (&expect.tally, &expect.any_of);
            return Err(format!("they should end {wanted:?}, ended {tally:?}: {told:#?}"));
        }
        for ended in ended.iter().filter(|e| matches!(e.outcome.as_str(), "refused" | "error")) {
            self.refusal(&step.expect, &ended.refusal)?;
            self.texts(&step.expect, &ended.text)?;
            if let Some(message) = ended.refusal["message"].as_str().filter(|_| !ended.run) {
                self.turned.push(message.to_owned());
            }
        }
        if step.expect.changes || tally.keys().any(|outcome| matches!(outcome.as_str(), "done" | "ended")) {
            return Ok(());
        }
        place::same(before, &self.place.picture()?)
    }

    /// The step, while somebody exchanges two paths as fast as the kernel does it. When all is over they
    /// stand as they did.
    pub(crate) fn swapping(&mut self, step: &Step, one: &str, other: &str) -> Result<(), Wrong> {
        let (one, other) = (self.place.path(one), self.place.path(other));
        let over = AtomicBool::new(false);
        let this = &*self;
        let ended: Vec<Ended> = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| -> Result<u64, String> {
                let mut swaps = 0;
                // Twice each time, so that an even number was made when it is over.
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..2 {
                        // One of the two may be gone for a moment while it is undone; then nothing is exchanged.
                        let swapped = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                        swaps += u64::from(swapped.is_ok());
                    }
                    std::thread::yield_now();
                }
                if swaps % 2 == 1 {
                    renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).map_err(|e| e.to_string())?;
                }
                Ok(swaps)
            });
            let ended = (0..step.times.unwrap_or(1)).map(|_| this.once(step)).collect::<Result<_, _>>();
            over.store(true, Ordering::Relaxed);
            let swaps = swapper.join().map_err(|_| "the exchange broke".to_owned())??;
            if swaps == 0 { Err("nothing was exchanged".to_owned()) } else { ended }
        })?;
        for ended in &ended {
            if !step.expect.any_of.contains(&ended.outcome) {
                let any = &step.expect.any_of;
                return Err(format!("it should end as one of {any:?}, ended {}:\n{}", ended.outcome, ended.text));
            }
            self.texts(&step.expect, &ended.text)?;
            if let Some(message) = ended.refusal["message"].as_str().filter(|_| !ended.run && ended.outcome != "done") {
                self.turned.push(message.to_owned());
            }
        }
        Ok(())
    }
}
