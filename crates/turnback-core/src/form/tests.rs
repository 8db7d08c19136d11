//! What forms make of actions.

use serde_json::json;

use super::*;
use crate::fixtures::{World, run_id};

fn call(arguments: Value) -> Contract {
    let mut contract = World::new("", "notes__write_file").contract;
    contract.arguments = arguments;
    contract
}

fn form(name: &str) -> Form {
    Form { name: name.into(), ..Form::default() }
}

fn of(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn to(form: Form, arguments: Value) -> Result<Value, String> {
    let name = form.name.clone();
    rewritten(&call(arguments), &BTreeSet::from([name.as_str()]), &[form]).map(|(_, arguments)| arguments)
}

#[test]
fn every_kind_of_change_is_made_and_named() {
    let draft = Form {
        to: Some("drafts__write_file".parse().unwrap()),
        set: of(json!({ "mode": "draft" })),
        at_most: BTreeMap::from([("copies".to_owned(), 2), ("to".to_owned(), 1), ("lines".to_owned(), 9)]),
        inside: BTreeMap::from([("path".to_owned(), "drafts".to_owned())]),
        remove: BTreeSet::from(["overwrite".to_owned()]),
        ..form("draft")
    };
    let asked = json!({ "path": "a", "overwrite": true, "copies": 5, "to": ["x", "y"], "text": "t" });
    let (rewriting, arguments) = rewritten(&call(asked), &BTreeSet::from(["draft"]), &[draft]).unwrap();
    let done = json!({ "path": "drafts/a", "copies": 2, "to": ["x"], "text": "t", "mode": "draft", "lines": 9 });
    assert_eq!(arguments, done);
    assert_eq!(rewriting.tool.as_str(), "drafts__write_file");
    let changed: Vec<&str> = rewriting.changed.iter().map(|changed| changed.what.as_str()).collect();
    assert_eq!(changed, ["tool", "copies", "lines", "mode", "overwrite", "path", "to"]);
    assert!(!rewriting.dry_run);
}

#[test]
fn a_bound_only_lowers() {
    let capped = |given: Value| {
        let form = Form { at_most: BTreeMap::from([("n".to_owned(), 10)]), ..form("capped") };
        to(form, given)
    };
    for (given, n) in [
        (json!({ "n": 3 }), json!(3)),
        (json!({ "n": 30 }), json!(10)),
        (json!({}), json!(10)),
        (json!({ "n": 3.5 }), json!(10)),
        (json!({ "n": -1 }), json!(10)),
        (json!({ "n": 1e300 }), json!(10)),
    ] {
        assert_eq!(capped(given.clone()).unwrap()["n"], n, "{given}");
    }
    for odd in [json!("3"), json!(null), json!({}), json!(true)] {
        assert!(capped(json!({ "n": odd })).unwrap_err().contains("neither a number nor a list"));
    }
}

#[test]
fn no_path_is_taken_for_one_inside_that_is_not() {
    let boxed = |path: &str| {
        let form = Form { inside: BTreeMap::from([("path".to_owned(), "box".to_owned())]), ..form("boxed") };
        to(form, json!({ "path": path })).unwrap()["path"].as_str().unwrap().to_owned()
    };
    assert_eq!(boxed("box/a"), "box/a");
    for (asked, done) in [("a", "box/a"), ("box", "box/box"), ("boxes/a", "box/boxes/a")] {
        assert_eq!(boxed(asked), done);
    }
    // These leave it again, and the domain refuses them for what they are.
    assert_eq!(boxed("box/../a"), "box/box/../a");
    assert_eq!(boxed("../a"), "box/../a");
    assert_eq!(boxed("/a"), "box//a");
}

#[test]
fn forms_that_are_not_there_or_do_not_fit_together_are_none() {
    let contract = call(json!({}));
    let why = rewritten(&contract, &BTreeSet::from(["draft"]), &[]).unwrap_err();
    assert!(why.contains("`draft`") && why.contains("notes__write_file"), "{why}");
    let calls = |name: &str, tool: &str| Form { to: Some(tool.parse().unwrap()), ..form(name) };
    let forms = [calls("a", "x__a"), calls("b", "x__b")];
    let why = rewritten(&contract, &BTreeSet::from(["a", "b"]), &forms).unwrap_err();
    assert!(why.contains("two tools"), "{why}");
}

#[test]
fn a_path_that_is_left_out_is_the_directory() {
    let form = Form { inside: BTreeMap::from([("path".to_owned(), "box".to_owned())]), ..form("boxed") };
    assert_eq!(to(form, json!({})).unwrap(), json!({ "path": "box" }));
}

#[test]
fn forms_that_take_back_what_another_asks_for_are_none() {
    let few = Form { at_most: BTreeMap::from([("n".to_owned(), 2)]), ..form("few") };
    let page = Form { set: of(json!({ "n": 10 })), ..form("page") };
    let bare = Form { remove: BTreeSet::from(["n".to_owned()]), ..form("zbare") };
    let boxed = |name: &str| Form { inside: BTreeMap::from([("p".to_owned(), name.to_owned())]), ..form(name) };
    for (forms, lost) in
        [([few.clone(), page.clone()], "few"), ([few.clone(), bare], "few"), ([boxed("a"), boxed("b")], "a")]
    {
        let wanted = forms.iter().map(|form| form.name.as_str()).collect();
        let why = rewritten(&call(json!({ "n": 5, "p": "x" })), &wanted, &forms).unwrap_err();
        assert!(why.contains(&format!("`{lost}` does not hold")), "{why}");
    }
    // Nor what an earlier one asked for.
    let mut contract = call(json!({ "n": 2 }));
    contract.form = Some(Formed { asked: vec![Asked::of(&contract, vec!["few".into()])], ..formed(&contract) });
    let why = rewritten(&contract, &BTreeSet::from(["page"]), &[few.clone(), page.clone()]).unwrap_err();
    assert!(why.contains("`few` does not hold"), "{why}");
    // Of one form the bound comes last, and is no contradiction.
    let both = Form { at_most: few.at_most, ..page };
    assert_eq!(to(both, json!({})).unwrap(), json!({ "n": 2 }));
}

#[test]
fn a_form_counts_for_the_tool_it_is_a_form_of() {
    let met = |contract: &Contract, forms: &[Form]| {
        let mut world = World::new("", "notes__write_file");
        (world.contract, world.forms) = (contract.clone(), forms.to_vec());
        is_met(&world.facts(), "small")
    };
    let mut contract = call(json!({}));
    assert!(!met(&contract, &[form("small")]));
    contract.form = Some(Formed { asked: vec![Asked::of(&contract, vec!["small".into()])], ..formed(&contract) });
    assert!(met(&contract, &[form("small")]));
    let other = World::new("", "notes__delete").contract;
    contract.form = Some(Formed { asked: vec![Asked::of(&other, vec!["small".into()])], ..formed(&other) });
    assert!(!met(&contract, &[form("small")]));
    assert!(met(&contract, &[form("else")]));
    // Listing its name is not having it.
    contract.form = Some(Formed { forms: vec!["small".into()], ..formed(&other) });
    assert!(!met(&contract, &[]));
    let back = Form { to: Some(other.tool.clone()), ..form("back") };
    contract.form = Some(Formed { asked: vec![Asked::of(&other, vec!["small".into()])], ..formed(&other) });
    assert!(rewritten(&contract, &BTreeSet::from(["back"]), &[back]).unwrap_err().contains("lead back"));
}

fn formed(of: &Contract) -> Formed {
    Formed {
        from: run_id(1),
        of: of.digest(),
        forms: vec![],
        dry_run: false,
        changed: vec![],
        why: String::new(),
        asked: vec![],
        reviews: vec![],
    }
}

#[test]
fn every_write_can_be_a_dry_run_and_no_read() {
    let (rewriting, arguments) = rewritten(&call(json!({ "a": 1 })), &BTreeSet::from([DRY_RUN]), &[]).unwrap();
    assert!(rewriting.dry_run);
    assert_eq!(arguments, json!({ "a": 1 }));
    let mut read = World::new("", "notes__read_file").contract;
    read.arguments = json!({});
    assert!(rewritten(&read, &BTreeSet::from([DRY_RUN]), &[]).is_err());
}

#[test]
fn the_form_and_what_it_is_a_form_of_are_part_of_the_digest_and_reasons_are_not() {
    let plain = call(json!({ "a": 1 }));
    let formed = |change: &dyn Fn(&mut Formed)| {
        let mut formed = Formed {
            from: run_id(1),
            of: plain.digest(),
            forms: vec!["draft".into()],
            dry_run: false,
            changed: vec![],
            why: "x".into(),
            asked: vec![],
            reviews: vec![],
        };
        change(&mut formed);
        let mut contract = plain.clone();
        contract.form = Some(formed);
        contract.digest()
    };
    let first = formed(&|_| {});
    assert_ne!(first, plain.digest());
    assert_ne!(formed(&|formed| formed.forms = vec!["other".into()]), first);
    assert_ne!(formed(&|formed| formed.dry_run = true), first);
    assert_ne!(formed(&|formed| formed.of = call(json!({ "a": 2 })).digest()), first);
    // The same call asked for again is the same action, and joins the one that waits.
    assert_eq!(formed(&|formed| formed.from = run_id(2)), first);
    assert_eq!(formed(&|formed| formed.why = "y".into()), first);
}
