use serde_json::json;

use super::*;
use crate::fixtures::{World, blast, measurement};

fn source(text: &str) -> Vec<Source> {
    vec![Source { name: "rules.rego".into(), text: text.into() }]
}

fn compiled(text: &str) -> Rego {
    Rego::compile(&source(text), ENTRY).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn decision(rules: &str) -> String {
    format!("package turnback\nimport rego.v1\n{rules}\n")
}

fn judged(rules: &str, world: &World) -> Verdict {
    compiled(&decision(rules)).judge(&world.facts())
}

#[test]
fn five_outcomes_with_what_belongs_to_them() {
    let world = World::new("", "shop__execute");
    for (rule, ruling) in [
        ("decision := true", Ruling::Allow),
        ("decision := false", Ruling::Deny),
        (r#"decision := {"outcome": "allow"}"#, Ruling::Allow),
        (r#"decision := {"outcome": "deny", "reason": "no"}"#, Ruling::Deny),
        (r#"decision := {"outcome": "fallback", "reason": "degraded"}"#, Ruling::Fallback),
    ] {
        assert_eq!(judged(rule, &world).ruling, ruling, "{rule}");
    }
    let review = judged(
        r#"decision := {"outcome": "review", "reason": "large", "approvers": ["anna"], "rules": ["big"], "next": "less"}"#,
        &world,
    );
    assert_eq!(
        (review.ruling, review.reason.as_str(), review.next.as_deref()),
        (Ruling::Review, "large", Some("less"))
    );
    assert_eq!(review.obligations, [Obligation::Approvers { names: vec!["anna".into()] }]);
    assert_eq!(review.rules, ["big"]);
    let constrain = judged(r#"decision := {"outcome": "constrain", "reason": "x", "form": "ten rows"}"#, &world);
    assert_eq!(constrain.obligations, [Obligation::SaferForm { form: "ten rows".into() }]);
}

#[test]
fn the_facts_are_those_of_cedar() {
    let mut world = World::new("", "shop__execute");
    world.measurement = Some(measurement(blast(3), "x"));
    world.contract.assignment.workflow = Some("billing".into());
    world.contract.on_behalf_of = Some("ben".into());
    let rule = r#"
        default decision := false
        decision if {
            input.principal == {"type": "Agent", "id": "coder", "owner": "anna", "on_behalf_of": "ben"}
            input.action.id == "shop__execute"
            input.resource == {"type": "Sqlite", "id": "shop", "environment": "production"}
            input.context.workflow == "billing"
            input.context.effect.rows_deleted == 3
            "customers" in input.context.names
            not input.context.approved
            not input.context.account
        }"#;
    assert_eq!(judged(rule, &world).ruling, Ruling::Allow);
    world.approved = true;
    assert_eq!(judged(rule, &world).ruling, Ruling::Deny);
}

#[test]
fn undefined_errors_and_other_shapes_are_a_no_that_says_which() {
    let world = World::new("", "shop__query");
    for (rule, says) in [
        ("decision if input.context.verb == \"nothing\"", "says nothing about it"),
        ("decision := 7", "another shape"),
        ("decision := {\"outcome\": \"perhaps\", \"reason\": \"x\"}", "`perhaps` is no outcome"),
        ("decision := {\"outcome\": \"review\"}", "without a reason"),
        ("decision := {\"outcome\": \"allow\", \"approver\": [\"x\"]}", "unknown field"),
        ("decision := {\"outcome\": \"deny\", \"reason\": \"x\", \"approvers\": [\"a\"]}", "asks nobody"),
        (
            "decision := true if input.context.verb == \"read\"\ndecision := false if input.context.risk == \"scoped_read\"",
            "failed to evaluate",
        ),
        ("decision := 1 / 0", "failed to evaluate"),
    ] {
        let verdict = judged(rule, &world);
        assert_eq!(verdict.ruling, Ruling::Deny, "{rule}");
        assert!(verdict.reason.contains(says), "{rule}: {}", verdict.reason);
    }
    // A builtin of the engine that panics is a no as well, not the end of the node.
    let panics = judged("decision := strings.count(input.principal.id, \"\") > 0", &world);
    assert_eq!(panics.ruling, Ruling::Deny);
}

#[test]
fn what_takes_too_long_is_a_no() {
    let rule =
        "decision if count([x | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); x := a * b]) > 0";
    let verdict = judged(rule, &World::new("", "shop__query"));
    assert_eq!(verdict.ruling, Ruling::Deny);
    assert!(verdict.reason.contains("failed to evaluate"), "{}", verdict.reason);
}

#[test]
fn mistakes_name_their_place() {
    let error = |text: &str| Rego::compile(&source(text), ENTRY).unwrap_err().remove(0);
    let broken = error("package turnback\n\ndecision := {\n");
    assert_eq!(broken.file, "rules.rego");
    assert!(broken.line >= 3, "{broken:?}");
    assert_eq!(error("package turnback\ndecision := rand.intn(\"x\", 2)").line, 2);
    for missing in ["http.send({})", "io.jwt.decode(\"x\")", "opa.runtime()", "time.now_ns()"] {
        let text = format!("package turnback\nimport rego.v1\ndecision := {missing}\n");
        match Rego::compile(&source(&text), ENTRY) {
            Err(_) => {}
            // What compiles all the same must not answer.
            Ok(rego) => {
                assert_eq!(rego.judge(&World::new("", "shop__query").facts()).ruling, Ruling::Deny, "{missing}");
            }
        }
    }
    let deep = format!("package turnback\ndecision := {}1{}", "(".repeat(50_000), ")".repeat(50_000));
    let _ = error(&deep);
    assert!(Rego::compile(&source("package other\nx := 1"), ENTRY).is_err());
}

#[test]
fn equal_sources_have_equal_digests() {
    let (a, b) = (compiled(&decision("decision := true")), compiled(&decision("decision := false")));
    assert_eq!(a.digest(), compiled(&decision("decision := true")).digest());
    assert_ne!(a.digest(), b.digest());
    assert_eq!(json!(a.digest()), json!(a.digest()));
}
