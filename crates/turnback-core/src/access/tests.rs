use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::refusal::Code;

/// The roles and rules of the interop "todo" application of the AuthZEN working group.
const TODO: &str = r#"
@id("read")
permit(principal, action in [Action::"can_read_user", Action::"can_read_todos"], resource);
@id("create")
permit(principal in role::"editor", action == Action::"can_create_todo", resource);
@id("own")
permit(principal in role::"editor", action in [Action::"can_update_todo", Action::"can_delete_todo"], resource)
when { resource.ownerID == principal.email };
@id("delete as admin")
permit(principal in role::"admin", action == Action::"can_delete_todo", resource);
@id("update as genius")
permit(principal in role::"evil_genius", action == Action::"can_update_todo", resource);
"#;

const RICK: &str = "CiRmZDA2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs";
const MORTY: &str = "CiRmZDE2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs";
const SUMMER: &str = "CiRmZDI2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs";
const BETH: &str = "CiRmZDM2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs";
const JERRY: &str = "CiRmZDQ2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs";

fn todo() -> Access {
    let user = |id: &str, email: &str, roles: &[&str]| {
        let parents: Vec<_> = roles.iter().map(|role| json!({ "type": "role", "id": role })).collect();
        json!({ "uid": { "type": "user", "id": id }, "attrs": { "email": email }, "parents": parents })
    };
    let entities = json!([
        user(RICK, "rick@the-citadel.com", &["admin", "evil_genius", "editor"]),
        user(MORTY, "morty@the-citadel.com", &["editor"]),
        user(SUMMER, "summer@the-smiths.com", &["editor"]),
        user(BETH, "beth@the-smiths.com", &["viewer"]),
        user(JERRY, "jerry@the-smiths.com", &["viewer"]),
    ]);
    access(TODO, Some(&entities.to_string()))
}

fn access(policy: &str, entities: Option<&str>) -> Access {
    let entities = entities.map(|text| Source { name: "entities.json".into(), text: text.into() });
    Access::compile(&[Source { name: "access.cedar".into(), text: policy.into() }], entities.as_ref()).unwrap()
}

fn yes(access: &Access, question: &serde_json::Value) -> bool {
    let asked = Evaluation::parse(question.to_string().as_bytes()).unwrap();
    access.judge(&asked).ruling == Ruling::Allow
}

fn why(access: &Access, question: &serde_json::Value) -> String {
    access.judge(&Evaluation::parse(question.to_string().as_bytes()).unwrap()).reason
}

/// The published decisions: five users, eight questions each.
#[test]
fn the_interop_decisions() {
    let access = todo();
    let own = |email: &str| json!({ "type": "todo", "id": "7240d0db", "properties": { "ownerID": email } });
    let rick = "rick@the-citadel.com";
    for (user, email, create, others, mine) in [
        (RICK, "morty@the-citadel.com", true, true, true),
        (MORTY, "morty@the-citadel.com", true, false, true),
        (SUMMER, "summer@the-smiths.com", true, false, true),
        (BETH, "beth@the-smiths.com", false, false, false),
        (JERRY, "jerry@the-smiths.com", false, false, false),
    ] {
        let ask = |action: &str, resource: serde_json::Value| {
            let subject = json!({ "type": "user", "id": user });
            yes(&access, &json!({ "subject": subject, "action": { "name": action }, "resource": resource }))
        };
        assert!(ask("can_read_user", json!({ "type": "user", "id": "beth@the-smiths.com" })));
        assert!(ask("can_read_user", json!({ "type": "user", "id": email })));
        assert!(ask("can_read_todos", json!({ "type": "todo", "id": "todo-1" })));
        assert_eq!(ask("can_create_todo", json!({ "type": "todo", "id": "todo-1" })), create, "{email}");
        for action in ["can_update_todo", "can_delete_todo"] {
            assert_eq!(ask(action, own(rick)), others, "{user} {action}");
            assert_eq!(ask(action, own(email)), mine, "{user} {action}");
        }
    }
}

#[test]
fn a_list_takes_what_it_leaves_out_from_beside_it_and_ends_when_it_should() {
    let access = todo();
    let list = |semantic: serde_json::Value| {
        let of = |email: &str| json!({ "resource": { "type": "todo", "id": "x", "properties": { "ownerID": email } } });
        let body = json!({
            "subject": { "type": "user", "id": MORTY }, "action": { "name": "can_update_todo" },
            "evaluations": [of("rick@the-citadel.com"), of("morty@the-citadel.com"), {}], "options": semantic,
        });
        let all = Evaluations::parse(body.to_string().as_bytes()).unwrap();
        let mut answers = Vec::new();
        for asked in &all.asked {
            let yes = asked.as_ref().is_ok_and(|asked| access.judge(asked).ruling == Ruling::Allow);
            answers.push(yes);
            if all.ends_with(yes) {
                break;
            }
        }
        answers
    };
    assert_eq!(list(json!({})), [false, true, false]);
    assert_eq!(list(json!({ "evaluations_semantic": "execute_all" })), [false, true, false]);
    assert_eq!(list(json!({ "evaluations_semantic": "deny_on_first_deny" })), [false]);
    assert_eq!(list(json!({ "evaluations_semantic": "permit_on_first_permit" })), [false, true]);
}

