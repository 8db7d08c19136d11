//! Killed again and again on one state directory that grows: at pseudo-random moments and at pseudo-random
//! hits of every fail point, with concurrent callers on three resources, undos, undos of undos and answers
//! under way. Built only with feature `turnback/failpoints`.
//!
//! A few kills here; a thousand with `TURNBACK_SWEEP=long`. `TURNBACK_SEED=<n>` plays the acts and the
//! kills of another seed; what several callers do at once still depends on the machine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::fits::{Act, Do, Heard, call, fits};
use common::{Agent, CONFIG, Dead, Node, Place};
use rustix::process::Signal;
use serde_json::{Value, json};

const SEED: u64 = 0x6b69_6c6c;

/// Every point where a node can be stopped, with how far apart its hits are told to be at most.
const POINTS: [(&str, u64); 14] = [
    ("journal-before-commit", 16),
    ("journal-after-commit", 16),
    ("journal-before-checkpoint-file", 1),
    ("before-question", 3),
    ("after-question", 3),
    ("before-answer", 3),
    ("after-answer", 3),
    ("before-intent", 6),
    ("after-intent", 6),
    ("between-steps", 2),
    ("after-commit", 6),
    ("in-undone-marks", 3),
    ("before-outcome", 6),
    ("after-outcome", 6),
];

/// SplitMix64.
#[derive(Clone)]
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// Everything anybody ever asked, and what was heard of it.
#[derive(Default)]
struct Script {
    acts: Vec<Act>,
    heard: Vec<Heard>,
}

struct Sweep {
    script: Mutex<Script>,
    /// Answers of all callers in this round.
    answers: AtomicUsize,
}

impl Sweep {
    /// Writes an act down before anybody is asked.
    fn begin(&self, act: Act) -> usize {
        let mut script = self.script.lock().unwrap();
        script.acts.push(act);
        script.heard.push(Heard::Nothing);
        script.acts.len() - 1
    }

    fn hear(&self, n: usize, heard: Heard) {
        self.script.lock().unwrap().heard[n] = heard;
        self.answers.fetch_add(1, Ordering::SeqCst);
    }

    fn run_of(&self, n: usize) -> String {
        match &self.script.lock().unwrap().heard[n] {
            Heard::Done(run) | Heard::Pending(run) => run.clone(),
            other => panic!("act {n} is {other:?}"),
        }
    }

    /// One call; the act's number and whether it waits for a person.
    fn call(&self, agent: &mut Agent, tool: &'static str, made: &dyn Fn(usize) -> Act) -> Result<(usize, bool), Dead> {
        // The number is part of what is asked, so that no two acts are alike.
        let number = self.script.lock().unwrap().acts.len() + self.answers.load(Ordering::SeqCst) * 1_000_000;
        let act = made(number);
        let Do::Call(_, arguments) = &act.does else { panic!("not a call") };
        let arguments = arguments.clone();
        let n = self.begin(act);
        let called = agent.call(tool, &arguments)?;
        let run = called.run.clone().unwrap_or_else(|| panic!("{called:?}"));
        let waits = called.error && called.text.contains("PENDING");
        assert!(waits || !called.error, "{called:?}");
        self.hear(n, if waits { Heard::Pending(run) } else { Heard::Done(run) });
        Ok((n, waits))
    }

    fn operator(&self, node: &Node, does: Do, request: &Value) -> Result<Value, Dead> {
        let answers = matches!(does, Do::Approve(_) | Do::Reject(_));
        let n = self.begin(Act { does, changes: Box::new(|_| {}) });
        let reply = node.ask(request).map_err(|e| Dead(e.to_string()))?;
        let row = &reply["value"][0]["row"];
        let run = row["run"].as_str().unwrap_or_else(|| panic!("{request}: {reply}")).to_owned();
        self.hear(n, if answers { Heard::Answered } else { Heard::Done(run) });
        Ok(row.clone())
    }

    fn undo(&self, node: &Node, of: &[usize]) -> Result<usize, Dead> {
        let runs: Vec<String> = of.iter().map(|n| self.run_of(*n)).collect();
        let request = json!({ "op": "undo", "what": { "kind": "runs", "runs": runs }, "dry_run": false });
        let n = self.script.lock().unwrap().acts.len();
        let row = self.operator(node, Do::Undo(of.to_vec()), &request)?;
        assert_eq!(row["state"], "settled", "{row}");
        let script = self.script.lock().unwrap();
        // Others may have written theirs down in between.
        let mine = (n..script.acts.len()).find(|n| matches!(&script.acts[*n].does, Do::Undo(mine) if mine == of));
        Ok(mine.unwrap())
    }

