//! What flagd's testbed says an evaluator does, as facts: targeting, context, and what must come of it.
//!
//! From `evaluator/gherkin` of open-feature/flagd-testbed, release 3.9. Bucketing is that of `@fractional-v2`. Where
//! flagd finds a mistake at evaluation time and this reader finds it in the file, that is the second table.

use serde_json::{Value, json};

use super::document::{Reason, read};
use crate::fixtures::at;

struct Case {
    key: &'static str,
    variants: Value,
    default: Option<&'static str>,
    targeting: Value,
    /// Context and the variant it comes to; `None` leaves it to the caller.
    comes_to: Vec<(Value, Option<&'static str>, Reason)>,
}

const MATCH: Reason = Reason::TargetingMatch;
const DEFAULT: Reason = Reason::Default;

fn names(names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), Value::from(*name))).collect::<serde_json::Map<_, _>>().into()
}

fn document(case: &Case) -> String {
    json!({
        "flags": { case.key: {
            "state": "ENABLED",
            "variants": case.variants,
            "defaultVariant": case.default,
            "targeting": case.targeting,
        } },
        "$evaluators": { "is_ballmer": { "==": ["ballmer@macrosoft.com", { "var": ["email"] }] } },
    })
    .to_string()
}

fn suits(name: &str, expected: &'static str) -> (Value, Option<&'static str>, Reason) {
    (json!({ "user": { "name": name } }), Some(expected), MATCH)
}

fn subject(key: &str, expected: &'static str) -> (Value, Option<&'static str>, Reason) {
    (json!({ "targetingKey": key }), Some(expected), MATCH)
}

fn version(version: Value, expected: &'static str) -> (Value, Option<&'static str>, Reason) {
    (json!({ "version": version }), Some(expected), MATCH)
}