#[test]
fn nobody_asks_himself_into_a_role() {
    let access = access(
        r#"permit(principal, action, resource) when { principal.role == "admin" };"#,
        Some(r#"[{"uid":{"type":"user","id":"ben"},"attrs":{"role":"viewer"},"parents":[]}]"#),
    );
    let ask = |id: &str| {
        yes(
            &access,
            &json!({ "subject": { "type": "user", "id": id, "properties": { "role": "admin" } },
                "action": { "name": "x" }, "resource": { "type": "y", "id": "z" } }),
        )
    };
    assert!(!ask("ben"));
    // Of whom nothing is known, the enforcement point is believed: it is the one that enforces.
    assert!(ask("anna"));
}

#[test]
fn what_cannot_be_answered_is_a_no_that_says_which() {
    let access = access(
        "@id(\"sum\") permit(principal, action, resource) when { context.n * 2048 > 0 };\n@id(\"off\") forbid(principal, action, resource) when { resource.closed };",
        None,
    );
    let ask = |context: serde_json::Value, properties: serde_json::Value| {
        json!({ "subject": { "type": "user", "id": "ben" }, "action": { "name": "x" },
            "resource": { "type": "y", "id": "z", "properties": properties }, "context": context })
    };
    let open = json!({ "closed": false });
    assert!(yes(&access, &ask(json!({ "n": 1 }), open.clone())));
    for (context, properties, says) in [
        (json!({ "n": 1 }), json!({ "closed": true }), "forbidden by `off`"),
        (json!({ "n": 1 }), json!({}), "policy `off` failed to evaluate"),
        (json!({}), open.clone(), "policy `sum` failed to evaluate"),
        (json!({ "n": 9_007_199_254_740_991_i64 }), open.clone(), "policy `sum` failed to evaluate"),
        (json!({ "n": 1.5 }), open.clone(), "context.n: policies know whole numbers"),
        (json!({ "n": null }), open.clone(), "context.n: policies know no null"),
        (json!({ "n": 1, "l": [1, { "a": null }] }), open.clone(), "context.l[1].a: policies know no null"),
        (
            json!({ "n": { "__entity": { "type": "user", "id": "root" } } }),
            open.clone(),
            "policy `sum` failed to evaluate",
        ),
    ] {
        let reason = why(&access, &ask(context, properties));
        assert!(reason.contains(says), "{reason}");
    }
    let odd = json!({ "subject": { "type": "a b", "id": "ben" }, "action": { "name": "x" }, "resource": { "type": "y", "id": "z" } });
    assert!(why(&access, &odd).contains("subject: `a b` is not a type"));
}

#[test]
fn questions_that_are_none_are_refused_by_the_member_at_fault() {
    let base = || json!({ "subject": { "type": "u", "id": "a" }, "action": { "name": "x" }, "resource": { "type": "r", "id": "b" } });
    let with = |pointer: &str, value: serde_json::Value| {
        let mut question = base();
        let (at, key) = pointer.rsplit_once('/').unwrap();
        question.pointer_mut(at).unwrap()[key] = value;
        question
    };
    for (question, place) in [
        (json!([]), "body"),
        (json!({}), "subject"),
        (with("/subject", json!("anna")), "subject"),
        (with("/subject/id", json!(7)), "subject.id"),
        (with("/subject/type", json!("")), "subject.type"),
        (with("/subject/name", json!("x")), "name"),
        (with("/subject/properties", json!([])), "subject.properties"),
        (with("/action/name", json!(null)), "action.name"),
        (with("/extra", json!(1)), "extra"),
        (with("/context", json!(1)), "context"),
    ] {
        let refusal = Evaluation::parse(question.to_string().as_bytes()).unwrap_err();
        assert_eq!((refusal.code, refusal.place.as_deref()), (Code::BadInput, Some(place)), "{question}");
    }
    assert!(Evaluation::parse(br#"{"subject":1,"subject":2}"#).is_err());
    let mut list = base();
    list["evaluations"] = json!([{ "subject": 1 }, { "ubject": {} }]);
    let all = Evaluations::parse(list.to_string().as_bytes()).unwrap();
    let places: Vec<_> = all.asked.iter().map(|asked| asked.as_ref().unwrap_err().place.clone().unwrap()).collect();
    assert_eq!(places, ["evaluations[0].subject", "evaluations[1].ubject"]);
    list["evaluations"] = json!(vec![json!({}); 1_001]);
    assert_eq!(Evaluations::parse(list.to_string().as_bytes()).unwrap_err().code, Code::TooLarge);
    list["evaluations"] = json!([]);
    assert!(Evaluations::parse(list.to_string().as_bytes()).unwrap().single);
    list["options"] = json!({ "evaluations_semantic": "first" });
    assert!(Evaluations::parse(list.to_string().as_bytes()).is_err());
}

#[test]
fn mistakes_in_files_are_named() {
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let compile = |policy: &str, entities: &str| {
        Access::compile(&[source("a.cedar", policy)], Some(&source("entities.json", entities))).unwrap_err()
    };
    let errors = compile("permit(principal, action, resource);\nforbid(principal akshun);", "[]");
    assert_eq!((errors[0].file.as_str(), errors[0].line), ("a.cedar", 2));
    assert_eq!(compile("permit(principal, action, resource);", "{").first().unwrap().file, "entities.json");
    let twice =
        compile("@id(\"a\") permit(principal, action, resource);@id(\"a\") forbid(principal, action, resource);", "[]");
    assert!(twice[0].message.contains("another rule is called `a`"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// One more forbid never makes a yes of a no.
    #[test]
    fn a_forbid_never_allows_more(level in 0..5i64, limit in 0..5i64, name in "[a-c]") {
        let permit = format!("permit(principal, action, resource) when {{ context.level <= {limit} }};");
        let forbid = format!("{permit}\nforbid(principal == user::\"{name}\", action, resource);");
        let question = json!({ "subject": { "type": "user", "id": "a" }, "action": { "name": "x" },
            "resource": { "type": "y", "id": "z" }, "context": { "level": level } });
        let (before, after) = (yes(&access(&permit, None), &question), yes(&access(&forbid, None), &question));
        prop_assert_eq!(before, level <= limit);
        prop_assert_eq!(after, before && name != "a");
    }
}
