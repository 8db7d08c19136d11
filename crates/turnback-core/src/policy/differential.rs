//! Programs and slices against plain Cedar over the whole set, on random policies and random questions.
//!
//! The policies are parsed but not validated, so that everything the validator keeps out of a loaded policy
//! is met here all the same: attributes that are missing, values of the wrong type, integers that
//! overflow, functions no program knows.

use std::cell::{Cell, RefCell};

use cedar_policy::AuthorizationError::PolicyEvaluationError;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::compile::{Parsed, assemble, parse};
use super::source::split;
use super::*;
use crate::contract::Assignment;
use crate::effect::{Blast, Rows, Touch};
use crate::fixtures::{World, contract, measurement, registry, sources};
use crate::gates::ownership::Agent;
use crate::names::AgentName;
use crate::rollback::{Level, RollbackPlan};

/// Random choices, one after another; at its end only first choices.
struct Tape<'a>(std::slice::Iter<'a, u8>);

impl Tape<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte) % n)
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    fn number(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 4 } else { 8 }) {
            0 | 1 => self.one(&["0", "1", "3", "-2", "500", "9223372036854775807", "-9223372036854775808"]).to_owned(),
            2 => format!("context.effect.{}", self.one(&super::schema::EFFECT)),
            3 => "context.confidence".to_owned(),
            4 => format!("({} + {})", self.number(depth - 1), self.number(depth - 1)),
            5 => format!("({} - {})", self.number(depth - 1), self.number(depth - 1)),
            6 => format!("({} * {})", self.number(depth - 1), self.number(depth - 1)),
            _ => format!("(-({}))", self.number(depth - 1)),
        }
    }

    fn text(&mut self) -> String {
        match self.below(5) {
            0 | 1 => format!("\"{}\"", self.word()),
            4 => self.one(&["context.account", "context.region", "context.workflow"]).to_owned(),
            2 => self.one(&["context.place", "context.statement", "context.verb", "context.risk"]).to_owned(),
            _ => self
                .one(&["principal.owner", "principal.on_behalf_of", "context.environment", "resource.environment"])
                .to_owned(),
        }
    }

    fn word(&mut self) -> &'static str {
        self.one(&[
            "a",
            "ab",
            "",
            "anna",
            "update",
            "production",
            "a/b",
            "\u{e4}*b",
            "customers",
            ".git",
            "scoped_read",
        ])
    }

    /// A pattern out of so few letters that it often matches a [`Tape::place`].
    fn pattern(&mut self) -> String {
        (0..self.below(6)).map(|_| self.one(&["*", "a", "b", "*", "\\*", "\u{e4}", "a*"])).collect()
    }

    fn place(&mut self) -> String {
        if self.below(3) == 0 {
            return self.word().to_owned();
        }
        (0..self.below(6)).map(|_| self.one(&["a", "b", "a", "*", "\u{e4}", "/"])).collect()
    }

    fn set(&mut self) -> String {
        if self.below(2) == 0 {
            return self.one(&["context.names", "context.folded_names"]).to_owned();
        }
        let words: Vec<String> = (0..=self.below(3)).map(|_| format!("\"{}\"", self.word())).collect();
        format!("[{}]", words.join(", "))
    }

    fn action(&mut self) -> String {
        let name = self.one(&["read", "write", "sqlite.execute", "shop__execute", "notes__delete", "files.move"]);
        format!("Action::\"{name}\"")
    }

    fn resource(&mut self) -> &'static str {
        self.one(&["Sqlite::\"shop\"", "Files::\"notes\"", "Files::\"shop\"", "Sqlite::\"other\""])
    }

    fn agent(&mut self) -> &'static str {
        self.one(&["Agent::\"coder\"", "Agent::\"other\"", "Files::\"coder\""])
    }

    /// Mostly of the right type.
    fn condition(&mut self, depth: usize) -> String {
        let inner = depth.saturating_sub(1);
        match self.below(if depth == 0 { 16 } else { 27 }) {
            0 | 1 => "context.approved".to_owned(),
            2 => self.one(&["true", "false"]).to_owned(),
            3 => self
                .one(&[
                    "context has effect",
                    "context has confidence",
                    "context has account",
                    "context has region",
                    "context has workflow",
                    "principal has on_behalf_of",
                    "principal has owner",
                    "context has nothing",
                    "context has effect.rows",
                    "context.effect has rows",
                ])
                .to_owned(),
            4 => format!("{} {} {}", self.text(), self.one(&["==", "!="]), self.text()),
            5 | 6 => {
                let operator = self.one(&["<", "<=", ">", ">=", "==", "!="]);
                format!("{} {operator} {}", self.number(2), self.number(1))
            }
            7 => {
                let field = self.one(&super::schema::EFFECT);
                format!("(context has effect && context.effect.{field} > {})", self.number(1))
            }
            8 => {
                let text = self.one(&["context.place", "context.statement", "context.folded_place"]);
                format!("{text} like \"{}\"", self.pattern())
            }
            9 => format!("{}.contains({})", self.set(), self.text()),
            10 => format!("{}.{}({})", self.set(), self.one(&["containsAll", "containsAny"]), self.set()),
            11 => format!("{}.isEmpty()", self.set()),
            12 => match self.below(4) {
                0 => format!("principal == {}", self.agent()),
                1 => format!("principal in {}", self.agent()),
                2 => format!("principal in [{}, {}]", self.agent(), self.agent()),
                _ => format!("principal is {}", self.one(&["Agent", "Files"])),
            },
            13 => match self.below(3) {
                0 => format!("action == {}", self.action()),
                1 => format!("action in {}", self.action()),
                _ => format!("action in [{}, {}]", self.action(), self.action()),
            },
            14 => match self.below(4) {
                0 => format!("resource == {}", self.resource()),
                1 => format!("resource in [{}, {}]", self.resource(), self.resource()),
                2 => format!("resource is {}", self.one(&["Files", "Sqlite"])),
                _ => format!("resource is Files in {}", self.resource()),
            },
            15 => self.odd(),
            16 => format!("!({})", self.condition(inner)),
            17..=19 => format!("({} && {})", self.condition(inner), self.condition(inner)),
            20..=22 => format!("({} || {})", self.condition(inner), self.condition(inner)),
            23 => {
                let (test, yes, no) = (self.condition(inner), self.condition(inner), self.condition(inner));
                format!("(if {test} then {yes} else {no})")
            }
            24 => format!("(({}) == ({}))", self.condition(inner), self.condition(inner)),
            25 => format!("{} like \"{}\"", self.text(), self.pattern()),
            _ => format!("({} && {} && {})", self.condition(inner), self.condition(inner), self.condition(inner)),
        }
    }

    /// What a program must leave to Cedar: errors of every kind, and what it does not know.
    fn odd(&mut self) -> String {
        match self.below(9) {
            0 => format!("context.nothing == {}", self.number(1)),
            1 => format!("{} < {}", self.text(), self.number(1)),
            2 => format!("{} like \"a*\"", self.number(1)),
            3 => format!("{} == {}", self.text(), self.number(1)),
            4 => format!("{}.contains({})", self.set(), self.number(1)),
            5 => "decimal(\"1.5\").lessThan(decimal(\"2.0\"))".to_owned(),
            6 => "{a: 1, b: context.place}.b == \"a\"".to_owned(),
            7 => "principal.hasTag(\"x\")".to_owned(),
            _ => format!("(if {} then 1 else 2) == 1", self.condition(0)),
        }
    }

    fn policy(&mut self) -> String {
        let outcome = self.one(&["", "", "", "review", "constrain", "fallback"]);
        let effect = if outcome.is_empty() { self.one(&["permit", "forbid", "permit"]) } else { "forbid" };
        let outcome = if outcome.is_empty() { String::new() } else { format!("@outcome(\"{outcome}\") ") };
        let principal = match self.below(8) {
            0 => format!("principal == {}", self.agent()),
            1 => format!("principal in {}", self.agent()),
            2 => format!("principal is Agent in {}", self.agent()),
            3 => format!("principal is {}", self.one(&["Agent", "Files"])),
            _ => "principal".to_owned(),
        };
        let action = match self.below(8) {
            0 => format!("action == {}", self.action()),
            1 => format!("action in {}", self.action()),
            2 => format!("action in [{}, {}]", self.action(), self.action()),
            _ => "action".to_owned(),
        };
        let resource = match self.below(9) {
            0 => format!("resource == {}", self.resource()),
            1 => format!("resource in {}", self.resource()),
            2 => format!("resource is Files in {}", self.resource()),
            3 => format!("resource is {}", self.one(&["Files", "Sqlite"])),
            _ => "resource".to_owned(),
        };
        let mut text = format!("{outcome}{effect}({principal}, {action}, {resource})");
        for _ in 0..self.below(3) {
            text += &format!(" {} {{ {} }}", self.one(&["when", "unless"]), self.condition(2));
        }
        text + ";"
    }

    fn question(&mut self, world: &mut World) {
        world.approved = self.below(2) == 0;
        world.agent = Some(Agent {
            name: AgentName::new(self.one(&["coder", "other"])).unwrap(),
            owner: self.word().to_owned(),
            suspended: None,
            grants: Vec::new(),
            levels: Default::default(),
        });
        let contract = &mut world.contract;
        contract.actor = crate::contract::Actor::Agent(world.agent.as_ref().unwrap().name.clone());
        contract.on_behalf_of = [None, Some(self.word().to_owned())][self.below(2)].clone();
        let part = |tape: &mut Self| [None, Some(tape.word().to_owned())][tape.below(2)].clone();
        contract.assignment = Assignment { account: part(self), region: part(self), workflow: part(self) };
        contract.target.place = self.place();
        contract.target.statement = self.place();
        contract.statement.confidence = [None, Some(0.5), Some(0.0)][self.below(3)];
        world.measurement = (self.below(3) > 0).then(|| {
            let mut count = || [0, 1, 3, 500, u64::MAX][self.below(5)];
            let rows = Rows { inserted: 0, updated: count(), deleted: count() };
            let blast = Blast {
                rows: [("customers".to_owned(), rows)].into(),
                files_deleted: count(),
                bytes: count(),
                ..Blast::default()
            };
            let mut measured = measurement(blast, "x");
            let mut footprint = measured.plan.footprint.clone();
            footprint.more = count();
            let touch = |place: &str| Touch { place: place.into(), fields: vec![], before: None, after: None };
            footprint.places = (0..self.below(3)).map(|_| touch(self.word())).collect();
            measured.plan = RollbackPlan::new([Level::None, Level::Proved][self.below(2)], "x", footprint);
            measured
        });
    }
}