fn fractional() -> Vec<Case> {
    let four = json!([["clubs", 25], ["diamonds", 25], ["hearts", 25], ["spades", 25]]);
    let suited = |by: Value| {
        let mut arguments = vec![by];
        arguments.extend(four.as_array().unwrap().iter().cloned());
        json!({ "fractional": arguments })
    };
    let wild = names(&["clubs", "diamonds", "hearts", "spades", "wild"]);
    let by_key = |buckets: [Value; 2]| {
        let [a, b] = buckets;
        json!({ "fractional": [{ "var": "targetingKey" }, a, b] })
    };
    let one_two = |targeting| Case {
        key: "weights",
        variants: names(&["one", "two", "fallback"]),
        default: Some("fallback"),
        targeting,
        comes_to: vec![],
    };
    let tier = |key: &str, field: &str, value: &str| json!({ "targetingKey": key, field: value });
    vec![
        Case {
            key: "fractional-flag",
            variants: wild.clone(),
            default: Some("wild"),
            targeting: suited(json!({ "cat": [{ "var": "$flagd.flagKey" }, { "var": "user.name" }] })),
            comes_to: vec![
                suits("jack", "hearts"),
                suits("queen", "spades"),
                suits("ten", "clubs"),
                suits("nine", "diamonds"),
                suits("3", "clubs"),
            ],
        },
        Case {
            key: "fractional-flag-A-shared-seed",
            variants: wild,
            default: Some("wild"),
            targeting: suited(json!({ "cat": ["shared-seed", { "var": "user.name" }] })),
            comes_to: vec![
                suits("seven", "hearts"),
                suits("eight", "diamonds"),
                suits("nine", "clubs"),
                suits("two", "spades"),
            ],
        },
        Case {
            key: "fractional-flag-shorthand",
            variants: names(&["heads", "tails", "draw"]),
            default: Some("draw"),
            targeting: json!({ "fractional": [["heads"], ["tails", 1]] }),
            comes_to: vec![
                subject("jon@company.com", "heads"),
                subject("jane@company.com", "tails"),
                // Nobody in particular.
                (json!({}), Some("draw"), DEFAULT),
            ],
        },
        Case {
            key: "fractional-single-entry-flag",
            variants: names(&["single", "fallback"]),
            default: Some("fallback"),
            targeting: json!({ "fractional": [["single", 1]] }),
            comes_to: vec![subject("some-targeting-key", "single")],
        },
        Case {
            key: "fractional-hash-edge-flag",
            variants: names(&["lower", "upper"]),
            default: Some("lower"),
            targeting: by_key([json!(["lower", 50]), json!(["upper", 50])]),
            comes_to: vec![
                subject("ejOoVL", "lower"),
                subject("bY9fO-", "lower"),
                subject("SI7p-", "lower"),
                subject("6LvT0", "upper"),
                subject("ceQdGm", "upper"),
            ],
        },
        Case {
            key: "fractional-nested-if-flag",
            variants: names(&["premium", "standard", "fallback"]),
            default: Some("fallback"),
            targeting: by_key([
                json!([{ "if": [{ "==": [{ "var": "tier" }, "premium"] }, "premium", "standard"] }, 50]),
                json!(["standard", 50]),
            ]),
            comes_to: vec![
                (tier("jon@company.com", "tier", "premium"), Some("premium"), MATCH),
                (tier("jon@company.com", "tier", "basic"), Some("standard"), MATCH),
                (tier("user1", "tier", "premium"), Some("standard"), MATCH),
                (tier("user1", "tier", "basic"), Some("standard"), MATCH),
            ],
        },
        Case {
            key: "fractional-nested-var-flag",
            variants: names(&["red", "green", "blue", "fallback"]),
            default: Some("fallback"),
            targeting: by_key([json!([{ "var": "color" }, 50]), json!(["blue", 50])]),
            comes_to: vec![
                (tier("jon@company.com", "color", "red"), Some("red"), MATCH),
                (tier("jon@company.com", "color", "green"), Some("green"), MATCH),
                (tier("user1", "color", "red"), Some("blue"), MATCH),
                (tier("jon@company.com", "color", "yellow"), None, Reason::Error),
                (tier("jon@company.com", "color", ""), None, Reason::Error),
            ],
        },
        Case {
            key: "fractional-nested-weight-flag",
            variants: names(&["red", "blue", "fallback"]),
            default: Some("fallback"),
            targeting: by_key([
                json!(["red", { "if": [{ "==": [{ "var": "tier" }, "premium"] }, 100, 0] }]),
                json!(["blue", 10]),
            ]),
            comes_to: vec![
                (tier("jon@company.com", "tier", "premium"), Some("red"), MATCH),
                (tier("jon@company.com", "tier", "basic"), Some("blue"), MATCH),
                (tier("user1", "tier", "premium"), Some("red"), MATCH),
                (tier("user1", "tier", "basic"), Some("blue"), MATCH),
            ],
        },
        Case {
            key: "fractional-as-condition-flag",
            variants: names(&["big", "small"]),
            default: None,
            targeting: json!({ "if": [{ "fractional": [[false, 0], [true, 100]] }, "big", "small"] }),
            comes_to: vec![subject("some-targeting-key", "big")],
        },
        Case {
            key: "fractional-as-condition-false-flag",
            variants: names(&["big", "small"]),
            default: None,
            targeting: json!({ "if": [{ "fractional": [[false, 100], [true, 0]] }, "big", "small"] }),
            comes_to: vec![subject("some-targeting-key", "small")],
        },
        Case {
            comes_to: vec![(json!({ "targetingKey": "x" }), Some("fallback"), DEFAULT)],
            ..one_two(json!({ "fractional": [{ "var": "missing_key" }, ["one", 50], ["two", 50]] }))
        },
        Case {
            comes_to: vec![(json!({ "targetingKey": "any-user" }), Some("fallback"), DEFAULT)],
            ..one_two(by_key([json!(["one", 0]), json!(["two", 0])]))
        },
        Case {
            comes_to: vec![subject("any-user", "two")],
            ..one_two(by_key([json!(["one", -50]), json!(["two", 100])]))
        },
    ]
}

