//! The runtime end to end: real domains, a real journal, restarts.

mod support;

use serde_json::json;
use std::io::{Read as _, Write as _};
use std::time::Duration;
use support::{CONFIG, Place, done, ended, pending, refused};
use turnback_core::decision::Phase;
use turnback_core::gates::controls::Scope;
use turnback_core::gates::{self, Measured};
use turnback_core::names::AgentName;
use turnback_core::policy::Policy;
use turnback_core::refusal::Code;
use turnback_core::run::Event;
use turnback_gateway::desk::{Answer, Call, Caller, Desk as _};
use turnback_gateway::operator::protocol::{Reply, Request, UndoWhat};

#[tokio::test]
async fn a_bounded_write_is_proved_done_undone_and_redone() {
    let place = Place::new();
    let node = place.start().await;
    let (_, reply) = done(node.call("db__query", json!({ "sql": "select tier from customers where id = 3" })).await);
    assert!(reply.to_string().contains("basic"), "{reply}");
    let (run, _) = done(node.sql("update customers set tier = 'gold' where id = 3").await);
    assert_eq!(place.value("select tier from customers where id = 3"), json!("gold"));
    let view = node.show(&run).await;
    assert_eq!((view.row.state.as_str(), view.level), ("settled", Some(5)), "{view:?}");
    assert!(view.diff.as_deref().is_some_and(|d| d.contains("gold")), "{:?}", view.diff);

    let undo = ended(node.undo(&[&run]).await).remove(0);
    assert_eq!(place.value("select tier from customers where id = 3"), json!("basic"));
    assert_eq!(node.show(&run).await.row.state, "undone");
    // Undone once is undone: again is refused and names the undo.
    let Reply::Refused(refusal) = node.undo(&[&run]).await else { panic!("undone twice") };
    assert_eq!(refusal.code, Code::Exists);

    ended(node.undo(&[&undo.row.run.to_string()]).await);
    assert_eq!(place.value("select tier from customers where id = 3"), json!("gold"));
    assert_eq!(node.show(&run).await.row.state, "settled");
    ended(node.undo(&[&run]).await);
    assert_eq!(place.value("select tier from customers where id = 3"), json!("basic"));
}

#[tokio::test]
async fn files_go_and_come_back() {
    let place = Place::new();
    let node = place.start().await;
    let before = support::tree(&place.path("work"));
    let (written, _) = done(node.call("work__write_file", json!({ "path": "a.txt", "content": "two\n" })).await);
    let (made, _) = done(node.call("work__make_directory", json!({ "path": "sub" })).await);
    let (deleted, _) = done(node.call("work__delete", json!({ "path": "a.txt" })).await);
    assert_eq!(place.file("a.txt"), None);
    // The write cannot be undone alone: the delete came later.
    let Reply::Refused(refusal) = node.undo(&[&written]).await else { panic!("undone below a later delete") };
    assert!(refusal.message.contains("a.txt"), "{refusal:?}");
    ended(node.undo(&[&written, &made, &deleted]).await);
    assert_eq!(support::tree(&place.path("work")), before);
}

