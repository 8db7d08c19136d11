//! Leases with the real runtime: many callers at once, a clock that moves, a lease lost under a run's feet.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::{CONFIG, Node, Place, done, refused};
use turnback_core::names::{AgentName, ResourceName};
use turnback_core::refusal::Code;
use turnback_gateway::desk::{Answer, Call, Caller, Desk as _};
use turnback_gateway::operator::protocol::{LeaseView, Reply, Request};

fn rules(more: &str) -> String {
    format!("{CONFIG}\n{more}")
}

async fn register(node: &Node, name: &str) -> Caller {
    let agent = AgentName::new(name).unwrap();
    let add = Request::AgentAdd { name: agent.clone(), owner: "ben".into(), level: None };
    assert_eq!(node.operate(add).await, Reply::Done);
    Caller { agent, ..node.caller.clone() }
}

async fn call(node: &Node, caller: &Caller, tool: &str, arguments: Value) -> Answer {
    let call = Call {
        caller: caller.clone(),
        tool: tool.into(),
        arguments: arguments.to_string().into_bytes(),
        statement: None,
        trace: None,
    };
    node.runtime.call(call).await
}

async fn leases(node: &Node) -> Vec<LeaseView> {
    match node.operate(Request::Leases).await {
        Reply::Leases(leases) => leases,
        other => panic!("{other:?}"),
    }
}

fn write(path: &str, content: &str) -> Value {
    json!({ "path": path, "content": content })
}

#[tokio::test]
async fn a_lease_runs_out_by_the_nodes_time_and_its_token_is_never_given_again() {
    let place = Place::with(&rules("[[collision]]\non_conflict = \"deny\"\nlease = \"10m\"\n"));
    let node = place.start().await;
    let cleaner = register(&node, "cleaner").await;
    done(node.call("work__write_file", write("a.txt", "coder\n")).await);
    let first = leases(&node).await.remove(0);
    let (refusal, details) = refused(call(&node, &cleaner, "work__write_file", write("a.txt", "cleaner\n")).await);
    assert_eq!(refusal.code, Code::Denied);
    assert!(refusal.message.contains(&format!("token {}", first.token)), "{refusal:?}");
    assert!(details.to_string().contains("collision"), "{details}");
    // Renewed, it keeps its token and lasts on.
    place.pass(500);
    done(node.call("work__write_file", write("a.txt", "coder again\n")).await);
    place.pass(500);
    let renewed = leases(&node).await.remove(0);
    assert_eq!((renewed.token, renewed.since), (first.token, first.since));
    assert!(renewed.until > first.until);
    refused(call(&node, &cleaner, "work__write_file", write("a.txt", "cleaner\n")).await);
    node.stop().await;

    let node = place.start().await;
    assert_eq!(leases(&node).await.first(), Some(&renewed));
    refused(call(&node, &cleaner, "work__write_file", write("a.txt", "cleaner\n")).await);
    place.pass(101);
    assert_eq!(leases(&node).await, []);
    done(call(&node, &cleaner, "work__write_file", write("a.txt", "cleaner\n")).await);
    let theirs = leases(&node).await.remove(0);
    assert!(theirs.token > renewed.token, "{theirs:?} {renewed:?}");
    assert_eq!(place.file("a.txt").as_deref(), Some("cleaner\n"));
}

#[tokio::test]
async fn whoever_waits_goes_on_when_the_lease_is_released_or_runs_out() {
    let place = Place::with(&rules("[[collision]]\nwait = \"9m\"\nlease = \"5m\"\n"));
    let node = place.start().await;
    let cleaner = register(&node, "cleaner").await;
    for released in [true, false] {
        done(node.call("work__write_file", write("a.txt", "coder\n")).await);
        let waiting = {
            let (runtime, caller) = (node.runtime.clone(), cleaner.clone());
            tokio::spawn(async move {
                let arguments = write("a.txt", "cleaner\n").to_string().into_bytes();
                let call = Call { caller, tool: "work__write_file".into(), arguments, statement: None, trace: None };
                runtime.call(call).await
            })
        };
        // Another place is free meanwhile: the one who waits holds nothing.
        for n in 0..10 {
            done(node.call("work__write_file", write(&format!("{n}.txt"), &format!("{released}"))).await);
        }
        assert!(!waiting.is_finished());
        let before = place.clock()();
        if released {
            let resource = ResourceName::new("work").unwrap();
            let release = Request::LeasesRelease { resource, place: None, reason: "done".into() };
            assert!(matches!(node.operate(release).await, Reply::Leases(released) if !released.is_empty()));
        } else {
            place.pass(301);
        }
        done(waiting.await.unwrap());
        assert_eq!(place.file("a.txt").as_deref(), Some("cleaner\n"));
        let held = leases(&node).await.into_iter().find(|lease| lease.place.as_deref() == Some("a.txt")).unwrap();
        assert_eq!(held.agent, cleaner.agent);
        assert!(held.since > before, "{held:?} {before}");
        place.pass(301);
    }
}

#[tokio::test]
async fn a_refused_write_leaves_no_lease_behind() {
    let place = Place::with(&rules("[limits]\nbytes = 100\n[[collision]]\non_conflict = \"deny\"\n"));
    let node = place.start().await;
    let cleaner = register(&node, "cleaner").await;
    // Refused before anything is staged, after it, and by the domain.
    refused(node.call("work__write_file", write("secret.txt", "x")).await);
    refused(node.call("work__write_file", write("a.txt", &"x".repeat(200))).await);
    refused(node.call("work__delete", json!({ "path": "nothing" })).await);
    assert_eq!(leases(&node).await, []);
    done(call(&node, &cleaner, "work__write_file", write("a.txt", "cleaner\n")).await);
}

