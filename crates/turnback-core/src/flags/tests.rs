use proptest::prelude::*;
use serde_json::{Value, json};

use super::document::{Reason, read};
use super::*;
use crate::decision::{Obligation, Ruling};
use crate::fixtures::{World, agent, at, registry};
use crate::gates::release;

fn text(flags: &[(&str, Value)]) -> String {
    let flags: Map<String, Value> = flags.iter().map(|(key, flag)| ((*key).to_owned(), flag.clone())).collect();
    json!({ "flags": flags }).to_string()
}

fn flag(mode: &str) -> Value {
    json!({ "state": "ENABLED", "variants": { "v": mode }, "defaultVariant": "v" })
}

fn flags(of: &[(&str, Value)]) -> Flags {
    Flags::read(&text(of), &registry()).unwrap()
}

/// What a whole gate says under a mode and flags.
fn judged(mode: Mode, flags: &Flags, change: impl FnOnce(&mut World)) -> crate::decision::Verdict {
    let mut world = World::new("", "shop__execute");
    world.mode = mode;
    change(&mut world);
    world.flags = Some(flags.about(&world.contract, world.agent.as_ref(), world.now));
    release::judge(&world.facts())
}

/// `§` marks the place that must be named.
#[test]
fn every_mistake_is_named_with_line_and_column() {
    let whole = |flag: &str| format!("{{\n  \"flags\": {{\n    \"release\": {flag}\n  }}\n}}");
    let good = r#""state": "ENABLED", "variants": {"a": "observe", "b": "off"}"#;
    let with = |more: &str| whole(&format!("{{ {good}, {more} }}"));
    let named = |key: &str| format!("{{\"flags\": {{§\"{key}\": {}}}}}", flag("off"));
    for (marked, says, next) in [
        (with(r#""targeting": {"if": [{§"frobnicate": [1]}, "a"]}"#), "no operator `frobnicate`", "use if, =="),
        (with(r#""targeting": {"if": [{"var": §"agnet"}, "a"]}"#), "knows nothing of `agnet`", "use targetingKey"),
        (with(r#""targeting": {"var": §"$flagd.flagkey"}"#), "knows nothing of `$flagd.flagkey`", "$flagd.flagKey"),
        (with(r#""targeting": {"if": [true, §"c"]}"#), "no variant `c`", "use `a`, `b`"),
        (with(r#""targeting": {"fractional": [[§"c", 1]]}"#), "no variant `c`", ""),
        (with(r#""targeting": {"fractional": [["a", §0.5]]}"#), "whole number", ""),
        (with(r#""targeting": {"fractional": §[]}"#), "at least one bucket", ""),
        (with(r#""targeting": §{"==": [1], "!": 2}"#), "exactly one key", ""),
        (with(r#""targeting": {"==": §[1]}"#), "takes exactly 2 arguments, not 1", ""),
        (with(r#""targeting": §"a""#), "`targeting` is one operation", ""),
        (with(r#""defaultVariant": §"c""#), "no variant `c`", "use `a`, `b`"),
        (with(r#""defaultVariant": §3"#), "name of a variant", ""),
        (with(r#"§"default": "a""#), "no field `default`", "defaultVariant"),
        (with(r#""metadata": {"owner": §["anna"]}"#), "metadata is text", ""),
        (with(r#"§"state": "ENABLED""#), "duplicate key `state`", ""),
        (whole(r#"§{ "variants": {"a": "off"} }"#), "has a `state`", "ENABLED"),
        (whole(r#"{ "state": §"on", "variants": {"a": "off"} }"#), "has a `state`", "ENABLED"),
        (whole(r#"§{ "state": "ENABLED" }"#), "has `variants`", ""),
        (whole(r#"{ "state": "ENABLED", "variants": {"a": "off", "b": §1} }"#), "of one type", "text"),
        (whole(r#"{ "state": "ENABLED", "variants": {§"a": "on"} }"#), "which is no mode", "write one of off, "),
        (whole(r#"{ "state": "ENABLED", "variants": {§"a": true} }"#), "which is no mode", ""),
        (whole("§[]"), "a flag is an object", ""),
        ("{\"flags\": {}, §\"flag\": 1}".into(), "no field `flag`", "flags"),
        ("§{}".into(), "has `flags`", ""),
        ("{\"flags\": {}§".into(), "`,` or `}` is expected", ""),
        (format!("{}§{}", "[".repeat(65), "[".repeat(35)), "nesting deeper", ""),
        (format!("§{}", " ".repeat(SIZE_LIMIT + 1)), "more than 1048576", ""),
        (named("realease"), "nobody asks for a flag `realease`", "name it `release`"),
        (named("release.tool.shop__frob"), "no tool `shop__frob`", "shop__execute"),
        (named("release.environment.prod"), "no environment `prod`", "production"),
        (named("release.resource.shopp"), "no resource `shopp`", "notes, shop"),
        (named("release.agent.Coder"), "not a valid agent name", ""),
    ] {
        let (before, after) = marked.split_once('§').unwrap();
        let place = (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap().chars().count() + 1);
        let errors = Flags::read(&format!("{before}{after}"), &registry()).unwrap_err();
        let found = errors.iter().find(|e| e.message.contains(says));
        let found = found.unwrap_or_else(|| panic!("`{says}` is not among {errors:?}"));
        assert_eq!((found.line, found.column), place, "{found:?}");
        assert!(found.next.as_deref().unwrap_or_default().contains(next), "{found:?}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_up_to_a_hundred() {
    let wrong = json!({ "state": "ENABLED", "variants": { "a": "off" }, "defaultVariant": "b", "colour": 1 });
    let two: Vec<_> = ["release", "release.workflow.x"].into_iter().map(|key| (key, wrong.clone())).collect();
    assert_eq!(Flags::read(&text(&two), &registry()).unwrap_err().len(), 4);
    let keys: Vec<String> = (0..200).map(|n| format!("release.workflow.{n}")).collect();
    let many: Vec<_> = keys.iter().map(|key| (key.as_str(), wrong.clone())).collect();
    assert_eq!(Flags::read(&text(&many), &registry()).unwrap_err().len(), 100);
}

#[test]
fn a_shared_rule_is_held_against_the_variants_it_is_used_for_and_names_no_other() {
    let document = |rules: Value| {
        let flag = json!({ "state": "ENABLED", "variants": { "a": "off" }, "targeting": { "or": [{ "$ref": "r" }] } });
        json!({ "flags": { "release": flag }, "$evaluators": rules }).to_string()
    };
    let errors = |rules| Flags::read(&document(rules), &registry()).map_err(|e| e[0].message.clone());
    errors(json!({ "r": { "if": [true, "a"] } })).unwrap();
    assert_eq!(errors(json!({ "r": { "if": [true, "b"] } })).unwrap_err(), "there is no variant `b`");
    assert_eq!(errors(json!({ "r": { "$ref": "r" } })).unwrap_err(), "there is no shared rule `r`");
    assert_eq!(
        errors(json!({ "r": { "$ref": "s" }, "s": { "$ref": "r" } })).unwrap_err(),
        "there is no shared rule `s`"
    );
}

/// Expression, context, value. As JsonLogic has it, where it says something.
#[test]
fn operators_do_what_jsonlogic_says() {
    let value = |targeting: &Value, context: &Value| -> Result<Value, String> {
        // Any value at all, looked at from outside: what is truthy names `yes`, and texts name themselves.
        let wrapped = json!({ "if": [{ "===": [targeting, { "var": "expected" }] }, "yes", "no"] });
        let text = json!({ "flags": { "f": {
            "state": "ENABLED", "variants": { "yes": true, "no": false }, "targeting": wrapped } } });
        let document = read(&text.to_string(), None).map_err(|e| e[0].message.clone())?;
        let came = document.flags["f"].evaluate("f", context, at(0));
        came.error.map_or(Ok(Value::from(came.variant)), Err)
    };
    for (expression, expected) in [
        (json!({ "==": [1, "1"] }), json!(true)),
        (json!({ "==": [null, 0] }), json!(false)),
        (json!({ "==": [null, { "var": "nothing" }] }), json!(true)),
        (json!({ "==": [[1], [1]] }), json!(true)),
        (json!({ "===": [1, "1"] }), json!(false)),
        (json!({ "===": [1, 1.0] }), json!(true)),
        (json!({ "!=": [1, 2] }), json!(true)),
        (json!({ "!==": [1, "1"] }), json!(true)),
        (json!({ "!": [[]] }), json!(true)),
        (json!({ "!": "x" }), json!(false)),
        (json!({ "!!": ["0"] }), json!(true)),
        (json!({ "or": [0, "", "a"] }), json!("a")),
        (json!({ "and": [1, 0, "a"] }), json!(0)),
        (json!({ "if": [false, 1, false, 2, 3] }), json!(3)),
        (json!({ "if": [false, 1] }), json!(null)),
        (json!({ ">": [2, 1] }), json!(true)),
        (json!({ ">=": [1, 1] }), json!(true)),
        (json!({ "<": [1, 5, 10] }), json!(true)),
        (json!({ "<": [1, 11, 10] }), json!(false)),
        (json!({ "<=": [1, 1, 10] }), json!(true)),
        (json!({ "<": ["a", "b"] }), json!(true)),
        (json!({ "<": ["a", 1] }), json!(false)),
        (json!({ "max": [1, 3, 2] }), json!(3)),
        (json!({ "min": [[1, 3, 2]] }), json!(1)),
        (json!({ "+": [1, "2", 3] }), json!(6)),
        (json!({ "-": [3, 2] }), json!(1)),
        (json!({ "-": 2 }), json!(-2)),
        (json!({ "*": [2, 2.5] }), json!(5)),
        (json!({ "%": [7, 3] }), json!(1)),
        (json!({ "map": [[1, 2], { "*": [{ "var": "" }, 2] }] }), json!([2, 4])),
        (json!({ "filter": [{ "var": "list" }, { ">": [{ "var": "" }, 1] }] }), json!([2, 3])),
        (
            json!({ "reduce": [{ "var": "list" }, { "+": [{ "var": "current" }, { "var": "accumulator" }] }, 0] }),
            json!(6),
        ),
        (json!({ "all": [{ "var": "list" }, { ">": [{ "var": "" }, 0] }] }), json!(true)),
        (json!({ "all": [[], true] }), json!(false)),
        (json!({ "none": [{ "var": "list" }, { ">": [{ "var": "" }, 3] }] }), json!(true)),
        (json!({ "some": [{ "var": "list" }, { ">": [{ "var": "" }, 2] }] }), json!(true)),
        (json!({ "merge": [[1], 2, [3, 4]] }), json!([1, 2, 3, 4])),
        (json!({ "in": ["Spring", "Springfield"] }), json!(true)),
        (json!({ "in": ["Mike", ["Bob", "Mike"]] }), json!(true)),
        (json!({ "in": [1, "12"] }), json!(false)),
        (json!({ "cat": ["a", 1, null, true] }), json!("a1true")),
        (json!({ "substr": ["jsonlogic", 4] }), json!("logic")),
        (json!({ "substr": ["jsonlogic", -5] }), json!("logic")),
        (json!({ "substr": ["jsonlogic", 1, 3] }), json!("son")),
        (json!({ "substr": ["jsonlogic", 4, -2] }), json!("log")),
        (json!({ "substr": ["é", 5, 3] }), json!("")),
        (json!({ "missing": ["a", "b"] }), json!(["b"])),
        (json!({ "missing_some": [1, ["a", "b"]] }), json!([])),
        (json!({ "missing_some": [2, ["a", "b"]] }), json!(["b"])),
        (json!({ "var": ["b", "else"] }), json!("else")),
        (json!({ "var": "deep.1.x" }), json!(7)),
        (json!({ "var": "$flagd.flagKey" }), json!("f")),
        (json!({ "var": "$flagd.timestamp" }), json!(at(0).as_second())),
    ] {
        let context = json!({ "a": 1, "list": [1, 2, 3], "deep": [null, { "x": 7 }], "expected": expected });
        assert_eq!(value(&expression, &context), Ok(json!("yes")), "{expression} is not {expected}");
        let other = json!({ "a": 1, "list": [1, 2, 3], "deep": [null, { "x": 7 }], "expected": "something else" });
        assert_eq!(value(&expression, &other), Ok(json!("no")), "{expression}");
    }
    for (expression, says) in [
        (json!({ "%": [1, 0] }), "no number"),
        (json!({ "+": ["a", 1] }), "which is no number"),
        (json!({ "max": [[]] }), "no number"),
        (json!({ "fractional": [5, ["a", 1]] }), "spreads over a text"),
    ] {
        assert!(value(&expression, &json!({})).unwrap_err().contains(says), "{expression}");
    }
}

#[test]
fn no_targeting_takes_for_ever() {
    // Sixty loops inside each other, and a text that doubles each time.
    let mut loops = json!(1);
    for _ in 0..20 {
        loops = json!({ "map": [[1, 2, 3, 4, 5, 6, 7, 8, 9], loops] });
    }
    let twice = json!({ "cat": [{ "var": "accumulator" }, { "var": "accumulator" }] });
    let doubling = json!({ "reduce": [vec![1; 60], twice, "x"] });
    for targeting in [loops, doubling] {
        let all = json!({ "state": "ENABLED", "variants": { "a": "enforce" }, "targeting": { "!": targeting } });
        let verdict = judged(Mode::Enforce, &flags(&[("release", all)]), |_| {});
        assert_eq!(verdict.ruling, Ruling::Deny);
        assert!(verdict.reason.contains("takes more than 100000 steps"), "{}", verdict.reason);
    }
}

#[test]
fn a_flag_concerns_what_its_key_says_and_is_read_in_that_order() {
    let all = flags(&[
        ("release.agent.coder", flag("enforce")),
        ("release.workflow.billing", flag("enforce")),
        ("release.tool.shop__execute", flag("enforce")),
        ("release.resource.shop", flag("enforce")),
        ("release.environment.production", flag("enforce")),
        ("release", flag("enforce")),
        // Of others.
        ("release.agent.cleaner", flag("off")),
        ("release.workflow.shipping", flag("off")),
        ("release.tool.shop__query", flag("off")),
        ("release.resource.notes", flag("off")),
    ]);
    let mut world = World::new("", "shop__execute");
    world.contract.assignment.workflow = Some("billing".into());
    let about = all.about(&world.contract, world.agent.as_ref(), world.now);
    let order: Vec<&str> = about.said.iter().map(|said| said.flag.as_str()).collect();
    assert_eq!(
        order,
        [
            "release",
            "release.environment.production",
            "release.resource.shop",
            "release.tool.shop__execute",
            "release.workflow.billing",
            "release.agent.coder"
        ]
    );
    assert_eq!(about.document, Some(all.digest()));
    world.contract.actor = crate::contract::Actor::Operator("anna".into());
    assert!(all.about(&world.contract, None, world.now).said.is_empty());
}

#[test]
fn targeting_sees_the_whole_action() {
    let mut world = World::new("", "shop__execute");
    world.contract.on_behalf_of = Some("ben".into());
    world.contract.assignment.account = Some("acme".into());
    world.contract.assignment.region = Some("eu".into());
    world.contract.assignment.workflow = Some("billing".into());
    let expected = json!({
        "targetingKey": "coder/ben", "agent": "coder", "owner": "anna", "user": "ben", "account": "acme",
        "region": "eu", "workflow": "billing", "environment": "production", "resource": "shop",
        "tool": "shop__execute", "verb": "update", "risk": "reversible_write",
    });
    let context = context_of(&world.contract, world.agent.as_ref());
    assert_eq!(context, expected);
    // Nothing is offered that may not be asked for, and the other way round.
    let offered: Vec<&str> = context.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(offered, CONTEXT);
    assert_eq!(context_of(&World::new("", "shop__execute").contract, Some(&agent()))["targetingKey"], "coder");
}

#[test]
fn a_flag_that_cannot_be_evaluated_is_a_deny_that_names_it() {
    // The variant comes from the context, so that only evaluation finds out.
    let wrong = json!({ "state": "ENABLED", "variants": { "acme": "enforce" }, "targeting": { "var": "account" } });
    let wrong = flags(&[("release.resource.shop", wrong)]);
    let account = |account: &str| {
        let account = account.to_owned();
        judged(Mode::Enforce, &wrong, |world| world.contract.assignment.account = Some(account))
    };
    assert_eq!(account("acme").ruling, Ruling::Allow);
    let verdict = account("other\u{202e}");
    assert_eq!(verdict.ruling, Ruling::Deny);
    assert_eq!(verdict.rules, ["release.resource.shop"]);
    assert!(verdict.reason.contains("comes to `other<U+202E>`, which is no variant"), "{}", verdict.reason);
}

#[test]
fn what_is_disabled_or_names_no_variant_says_nothing() {
    let disabled = json!({ "state": "DISABLED", "variants": { "v": "off" }, "defaultVariant": "v" });
    let open =
        json!({ "state": "ENABLED", "variants": { "v": "off" }, "targeting": { "if": [{ "var": "region" }, "v"] } });
    let both = flags(&[("release", disabled), ("release.resource.shop", open)]);
    assert_eq!(judged(Mode::Enforce, &both, |_| {}).ruling, Ruling::Allow);
    let there = judged(Mode::Enforce, &both, |world| world.contract.assignment.region = Some("eu".into()));
    assert_eq!(there.ruling, Ruling::Deny);
}

#[test]
fn a_share_of_write_authority_is_sticky() {
    let share = |percent: u64| {
        flags(&[(
            "release",
            json!({
                "state": "ENABLED", "variants": { "alone": "autonomous", "asks": "draft_write" }, "defaultVariant": "asks",
                "targeting": { "fractional": [["alone", percent], ["asks", 100 - percent]] },
            }),
        )])
    };
    // One world for all: making one compiles a policy.
    let mut world = World::new("", "shop__execute");
    let mut ruling = |flags: &Flags, user: usize| {
        world.contract.on_behalf_of = Some(format!("user {user}"));
        world.flags = Some(flags.about(&world.contract, world.agent.as_ref(), world.now));
        release::judge(&world.facts()).ruling
    };
    let (thirty, forty) = (share(30), share(40));
    let alone: Vec<usize> = (0..1_000).filter(|user| ruling(&thirty, *user) == Ruling::Allow).collect();
    assert!((250..350).contains(&alone.len()), "{}", alone.len());
    for user in alone {
        // Asked again, and while the share grows.
        assert_eq!(ruling(&thirty, user), Ruling::Allow);
        assert_eq!(ruling(&forty, user), Ruling::Allow);
    }
}

#[test]
fn one_flag_is_changed_and_the_rest_stays() {
    let before = flags(&[
        (
            "release",
            json!({ "state": "ENABLED", "variants": { "a": "off", "b": "enforce" },
        "defaultVariant": "b", "metadata": { "owner": "anna" } }),
        ),
        ("release.agent.coder", flag("observe")),
    ]);
    let change = Change { variant: Some("a".into()), state: None };
    let after = Flags::read(&edited(&before, "release", &change).unwrap(), &registry()).unwrap();
    let mut expected = before.summaries();
    expected[0].default_variant = Some("a".into());
    assert_eq!(after.summaries(), expected);
    let change = Change { variant: None, state: Some(State::Disabled) };
    let off = Flags::read(&edited(&before, "release", &change).unwrap(), &registry()).unwrap();
    assert!(!off.summaries()[0].enabled);
    assert!(edited(&before, "nothing", &change).unwrap_err().contains("no flag `nothing`"));
    let change = Change { variant: Some("c".into()), state: None };
    Flags::read(&edited(&before, "release", &change).unwrap(), &registry()).unwrap_err();
}

#[test]
fn who_answers_for_a_flag_is_asked_until_it_is_said() {
    let metadata = |review: &str| {
        json!({ "owner": "anna", "reason": "billing agents", "created": "2026-01-01", "review": review,
            "cleanup": "all accounts moved", "lifetime": "temporary" })
    };
    let with = |metadata: Value| {
        let mut flag = flag("off");
        flag["metadata"] = metadata;
        lint(&flags(&[("release", flag)]), "flags.json", "2026-12-24T10:00:00Z".parse().unwrap())
    };
    assert!(with(metadata("2026-12-24")).is_empty());
    let late = with(metadata("2026-12-23"));
    assert_eq!(late.len(), 1);
    assert_eq!(late[0].rule, "flag-review");
    assert!(late[0].message.contains("its owner is anna"), "{}", late[0].message);
    assert!(late[0].column > 80, "it points at the date: {}", late[0].column);
    assert_eq!(with(json!({})).iter().filter(|f| f.rule == "flag-metadata").count(), 6);
    for (field, value) in
        [("review", "soon"), ("created", "2027-01-01"), ("created", "x"), ("lifetime", "long"), ("owner", " ")]
    {
        let mut wrong = metadata("2026-12-24");
        wrong[field] = json!(value);
        let found = with(wrong);
        assert_eq!(found.len(), 1, "{field}: {found:?}");
        assert_eq!(found[0].rule, "flag-metadata");
    }
}

const MODES: [Mode; 7] =
    [Mode::Off, Mode::SearchOnly, Mode::Fallback, Mode::Observe, Mode::Draft, Mode::ApprovedExternal, Mode::Enforce];

fn any_said() -> impl Strategy<Value = Said> {
    (0..9usize).prop_map(|n| {
        let mode = MODES.get(n).copied();
        let error = (n == 7).then(|| "it is wrong".to_owned());
        Said {
            flag: "release".into(),
            reason: Reason::Static,
            variant: mode.map(|_| "v".into()),
            mode,
            error,
            remote: None,
        }
    })
}

/// Upholds `ONLY-TIGHTEN`: with one flag more nothing is allowed that was not, and nothing measured only is
/// committed. Nor does the order of flags matter.
#[test]
fn flags_only_tighten() {
    use crate::tool::Risk;

    let risks = [Risk::Search, Risk::SensitiveRead, Risk::ReversibleWrite, Risk::ExternalEffect, Risk::Irreversible];
    let worlds = ["shop__execute", "shop__query"].map(|tool| std::cell::RefCell::new(World::new("", tool)));
    let cases = (
        proptest::sample::select(&MODES[..]),
        proptest::collection::vec(any_said(), 0..5),
        any_said(),
        any::<bool>(),
        0..worlds.len(),
        proptest::sample::select(risks.to_vec()),
    );
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let holds = |(mode, mut said, more, approved, tool, risk): (Mode, Vec<Said>, Said, bool, usize, Risk)| {
        let judged = |said: &[Said]| {
            let mut world = worlds[tool].borrow_mut();
            world.contract.risk = risk;
            world.mode = mode;
            world.approved = approved;
            world.flags = Some(Flagged { document: Some(Sha256::of(b"")), said: said.to_vec() });
            let verdict = release::judge(&world.facts());
            (verdict.ruling, verdict.obligations.contains(&Obligation::MeasureOnly))
        };
        let before = judged(&said);
        said.push(more);
        let after = judged(&said);
        prop_assert!(after.0 >= before.0);
        prop_assert!(after.1 || !before.1);
        said.reverse();
        prop_assert_eq!(judged(&said), after);
        // No stricter than the strictest of its parts.
        let alone = said.iter().map(|one| judged(std::slice::from_ref(one)).0).max().unwrap_or(before.0);
        prop_assert_eq!(after.0, alone.max(judged(&[]).0));
        Ok(())
    };
    proptest::test_runner::TestRunner::new(config).run(&cases, holds).unwrap();
}
