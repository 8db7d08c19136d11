//! The laws every effect domain keeps, written once.
//!
//! A domain's own test file brings a [`World`] (how to open the domain, how to look at the resource
//! without it) and calls; the laws here judge only through [`Domain`] and that look. Nothing in here
//! knows what a file or a row is.
//!
//! A law panics with the difference when it is broken.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "each domain's test file uses the laws that concern it")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde_json::Value;
use turnback_core::contract::{Actor, Contract};
use turnback_core::decision::{Decision, Phase, Ruling, Verdict};
use turnback_core::digest::Sha256;
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, RunId};
use turnback_core::permit::Permit;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{Bearer, Completeness, Conflict, Level};
use turnback_core::run::{Measurement, Outcome, Standing};
use turnback_core::tool::{Match, Tool};
use turnback_effects::{Artifacts, Bounds, Domain, Reading, Staged, UndoRefused, Undone, commit};
use uuid::Uuid;

/// What an outsider sees of a resource: place to everything that matters about it.
pub(crate) type Look = BTreeMap<String, String>;

/// A resource under test.
pub(crate) trait World {
    /// A fresh instance of the domain on the same resource, as after a restart.
    fn open(&self) -> Box<dyn Domain>;
    /// The resource, seen without the domain.
    fn look(&self) -> Look;
    /// Staged work and pre-images kept beside the resource, by name.
    fn kept(&self) -> Vec<String>;
}

/// One call of a tool.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The domain's own tool name.
    pub(crate) tool: &'static str,
    /// Its arguments.
    pub(crate) arguments: Value,
}

/// A call of `tool`.
pub(crate) fn call(tool: &'static str, arguments: Value) -> Call {
    Call { tool, arguments }
}

/// A run identity nobody else in this process has. They are ordered like the calls that made them.
pub(crate) fn new_run() -> RunId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    RunId::new(Uuid::from_u128((0x0192_0000_0000_7000_8000 << 48) | next))
}

/// A moment after every Unix epoch and before every deadline that matters here.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// The blobs a gateway would have stored.
#[derive(Default)]
pub(crate) struct Blobs(Mutex<BTreeMap<Sha256, Vec<u8>>>);

impl Blobs {
    /// Stores what a staging brought.
    pub(crate) fn keep(&self, staged: &Staged) {
        let mut blobs = self.0.lock().unwrap();
        for artifact in &staged.artifacts {
            assert_eq!(artifact.hash, Sha256::of(&artifact.bytes), "an artifact is named by its content");
            blobs.insert(artifact.hash, artifact.bytes.clone());
        }
    }