#[tokio::test]
async fn a_lease_that_ran_out_since_staging_stops_the_commit() {
    let place = Place::with(&rules("[[collision]]\nlease = \"1ms\"\n"));
    let node = place.start().await;
    // A millisecond of the node's is a tenth of a microsecond: the second group of gates takes longer.
    place.run_at(10_000);
    let (refusal, _) = refused(node.call("work__write_file", write("a.txt", "late\n")).await);
    place.run_at(1);
    assert!(refusal.message.contains("its lease on `a.txt` of `work`"), "{refusal:?}");
    assert_eq!(place.file("a.txt").as_deref(), Some("one\n"));
    assert_eq!(leases(&node).await, []);
}

/// Three hundred and sixty calls of six agents on three places: of each place one agent is the holder, its calls
/// are done, everybody else's are refused with the holder's name, and what is there is the holder's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_wins_and_every_loser_is_told() {
    let place = Place::with(&rules("[[collision]]\non_conflict = \"deny\"\n"));
    let node = place.start().await;
    let mut callers = Vec::new();
    for name in ["one", "two", "three", "four", "five", "six"] {
        callers.push(register(&node, name).await);
    }
    let mut calls = Vec::new();
    for round in 0..20 {
        for caller in &callers {
            for path in ["x.txt", "y.txt", "z.txt"] {
                let (runtime, caller) = (node.runtime.clone(), caller.clone());
                calls.push(tokio::spawn(async move {
                    let arguments = write(path, &format!("{} {round}", caller.agent)).to_string().into_bytes();
                    let agent = caller.agent.clone();
                    let call =
                        Call { caller, tool: "work__write_file".into(), arguments, statement: None, trace: None };
                    (path, agent, round, runtime.call(call).await)
                }));
            }
        }
    }
    let mut winners: BTreeMap<&str, BTreeSet<(AgentName, i32)>> = BTreeMap::new();
    let mut losers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ended in calls {
        match ended.await.unwrap() {
            (path, agent, round, Answer::Done { .. }) => {
                winners.entry(path).or_default().insert((agent, round));
            }
            // The resource's lock is waited for no longer than five seconds; that is told as well.
            (_, _, _, Answer::Refused { refusal, .. }) if refusal.code == Code::Busy => {}
            (path, _, _, Answer::Refused { refusal, .. }) => losers.entry(path).or_default().push(refusal.message),
            (.., other) => panic!("{other:?}"),
        }
    }
    for (path, won) in &winners {
        let agents: BTreeSet<&AgentName> = won.iter().map(|(agent, _)| agent).collect();
        assert_eq!(agents.len(), 1, "{path}: {won:?}");
        let winner = agents.first().unwrap();
        for told in losers.get(path).into_iter().flatten() {
            assert!(told.contains(&format!("`{path}` of `work` is held by agent `{winner}`")), "{told}");
        }
        let content = place.file(path).unwrap();
        let (name, round) = content.split_once(' ').unwrap();
        assert!(won.contains(&(AgentName::new(name).unwrap(), round.parse().unwrap())), "{content}");
    }
    assert_eq!(winners.len(), 3);
    assert!(losers.values().map(Vec::len).sum::<usize>() > 0);
}

/// Three resources that depend on each other in a circle, asked for in every order by many at once, each
/// waiting for the others: it ends, and at no time two hold what meets.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_resources_depend_on_each_other_everybody_is_answered() {
    let mut config =
        CONFIG.replace("[resources.db]\nkind = \"sqlite\"\npath = \"shop.db\"\nenvironment = \"test\"\n", "");
    for name in ["x", "y"] {
        config.push_str(&format!("[resources.{name}]\nkind = \"files\"\nroot = \"{name}\"\nenvironment = \"test\"\n"));
    }
    for (name, depends) in [("work", "x"), ("x", "y"), ("y", "work")] {
        config.push_str(&format!(
            "[[collision]]\nresources = [\"{name}\"]\ndepends = [\"{depends}\"]\nwait = \"400ms\"\nlease = \"50ms\"\n"
        ));
    }
    let place = Place::new();
    place.configure(&config);
    for name in ["x", "y"] {
        std::fs::create_dir(place.path(name)).unwrap();
    }
    let node = place.start().await;
    let mut calls = Vec::new();
    for name in ["one", "two", "three"] {
        let caller = register(&node, name).await;
        for round in 0..5 {
            for order in [["work", "x", "y"], ["y", "x", "work"], ["x", "work", "y"], ["y", "work", "x"]] {
                let (runtime, caller) = (node.runtime.clone(), caller.clone());
                calls.push(tokio::spawn(async move {
                    let mut ends = Vec::new();
                    for resource in order {
                        let arguments = write("f.txt", &format!("{} {round}", caller.agent)).to_string().into_bytes();
                        let tool = format!("{resource}__write_file");
                        let call = Call { caller: caller.clone(), tool, arguments, statement: None, trace: None };
                        ends.push(runtime.call(call).await);
                    }
                    ends
                }));
            }
        }
    }
    let (mut finished, mut told) = (0, 0);
    for call in calls {
        for end in call.await.unwrap() {
            match end {
                Answer::Done { .. } => finished += 1,
                Answer::Refused { refusal, .. } => {
                    let known = refusal.code == Code::Busy
                        || refusal.message.contains("is held by agent")
                        || refusal.message.contains("was taken over");
                    assert!(known, "{refusal:?}");
                    told += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(finished + told, 180);
    assert!(finished > 0);
}