    /// What one caller does in a round: new things, and back and forth with what it just did.
    fn play(&self, node: &Node, token: &str, caller: usize, mut draw: Draw) -> Result<(), Dead> {
        let mut agent = node.agent(token)?;
        let insert = |tool, table: &'static str| {
            move |number: usize| {
                let what = format!("{caller}-{number}");
                let sql = format!("insert into ledger (id, what) values ({number}{caller}, '{what}')");
                call(tool, json!({ "sql": sql }), move |w| w.rows.get_mut(table).unwrap().push(what.clone()))
            }
        };
        let write = |folder: &'static str| {
            move |number: usize| {
                let (path, content) = (format!("{folder}{caller}-{number}.txt"), format!("{number}\n"));
                call("work__write_file", json!({ "path": path, "content": content }), move |w| {
                    w.files.insert(path.clone(), content.clone());
                })
            }
        };
        for _ in 0..4 {
            let one = |agent: &mut Agent| match caller {
                0 => self.call(agent, "shop__execute", &insert("shop__execute", "ledger")),
                1 => self.call(agent, "store__execute", &insert("store__execute", "store")),
                _ => self.call(agent, "work__write_file", &write("")),
            };
            let (first, _) = one(&mut agent)?;
            match draw.below(4) {
                0 => {
                    let undone = self.undo(node, &[first])?;
                    if draw.below(2) == 0 {
                        let redone = self.undo(node, &[undone])?;
                        if draw.below(2) == 0 {
                            self.undo(node, &[redone])?;
                        }
                    }
                }
                1 => {
                    let (second, _) = one(&mut agent)?;
                    let undone = self.undo(node, &[first, second])?;
                    if draw.below(2) == 0 {
                        self.undo(node, &[undone])?;
                    }
                }
                2 if caller == 2 => {
                    let (asked, waits) = self.call(&mut agent, "work__write_file", &write("asked"))?;
                    assert!(waits, "nobody was asked");
                    let approval = self.run_of(asked);
                    let row = match draw.below(3) {
                        0 => continue,
                        1 => {
                            let no = json!({ "op": "reject", "approval": approval, "reason": "no" });
                            self.operator(node, Do::Reject(asked), &no)?
                        }
                        _ => {
                            let yes = json!({ "op": "approve", "approval": approval });
                            self.operator(node, Do::Approve(asked), &yes)?
                        }
                    };
                    assert!(["settled", "rejected"].contains(&row["state"].as_str().unwrap()), "{row}");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn place() -> Place {
    let store = "[resources.store]\nkind = \"sqlite\"\npath = \"store.db\"\nenvironment = \"production\"\n\n[policy]";
    let place = Place::with(&CONFIG.replace("[policy]", store));
    let db = rusqlite::Connection::open(place.path("store.db")).unwrap();
    db.execute_batch("CREATE TABLE ledger (id INTEGER PRIMARY KEY, what TEXT NOT NULL)").unwrap();
    place
}

#[test]
fn killed_again_and_again() {
    let long = std::env::var("TURNBACK_SWEEP").is_ok_and(|how| how == "long");
    let kills = if long { 1_000 } else { 24 };
    let seed = std::env::var("TURNBACK_SEED").ok().map_or(SEED, |seed| seed.parse().unwrap());
    let mut draw = Draw(seed);
    let place = place();
    let base = place.world();
    let sweep = Sweep { script: Mutex::default(), answers: AtomicUsize::new(0) };
    let node = place.start();
    let token = node.register().unwrap();
    let mut kept = vec![node.told(&json!({ "op": "checkpoint" }), "checkpoint")];
    node.kill();
    let (mut known, mut killed, mut at_points) = (BTreeMap::new(), 0, BTreeMap::<&str, u32>::new());
    while killed < kills {
        // Half of the kills come at a fail point, half from outside at any moment.
        let (point, far) = POINTS[draw.below(POINTS.len() as u64) as usize];
        let point = (draw.below(2) == 0).then(|| (point, format!("{point}={}*off->return", 1 + draw.below(far))));
        let after = 1 + draw.below(14) as usize;
        let later = Duration::from_micros(draw.below(6_000));
        sweep.answers.store(0, Ordering::SeqCst);
        match place.try_start(point.as_ref().map_or("", |(_, points)| points)) {
            Err(ended) => {
                assert_eq!(ended.status.signal(), Some(9), "seed {seed}, kill {killed}: {}", ended.said);
                *at_points.entry(point.unwrap().0).or_default() += 1;
            }
            Ok(node) => {
                let died = std::thread::scope(|scope| {
                    let draws: Vec<Draw> = (0..3).map(|_| Draw(draw.next())).collect();
                    let callers: Vec<_> = (draws.into_iter().enumerate())
                        .map(|(caller, draw)| {
                            let (sweep, node, token) = (&sweep, &node, &token);
                            scope.spawn(move || sweep.play(node, token, caller, draw).is_ok())
                        })
                        .collect();
                    if point.is_none() {
                        while sweep.answers.load(Ordering::SeqCst) < after && !callers.iter().all(|c| c.is_finished()) {
                            std::thread::sleep(Duration::from_micros(200));
                        }
                        std::thread::sleep(later);
                        node.signal(Signal::KILL);
                    }
                    let ends = callers.into_iter().map(|caller| caller.join());
                    let all: Vec<bool> =
                        ends.map(|end| end.unwrap_or_else(|_| panic!("seed {seed}, kill {killed}"))).collect();
                    all.contains(&false)
                });
                // A point that was not met: killed all the same, at rest.
                node.signal(Signal::KILL);
                if let Some((point, _)) = point.filter(|_| died) {
                    *at_points.entry(point).or_default() += 1;
                }
                assert_eq!(node.ended().signal(), Some(9), "seed {seed}, kill {killed}");
            }
        }
        killed += 1;
        let node = place.start();
        {
            let script = sweep.script.lock().unwrap();
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                fits(&node, &place, &base, &script.acts, &script.heard, &mut known);
            }));
            assert!(checked.is_ok(), "seed {seed}, kill {killed}");
        }
        if killed % 10 == 0 {
            kept.push(node.told(&json!({ "op": "checkpoint" }), "checkpoint"));
        }
        // Looked at, and killed again before it did anything.
        node.kill();
        killed += 1;
        if killed % 100 == 0 {
            println!("{killed} kills, {} acts", sweep.script.lock().unwrap().acts.len());
        }
    }
    let node = place.start();
    let script = sweep.script.lock().unwrap();
    fits(&node, &place, &base, &script.acts, &script.heard, &mut known);
    node.stop_in_order();
    place.verify();
    for note in &kept {
        std::fs::write(place.path("kept"), note.as_str().unwrap()).unwrap();
        let verified = place.run(&["verify", "--checkpoint", place.path("kept").to_str().unwrap()]);
        assert_eq!(verified.status.code(), Some(0), "{}", common::text(&verified));
    }
    println!("{killed} kills, {} acts, {} checkpoints kept; at points: {at_points:?}", script.acts.len(), kept.len());
    assert!(!at_points.is_empty() && script.acts.len() as u32 > killed, "nothing was under way");
}