/// An answer by names, or the names of the rules that failed and how the first of them did.
type Plain = Result<(bool, Vec<String>, Vec<String>), (Vec<String>, String)>;

fn named(answer: &Answer<'_>) -> Plain {
    let names = |rules: &[&Rule]| rules.iter().map(|rule| rule.name.clone()).collect();
    Ok((answer.allowed, names(&answer.hard), names(&answer.soft)))
}

/// Plain Cedar over every policy there is, as its documentation says to use it.
fn plain(parsed: &[Parsed<'_>], entry: &Entry, question: &Question<'_>) -> Plain {
    let principal = question.principal().unwrap();
    let request =
        Request::new(principal.uid(), entry.action.clone(), entry.resource.clone(), question.context().unwrap(), None)
            .unwrap();
    let entities = entry.entities.clone().add_entities([principal], None).unwrap();
    let name = |id: &PolicyId| parsed.iter().find(|one| one.policy.id() == id).unwrap().rule.name.clone();
    let ask = |soft: bool| {
        let of_kind = parsed.iter().filter(|one| one.rule.outcome.is_some() == soft);
        let set = PolicySet::from_policies(of_kind.map(|one| one.policy.clone())).unwrap();
        let response = Authorizer::new().is_authorized(&request, &set, &entities);
        let mut errors: Vec<(String, String)> = response
            .diagnostics()
            .errors()
            .map(|PolicyEvaluationError(e)| (name(e.policy_id()), e.inner().to_string()))
            .collect();
        errors.sort();
        if let Some((_, first)) = errors.first() {
            return Err((errors.iter().map(|(name, _)| name.clone()).collect(), visible(first)));
        }
        let mut matched: Vec<String> = response.diagnostics().reason().map(name).collect();
        matched.sort();
        Ok((response.decision() == CedarDecision::Allow, matched))
    };
    let (allowed, hard) = ask(false)?;
    let soft = if allowed { ask(true)?.1 } else { Vec::new() };
    Ok((allowed, hard, soft))
}

/// How many questions were settled by programs, left to Cedar, and left to it because of an error.
#[derive(Default)]
struct Seen {
    settled: Cell<usize>,
    left: Cell<usize>,
    failed: Cell<usize>,
}

fn compare(tape: &[u8], schema: &Schema, world: &mut World, seen: &Seen) -> Result<(), TestCaseError> {
    let mut tape = Tape(tape.iter());
    let text: String = (0..=tape.below(4)).map(|_| tape.policy() + "\n").collect();
    let sources = sources(&text);
    let pieces = split(&text).into_iter().enumerate();
    let parsed: Vec<Parsed<'_>> = pieces.map(|(i, piece)| parse(&sources[0], piece, i).unwrap()).collect();
    let tools = registry();
    let tool = tools[tape.below(tools.len())].clone();
    let policy = assemble(&parsed, schema.clone(), std::slice::from_ref(&tool), Sha256::of(b"")).unwrap();
    let entry = policy.entries.values().next().unwrap();
    world.contract = contract(&tool, "", "");
    for _ in 0..16 {
        tape.question(world);
        let facts = world.facts();
        let question = Question::new(&facts, facts.agent.unwrap(), &entry.groups);
        let expected = plain(&parsed, entry, &question);
        // Its error paths check the request against the schema, too: what the builder makes must fit it.
        let by_cedar = match policy.by_cedar(entry, &question) {
            Ok(answer) => named(&answer),
            Err(verdict) => {
                let why = verdict.reason.split_once("failed to evaluate: ").map(|(_, why)| why.to_owned());
                Err((verdict.rules.clone(), why.unwrap_or(verdict.reason)))
            }
        };
        prop_assert_eq!(&by_cedar, &expected, "slice against whole set: {}\n{:?}", text, question);
        match entry.slice.settle(&question) {
            Some(answer) => {
                prop_assert_eq!(named(&answer), expected, "program against Cedar: {}\n{:?}", text, question);
                seen.settled.set(seen.settled.get() + 1);
            }
            None if expected.is_ok() => seen.left.set(seen.left.get() + 1),
            None => seen.failed.set(seen.failed.get() + 1),
        }
    }
    Ok(())
}

/// Sixteen questions about each of 700 sets, or of as many as `PROPTEST_CASES` says.
#[test]
fn programs_and_slices_answer_as_cedar_does() {
    let schema = Schema::from_cedarschema_str(&schema::text(&registry())).unwrap().0;
    let world = RefCell::new(World::new("", "shop__query"));
    let seen = Seen::default();
    let cases = std::env::var("PROPTEST_CASES").map_or(700, |cases| cases.parse().unwrap());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let tapes = prop::collection::vec(any::<u8>(), 60..400);
    TestRunner::new(config).run(&tapes, |tape| compare(&tape, &schema, &mut world.borrow_mut(), &seen)).unwrap();
    // A program that left everything to Cedar would agree with it, too.
    let (settled, left, failed) = (seen.settled.get(), seen.left.get(), seen.failed.get());
    let asked = settled + left + failed;
    let balanced = settled * 2 > asked && left * 20 > asked && failed * 50 > asked;
    assert!(balanced, "{settled} settled, {left} left, {failed} failed");
}