fn versions() -> Vec<Case> {
    let range = |operator: &str, against: &str| json!({ "sem_ver": [{ "var": "version" }, operator, against] });
    let matches = |operator, against, comes_to| Case {
        key: "matches",
        variants: names(&["match", "no-match"]),
        default: Some("no-match"),
        targeting: json!({ "if": [range(operator, against), "match", "no-match"] }),
        comes_to,
    };
    let no = "no-match";
    vec![
        Case {
            key: "equal-greater-lesser-version-flag",
            variants: names(&["equal", "greater", "lesser", "none"]),
            default: Some("none"),
            targeting: json!({ "if": [range("=", "2.0.0"), "equal",
                { "if": [range(">", "2.0.0"), "greater", { "if": [range("<", "2.0.0"), "lesser", "none"] }] }] }),
            comes_to: vec![
                version(json!("2.0.0"), "equal"),
                version(json!("2.1.0"), "greater"),
                version(json!("1.9.0"), "lesser"),
                version(json!("2.0.0-alpha"), "lesser"),
                version(json!("2.0.0.0"), "none"),
            ],
        },
        Case {
            key: "major-minor-version-flag",
            variants: names(&["minor", "major", "none"]),
            default: Some("none"),
            targeting: json!({ "if": [range("~", "3.0.0"), "minor", range("^", "3.0.0"), "major", "none"] }),
            comes_to: vec![
                version(json!("3.0.1"), "minor"),
                version(json!("3.1.0"), "major"),
                version(json!("4.0.0"), "none"),
            ],
        },
        Case {
            key: "invalid",
            variants: names(&["true", "false", "fallback"]),
            default: Some("fallback"),
            targeting: range("=", "1.0.0"),
            comes_to: vec![
                (json!({ "version": "not-a-version" }), Some("fallback"), DEFAULT),
                version(json!("1.0.0"), "true"),
                version(json!("1.0.1"), "false"),
            ],
        },
        matches(
            "=",
            "v1.0.0",
            vec![
                version(json!("1.0.0"), "match"),
                version(json!("v1.0.0"), "match"),
                version(json!("V1.0.0"), "match"),
                version(json!("2.0.0"), no),
            ],
        ),
        matches(
            "^",
            "1",
            vec![
                version(json!("1.5.0"), "match"),
                version(json!("1.0"), "match"),
                version(json!("1"), "match"),
                version(json!(1), "match"),
                version(json!(1.2), "match"),
                version(json!("2.0.0"), no),
            ],
        ),
        matches(
            ">",
            "1.1",
            vec![
                version(json!(1.2), "match"),
                version(json!(1.1), no),
                version(json!(2), "match"),
                version(json!(1), no),
                version(json!("1.2"), "match"),
            ],
        ),
        matches(
            "=",
            "1.0.0+build",
            vec![version(json!("1.0.0"), "match"), version(json!("1.0.0+other"), "match"), version(json!("2.0.0"), no)],
        ),
    ]
}

fn others() -> Vec<Case> {
    let email = |email: &str| json!({ "email": email });
    let ballmer = "ballmer@macrosoft.com";
    let zero = |zero: Value, other: Value| Case {
        key: "zero",
        variants: json!({ "zero": zero, "non-zero": other }),
        default: Some("zero"),
        targeting: json!({ "if": [{ "$ref": "is_ballmer" }, "zero"] }),
        comes_to: vec![(email(ballmer), Some("zero"), MATCH), (email("ballmer@none.com"), Some("zero"), DEFAULT)],
    };
    let truth = || names(&["true", "false", "fallback"]);
    let no_default = |targeting: Value| Case {
        key: "no-default",
        variants: json!({ "normal": "CFO", "special": "CEO" }),
        default: None,
        targeting,
        comes_to: vec![
            (email("wozniak@orange.com"), None, DEFAULT),
            (email("jobs@orange.com"), Some("special"), MATCH),
        ],
    };
    let jobs = json!({ "==": ["jobs@orange.com", { "var": ["email"] }] });
    vec![
        Case {
            key: "some-email-targeted-flag",
            variants: names(&["hi", "bye", "none"]),
            default: Some("none"),
            targeting: json!({ "if": [{ "$ref": "is_ballmer" }, "hi", "bye"] }),
            comes_to: vec![(email(ballmer), Some("hi"), MATCH), (email("user@example.com"), Some("bye"), MATCH)],
        },
        Case {
            key: "targeting-key-flag",
            variants: names(&["miss", "hit"]),
            default: Some("miss"),
            targeting: json!({ "if": [
                { "==": [{ "var": "targetingKey" }, "5c3d8535-f81a-4478-a6d3-afaa4d51199e"] }, "hit", null] }),
            comes_to: vec![
                subject("5c3d8535-f81a-4478-a6d3-afaa4d51199e", "hit"),
                (json!({ "targetingKey": "f20bd32d-703b-48b6-bc8e-79d53c85134a" }), Some("miss"), DEFAULT),
            ],
        },
        Case {
            key: "starts-ends-flag",
            variants: names(&["prefix", "postfix", "none"]),
            default: Some("none"),
            targeting: json!({ "if": [{ "starts_with": [{ "var": "id" }, "abc"] }, "prefix",
                { "if": [{ "ends_with": [{ "var": "id" }, "xyz"] }, "postfix", "none"] }] }),
            comes_to: vec![
                (json!({ "id": "abcdef" }), Some("prefix"), MATCH),
                (json!({ "id": "uvwxyz" }), Some("postfix"), MATCH),
                (json!({ "id": "abcxyz" }), Some("prefix"), MATCH),
                (json!({ "id": "lmnopq" }), Some("none"), MATCH),
            ],
        },
        Case {
            key: "starts-with-non-string-flag",
            variants: truth(),
            default: Some("fallback"),
            targeting: json!({ "starts_with": [{ "var": "num" }, "abc"] }),
            comes_to: vec![(json!({ "num": 123 }), Some("fallback"), DEFAULT)],
        },
        Case {
            key: "ends-with-non-string-flag",
            variants: truth(),
            default: Some("fallback"),
            targeting: json!({ "ends_with": [{ "var": "num" }, "xyz"] }),
            comes_to: vec![(json!({ "num": 123 }), Some("fallback"), DEFAULT)],
        },
        no_default(json!({ "if": [jobs.clone(), "special", null] })),
        no_default(json!({ "if": [jobs, "special"] })),
        Case {
            key: "null-default-flag",
            variants: json!({ "on": true, "off": false }),
            default: None,
            targeting: json!({}),
            comes_to: vec![(json!({}), None, DEFAULT)],
        },
        Case {
            key: "boolean-flag",
            variants: json!({ "on": true, "off": false }),
            default: Some("on"),
            targeting: json!({}),
            comes_to: vec![(json!({}), Some("on"), Reason::Static)],
        },
        zero(json!(false), json!(true)),
        zero(json!(""), json!("str")),
        zero(json!(0), json!(1)),
        zero(json!(0.0), json!(1.0)),
        zero(json!({}), json!({ "title": "x" })),
    ]
}

