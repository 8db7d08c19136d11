use super::*;
use crate::fixtures::{approval_id, at, contract, registered, run_id};

fn question() -> Question {
    let contract = contract(&registered("shop__execute"), "customers", "update");
    Question {
        id: approval_id(1),
        run: run_id(1),
        action: contract.digest(),
        effect: EffectDigest(Sha256::of(b"effect")),
        places: EffectDigest(Sha256::of(b"places")),
        policy: Sha256::of(b"policy"),
        asked: at(0),
        expires: at(600),
        approvers: vec![],
        exceptions: vec![],
        only_exceptions: false,
    }
}

fn asked_by(actor: Actor, on_behalf_of: Option<&str>) -> Contract {
    let mut contract = contract(&registered("shop__execute"), "customers", "update");
    contract.actor = actor;
    contract.on_behalf_of = on_behalf_of.map(str::to_owned);
    contract
}

fn coder() -> Contract {
    contract(&registered("shop__execute"), "customers", "update")
}

#[test]
fn an_answer_counts_between_asking_and_expiry() {
    let question = question();
    for (second, counts) in [(-400 * 86_400, false), (-1, false), (0, true), (599, true), (600, false)] {
        assert_eq!(question.approve(&coder(), "anna", at(second)).is_ok(), counts, "{second}");
    }
    let approval = question.approve(&coder(), "anna", at(10)).unwrap();
    assert_eq!((approval.by.as_str(), approval.at), ("anna", at(10)));
    // A clock that goes back does not make it last longer.
    for (second, good) in [(-400 * 86_400, false), (9, false), (10, true), (599, true), (600, false)] {
        assert_eq!(approval.is_good(at(second)), good, "{second}");
    }
}

#[test]
fn the_requester_cannot_approve_under_any_name() {
    let question = question();
    let agent = || coder().actor;
    for (contract, by, counts) in [
        (coder(), "coder", false),
        (coder(), "anna", true),
        (asked_by(agent(), Some("anna")), "anna", false),
        (asked_by(agent(), Some("anna")), "ben", true),
        (asked_by(Actor::Operator("anna".into()), None), "anna", false),
        (asked_by(Actor::Operator("anna".into()), None), "ben", true),
        (asked_by(Actor::Turnback, None), "anna", true),
    ] {
        let answer = question.approve(&contract, by, at(1));
        assert_eq!(answer.is_ok(), counts, "{} by {by}", contract.actor);
        if let Err(error) = answer {
            assert_eq!(error, NotAnApproval::Requester { by: by.to_owned() });
        }
    }
}

#[test]
fn only_named_people_may_answer() {
    let names = |names: &[&str]| Obligation::Approvers { names: names.iter().map(|n| (*n).to_owned()).collect() };
    let who = |obligations: &[Obligation]| {
        let question = question().restricted(obligations.iter());
        ["anna", "ben", "", "nobody"]
            .into_iter()
            .filter(|by| question.approve(&coder(), by, at(1)).is_ok())
            .collect::<Vec<_>>()
    };
    assert_eq!(who(&[Obligation::MeasureOnly]).len(), 4);
    assert_eq!(who(&[names(&["anna", "ben"])]), ["anna", "ben"]);
    assert_eq!(who(&[names(&["anna", "ben"]), names(&["ben", "carl"])]), ["ben"]);
    // Nobody left is nobody, never anybody, however many rules follow.
    assert!(who(&[names(&["anna"]), names(&["ben"])]).is_empty());
    assert!(who(&[names(&["anna"]), names(&["ben"]), names(&["anna"])]).is_empty());
    assert!(who(&[names(&[])]).is_empty());
    let error = question().restricted([names(&["ben"])].iter()).approve(&coder(), "anna", at(1)).unwrap_err();
    assert_eq!(error.to_string(), "only ben may approve this, not `anna`");
}
