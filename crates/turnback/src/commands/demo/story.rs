//! What happens in the demo, in order. Numbers in brackets are the incidents it re-enacts.

use serde_json::{Value, json};
use turnback_core::contract::Assignment;
use turnback_core::names::AgentName;
use turnback_gateway::operator::protocol::{Reply, Request, RunView, UndoWhat};

use super::agent::{Agent, Called, Failure};
use super::gateway::Gateway;
use super::world::{BUILD_ENTRIES, CUSTOMERS, INACTIVE_EVERY, NOTE_ENTRIES, NOTE_FOLDERS, ORDERS, World};
use crate::render::number;
use crate::render::style::{BAD, CARE, GOOD, STRONG, paint};

/// Changes made one after another while the gateway is killed.
const STEADY_CHANGES: u32 = 60;
/// After so many answers it is killed.
const KILL_AFTER: u32 = 20;

pub(super) struct Story<'w> {
    world: &'w World,
    gateway: Option<Gateway>,
    token: String,
    agent: Agent,
}

/// Fails the demo with what was expected and what was found.
fn expect(holds: bool, what: &str, found: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(format!("{what}; found: {found}").into()) }
}

fn chapter(title: &str) {
    anstream::println!("\n{}", paint(STRONG, title));
}

fn asked(what: &str) {
    anstream::println!("  agent  {what}");
}

fn told(what: &str) {
    anstream::println!("         {what}");
}

fn person(what: &str) {
    anstream::println!("  human  {what}");
}

/// The part of an answer before its way back and identities: the same every time.
fn first_sentence(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    turnback_core::text::visible(line)
}

impl<'w> Story<'w> {
    pub(super) fn begin(world: &'w World) -> Result<Self, Failure> {
        let gateway = Gateway::start(world)?;
        let token = register(&gateway, "coder")?;
        let agent = Agent::connect(&gateway.url, &token)?;
        Ok(Self { world, gateway: Some(gateway), token, agent })
    }

    /// Hands over the gateway and the agent's token.
    pub(super) fn end(self) -> Result<(Gateway, String), Failure> {
        Ok((self.gateway.ok_or("the gateway is gone")?, self.token))
    }

    fn gateway(&self) -> Result<&Gateway, Failure> {
        self.gateway.as_ref().ok_or_else(|| "the gateway is gone".into())
    }

    fn reconnect(&mut self, gateway: Gateway) -> Result<(), Failure> {
        self.agent = Agent::connect(&gateway.url, &self.token)?;
        self.gateway = Some(gateway);
        Ok(())
    }

    pub(super) fn play(&mut self) -> Result<(), Failure> {
        self.reads_and_bounded_writes()?;
        self.review_across_a_kill()?;
        self.killed_in_the_middle()?;
        self.undo_never_tramples()?;
        self.freeze()?;
        self.wrong_directory()?;
        self.small_deletes()?;
        self.verify()
    }

    fn sql(&mut self, sql: &str) -> Result<Called, Failure> {
        asked(&format!("shop__execute  {sql}"));
        self.agent.call("shop__execute", &json!({ "sql": sql }))
    }

    fn file(&mut self, tool: &str, arguments: &Value) -> Result<Called, Failure> {
        asked(&format!("work__{tool}  {arguments}"));
        self.agent.call(&format!("work__{tool}"), arguments)
    }

    fn done(&self, called: &Called) -> Result<String, Failure> {
        expect(!called.error, "it should have been done", &called.text)?;
        let run = called.run.clone().ok_or("a done call names its run")?;
        let Reply::Run(view) = self.gateway()?.ask(&Request::Show { run: run.clone() })? else {
            return Err("no such run".into());
        };
        told(&paint(
            GOOD,
            &format!(
                "done: {} · way back level {} ({})",
                view.row.summary,
                view.level.unwrap_or_default(),
                view.plan.as_ref().map_or("none", |plan| plan.level().name()),
            ),
        ));
        Ok(run)
    }

