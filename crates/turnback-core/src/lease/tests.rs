use proptest::prelude::*;

use super::*;
use crate::fixtures::{at, run_id};

fn holder(name: &str) -> Holder {
    Holder { agent: AgentName::new(name).unwrap(), on_behalf_of: None, trace: None }
}

fn spot(resource: &str, place: Option<&str>) -> Spot {
    let place = place.map(|at| Place { kind: Kind::Files, at: at.into() });
    Spot { resource: ResourceName::new(resource).unwrap(), place }
}

fn wants(spots: &[Spot]) -> Wants {
    spots.iter().map(|spot| (spot.clone(), SignedDuration::from_secs(60))).collect()
}

/// Takes and intends.
fn works(leases: &mut Leases, run: u128, who: &str, spots: &[Spot], now: i64) -> Result<Vec<Lease>, Vec<Lease>> {
    let fence = leases.take(run_id(run), &holder(who), &wants(spots), false, at(now))?;
    let renewed = leases.renew(run_id(run), &fence, at(now)).unwrap();
    leases.let_go(run_id(run), &fence);
    Ok(renewed)
}

#[test]
fn what_lies_beneath_and_above_is_held_too() {
    let mut leases = Leases::default();
    works(&mut leases, 1, "coder", &[spot("work", Some("notes/1.txt"))], 0).unwrap();
    for (place, met) in [
        (Some("notes/1.txt"), true),
        (Some("notes"), true),
        (Some("notes/1.txt/x"), true),
        (None, true),
        (Some("notes/2.txt"), false),
        (Some("notes/1.txt.bak"), false),
    ] {
        let there = |resource: &str, who: &str| !leases.met([&spot(resource, place)], &holder(who), at(1)).is_empty();
        assert_eq!(there("work", "cleaner"), met, "{place:?}");
        assert!(!there("work", "coder") && !there("other", "cleaner"), "{place:?}");
    }
}

#[test]
fn all_is_taken_or_nothing() {
    let mut leases = Leases::default();
    works(&mut leases, 1, "coder", &[spot("b", None)], 0).unwrap();
    let met = works(&mut leases, 2, "cleaner", &[spot("a", None), spot("b", None), spot("c", None)], 1).unwrap_err();
    assert_eq!(met.iter().map(|lease| lease.spot.clone()).collect::<Vec<_>>(), [spot("b", None)]);
    works(&mut leases, 3, "third", &[spot("a", None), spot("c", None)], 1).unwrap();
}

#[test]
fn renewing_keeps_the_token_and_taking_over_grows_it() {
    let mut leases = Leases::default();
    let place = [spot("work", Some("a"))];
    let first = works(&mut leases, 1, "coder", &place, 0).unwrap();
    let again = works(&mut leases, 2, "coder", &place, 30).unwrap();
    assert_eq!((again[0].token, again[0].since, again[0].until), (first[0].token, at(0), at(90)));
    assert!(works(&mut leases, 3, "cleaner", &place, 89).is_err());
    let theirs = works(&mut leases, 4, "cleaner", &place, 90).unwrap();
    assert!(theirs[0].token > again[0].token);
    // Whoever comes back after it ran out is a taker like any other.
    assert!(works(&mut leases, 5, "coder", &place, 91).is_err());
}

#[test]
fn a_lease_that_was_lost_stops_the_commit() {
    let place = [spot("work", Some("a"))];
    let now = at(0);
    let staged = |leases: &mut Leases| leases.take(run_id(1), &holder("coder"), &wants(&place), false, now).unwrap();
    // It ran out.
    let mut leases = Leases::default();
    let fence = staged(&mut leases);
    assert!(leases.stand(&fence, at(59)).is_ok());
    assert!(leases.renew(run_id(1), &fence, at(60)).is_err());
    // It ran out and somebody else came and went: nobody holds it, and it is lost all the same.
    let mut leases = Leases::default();
    let fence = staged(&mut leases);
    let theirs = leases.take(run_id(2), &holder("cleaner"), &wants(&place), false, at(60)).unwrap();
    leases.let_go(run_id(2), &theirs);
    assert!(leases.renew(run_id(1), &fence, at(61)).is_err());
    // An operator released it, and the same agent took it again.
    let mut leases = Leases::default();
    let fence = staged(&mut leases);
    leases.release(&fence);
    assert!(leases.renew(run_id(1), &fence, at(1)).is_err());
    works(&mut leases, 3, "coder", &place, 1).unwrap();
    assert_eq!(leases.renew(run_id(1), &fence, at(2)), Err(Lost(Box::new(fence[0].clone()))));
    // A person let somebody else take it over.
    let mut leases = Leases::default();
    let fence = staged(&mut leases);
    leases.take(run_id(4), &holder("cleaner"), &wants(&[spot("work", None)]), true, at(1)).unwrap();
    assert!(leases.renew(run_id(1), &fence, at(2)).is_err());
}