#[test]
fn targeting_comes_to_what_flagd_says() {
    let mut asked = 0;
    for case in fractional().into_iter().chain(versions()).chain(others()) {
        let document = read(&document(&case), None).unwrap_or_else(|errors| panic!("{}: {errors:?}", case.key));
        let flag = &document.flags[case.key];
        for (context, variant, reason) in &case.comes_to {
            let came = flag.evaluate(case.key, context, at(0));
            assert_eq!((came.variant, came.reason), (*variant, *reason), "{} with {context}: {came:?}", case.key);
            assert_eq!(came.error.is_some(), *reason == Reason::Error);
            asked += 1;
        }
    }
    assert_eq!(asked, 91, "a case was lost");
}

#[test]
fn a_disabled_flag_says_nothing() {
    let text = json!({ "flags": { "f": { "state": "DISABLED", "variants": { "on": true }, "defaultVariant": "on" } } });
    let document = read(&text.to_string(), None).unwrap();
    let came = document.flags["f"].evaluate("f", &json!({}), at(0));
    assert_eq!((came.variant, came.reason), (None, Reason::Disabled));
}

#[test]
fn metadata_is_kept() {
    let metadata = json!({ "string": "1.0.2", "integer": 2, "boolean": true, "float": 0.1 });
    let flag = json!({ "state": "ENABLED", "variants": { "on": true }, "metadata": metadata });
    let document = read(&json!({ "flags": { "f": flag } }).to_string(), None).unwrap();
    assert_eq!(Value::Object(document.flags["f"].metadata.clone()), metadata);
}

/// Mistakes flagd meets at evaluation time are found in the file.
#[test]
fn what_flagd_would_only_find_later_is_refused_when_it_is_read() {
    for (targeting, says) in [
        (json!({ "starts_with": ["abc"] }), "`starts_with` takes exactly 2 arguments, not 1"),
        (json!({ "ends_with": ["xyz"] }), "`ends_with` takes exactly 2 arguments, not 1"),
        (json!({ "sem_ver": [{ "var": "version" }, "="] }), "`sem_ver` takes exactly 3 arguments, not 2"),
        (json!({ "sem_ver": [{ "var": "version" }, "===", "1.0.0"] }), "the second argument of `sem_ver` compares"),
        (json!({ "if": [{ "$ref": "nonexistent_evaluator" }, "on", "on"] }), "no shared rule `nonexistent_evaluator`"),
    ] {
        let flag = json!({ "state": "ENABLED", "variants": { "on": "on" }, "targeting": targeting });
        let errors = read(&json!({ "flags": { "f": flag } }).to_string(), None).unwrap_err();
        assert!(errors.iter().any(|e| e.message.contains(says)), "{errors:?}");
    }
}