    fn stopped(&self, called: &Called, gate: &str) -> Result<(), Failure> {
        expect(called.error, "it should have been stopped", &called.text)?;
        let effect = called.structured["details"]["effect"]["summary"].as_str();
        if let Some(effect) = effect {
            told(&format!("measured: {effect}"));
        }
        let gates = called.structured["details"]["gates"].as_array().cloned().unwrap_or_default();
        expect(
            gates.iter().any(|g| g["gate"] == json!(gate)),
            &format!("gate `{gate}` should have stopped it"),
            &called.text,
        )?;
        for stopped in gates {
            let name = stopped["gate"].as_str().unwrap_or_default();
            // The effect stands in the line above already.
            let said = effect.map(|effect| format!("; it {effect}")).unwrap_or_default();
            let reason = stopped["reason"].as_str().unwrap_or_default().replace(&said, "");
            told(&paint(BAD, &format!("stopped by {name}: {}", turnback_core::text::visible(&reason))));
        }
        Ok(())
    }

    fn value(&self, sql: &str, expected: &str) -> Result<(), Failure> {
        let found = self.world.value(sql)?;
        expect(found == expected, &format!("`{sql}` should give {expected}"), &found)
    }

    /// A way for agents to work: reads pass, a bounded change is measured, proved and made.
    fn reads_and_bounded_writes(&mut self) -> Result<(), Failure> {
        chapter("Reads pass; a bounded change is staged, measured, proved and committed");
        let tools = self.agent.tools()?;
        expect(tools.iter().any(|t| t == "shop__execute"), "the agent sees its tools", &tools.join(" "))?;
        asked("shop__query  select count(*) from customers");
        let called = self.agent.call("shop__query", &json!({ "sql": "select count(*) from customers" }))?;
        expect(!called.error && called.text.contains(&CUSTOMERS.to_string()), "the read passes", &called.text)?;
        told(&paint(GOOD, &format!("{} customers", number::count(u64::from(CUSTOMERS)))));
        let called = self.sql("update customers set tier = 'gold' where id between 10 and 12")?;
        self.done(&called)?;
        self.value("select count(*) from customers where tier = 'gold'", "3")
    }

    /// A large deletion needs a person; the question survives `kill -9`.
    fn review_across_a_kill(&mut self) -> Result<(), Failure> {
        chapter("A large deletion waits for a person, and waits through kill -9");
        let called = self.sql("delete from customers where active = 0")?;
        expect(called.error && called.text.contains("PENDING"), "it should wait", &called.text)?;
        self.value("select count(*) from customers", &CUSTOMERS.to_string())?;
        let Reply::Runs(waiting) =
            self.gateway()?.ask(&Request::Runs { agent: None, state: Some("parked".into()), limit: 10 })?
        else {
            return Err("no list of runs".into());
        };
        let run = waiting.first().ok_or("nothing waits")?.run.to_string();
        told(&paint(CARE, &format!("waits: {}", waiting.first().map_or("", |r| r.summary.as_str()))));
        let gateway = self.gateway.take().ok_or("the gateway is gone")?;
        gateway.kill()?;
        person("kill -9 the gateway, start it again, approve");
        let gateway = Gateway::start(self.world)?;
        self.reconnect(gateway)?;
        let Reply::Ended(views) = self.gateway()?.ask(&Request::Approve { approval: run })? else {
            return Err("no answer to an approval".into());
        };
        let view: &RunView = views.first().ok_or("the approved run is gone")?;
        expect(view.row.state == "settled", "the approved run settles", &view.row.state)?;
        told(&paint(GOOD, &format!("done: {} · way back level {}", view.row.summary, view.level.unwrap_or_default())));
        let left = CUSTOMERS - CUSTOMERS / INACTIVE_EVERY;
        self.value("select count(*) from customers", &left.to_string())?;
        self.value("select count(*) from orders", &(ORDERS - 2 * (CUSTOMERS / INACTIVE_EVERY)).to_string())?;
        let called = self.agent.call("shop__execute", &json!({ "sql": "delete from customers where active = 0" }))?;
        expect(!called.error, "the repeated call is told how the first one ended", &called.text)?;
        self.value("select count(*) from customers", &left.to_string())
    }