/// A gateway that sleeps past every limit and wakes up: the second one stayed out, nothing is done twice,
/// and what was asked is over.
#[test]
fn stopped_past_every_limit_and_continued() {
    let place =
        Place::with(&CONFIG.replace("[policy]", "[approvals]\nexpire = \"1s\"\n[limits]\ntime = \"1s\"\n[policy]"));
    let node = place.start();
    let token = node.register().unwrap();
    let asked = json!({ "sql": "delete from stock where id > 3" });
    let waits = node.agent(&token).unwrap().call("shop__execute", &asked).unwrap();
    let run = waits.run.unwrap();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let (node, token, done) = (&node, &token, &done);
                scope.spawn(move || {
                    let mut agent = node.agent(token).unwrap();
                    for n in 0..20 {
                        let sql = format!("insert into ledger (what) values ('{caller}-{n}')");
                        let called = agent.call("shop__execute", &json!({ "sql": sql })).unwrap();
                        // Refused for the time it took is an answer; done twice is not.
                        if !called.error {
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        while done.load(Ordering::SeqCst) < 5 {
            std::thread::sleep(Duration::from_micros(200));
        }
        node.signal(Signal::STOP);
        let second = place.try_second();
        assert!(second.contains(&node.pid().to_string()), "{second}");
        // Longer than a question, a statement and the wait for a lock may take.
        std::thread::sleep(Duration::from_millis(2_500));
        node.signal(Signal::CONT);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    let late = node.ask(&json!({ "op": "approve", "approval": run })).unwrap();
    assert_eq!(late["reply"], "refused", "{late}");
    let settled = node.rows().iter().filter(|row| row["state"] == "settled").count();
    let world = place.world();
    assert_eq!((world.rows["ledger"].len(), world.rows["stock"].len()), (settled, 6));
    assert!(settled >= done.load(Ordering::SeqCst));
    let mut once = world.rows["ledger"].clone();
    once.dedup();
    assert_eq!(once.len(), settled, "something was done twice");
    node.stop_in_order();
    place.verify();
}