#[tokio::test]
async fn a_question_survives_a_restart_and_is_answered_once() {
    let place = Place::new();
    let node = place.start().await;
    let call = "delete from customers where id > 10";
    let waiting = pending(node.sql(call).await);
    assert_eq!(place.value("select count(*) from customers"), json!(20));
    // The same action again joins it.
    assert_eq!(pending(node.sql(call).await).approval, waiting.approval);
    node.stop().await;

    let node = place.start().await;
    assert_eq!(pending(node.sql(call).await).approval, waiting.approval);
    let approval = waiting.approval.to_string();
    let mut answers = Vec::new();
    for _ in 0..100 {
        let (runtime, approval) = (node.runtime.clone(), approval.clone());
        answers.push(tokio::spawn(async move { runtime.operate(Request::Approve { approval }, "anna").await }));
    }
    let mut approved = 0;
    for answer in answers {
        match answer.await.unwrap() {
            Reply::Ended(views) => {
                approved += 1;
                assert_eq!(views[0].row.state, "settled", "{views:?}");
            }
            Reply::Refused(refusal) => assert_eq!(refusal.code, Code::Exists),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(approved, 1);
    assert_eq!(place.value("select count(*) from customers"), json!(10));
    assert_eq!(place.value("select count(*) from orders"), json!(10));
    // The caller hears the end once, and nothing is done again; a further call is a new action.
    done(node.sql(call).await);
    assert_eq!(place.value("select count(*) from customers"), json!(10));
    let (_, reply) = done(node.sql(call).await);
    assert!(reply.to_string().contains('0'), "{reply}");
}

#[tokio::test]
async fn so_many_questions_of_one_agent_wait_and_no_more() {
    let place = Place::new();
    place.configure(&CONFIG.replace("[policy]", "[approvals]\nmost = 2\n[policy]"));
    let node = place.start().await;
    let delete = |above: u64| format!("delete from customers where id > {above}");
    let (first, second) = (pending(node.sql(&delete(10)).await), pending(node.sql(&delete(11)).await));
    let over = |answer| {
        let (refusal, _) = refused(answer);
        assert_eq!(refusal.code, Code::Overloaded, "{refusal:?}");
        assert!(refusal.message.contains("the bound is 2"), "{refusal:?}");
    };
    over(node.sql(&delete(12)).await);
    // What waits can still be joined, and what was refused left nothing to join.
    assert_eq!(pending(node.sql(&delete(11)).await).approval, second.approval);
    over(node.sql(&delete(12)).await);
    node.stop().await;
    let node = place.start().await;
    over(node.sql(&delete(12)).await);
    let reject = Request::Reject { approval: first.approval.to_string(), reason: "no".into() };
    ended(node.operate(reject).await);
    let third = pending(node.sql(&delete(12)).await);
    over(node.sql(&delete(13)).await);
    // What was agreed to and has moved since is asked again, bound or no bound; then it counts once.
    place.db().execute("insert into customers (id, name) values (21, 'new')", []).unwrap();
    let view = ended(node.approve(&third.approval.to_string()).await).remove(0);
    assert_eq!(view.row.state, "parked", "{view:?}");
    over(node.sql(&delete(13)).await);
    // Silence is an answer, too.
    place.pass(25 * 3600);
    let parked = || Request::Runs { agent: None, state: Some("parked".into()), limit: 10 };
    while !matches!(node.operate(parked()).await, Reply::Runs(rows) if rows.is_empty()) {
        tokio::task::yield_now().await;
    }
    pending(node.sql(&delete(13)).await);
    pending(node.sql(&delete(14)).await);
}

#[tokio::test]
async fn nobody_is_kept_in_memory_who_waits_no_more() {
    let place = Place::new();
    let node = place.start().await;
    let waiting = pending(node.sql("delete from customers where id > 10").await);
    for _ in 0..3 {
        pending(node.runtime.wait(&node.caller, waiting.clone(), Duration::from_millis(1)).await);
        assert_eq!(node.runtime.kept(), (0, 1));
    }
    ended(node.approve(&waiting.approval.to_string()).await);
    // Whoever comes when it is over is told, and nobody will wake them any more.
    done(node.runtime.wait(&node.caller, waiting.clone(), Duration::from_secs(5)).await);
    done(node.runtime.wait(&node.caller, waiting, Duration::from_secs(5)).await);
    assert_eq!(node.runtime.kept(), (0, 0));
}

#[tokio::test]
async fn what_moved_after_it_was_shown_is_asked_again() {
    let place = Place::new();
    let node = place.start().await;
    let waiting = pending(node.sql("delete from customers where id > 10").await);
    place.db().execute("insert into customers (id, name) values (21, 'new')", []).unwrap();
    let view = ended(node.approve(&waiting.approval.to_string()).await).remove(0);
    assert_eq!(view.row.state, "parked", "{view:?}");
    assert!(view.moved.as_deref().is_some_and(|m| m.contains("moved")), "{:?}", view.moved);
    assert_eq!(place.value("select count(*) from customers"), json!(21));
    // The first answer was used up; the new question has its own.
    let asked = view.question.unwrap();
    assert_ne!(asked.id, waiting.approval);
    let view = ended(node.approve(&asked.id.to_string()).await).remove(0);
    assert_eq!(view.row.state, "settled");
    assert_eq!(place.value("select count(*) from customers"), json!(10));
}

#[tokio::test]
async fn nobody_answers_and_somebody_says_no() {
    let place = Place::new();
    let node = place.start().await;
    let waiting = pending(node.sql("delete from customers where id > 10").await);
    let reply = node
        .operate(Request::Reject { approval: waiting.approval.to_string(), reason: "not on my watch".into() })
        .await;
    assert_eq!(ended(reply)[0].row.state, "rejected");
    let (refusal, _) = refused(node.sql("delete from customers where id > 10").await);
    assert_eq!(refusal.code, Code::Rejected);
    assert!(refusal.message.contains("not on my watch"));

    let waiting = pending(node.sql("delete from customers where id > 11").await);
    place.pass(25 * 3600);
    let ended = node.runtime.wait(&node.caller, waiting.clone(), Duration::from_secs(10)).await;
    assert_eq!(refused(ended).0.code, Code::Rejected);
    assert_eq!(node.show(&waiting.run.to_string()).await.row.state, "expired");
    let Reply::Refused(_) = node.approve(&waiting.approval.to_string()).await else { panic!("approved too late") };
    assert_eq!(place.value("select count(*) from customers"), json!(20));
}

#[tokio::test]
async fn the_requester_cannot_approve() {
    let place = Place::new();
    let mut node = place.start().await;
    node.caller.on_behalf_of = Some("anna".into());
    let waiting = pending(node.sql("delete from customers where id > 10").await);
    let Reply::Refused(refusal) = node.approve(&waiting.approval.to_string()).await else { panic!("self-approval") };
    assert!(refusal.message.contains("cannot approve"), "{refusal:?}");
    let approve = Request::Approve { approval: waiting.approval.to_string() };
    assert_eq!(ended(node.runtime.operate(approve, "ben").await)[0].row.state, "settled");
}

#[tokio::test]
async fn switches_stop_and_let_go() {
    let place = Place::new();
    let node = place.start().await;
    let coder = AgentName::new("coder").unwrap();
    for scope in [Scope::Everything, Scope::Agent(coder.clone()), Scope::Resource("work".parse().unwrap())] {
        node.operate(Request::Kill { scope: scope.clone(), reason: "drill".into() }).await;
        let (refusal, details) = refused(node.call("work__read_file", json!({ "path": "a.txt" })).await);
        assert_eq!(refusal.code, Code::Denied);
        assert!(refusal.message.contains("drill"), "{refusal:?}");
        assert_eq!(details["gates"][0]["gate"], "controls", "{details}");
        node.operate(Request::Unkill { scope }).await;
        done(node.call("work__read_file", json!({ "path": "a.txt" })).await);
    }
    node.operate(Request::AgentSuspend { name: coder.clone(), reason: Some("it went mad".into()) }).await;
    assert!(refused(node.call("work__stat", json!({ "path": "a.txt" })).await).0.message.contains("it went mad"));
    node.operate(Request::AgentSuspend { name: coder, reason: None }).await;
    done(node.call("work__stat", json!({ "path": "a.txt" })).await);
}

#[tokio::test]
async fn an_observed_environment_is_never_changed() {
    let place = Place::with(&CONFIG.replace("enforce", "observe"));
    let node = place.start().await;
    let (refusal, details) = refused(node.sql("delete from orders where id = 1").await);
    assert!(refusal.message.contains("nothing was changed"), "{refusal:?}");
    assert_eq!(details["effect"]["blast"]["rows"]["orders"]["deleted"], 1, "{details}");
    let (refusal, _) = refused(node.sql("delete from orders").await);
    assert!(refusal.message.contains("would have waited for a person"), "{refusal:?}");
    assert_eq!(place.value("select count(*) from orders"), json!(20));
    place.configure(&CONFIG.replace("enforce", "draft"));
    node.stop().await;
    let node = place.start().await;
    let waiting = pending(node.sql("delete from orders where id = 1").await);
    assert_eq!(ended(node.approve(&waiting.run.to_string()).await)[0].row.state, "settled");
    assert_eq!(place.value("select count(*) from orders"), json!(19));
    place.configure(&CONFIG.replace("enforce", "off"));
    node.stop().await;
    let node = place.start().await;
    assert_eq!(refused(node.call("db__schema", json!({})).await).0.code, Code::Denied);
}

#[tokio::test]
async fn a_failed_verification_rolls_back_by_itself() {
    let probe = "[[resources.db.verify]]\nname = \"enough\"\nkind = \"query\"\n\
                 sql = \"select count(*) >= 19 from customers\"\nexpect = 1\n[policy]";
    let place = Place::with(&CONFIG.replace("[policy]", probe));
    let node = place.start().await;
    done(node.sql("delete from customers where id = 1").await);
    let (refusal, _) = refused(node.sql("delete from customers where id in (2, 3)").await);
    assert!(refusal.message.contains("enough") && refusal.message.contains("rolled back"), "{refusal:?}");
    assert_eq!(place.value("select count(*) from customers"), json!(19));
    assert_eq!(place.value("select count(*) from orders"), json!(19));
}

#[tokio::test]
async fn budgets_hold_under_parallel_calls() {
    let limits = "[limits.budget]\nwindow = \"10m\"\ndeletions = 7\n[policy]";
    let place = Place::with(&CONFIG.replace("[policy]", limits));
    let node = place.start().await;
    let calls: Vec<_> = (1..=20)
        .map(|id| {
            let (runtime, caller) = (node.runtime.clone(), node.caller.clone());
            let arguments = json!({ "sql": format!("delete from orders where id = {id}") }).to_string().into_bytes();
            let call = Call { caller, tool: "db__execute".into(), arguments, statement: None, trace: None };
            tokio::spawn(async move { runtime.call(call).await })
        })
        .collect();
    let mut passed = 0;
    for call in calls {
        if let Answer::Done { .. } = call.await.unwrap() {
            passed += 1;
        }
    }
    assert_eq!(passed, 7);
    assert_eq!(place.value("select count(*) from orders"), json!(13));
    // The budget survives a restart, and refills when the window has passed.
    node.stop().await;
    let node = place.start().await;
    assert!(refused(node.sql("delete from orders where id = 20").await).0.message.contains("budget"));
    place.pass(601);
    done(node.sql("delete from orders where id = 20").await);
}

/// Ten folders, so that nothing but the books stands between calls on different ones; four agents of two owners.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_parallel_calls_never_exceed_a_budget_by_one() {
    let folders: String = (0..10)
        .map(|n| format!("[resources.f{n}]\nkind = \"files\"\nroot = \"f{n}\"\nenvironment = \"test\"\n"))
        .collect();
    let budgets = "[[budget]]\nper = \"everything\"\nwindow = \"10m\"\nactions = 43\n\
                   [[budget]]\nper = \"owner\"\nwindow = \"10m\"\nfiles = 31\n\
                   [[budget]]\nwindow = \"10m\"\nactions = 17\n\
                   [[budget]]\nper = \"resource\"\nwindow = \"10m\"\nbytes = 7\n";
    let place = Place::with(&CONFIG.replace("[policy]", &format!("{folders}{budgets}[policy]")));
    for n in 0..10 {
        std::fs::create_dir(place.path(&format!("f{n}"))).unwrap();
    }
    // Rules that take a while: the longer a decision takes, the more others fall between reading and reserving
    // when these are two steps.
    let rule = |n: usize| {
        format!("forbid (principal, action, resource is Files) when {{ context.place like \"*{n}*a*b\" }};\n")
    };
    std::fs::write(place.path("policies/slow.cedar"), (0..300).map(rule).collect::<String>()).unwrap();
    let node = place.start().await;
    let agents = [("coder", "anna"), ("cleaner", "anna"), ("sweeper", "ben"), ("reader", "ben")];
    for (name, owner) in agents {
        let add = Request::AgentAdd { name: AgentName::new(name).unwrap(), owner: owner.into(), level: None };
        assert_eq!(node.operate(add).await, Reply::Done);
    }
    let calls: Vec<_> = (0..200)
        .map(|n: usize| {
            let runtime = node.runtime.clone();
            let agent = agents[n % 4].0;
            let caller = Caller { agent: AgentName::new(agent).unwrap(), ..node.caller.clone() };
            let arguments = json!({ "path": format!("{n}.txt"), "content": "x" }).to_string().into_bytes();
            let call =
                Call { caller, tool: format!("f{}__write_file", n % 10), arguments, statement: None, trace: None };
            tokio::spawn(async move { (n, runtime.call(call).await) })
        })
        .collect();
    let mut done = Vec::new();
    for call in calls {
        if let (n, Answer::Done { .. }) = call.await.unwrap() {
            done.push(n);
        }
    }
    let count = |wanted: &dyn Fn(usize) -> bool| done.iter().filter(|n| wanted(**n)).count();
    // All of what everybody may do together is used up, to the last; no other budget is exceeded.
    assert_eq!(done.len(), 43);
    for agent in 0..4 {
        assert!(count(&|n| n % 4 == agent) <= 17, "{done:?}");
    }
    assert!(count(&|n| n % 4 < 2) <= 31 && count(&|n| n % 4 >= 2) <= 31, "{done:?}");
    for folder in 0..10 {
        assert!(count(&|n| n % 10 == folder) <= 7, "{done:?}");
    }
    let files: usize = (0..10).map(|n| std::fs::read_dir(place.path(&format!("f{n}"))).unwrap().count()).sum();
    assert_eq!(files, 43);
    // Nothing that was refused is still held, and nothing that was done is forgotten.
    let Reply::Budgets(before) = node.operate(Request::Budgets).await else { panic!("no budgets") };
    assert_eq!(before.iter().find(|b| b.per == "everything").unwrap().amounts["write actions"], (43, 43));
    node.stop().await;
    let node = place.start().await;
    assert_eq!(node.operate(Request::Budgets).await, Reply::Budgets(before));
}

#[tokio::test]
async fn undo_names_the_row_a_person_changed_and_the_run_that_came_later() {
    let place = Place::new();
    let node = place.start().await;
    let (first, _) = done(node.sql("update customers set tier = 'gold' where id in (1, 2)").await);
    let (second, _) = done(node.sql("update customers set tier = 'silver' where id = 2").await);
    let Reply::Refused(refusal) = node.undo(&[&first]).await else { panic!("undone below a later run") };
    assert!(refusal.message.contains("customers 2"), "{refusal:?}");
    ended(node.undo(&[&second]).await);
    place.db().execute("update customers set tier = 'platinum' where id = 1", []).unwrap();
    let Reply::Refused(refusal) = node.undo(&[&first]).await else { panic!("trampled") };
    assert!(refusal.message.contains("customers 1"), "{refusal:?}");
    assert_eq!(place.value("select tier from customers where id = 1"), json!("platinum"));
    assert_eq!(place.value("select tier from customers where id = 2"), json!("gold"));
    let request = Request::Undo { what: UndoWhat::Runs { runs: vec![first] }, dry_run: true };
    let Reply::UndoPlan(plan) = node.operate(request).await else { panic!("no plan") };
    assert_eq!(plan.blockers.len(), 1);
    assert_eq!(plan.blockers[0].by, None, "a person's edit is foreign: {plan:?}");
}

#[tokio::test]
async fn everything_an_agent_did_is_undone_together() {
    let place = Place::new();
    let node = place.start().await;
    let since = jiff::Timestamp::now();
    done(node.sql("update customers set tier = 'gold' where id = 1").await);
    done(node.sql("update customers set tier = 'silver' where id = 1").await);
    done(node.sql("delete from orders where id < 4").await);
    done(node.call("work__write_file", json!({ "path": "b.txt", "content": "new" })).await);
    done(node.call("db__query", json!({ "sql": "select tier from customers" })).await);
    let what = UndoWhat::Agent { agent: AgentName::new("coder").unwrap(), since };
    let Reply::UndoPlan(plan) = node.operate(Request::Undo { what: what.clone(), dry_run: true }).await else {
        panic!("no plan")
    };
    assert_eq!((plan.parts.len(), plan.blockers.len(), plan.readers.len()), (2, 0, 1), "{plan:?}");
    assert_eq!(place.value("select tier from customers where id = 1"), json!("silver"));
    ended(node.operate(Request::Undo { what, dry_run: false }).await);
    assert_eq!(place.value("select tier from customers where id = 1"), json!("basic"));
    assert_eq!(place.value("select count(*) from orders"), json!(20));
    assert_eq!(place.file("b.txt"), None);
}

#[tokio::test]
async fn bad_input_changes_nothing_names_its_place_and_is_recorded() {
    let place = Place::new();
    let node = place.start().await;
    let before = node.operate(Request::Status).await;
    for (tool, arguments, code, place) in [
        ("work__write_file", &br#"{"path":"a","content":"x","path":"b"}"#[..], Code::BadInput, "arguments"),
        ("work__write_file", br#"{"path":"a","content":"x","p\u0061th":"b"}"#, Code::BadInput, "arguments"),
        ("db__query", br#"{"sql":"select ?","params":[12345678901234567890]}"#, Code::BadInput, "arguments/params/0"),
        ("db__query", b"{\"sql\":\"\xff\"}", Code::BadInput, "arguments"),
        ("work__nothing", b"{}", Code::UnknownTool, "work__nothing"),
        ("work__stat", b"[]", Code::BadInput, "arguments"),
        ("work__stat", br#"{"path":"a.txt","turnback":{"confidence":2}}"#, Code::BadInput, "turnback.confidence"),
    ] {
        let (refusal, _) = refused(node.call_raw(tool, arguments).await);
        assert_eq!((refusal.code, refusal.place.as_deref()), (code, Some(place)), "{refusal:?}");
    }
    let Reply::Status(before) = before else { panic!("no status") };
    // Records of refused requests are written behind the answer.
    for _ in 0..100 {
        let Reply::Status(after) = node.operate(Request::Status).await else { panic!("no status") };
        if after.records - before.records == 7 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not every refused request was recorded");
}

#[tokio::test]
async fn every_decision_is_made_again_from_the_record() {
    let more = "[flags]\npath = \"flags.json\"\n[autonomy]\nreversible_write = 4\n[[safer]]\nname = \"drafts\"\n\
        tools = [\"work__write_file\"]\ninside = { path = \"drafts\" }\n";
    let place = Place::with(&format!("{CONFIG}\n{more}"));
    let rule = "@id(\"drafts\") @outcome(\"constrain\") @form(\"drafts\") @reason(\"agents draft\")\n\
        forbid (principal, action == Action::\"work__write_file\", resource) when { context.place == \"plan.txt\" };\n";
    std::fs::write(place.config().policy.join("drafts.cedar"), rule).unwrap();
    std::fs::create_dir(place.path("work/drafts")).unwrap();
    let flag = json!({ "state": "ENABLED", "variants": { "on": "autonomous", "off": "off" }, "defaultVariant": "on",
        "targeting": { "if": [{ "<": [{ "var": "$flagd.timestamp" }, 0] }, "off"] } });
    std::fs::write(place.path("flags.json"), json!({ "flags": { "release": flag } }).to_string()).unwrap();
    let node = place.start().await;
    let (allowed, _) = done(node.sql("update customers set tier = 'gold' where id = 1").await);
    let waiting = pending(node.sql("delete from customers where id > 10").await);
    ended(node.approve(&waiting.approval.to_string()).await);
    refused(node.call("work__write_file", json!({ "path": "secret.txt", "content": "x" })).await);
    let drafted = node.call("work__write_file", json!({ "path": "plan.txt", "content": "x" })).await;
    let Answer::Done { run: drafted, constrained: Some(constrained), .. } = drafted else { panic!("{drafted:?}") };
    let asked = constrained["from_run"].as_str().unwrap().to_owned();

    let config = place.config();
    let tools = turnback_gateway::node::tools(&config).unwrap();
    let sources = turnback_gateway::node::policy_sources(&config.policy).unwrap();
    let policy = Policy::compile(&sources, &tools).unwrap();
    // What flags say later changes nothing about what was decided.
    let (flag, reason) = ("release".to_owned(), "enough".to_owned());
    let off = Request::FlagsSet { flag, variant: Some("off".into()), state: None, reason };
    assert!(matches!(node.operate(off).await, Reply::Flags(_)));
    let Answer::Refused { run: Some(stopped), .. } = node.sql("delete from customers where id = 2").await else {
        panic!("not refused");
    };
    let stopped = stopped.to_string();

    let (mut decisions, mut flagged) = (0, Vec::new());
    for run in [allowed, waiting.run.to_string(), asked, drafted.to_string(), stopped] {
        let (mut contract, mut measured) = (None, None);
        for happened in node.show(&run).await.history {
            match happened.event {
                Event::Proposed { contract: proposed } => contract = Some(proposed),
                Event::Staged { measurement } => measured = Some(measurement),
                Event::Judged { decision, circumstances } => {
                    let measured = measured.as_ref().filter(|_| decision.phase == Phase::After);
                    let measured = measured.map(|m| Measured { effect: &m.effect, plan: &m.plan });
                    let facts = circumstances.facts(contract.as_ref().unwrap(), &policy, measured);
                    assert_eq!(gates::decide(decision.phase, &facts), decision);
                    decisions += 1;
                    flagged.extend(circumstances.flags);
                }
                _ => {}
            }
        }
    }
    assert_eq!(decisions, 10);
    let said: Vec<_> =
        flagged.iter().flat_map(|f| &f.said).map(|said| said.variant.as_deref().unwrap_or("-")).collect();
    assert_eq!(said, ["on", "on", "on", "on", "on", "off"]);
    assert_ne!(flagged[0].document, flagged[5].document);
}

#[tokio::test]
async fn what_is_not_done_costs_no_budget() {
    let limits = "[limits.budget]\nwindow = \"10m\"\ndeletions = 7\n[policy]";
    let place = Place::with(&CONFIG.replace("[policy]", limits).replace("enforce", "observe"));
    let node = place.start().await;
    for _ in 0..5 {
        let (refusal, _) = refused(node.sql("delete from orders where id < 4").await);
        assert!(refusal.message.contains("would have been done"), "{refusal:?}");
    }
    place.configure(&CONFIG.replace("[policy]", limits));
    node.stop().await;
    let node = place.start().await;
    // Six deletions are asked for twice and wait for a person: nothing is held meanwhile.
    let waiting = pending(node.sql("delete from orders where id < 7").await);
    done(node.sql("delete from orders where id in (7, 8, 9)").await);
    node.operate(Request::Reject { approval: waiting.approval.to_string(), reason: "no".into() }).await;
    done(node.sql("delete from orders where id in (10, 11, 12, 13)").await);
    assert!(refused(node.sql("delete from orders where id = 14").await).0.message.contains("budget"));
}

#[tokio::test]
async fn a_lost_journal_does_not_take_the_pre_images_along() {
    let place = Place::with(&CONFIG.replace("root = \"work\"", "root = \"work\"\nslots = \"slots\""));
    let node = place.start().await;
    done(node.call("work__delete", json!({ "path": "a.txt" })).await);
    node.stop().await;
    std::fs::remove_dir_all(place.path("state")).unwrap();
    place.start().await.stop().await;
    let kept = support::tree(&place.path("slots"));
    assert!(kept.iter().any(|(_, content)| content.as_deref() == Some(b"one\n")), "{kept:?}");
}

#[tokio::test]
async fn a_journal_restored_from_an_old_copy_does_not_take_later_pre_images_along() {
    let place = Place::new();
    let node = place.start().await;
    node.stop().await;
    let beside = ["journal.db", "checkpoint"];
    for file in beside {
        std::fs::copy(place.path("state").join(file), place.path(file)).unwrap();
    }
    let node = place.start().await;
    done(node.call("work__delete", json!({ "path": "a.txt" })).await);
    node.stop().await;
    for file in beside {
        std::fs::copy(place.path(file), place.path("state").join(file)).unwrap();
    }
    place.start().await.stop().await;
    let kept = support::tree(&place.path("state/vault/slots"));
    assert!(kept.iter().any(|(_, content)| content.as_deref() == Some(b"one\n")), "{kept:?}");
}

#[tokio::test]
async fn an_http_probe_decides_whether_a_write_stays() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for status in ["200 OK", "503 Service Unavailable"] {
            let (mut stream, _) = listener.accept().unwrap();
            // The head of the request is one small packet.
            assert_ne!(stream.read(&mut [0; 1024]).unwrap(), 0);
            stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).unwrap();
        }
    });
    let probe = format!(
        "[[resources.work.verify]]\nname = \"site\"\nkind = \"http\"\nurl = \"http://127.0.0.1:{port}/\"\nstatus = 200\n[policy]"
    );
    let place = Place::with(&CONFIG.replace("[policy]", &probe));
    let node = place.start().await;
    done(node.call("work__write_file", json!({ "path": "a.txt", "content": "two\n" })).await);
    let (refusal, _) = refused(node.call("work__write_file", json!({ "path": "a.txt", "content": "three\n" })).await);
    assert!(refusal.message.contains("503") && refusal.message.contains("rolled back"), "{refusal:?}");
    assert_eq!(place.file("a.txt").as_deref(), Some("two\n"));
    // Nobody listens any more: what cannot be verified is not kept either.
    let (refusal, _) = refused(node.call("work__write_file", json!({ "path": "a.txt", "content": "four\n" })).await);
    assert!(refusal.message.contains("rolled back"), "{refusal:?}");
    assert_eq!(place.file("a.txt").as_deref(), Some("two\n"));
}
