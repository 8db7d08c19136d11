//! The life cycle of a policy with the real program: a gateway that serves, an agent that acts, and an operator
//! who changes the rules.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod common;

use std::fs;

use common::{Agent, Node, Place, text};
use serde_json::{Value, json};

/// Runs a command that must end with this code, and returns what it said.
fn said(place: &Place, arguments: &[&str], code: i32) -> String {
    let output = place.run(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn told(place: &Place, arguments: &[&str], code: i32) -> Value {
    let output = place.run(&[&["-o", "json"], arguments].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sql(agent: &mut Agent, sql: &str) -> String {
    agent.call("shop__execute", &json!({ "sql": sql })).unwrap().run.unwrap()
}

fn serving(place: &Place) -> (Node, Agent) {
    let node = place.start();
    let token = node.register().unwrap();
    let agent = node.agent(&token).unwrap();
    (node, agent)
}

/// Runs that end in every way a decision can: read, done, undone, denied, refused, parked, approved, rejected.
fn traffic(node: &Node, agent: &mut Agent) -> u64 {
    agent.call("shop__query", &json!({ "sql": "select count(*) from stock" })).unwrap();
    agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap();
    sql(agent, "update stock set n = n + 1 where id = 1");
    let undone = agent.call("work__write_file", &json!({ "path": "b.txt", "content": "two\n" })).unwrap().run.unwrap();
    assert_eq!(node.undo(&[&undone]).unwrap()["reply"], "ended");
    agent.call("work__read_file", &json!({ "path": "nowhere.txt" })).unwrap();
    let approved = sql(agent, "delete from stock where id in (2, 3, 4)");
    assert_eq!(node.ask(&json!({ "op": "approve", "approval": approved })).unwrap()["reply"], "ended");
    let rejected = sql(agent, "delete from stock where id in (1, 5, 6)");
    let no = json!({ "op": "reject", "approval": rejected, "reason": "the stock is needed" });
    assert_eq!(node.ask(&no).unwrap()["reply"], "ended");
    sql(agent, "delete from stock");
    let scope = json!({ "kind": "tool", "name": "work__read_file" });
    node.ask(&json!({ "op": "kill", "scope": scope, "reason": "look first" })).unwrap();
    agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap();
    node.ask(&json!({ "op": "unkill", "scope": scope })).unwrap();
    node.rows().len() as u64
}

const STRICTER: &str = r#"
@id("read")
permit (principal, action in Action::"read", resource);

@id("write")
permit (principal, action in Action::"write", resource is Files);
"#;

#[test]
fn the_unchanged_policy_changes_nothing_and_another_shows_what() {
    let place = Place::new();
    let (node, mut agent) = serving(&place);
    let runs = traffic(&node, &mut agent);
    assert!(runs >= 10);
    let same = |place: &Place| {
        let answer = told(place, &["policy", "simulate", "--since", "7d"], 0);
        assert_eq!((&answer["runs"], &answer["same"]), (&json!(runs), &json!(runs)), "{answer}");
        assert!(answer["not_simulated"].as_str().unwrap().contains("staging is not repeated"));
    };
    same(&place);

    fs::create_dir(place.path("new")).unwrap();
    fs::write(place.path("new/a.cedar"), STRICTER).unwrap();
    let new = place.path("new").display().to_string();
    let answer = told(&place, &["policy", "simulate", "--since", "7d", "--with", &new], 2);
    // Every write to the database and nothing else; what was approved counts once.
    let changed: Vec<(String, String, u64)> = answer["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| (g["then"].as_str().unwrap().into(), g["now"].as_str().unwrap().into(), g["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        changed,
        [("review".into(), "deny".into(), 2), ("allow".into(), "deny".into(), 1), ("review".into(), "deny".into(), 1)],
        "{answer}"
    );
    assert_eq!(answer["changed"], 4);
    let text = said(&place, &["policy", "simulate", "--since", "7d", "--with", &new], 2);
    assert!(text.contains("no rule permits agent `coder` to use `shop__execute` on `shop`"), "{text}");
    assert!(text.contains("more than 2 rows would disappear"), "{text}");

    // Limits, without another policy.
    let config = fs::read_to_string(place.path("turnback.toml")).unwrap();
    fs::write(place.path("other.toml"), config + "\n[limits]\nrows = 2\n").unwrap();
    let other = place.path("other.toml").display().to_string();
    let answer = told(&place, &["policy", "simulate", "--since", "7d", "--with-config", &other], 2);
    assert_eq!(answer["changed"], 3, "{answer}");

    // Flags, without another configuration; a wrong file is refused with its place.
    let flag =
        r#"{ "flags": { "release": { "state": "ENABLED", "variants": { "no": "off" }, "defaultVariant": "no" } } }"#;
    fs::write(place.path("other.json"), flag).unwrap();
    let other = place.path("other.json").display().to_string();
    let answer = told(&place, &["policy", "simulate", "--since", "7d", "--with-flags", &other], 2);
    // Two were denied anyway.
    assert_eq!((&answer["changed"], &answer["same"]), (&json!(8), &json!(2)), "{answer}");
    fs::write(place.path("other.json"), "{ \"flags\": { \"release\": 1 } }").unwrap();
    let text = said(&place, &["policy", "simulate", "--since", "7d", "--with-flags", &other], 1);
    assert!(text.contains("other.json:1:"), "{text}");

    // The same without a gateway.
    node.stop_in_order();
    same(&place);
    place.verify();
}

#[test]
fn a_record_that_cannot_be_decided_again_is_counted_and_named() {
    let place = Place::new();
    let (node, mut agent) = serving(&place);
    let run = sql(&mut agent, "update stock set n = 0 where id = 1");
    agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap();
    node.stop_in_order();
    let journal = rusqlite::Connection::open(place.path("state/journal.db")).unwrap();
    let changed = "UPDATE payloads SET body = CAST(replace(CAST(body AS TEXT), 'coder', 'codex') AS BLOB) WHERE seq = \
                   (SELECT min(seq) FROM leaves WHERE run IS NOT NULL AND CAST(body AS TEXT) LIKE '%run.judged%')";
    assert_eq!(journal.execute(changed, []).unwrap(), 1);
    drop(journal);
    let answer = told(&place, &["policy", "simulate", "--since", "1h"], 2);
    assert_eq!((&answer["runs"], &answer["same"], &answer["undecided"]), (&json!(2), &json!(1), &json!(1)), "{answer}");
    assert_eq!(answer["undecided_runs"][0]["run"], run);
    assert!(answer["undecided_runs"][0]["why"].as_str().unwrap().contains("is not what was recorded"), "{answer}");

    // A tool that is gone from the configuration.
    let config = fs::read_to_string(place.path("turnback.toml")).unwrap();
    let without = config.split("[resources.work]").next().unwrap().to_owned() + "[policy]\npath = \"policies\"\n";
    fs::write(place.path("other.toml"), without).unwrap();
    fs::write(place.path("policies/test.cedar"), "@id(\"all\") permit (principal, action, resource is Sqlite);")
        .unwrap();
    let other = place.path("other.toml").display().to_string();
    let answer = told(&place, &["policy", "simulate", "--since", "1h", "--with-config", &other], 2);
    assert_eq!(answer["undecided"], 2, "{answer}");
    assert_eq!(answer["undecided_runs"][1]["why"], "tool `work__read_file` is not registered");
}

#[test]
fn explain_names_rule_place_facts_and_what_would_do() {
    let place = Place::new();
    let (_node, mut agent) = serving(&place);
    let run = sql(&mut agent, "delete from stock where id in (3, 4, 5)");
    let text = said(&place, &["policy", "explain", &run], 0);
    assert!(text.starts_with("A person decides: authorization says more than 2 rows would disappear."), "{text}");
    assert!(text.contains("policies/test.cedar:8)"), "{text}");
    assert!(text.contains("nearest acceptable: rows deleted at most 2 instead of 3: allow"), "{text}");
    let value = told(&place, &["policy", "explain", &run], 0);
    assert_eq!((&value["ruling"], &value["now"]), (&json!("review"), &json!("review")));
    assert_eq!(value["alternatives"][1]["fact"], "approved by a person");
    assert_eq!(value["before"]["phase"], "before");
    said(&place, &["policy", "explain", "r_0123456789abcdef"], 1);
}

#[test]
fn a_rejected_run_becomes_a_rule_and_a_case_that_needs_it() {
    let place = Place::new();
    let (node, mut agent) = serving(&place);
    let run = sql(&mut agent, "delete from stock where id in (3, 4, 5)");
    said(&place, &["policy", "from-run", &run], 1);
    let no = json!({ "op": "reject", "approval": run, "reason": "the stock is needed" });
    assert_eq!(node.ask(&no).unwrap()["reply"], "ended");
    let written = told(&place, &["policy", "from-run", &run], 0);
    let (rule, cases) = (written["rule"].as_str().unwrap(), written["cases"].as_str().unwrap());
    assert!(written["cedar"].as_str().unwrap().contains("rejected the like"), "{written}");
    let findings = told(&place, &["policy", "lint"], 2);
    // Only the fixture's own wide permit.
    assert!(findings.as_array().unwrap().iter().all(|f| f["rule"] == "wide-permit"), "{findings}");
    said(&place, &["policy", "test"], 0);
    let text = fs::read_to_string(place.path(rule)).unwrap();
    fs::remove_file(place.path(rule)).unwrap();
    said(&place, &["policy", "test"], 2);
    fs::write(place.path(rule), text).unwrap();
    // Written once.
    said(&place, &["policy", "from-run", &run], 1);
    assert!(fs::read_to_string(place.path(cases)).unwrap().contains("\"rows_deleted\":3"));

    said(&place, &["policy", "reload", "--reason", "the stock is needed"], 0);
    let again = agent.call("shop__execute", &json!({ "sql": "delete from stock where id in (3, 4, 5)" })).unwrap();
    let again =
        agent.call("shop__execute", &json!({ "sql": "delete from stock where id in (2, 4, 5)" })).map(|c| (again, c));
    let (_, again) = again.unwrap();
    assert!(again.error && again.text.contains("rejected the like"), "{}", again.text);
    let fewer = agent.call("shop__execute", &json!({ "sql": "delete from stock where id = 6" })).unwrap();
    assert!(!fewer.error, "{}", fewer.text);
}

#[test]
fn a_candidate_is_counted_promoted_kept_over_a_restart_and_reloaded_away() {
    let place = Place::new();
    let (node, mut agent) = serving(&place);
    fs::create_dir(place.path("new")).unwrap();
    let new = place.path("new").display().to_string();
    fs::write(
        place.path("new/test.cedar"),
        "@id(\"x\")\nforbid (principal, action, resource) when { context.nothing == 1 };",
    )
    .unwrap();
    let refused = said(&place, &["policy", "stage", &new, "--reason", "try"], 1);
    assert!(refused.contains("test.cedar:2:"), "{refused}");
    fs::write(place.path("new/test.cedar"), STRICTER).unwrap();
    said(&place, &["policy", "stage", &new, "--reason", " "], 1);
    said(&place, &["policy", "staged"], 0);
    said(&place, &["policy", "promote", "--reason", "none"], 1);

    said(&place, &["policy", "stage", &new, "--reason", "no more writes to the shop"], 0);
    agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap();
    let write = "update stock set n = n + 1 where id = 1";
    assert!(!agent.call("shop__execute", &json!({ "sql": write })).unwrap().error);
    let state = told(&place, &["policy", "staged"], 2);
    let staged = &state["staged"];
    assert_eq!((&staged["decisions"], &staged["failed"]), (&json!(3), &json!(0)), "{state}");
    let both = |phase: &str| json!({ "phase": phase, "then": "allow", "now": "deny", "count": 1 });
    assert_eq!(staged["changed"], json!([both("before"), both("after")]));
    assert_eq!(staged["origin"]["reason"], "no more writes to the shop");

    // A candidate is there again after a restart, and so is what was promoted.
    node.kill();
    let node = place.start();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    assert!(told(&place, &["policy", "staged"], 0)["staged"]["policy"] == staged["policy"]);
    let parked = sql(&mut agent, "delete from stock where id in (3, 4, 5)");
    assert_eq!(node.show(&parked)["row"]["state"], "parked");
    said(&place, &["policy", "promote", "--reason", "counted long enough"], 0);
    assert!(agent.call("shop__execute", &json!({ "sql": write })).unwrap().error);
    // What waits is judged again under the present policy.
    node.ask(&json!({ "op": "approve", "approval": parked })).unwrap();
    assert_eq!(node.show(&parked)["row"]["state"], "denied");
    node.kill();
    let node = place.start();
    assert!(node.log().contains("the configured files are not it: `test.cedar` is another"), "{}", node.log());
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    assert!(agent.call("shop__execute", &json!({ "sql": write })).unwrap().error);

    // Files that do not load leave what is active.
    let files = fs::read_to_string(place.path("policies/test.cedar")).unwrap();
    fs::write(place.path("policies/test.cedar"), "permit (").unwrap();
    let refused = said(&place, &["policy", "reload", "--reason", "back"], 1);
    assert!(refused.contains("test.cedar:1:"), "{refused}");
    assert!(agent.call("shop__execute", &json!({ "sql": write })).unwrap().error);
    fs::write(place.path("policies/test.cedar"), files).unwrap();
    said(&place, &["policy", "reload", "--reason", "back"], 0);
    assert!(!agent.call("shop__execute", &json!({ "sql": write })).unwrap().error);
    said(&place, &["policy", "stage", &new, "--reason", "again"], 0);
    said(&place, &["policy", "drop", "--reason", "not now"], 0);
    let state = told(&place, &["policy", "staged"], 0);
    assert!(state.get("staged").is_none() && state.get("promoted").is_none(), "{state}");
    node.stop_in_order();
    place.verify();
    let journal = rusqlite::Connection::open(place.path("state/journal.db")).unwrap();
    let count = |kind: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM leaves WHERE CAST(body AS TEXT) LIKE '%\"kind\":\"{kind}\"%'");
        journal.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let kinds = ["policy.staged", "policy.promoted", "policy.reloaded", "policy.dropped"].map(count);
    assert_eq!(kinds, [2, 1, 1, 1]);
}

#[test]
fn a_promoted_policy_that_does_not_load_any_more_permits_nothing() {
    let place = Place::new();
    let (node, mut agent) = serving(&place);
    fs::create_dir(place.path("new")).unwrap();
    let rule = "@id(\"one\") permit (principal, action == Action::\"work__read_file\", resource);";
    fs::write(place.path("new/test.cedar"), rule).unwrap();
    let new = place.path("new").display().to_string();
    said(&place, &["policy", "stage", &new, "--reason", "try"], 0);
    said(&place, &["policy", "promote", "--reason", "try"], 0);
    let read = json!({ "sql": "select 1" });
    assert!(agent.call("shop__query", &read).unwrap().error);
    node.stop_in_order();
    let config = fs::read_to_string(place.path("turnback.toml")).unwrap();
    let (start, rest) = config.split_once("[resources.work]").unwrap();
    let rest = rest.split_once("[policy]").unwrap().1;
    fs::write(place.path("turnback.toml"), format!("{start}[policy]{rest}")).unwrap();
    fs::write(place.path("policies/test.cedar"), "@id(\"all\") permit (principal, action, resource is Sqlite);")
        .unwrap();
    let node = place.start();
    assert!(node.log().contains("does not load any more, so nothing is permitted"), "{}", node.log());
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    assert!(agent.call("shop__query", &read).unwrap().error);
    said(&place, &["policy", "reload", "--reason", "the files are right"], 0);
    assert!(!agent.call("shop__query", &read).unwrap().error);
}

#[test]
fn lint_speaks_every_format_and_test_tells_what_no_case_decides() {
    let place = Place::new();
    let bad = "@id(\"never\")\nforbid (principal, action, resource)\nwhen { context.place == \"x\" && context.place == \"y\" };\n";
    fs::write(place.path("policies/bad.cedar"), bad).unwrap();
    let value = told(&place, &["policy", "lint"], 2);
    let one = value.as_array().unwrap().iter().find(|f| f["rule"] == "never-fires").unwrap();
    assert_eq!((&one["file"], &one["line"], &one["column"]), (&json!("policies/bad.cedar"), &json!(1), &json!(1)));
    assert!(!one["help"].as_str().unwrap().is_empty());
    let sarif: Value = serde_json::from_str(&said(&place, &["policy", "lint", "--format", "sarif"], 2)).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert!(results.iter().any(|r| r["ruleId"] == "never-fires"), "{sarif}");
    let github = said(&place, &["policy", "lint", "--format", "github"], 2);
    assert!(github.contains("::warning file=policies/bad.cedar,line=1,col=1,title=never-fires::"), "{github}");
    assert!(said(&place, &["policy", "lint"], 2).contains("policies/bad.cedar:1:1"));

    let case = r#"[{"name": "a", "agent": "coder", "tool": "sqlite.query", "expect": "allow", "rules": ["read"]}]"#;
    fs::write(place.path("policies/test.cases.json"), case).unwrap();
    let text = said(&place, &["policy", "test"], 0);
    assert!(text.contains("4 of 5 rules decided no case"), "{text}");
    assert!(text.contains("rows  policies/test.cedar:8"), "{text}");
    said(&place, &["policy", "test", "--require-coverage"], 2);
    let value = told(&place, &["policy", "test"], 0);
    assert_eq!(value[1]["coverage"]["untested"].as_array().unwrap().len(), 4);
}
