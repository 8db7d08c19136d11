use super::*;
use crate::approval::Question;
use crate::decision::{Obligation, Verdict};
use crate::digest::Sha256;
use crate::fixtures::{approval_id, at, blast, decision, measure_only, measurement, run_id};

/// Everything a permit is minted from.
struct Minting {
    run: RunId,
    action: ActionDigest,
    effect: Effect,
    before: Decision,
    after: Decision,
    approval: Option<Approval>,
    rule: Match,
    now: Timestamp,
}

impl Minting {
    fn new() -> Self {
        let effect = measurement(blast(3), "effect").effect;
        let action = ActionDigest(Sha256::of(b"action"));
        let question = Question {
            id: approval_id(1),
            run: run_id(1),
            action,
            effect: effect.digest,
            places: effect.places,
            policy: Sha256::of(b"policy"),
            asked: at(0),
            expires: at(600),
            approvers: vec![],
            exceptions: vec![],
            only_exceptions: false,
        };
        Self {
            run: run_id(1),
            action,
            effect,
            before: decision(Phase::Before, Ruling::Allow),
            after: decision(Phase::After, Ruling::Allow),
            approval: Some(Approval { question, by: "anna".into(), at: at(10) }),
            rule: Match::Exact,
            now: at(20),
        }
    }

    fn mint(&self) -> Result<Permit, NotPermitted> {
        Permit::mint(
            self.run,
            self.action,
            &self.effect,
            &self.before,
            &self.after,
            self.approval.as_ref(),
            self.rule,
            self.now,
        )
    }

    fn with(change: impl FnOnce(&mut Self)) -> Result<Permit, NotPermitted> {
        let mut minting = Self::new();
        change(&mut minting);
        minting.mint()
    }
}

fn other() -> Sha256 {
    Sha256::of(b"other")
}

#[test]
fn a_permit_is_for_what_was_shown() {
    let permit = Minting::new().mint().unwrap();
    assert_eq!((permit.run(), permit.action()), (run_id(1), ActionDigest(Sha256::of(b"action"))));
    assert!(Minting::with(|m| m.approval = None).is_ok());
}

/// P5: every bound field, changed after the approval, on either side.
#[test]
fn changing_any_bound_field_after_the_approval_refuses() {
    fn shown(m: &mut Minting) -> &mut Question {
        &mut m.approval.as_mut().unwrap().question
    }
    type Change = fn(&mut Minting);
    let changes: [(&str, Change); 13] = [
        ("run", |m| m.run = run_id(2)),
        ("shown run", |m| shown(m).run = run_id(2)),
        ("action", |m| m.action = ActionDigest(other())),
        ("shown action", |m| shown(m).action = ActionDigest(other())),
        ("effect", |m| m.effect.digest = EffectDigest(other())),
        ("shown effect", |m| shown(m).effect = EffectDigest(other())),
        ("policy", |m| m.after.policy = other()),
        ("shown policy", |m| shown(m).policy = other()),
        ("too late", |m| m.now = at(600)),
        ("much too late", |m| m.now = at(400 * 86_400)),
        ("clock went back", |m| m.now = at(9)),
        ("clock went far back", |m| m.now = at(-400 * 86_400)),
        ("shown expiry", |m| shown(m).expires = at(20)),
    ];
    for (what, change) in changes {
        assert!(Minting::with(change).is_err(), "{what} must refuse");
    }
    let error = Minting::with(|m| m.effect.digest = EffectDigest(other())).unwrap_err();
    assert_eq!(error, NotPermitted::OtherApproval { what: "effect" });
}

#[test]
fn only_two_allowing_decisions_of_the_right_phases_permit() {
    use Ruling::{Allow, Constrain, Deny, Fallback, Review};
    for approved in [true, false] {
        for ruling in [Constrain, Review, Fallback, Deny] {
            for (before, after) in [(ruling, Allow), (Allow, ruling)] {
                let refused = Minting::with(|m| {
                    m.before = decision(Phase::Before, before);
                    m.after = decision(Phase::After, after);
                    if !approved {
                        m.approval = None;
                    }
                });
                assert!(matches!(refused, Err(NotPermitted::NotAllowed { .. })), "{before:?} {after:?}");
            }
        }
    }
    assert!(Minting::with(|m| m.before = decision(Phase::After, Allow)).is_err());
    assert!(Minting::with(|m| m.after = decision(Phase::Before, Allow)).is_err());
    assert_eq!(Minting::with(|m| m.before = measure_only(Phase::Before)).unwrap_err(), NotPermitted::MeasureOnly);
    assert_eq!(Minting::with(|m| m.after = measure_only(Phase::After)).unwrap_err(), NotPermitted::MeasureOnly);
    // A deny that carries other obligations is a deny.
    let verdict = Verdict::new("x", Deny, "").oblige(Obligation::MeasureOnly);
    let denied = Decision::combine(Phase::After, Sha256::of(b"policy"), vec![verdict]);
    assert!(matches!(Minting::with(|m| m.after = denied), Err(NotPermitted::NotAllowed { .. })));
}

#[test]
fn same_rows_relaxes_values_of_volatile_effects_only() {
    let staged = |volatile: bool, places: Option<Sha256>, rule| {
        Minting::with(|m| {
            m.rule = rule;
            m.effect.digest = EffectDigest(other());
            m.effect.volatile = volatile;
            if let Some(places) = places {
                m.effect.places = EffectDigest(places);
            }
        })
        .is_ok()
    };
    assert!(staged(true, None, Match::SameRows));
    assert!(!staged(false, None, Match::SameRows));
    assert!(!staged(true, None, Match::Exact));
    assert!(!staged(true, Some(other()), Match::SameRows));
}

#[test]
fn a_permit_covers_its_effect_for_thirty_seconds() {
    let minting = Minting::new();
    let permit = minting.mint().unwrap();
    let effect = minting.effect.digest;
    for (second, covered) in [(19, false), (20, true), (49, true), (50, false), (-400 * 86_400, false)] {
        assert_eq!(permit.covers(effect, at(second)).is_ok(), covered, "{second}");
    }
    assert_eq!(permit.covers(EffectDigest(other()), at(20)).unwrap_err(), NotCovered::OtherEffect { run: run_id(1) });
    // At the end of time a permit is dead on arrival rather than eternal.
    let permit = Minting::with(|m| {
        m.approval = None;
        m.now = Timestamp::MAX;
    });
    assert!(permit.unwrap().covers(effect, Timestamp::MAX).is_err());
}