    /// `kill -9` in the middle of a stream of changes: database and journal agree afterwards.
    fn killed_in_the_middle(&mut self) -> Result<(), Failure> {
        chapter("kill -9 in the middle of a stream of changes loses nothing and repeats nothing");
        asked(&format!("{STEADY_CHANGES} × shop__execute  update orders set status = 'packed' where id = ..."));
        let gateway = self.gateway.take().ok_or("the gateway is gone")?;
        let mut agent = Agent::connect(&gateway.url, &self.token)?;
        let (answered, when) = std::sync::mpsc::channel();
        let stream = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for id in 1..=STEADY_CHANGES {
                let sql = format!("update orders set status = 'packed' where id = {id}");
                match agent.call("shop__execute", &json!({ "sql": sql })) {
                    Ok(called) if !called.error => acknowledged.push(id),
                    _ => break,
                }
                // The other side stops listening once it has pulled the plug.
                let _ = answered.send(());
            }
            acknowledged
        });
        for _ in 0..KILL_AFTER {
            when.recv()?;
        }
        gateway.kill()?;
        let acknowledged = stream.join().map_err(|_| "the stream of changes broke")?;
        person("kill -9 the gateway, start it again");
        let gateway = Gateway::start(self.world)?;
        self.reconnect(gateway)?;
        let packed: u32 = self.world.value("select count(*) from orders where status = 'packed'")?.parse()?;
        for id in &acknowledged {
            self.value(&format!("select status from orders where id = {id}"), "packed")?;
        }
        let agent = Some(AgentName::new("coder")?);
        let Reply::Runs(rows) =
            self.gateway()?.ask(&Request::Runs { agent, state: Some("settled".into()), limit: 10_000 })?
        else {
            return Err("no list of runs".into());
        };
        let recorded = rows
            .iter()
            .filter(|r| r.resource == "shop" && r.summary.contains("orders") && r.summary.starts_with("updates 1 row"))
            .count();
        expect(
            recorded == packed as usize,
            "the journal holds exactly the changes the database holds",
            &format!("{recorded} recorded, {packed} in the database, {} acknowledged", acknowledged.len()),
        )?;
        told(&paint(
            GOOD,
            "every acknowledged change is in the database; every change in the database is in the journal, once",
        ));
        Ok(())
    }

    /// Undo is exact, and never overwrites what somebody did since.
    fn undo_never_tramples(&mut self) -> Result<(), Failure> {
        chapter("Undo takes back exactly one change, and refuses to trample on later work");
        let called = self.sql("update customers set tier = 'silver' where id in (101, 102)")?;
        let first = self.done(&called)?;
        let called = self.sql("update customers set tier = 'silver' where id in (201, 202)")?;
        let second = self.done(&called)?;
        person("edits customer 102 by hand, with the sqlite3 shell");
        self.world.by_hand()?.execute("update customers set tier = 'platinum' where id = 102", [])?;
        let undo = |run: String| Request::Undo { what: UndoWhat::Runs { runs: vec![run] }, dry_run: false };
        person("turnback undo, of the first change");
        match self.gateway()?.ask(&undo(first)) {
            Err(refusal) => {
                let text = refusal.to_string();
                expect(text.contains("customers 102"), "the refusal names the row", &text)?;
                told(&paint(CARE, &turnback_core::text::visible(&refusal.message)));
            }
            Ok(reply) => return Err(format!("the undo should have refused: {reply:?}").into()),
        }
        self.value("select tier from customers where id = 102", "platinum")?;
        self.value("select tier from customers where id = 101", "silver")?;
        person("turnback undo, of the second change");
        let Reply::Ended(views) = self.gateway()?.ask(&undo(second))? else {
            return Err("no answer to an undo".into());
        };
        let view = views.first().ok_or("the undo is gone")?;
        told(&paint(GOOD, &format!("done: {}", view.row.summary)));
        self.value("select count(*) from customers where id in (201, 202) and tier = 'basic'", "2")
    }

    /// Incident 1: a freeze is a rule, not a prompt, and says how much was stopped.
    fn freeze(&mut self) -> Result<(), Failure> {
        chapter("[1] A change freeze: destructive SQL is stopped, with what it would have done");
        person("declares a change freeze for production in turnback.toml, restarts");
        self.gateway.take().ok_or("the gateway is gone")?.stop()?;
        self.world.freeze()?;
        let gateway = Gateway::start(self.world)?;
        self.reconnect(gateway)?;
        let before = self.world.value("select count(*) from orders")?;
        for sql in [
            "drop table customers",
            "delete from orders",
            "insert into customers select 100000 + id, 'Made Up ' || id, 'made-up' || id || '@example.com', 'basic', 1 from customers",
        ] {
            let called = self.sql(sql)?;
            self.stopped(&called, "controls")?;
        }
        self.value("select count(*) from orders", &before)?;
        asked("shop__query  select count(*) from orders");
        let called = self.agent.call("shop__query", &json!({ "sql": "select count(*) from orders" }))?;
        expect(!called.error, "reads pass during a freeze", &called.text)?;
        told(&paint(GOOD, "reads are answered"));
        Ok(())
    }

    /// Incidents 5, 7 and 14: wrong directories, the whole home, the backup.
    fn wrong_directory(&mut self) -> Result<(), Failure> {
        chapter("[5] [7] [14] The wrong directory, the whole home, the backup");
        let called = self.file("delete", &json!({ "path": "my project", "recursive": true }))?;
        self.stopped(&called, "blast_radius")?;
        for path in ["..", "/", "$HOME"] {
            let called = self.file("delete", &json!({ "path": path, "recursive": true }))?;
            expect(called.error, "it should have been refused", &called.text)?;
            told(&paint(BAD, &format!("refused: {}", first_sentence(&called.text))));
        }
        let called = self.file("delete", &json!({ "path": ".", "recursive": true }))?;
        expect(called.error, "the whole resource cannot be deleted", &called.text)?;
        told(&paint(BAD, &format!("refused: {}", first_sentence(&called.text))));
        let called = self.file("move", &json!({ "from": ".git", "to": ".git.bak" }))?;
        self.stopped(&called, "authorization")?;
        let called = self.file("delete", &json!({ "path": "my project/build", "recursive": true }))?;
        let run = self.done(&called)?;
        let build = self.world.work().join("my project/build");
        expect(!build.exists(), "the build folder is gone", "it is there")?;
        person("turnback undo");
        let reply = self.gateway()?.ask(&Request::Undo { what: UndoWhat::Runs { runs: vec![run] }, dry_run: false })?;
        expect(build.join("001.o").exists(), "the build folder is back", &format!("{reply:?}"))?;
        told(&paint(GOOD, &format!("done: {BUILD_ENTRIES} files and folders are back")));
        Ok(())
    }

    /// Incident 20: each delete is small and allowed; together they are not.
    fn small_deletes(&mut self) -> Result<(), Failure> {
        chapter("[20] Twenty small deletes, each of them allowed, run into the budget");
        let token = register(self.gateway()?, "cleaner")?;
        let mut cleaner = Agent::connect(&self.gateway()?.url, &token)?;
        asked(&format!("{NOTE_FOLDERS} × work__delete  notes/week-..., {NOTE_ENTRIES} files and folders each"));
        let began = jiff::Timestamp::now();
        let mut passed = 0;
        let mut last = None;
        for n in 1..=NOTE_FOLDERS {
            let arguments = json!({ "path": format!("notes/week-{n:02}"), "recursive": true });
            let called = cleaner.call("work__delete", &arguments)?;
            if called.error {
                last = Some(called);
                break;
            }
            passed += 1;
        }
        let Some(called) = last else { return Err("the budget should have stopped it".into()) };
        told(&paint(GOOD, &format!("{passed} were done")));
        self.stopped(&called, "blast_radius")?;
        person("turnback undo --agent cleaner --since ...");
        let what = UndoWhat::Agent { agent: AgentName::new("cleaner")?, since: began };
        let reply = self.gateway()?.ask(&Request::Undo { what, dry_run: false })?;
        let notes = self.world.work().join("notes");
        let back = (1..=NOTE_FOLDERS).filter(|n| notes.join(format!("week-{n:02}/020.txt")).exists()).count();
        expect(back == NOTE_FOLDERS as usize, "all notes are back", &format!("{back}: {reply:?}"))?;
        told(&paint(GOOD, &format!("done: all {NOTE_FOLDERS} folders are back")));
        Ok(())
    }

    /// The record verifies from the first leaf to the last.
    fn verify(&mut self) -> Result<(), Failure> {
        chapter("The record");
        self.gateway()?.ask(&Request::Checkpoint)?;
        person("turnback verify");
        let report = turnback_journal::verify(&self.world.state(), None, None)?;
        expect(report.records > 0, "there are records", &format!("{report:?}"))?;
        told(&paint(GOOD, "every record is in the signed tree, every payload is what was recorded"));
        Ok(())
    }
}

/// Registers an agent with its owner and makes a token for it.
fn register(gateway: &Gateway, name: &str) -> Result<String, Failure> {
    let agent = AgentName::new(name)?;
    gateway.ask(&Request::AgentAdd { name: agent.clone(), owner: "demo".into(), level: None })?;
    match gateway.ask(&Request::TokenNew {
        agent,
        on_behalf_of: None,
        assignment: Assignment::default(),
        lifetime_seconds: 3_600,
    })? {
        Reply::Token { secret, .. } => Ok(secret),
        reply => Err(format!("no token: {reply:?}").into()),
    }
}