#[test]
fn what_came_to_nothing_holds_nothing() {
    let mut leases = Leases::default();
    let place = [spot("work", Some("a"))];
    let first = leases.take(run_id(1), &holder("coder"), &wants(&place), false, at(0)).unwrap();
    let second = leases.take(run_id(2), &holder("coder"), &wants(&place), false, at(0)).unwrap();
    assert_eq!(first, second);
    // The first is refused; the second still stands on it.
    assert!(!leases.let_go(run_id(1), &first));
    assert!(leases.stand(&second, at(1)).is_ok());
    assert!(leases.let_go(run_id(2), &second));
    works(&mut leases, 3, "cleaner", &place, 1).unwrap();
    // Letting go late takes nothing from whoever holds it now.
    assert!(!leases.let_go(run_id(2), &second));
    assert_eq!(leases.on(None, None, at(2)).len(), 1);
}

#[test]
fn what_was_restored_counts_and_tokens_go_on() {
    let mut leases = Leases::default();
    let held = works(&mut leases, 1, "coder", &[spot("work", Some("a"))], 0).unwrap();
    let mut leases = Leases::restore(40, held);
    assert!(works(&mut leases, 2, "cleaner", &[spot("work", Some("a"))], 1).is_err());
    assert!(works(&mut leases, 3, "cleaner", &[spot("work", Some("b"))], 1).unwrap()[0].token > 40);
    assert_eq!(leases.sweep(at(60)), [spot("work", Some("a"))]);
    assert_eq!(leases.on(None, None, at(60)).len(), 1);
}

#[derive(Clone, Debug)]
enum Act {
    Take { who: u8, spots: Vec<u8>, over: bool },
    Intend { run: u8 },
    End { run: u8 },
    Pass(i64),
    Release(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..3_u8, prop::collection::vec(0..8_u8, 1..4), prop::bool::weighted(0.1))
            .prop_map(|(who, spots, over)| Act::Take { who, spots, over }),
        4 => any::<u8>().prop_map(|run| Act::Intend { run }),
        2 => any::<u8>().prop_map(|run| Act::End { run }),
        1 => (1..80_i64).prop_map(Act::Pass),
        1 => (0..8_u8).prop_map(Act::Release),
    ];
    prop::collection::vec(act, 1..60)
}

const SPOTS: [(&str, Option<&str>); 8] = [
    ("a", None),
    ("a", Some("x")),
    ("a", Some("x/1")),
    ("a", Some("y")),
    ("b", None),
    ("b", Some("x")),
    ("c", None),
    ("c", Some("z")),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: two holders never hold what meets, whoever commits under a place commits with a token
    /// no lower than the one before it there, and another's commit between staging and commit is always noticed.
    #[test]
    fn nobody_commits_under_what_somebody_else_took(acts in acts()) {
        let mut leases = Leases::default();
        let mut now = 0;
        // Runs under way: number, holder, fence.
        let mut open: Vec<(RunId, Holder, Vec<Lease>)> = Vec::new();
        // Commits: spot, holder, token, in order.
        let mut done: Vec<(Spot, Holder, u64)> = Vec::new();
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::Take { who, spots, over } => {
                    let spots: Vec<Spot> = spots.iter().map(|s| SPOTS[usize::from(*s)]).map(|(r, p)| spot(r, p)).collect();
                    let who = holder(["one", "two", "three"][usize::from(who)]);
                    let run = run_id(number as u128);
                    if let Ok(fence) = leases.take(run, &who, &wants(&spots), over, at(now)) {
                        open.push((run, who, fence));
                    }
                }
                Act::Intend { run } if !open.is_empty() => {
                    let (run, who, fence) = open.remove(usize::from(run) % open.len());
                    if leases.renew(run, &fence, at(now)).is_ok() {
                        for held in &fence {
                            let later = done.iter().filter(|(spot, other, _)| spot.meets(&held.spot) && *other != who);
                            for (spot, other, token) in later {
                                prop_assert!(*token < held.token, "{spot} {other} {token} before {held:?}");
                            }
                        }
                        done.extend(fence.iter().map(|held| (held.spot.clone(), who.clone(), held.token)));
                    }
                    leases.let_go(run, &fence);
                }
                Act::End { run } if !open.is_empty() => {
                    let (run, _, fence) = open.remove(usize::from(run) % open.len());
                    leases.let_go(run, &fence);
                }
                Act::Intend { .. } | Act::End { .. } => {}
                Act::Pass(seconds) => now += seconds,
                Act::Release(which) => {
                    let (resource, _) = SPOTS[usize::from(which)];
                    let resource = ResourceName::new(resource).unwrap();
                    let held = leases.on(Some(&resource), None, at(now));
                    leases.release(&held);
                }
            }
            let held = leases.on(None, None, at(now));
            for (i, a) in held.iter().enumerate() {
                for b in &held[i + 1..] {
                    prop_assert!(!a.spot.meets(&b.spot) || a.holder == b.holder, "{a:?} {b:?}");
                }
            }
        }
    }
}