    /// Loses every blob, as a vault that was wiped.
    pub(crate) fn lose_all(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Artifacts for Blobs {
    fn get(&self, hash: &Sha256) -> Result<Vec<u8>, Refusal> {
        let blobs = self.0.lock().unwrap();
        blobs.get(hash).cloned().ok_or_else(|| Refusal::new(Code::SnapshotLost, format!("blob {hash} is missing")))
    }
}

/// The contract of a call, made the way the gateway makes it.
///
/// # Errors
/// What the domain's `aim` refuses.
pub(crate) fn contract(domain: &dyn Domain, call: &Call) -> Result<Contract, Refusal> {
    let resource = ResourceName::new("subject").unwrap();
    let environment = EnvironmentName::new("test").unwrap();
    let specs = domain.tools();
    let spec = specs.iter().find(|s| s.name == call.tool).expect("the tool is one of the domain's");
    let tool = Tool::bind(spec, &resource, domain.kind(), &environment, Match::default(), Bearer::default()).unwrap();
    let actor = Actor::Agent(AgentName::new("tester").unwrap());
    let bytes = serde_json::to_vec(&call.arguments).unwrap();
    Contract::parse(&tool, actor, None, &bytes, None, |local, arguments| domain.aim(local, arguments))
}

/// Performs a read.
///
/// # Errors
/// What the domain refuses.
pub(crate) fn read(domain: &dyn Domain, call: &Call) -> Result<Reading, Refusal> {
    domain.read(&contract(domain, call)?, &Bounds::default())
}

/// Stages a call.
///
/// # Errors
/// What the domain refuses.
pub(crate) fn stage(domain: &dyn Domain, run: RunId, call: &Call) -> Result<Staged, Refusal> {
    domain.stage(run, &contract(domain, call)?, &Bounds::default())
}

/// A decision that allows, as gates would make it.
pub(crate) fn allows(phase: Phase) -> Decision {
    Decision::combine(phase, Sha256::of(b"policy"), vec![Verdict::new("test", Ruling::Allow, "the test allows it")])
}

/// The permit for exactly this staged work.
pub(crate) fn permit(run: RunId, staged: &Staged) -> Permit {
    let action = turnback_core::digest::ActionDigest(Sha256::of(b"action"));
    let (before, after) = (allows(Phase::Before), allows(Phase::After));
    Permit::mint(run, action, &staged.effect, &before, &after, None, Match::default(), now()).unwrap()
}

/// Commits staged work through the one door; says which steps were reported.
pub(crate) fn perform(run: RunId, staged: Staged) -> (Outcome, Vec<String>) {
    let mut steps = Vec::new();
    let permit = permit(run, &staged);
    let outcome = commit(permit, staged, now(), &mut |step| steps.push(step.to_owned()));
    (outcome, steps)
}

/// Stages and commits a call that must succeed, keeping its blobs.
pub(crate) fn done(domain: &dyn Domain, blobs: &Blobs, call: &Call) -> Undone {
    try_done(domain, blobs, call).unwrap_or_else(|refusal| panic!("{call:?} was refused: {refusal}"))
}

/// Stages and commits a call, keeping its blobs.
///
/// # Errors
/// What staging or the commit refuses.
pub(crate) fn try_done(domain: &dyn Domain, blobs: &Blobs, call: &Call) -> Result<Undone, Refusal> {
    let run = new_run();
    let staged = stage(domain, run, call)?;
    blobs.keep(&staged);
    let measurement = staged.measurement();
    match perform(run, staged).0 {
        Outcome::Succeeded => Ok(Undone { run, measurement }),
        Outcome::Failed { refusal } => Err(refusal),
        Outcome::Unknown { why } => panic!("{call:?} ended unknown: {why}"),
    }
}

/// Stages the undo of `undone`, which stand in the order they were done.
///
/// # Errors
/// What the domain refuses.
pub(crate) fn stage_undo(
    domain: &dyn Domain,
    blobs: &Blobs,
    run: RunId,
    undone: &[Undone],
) -> Result<Staged, UndoRefused> {
    let latest_first: Vec<Undone> = undone.iter().rev().cloned().collect();
    domain.undo(run, &latest_first, blobs, &Bounds::default())
}

/// Undoes `undone` (in the order they were done), which must succeed.
pub(crate) fn undo(domain: &dyn Domain, blobs: &Blobs, undone: &[Undone]) -> Undone {
    let run = new_run();
    let staged = match stage_undo(domain, blobs, run, undone) {
        Ok(staged) => staged,
        Err(why) => panic!("the undo was refused: {why:?}"),
    };
    blobs.keep(&staged);
    let measurement = staged.measurement();
    let (outcome, _) = perform(run, staged);
    assert_eq!(outcome, Outcome::Succeeded);
    assert_settled(domain, blobs, run, &measurement);
    Undone { run, measurement }
}

/// The conflicts an undo must be refused with.
pub(crate) fn conflicts(domain: &dyn Domain, blobs: &Blobs, undone: &[Undone]) -> Vec<Conflict> {
    match stage_undo(domain, blobs, new_run(), undone) {
        Err(UndoRefused::Conflicts(conflicts)) => {
            assert!(!conflicts.is_empty(), "a refusal names at least one conflict");
            conflicts
        }
        Err(UndoRefused::Refused(refusal)) => panic!("conflicts were expected, not `{refusal}`"),
        Ok(_) => panic!("the undo was staged although the world moved"),
    }
}

/// A finished commit probes as done and reads back as predicted.
fn assert_settled(domain: &dyn Domain, blobs: &Blobs, run: RunId, measurement: &Measurement) {
    assert_eq!(domain.probe(run, measurement), Standing::After, "a commit that succeeded probes as done");
    let observation = domain.observe(run, measurement, blobs).unwrap();
    assert_eq!(observation.differences, Vec::<String>::new(), "what was predicted is what is read back");
}

/// Two looks, with only what differs in the message.
#[track_caller]
pub(crate) fn assert_same(found: &Look, expected: &Look, what: &str) {
    let mut wrong = Vec::new();
    for place in expected.keys().chain(found.keys().filter(|k| !expected.contains_key(*k))) {
        if found.get(place) != expected.get(place) {
            wrong.push(format!("{place}: {:?} instead of {:?}", found.get(place), expected.get(place)));
        }
    }
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// Law: staging shows nobody anything, and dropping what was staged leaves nothing.
pub(crate) fn staging_is_invisible(world: &dyn World, call: &Call) {
    let domain = world.open();
    let (before, kept) = (world.look(), world.kept());
    let staged = stage(domain.as_ref(), new_run(), call).unwrap();
    assert_same(&world.look(), &before, "staging changed what others see");
    drop(staged);
    assert_same(&world.look(), &before, "dropping staged work changed what others see");
    assert_eq!(world.kept(), kept, "dropping staged work leaves nothing");
}

/// Law: staging the same call twice names the same effect, under whatever run.
pub(crate) fn staging_twice_is_the_same(world: &dyn World, call: &Call) {
    let domain = world.open();
    let first = stage(domain.as_ref(), new_run(), call).unwrap().effect;
    let second = stage(world.open().as_ref(), new_run(), call).unwrap().effect;
    assert_eq!(first.digest, second.digest, "the same effect has the same digest");
    assert_eq!(first.places, second.places, "the same places have the same digest");
    assert_eq!(first.blast, second.blast);
    assert_eq!(first.summary, second.summary);
    assert_eq!(first.reply, second.reply);
}

/// Law: the commit does what was staged, the plan earns its level, and every account of it agrees.
pub(crate) fn commit_is_what_was_staged(world: &dyn World, blobs: &Blobs, call: &Call) -> Undone {
    let domain = world.open();
    let before = world.look();
    let run = new_run();
    let staged = stage(domain.as_ref(), run, call).unwrap();
    blobs.keep(&staged);
    let measurement = staged.measurement();
    if !measurement.effect.blast.is_empty() {
        assert_eq!(domain.probe(run, &measurement), Standing::Before, "nothing is done before the commit");
    }
    let plan = &measurement.plan;
    assert!(plan.level() >= Level::Snapshotted, "the way back is held: {}", plan.evidence);
    assert!(plan.footprint.completeness >= Completeness::Bounded);
    let (outcome, _) = perform(run, staged);
    assert_eq!(outcome, Outcome::Succeeded);
    assert_settled(domain.as_ref(), blobs, run, &measurement);
    assert_settled(world.open().as_ref(), blobs, run, &measurement);
    assert_eq!(
        world.look() == before,
        measurement.effect.blast.is_empty(),
        "something changes when something was measured"
    );
    let touches = domain.touches(&measurement, blobs).unwrap();
    assert_eq!(touches.is_empty(), measurement.effect.blast.is_empty());
    let listed = measurement.plan.footprint.places.len() as u64 + measurement.plan.footprint.more;
    assert_eq!(listed, touches.len() as u64, "the footprint lists or counts every place");
    assert!(!domain.diff(&measurement, blobs).unwrap().is_empty(), "there is always a diff to show");
    Undone { run, measurement }
}

/// Law: undo restores the footprint; undoing the undo brings the effect back; undoing that restores again.
pub(crate) fn undo_restores(world: &dyn World, blobs: &Blobs, calls: &[Call]) {
    let before = world.look();
    let domain = world.open();
    let runs: Vec<Undone> = calls.iter().map(|c| done(domain.as_ref(), blobs, c)).collect();
    let after = world.look();
    let undone = undo(domain.as_ref(), blobs, &runs);
    assert_same(&world.look(), &before, "undo restores");
    let redone = undo(world.open().as_ref(), blobs, &[undone]);
    assert_same(&world.look(), &after, "undo of undo brings it back");
    undo(world.open().as_ref(), blobs, &[redone]);
    assert_same(&world.look(), &before, "and a third undo restores again");
}

/// Law: when the world moved since, undo refuses, names the place, and changes nothing.
pub(crate) fn undo_refuses_when_moved(
    world: &dyn World,
    blobs: &Blobs,
    calls: &[Call],
    meddle: &dyn Fn(),
    place: &str,
) {
    let domain = world.open();
    let runs: Vec<Undone> = calls.iter().map(|c| done(domain.as_ref(), blobs, c)).collect();
    meddle();
    let (moved, kept) = (world.look(), world.kept());
    let found = conflicts(domain.as_ref(), blobs, &runs);
    assert!(found.iter().any(|c| c.place == place), "`{place}` is named: {found:?}");
    assert_same(&world.look(), &moved, "a refused undo changes nothing");
    assert_eq!(world.kept(), kept, "a refused undo leaves nothing");
}

/// Law: when the world moves between staging and commit, the commit fails and changes nothing.
pub(crate) fn commit_refuses_when_moved(world: &dyn World, call: &Call, meddle: &dyn Fn()) -> Refusal {
    let domain = world.open();
    let run = new_run();
    let kept = world.kept();
    let staged = stage(domain.as_ref(), run, call).unwrap();
    meddle();
    let moved = world.look();
    let refusal = match perform(run, staged).0 {
        Outcome::Failed { refusal } => refusal,
        other => panic!("the commit must be refused, not {other:?}"),
    };
    assert_same(&world.look(), &moved, "a refused commit changes nothing");
    assert_eq!(world.kept(), kept, "a refused commit leaves nothing");
    refusal
}

/// Law: an expired permit commits nothing and leaves nothing.
pub(crate) fn late_permit_commits_nothing(world: &dyn World, call: &Call) {
    let domain = world.open();
    let (before, kept) = (world.look(), world.kept());
    let run = new_run();
    let staged = stage(domain.as_ref(), run, call).unwrap();
    let permit = permit(run, &staged);
    let late = now().saturating_add(turnback_core::permit::LIFETIME).unwrap();
    match commit(permit, staged, late, &mut |_| {}) {
        Outcome::Failed { refusal } => assert_eq!(refusal.code, Code::Denied),
        other => panic!("an expired permit committed: {other:?}"),
    }
    assert_same(&world.look(), &before, "an expired permit changes nothing");
    assert_eq!(world.kept(), kept);
}

/// Law: the node stopped after the intent and before the commit; a fresh instance finds nothing done,
/// and sweeping removes what was staged.
pub(crate) fn crash_before_commit(world: &dyn World, call: &Call) {
    let (before, kept) = (world.look(), world.kept());
    let run = new_run();
    let staged = stage(world.open().as_ref(), run, call).unwrap();
    let measurement = staged.measurement();
    // A killed process drops nothing.
    std::mem::forget(staged.held);
    let fresh = world.open();
    assert_eq!(fresh.probe(run, &measurement), Standing::Before);
    fresh.sweep(&|_| turnback_effects::Fate::Nothing).unwrap();
    assert_same(&world.look(), &before, "nothing happened");
    assert_eq!(world.kept(), kept, "sweeping removes staged leftovers");
}

/// Law: the node stopped at every step of a commit of several; a fresh instance says how far it came,
/// finishes it, and the end is what the commit would have made.
///
/// `prepare` makes the world ready and stages; it is called once for each step to stop at.
pub(crate) fn crash_at_every_step(mut prepare: impl FnMut() -> (Box<dyn World>, Blobs, RunId, Staged)) {
    let mut stop_at = 1;
    loop {
        let (world, blobs, run, staged) = prepare();
        blobs.keep(&staged);
        let measurement = staged.measurement();
        let permit = permit(run, &staged);
        let mut seen = 0;
        // Unwinding out of `progress` is the closest to a killed process that one process can do.
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            commit(permit, staged, now(), &mut |_| {
                seen += 1;
                if seen == stop_at {
                    std::panic::resume_unwind(Box::new("stopped"));
                }
            })
        }));
        if stopped.is_ok() {
            assert!(stop_at > 1, "a commit of several steps reports them");
            return;
        }
        let fresh = world.open();
        match fresh.probe(run, &measurement) {
            Standing::Between { done, of } => {
                assert_eq!(done, stop_at, "every reported step is done");
                assert!(of > done);
                assert_eq!(fresh.finish(run, &measurement, &mut |_| {}), Outcome::Succeeded);
            }
            Standing::After => {}
            other => panic!("stopped after step {stop_at} the world is known, not {other:?}"),
        }
        assert_settled(world.open().as_ref(), &blobs, run, &measurement);
        stop_at += 1;
    }
}
