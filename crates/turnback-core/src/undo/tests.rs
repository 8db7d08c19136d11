use proptest::prelude::*;

use super::*;
use crate::digest::Sha256;
use crate::effect::Fingerprint;
use crate::fixtures::run_id;

fn print(value: u64) -> Fingerprint {
    Fingerprint(Sha256::of(&value.to_be_bytes()))
}

/// A change of a place that exists before and after.
fn change(place: &str) -> Touch {
    Touch { place: place.into(), fields: vec![], before: Some(print(1)), after: Some(print(2)) }
}

fn make(place: &str) -> Touch {
    Touch { before: None, ..change(place) }
}

fn remove(place: &str) -> Touch {
    Touch { after: None, ..change(place) }
}

fn fields(place: &str, fields: &[&str]) -> Touch {
    Touch { fields: fields.iter().map(|f| (*f).to_owned()).collect(), ..change(place) }
}

/// Run `n` with order `n` on folder `notes`.
fn node(n: u64, touches: Vec<Touch>) -> Node {
    Node {
        run: run_id(u128::from(n)),
        order: n,
        resource: ResourceName::new("notes").unwrap(),
        kind: Kind::Files,
        standing: Standing::Live,
        touches,
        reads: vec![],
        undoes: vec![],
    }
}

fn on_shop(mut node: Node) -> Node {
    node.resource = ResourceName::new("shop").unwrap();
    node.kind = Kind::Sqlite;
    node
}

fn set(runs: &[u64]) -> BTreeSet<RunId> {
    runs.iter().map(|n| run_id(u128::from(*n))).collect()
}

fn blockers(runs: &[Node], wanted: &[u64]) -> Vec<(String, Option<RunId>)> {
    match plan(runs, &set(wanted)) {
        Ok(_) => vec![],
        Err(found) => found.into_iter().map(|b| (b.conflict.place, b.by)).collect(),
    }
}

fn by(n: u64) -> Option<RunId> {
    Some(run_id(u128::from(n)))
}

/// What the journal does when `by` undoes a run: it is gone, what it countered is back, and so on down.
fn flip(runs: &mut [Node], undone: RunId, by: RunId) {
    let mut todo = vec![(undone, true)];
    while let Some((run, gone)) = todo.pop() {
        let node = runs.iter_mut().find(|r| r.run == run).unwrap();
        node.standing = if gone { Standing::Undone { by } } else { Standing::Live };
        todo.extend(node.undoes.iter().map(|below| (*below, !gone)));
    }
}

/// Undoes `undone` by run `n`.
fn undo(runs: &mut Vec<Node>, n: u64, undone: u64) {
    let touches = runs.iter().find(|r| r.order == undone).unwrap().touches.clone();
    flip(runs, run_id(u128::from(undone)), run_id(u128::from(n)));
    runs.push(Node { undoes: vec![run_id(u128::from(undone))], ..node(n, touches) });
}

#[test]
fn order_is_latest_first_for_each_resource() {
    let runs = [
        node(1, vec![change("a")]),
        on_shop(node(2, vec![change("customers 1")])),
        node(3, vec![change("a")]),
        on_shop(node(4, vec![change("customers 1")])),
    ];
    let order = plan(&runs, &set(&[1, 2, 3, 4])).unwrap();
    let text: Vec<_> = order.parts.iter().map(|(r, runs)| (r.as_str(), runs.clone())).collect();
    assert_eq!(text, [("shop", vec![run_id(4), run_id(2)]), ("notes", vec![run_id(3), run_id(1)])]);
    assert_eq!(plan(&runs, &set(&[])).unwrap().parts, []);
}

/// Case 14: undo B in A→B→C.
#[test]
fn a_later_run_on_the_same_place_blocks_and_is_named() {
    let runs = [node(1, vec![change("a")]), node(2, vec![change("a")]), node(3, vec![change("a")])];
    assert_eq!(blockers(&runs, &[2]), [("a".to_owned(), by(3))]);
    assert_eq!(blockers(&runs, &[1]), [("a".to_owned(), by(2)), ("a".to_owned(), by(3))]);
    assert_eq!(blockers(&runs, &[3]), []);
    assert_eq!(blockers(&runs, &[2, 3]), []);
    assert_eq!(closure(&runs, &set(&[1])).unwrap(), set(&[1, 2, 3]));
}

#[test]
fn equal_places_on_other_resources_and_other_fields_do_not_block() {
    let runs = [node(1, vec![change("customers 1")]), on_shop(node(2, vec![change("customers 1")]))];
    assert_eq!(blockers(&runs, &[1]), []);
    let row = |n, f: &[&str]| on_shop(node(n, vec![fields("customers 1", f)]));
    assert_eq!(blockers(&[row(1, &["name"]), row(2, &["city"])], &[1]), []);
    assert_eq!(blockers(&[row(1, &["name"]), row(2, &["city", "name"])], &[1]).len(), 1);
    assert_eq!(blockers(&[row(1, &["name"]), row(2, &[])], &[1]).len(), 1);
}

#[test]
fn what_stands_inside_blocks_taking_the_outside_back() {
    let inside = node(2, vec![make("a/b/c")]);
    assert_eq!(blockers(&[node(1, vec![make("a")]), inside.clone()], &[1]), [("a/b/c".to_owned(), by(2))]);
    assert_eq!(blockers(&[node(1, vec![remove("a")]), inside.clone()], &[1]).len(), 1);
    // Only the mode of the directory changed: the file inside does not care.
    assert_eq!(blockers(&[node(1, vec![change("a")]), inside.clone()], &[1]), []);
    // A sibling whose name merely begins alike.
    assert_eq!(blockers(&[node(1, vec![make("a/b/cc")]), node(2, vec![make("a/b/c")])], &[1]), []);
    assert_eq!(blockers(&[node(1, vec![make("a")]), node(2, vec![make("a-evil/b")])], &[1]), []);
    // The directory around it was removed later.
    assert_eq!(blockers(&[node(1, vec![change("a/b")]), node(2, vec![remove("a")])], &[1]).len(), 1);
    assert_eq!(blockers(&[node(1, vec![make("a")]), inside], &[1, 2]), []);
}

#[test]
fn rows_of_a_table_depend_on_its_schema() {
    let schema = on_shop(node(1, vec![change("table `big orders`")]));
    let row = on_shop(node(2, vec![change("big orders 5")]));
    assert_eq!(blockers(&[schema.clone(), row], &[1]), [("big orders 5".to_owned(), by(2))]);
    assert_eq!(blockers(&[schema, on_shop(node(2, vec![change("orders 5")]))], &[1]), []);
    let row = on_shop(node(1, vec![change("big orders 5")]));
    let schema = on_shop(node(2, vec![change("table `big orders`")]));
    assert_eq!(blockers(&[row, schema], &[1]).len(), 1);
}

#[test]
fn runs_that_cannot_be_undone_are_named() {
    let mut runs = vec![node(1, vec![change("a")]), node(2, vec![change("b")])];
    runs[1].standing = Standing::NoEffect;
    undo(&mut runs, 3, 1);
    let found = plan(&runs, &set(&[1, 2, 9])).unwrap_err();
    let text: Vec<_> = found.iter().map(|b| format!("{} {}", b.conflict.place, b.conflict.why)).collect();
    assert_eq!(
        text,
        [
            format!("{} is already undone by {}", run_id(1), run_id(3)),
            format!("{} did not commit anything", run_id(2)),
            format!("{} is not known", run_id(9)),
        ]
    );
    assert_eq!(found[0].by, by(3));
    assert_eq!(closure(&runs, &set(&[1, 9])).unwrap_err().len(), 2);
}

#[test]
fn a_run_and_its_undo_cancel_out() {
    let mut runs = vec![node(1, vec![change("a")]), node(2, vec![change("a")])];
    undo(&mut runs, 3, 2);
    assert_eq!(blockers(&runs, &[1]), []);
    // Undoing the undo in the same set would bring run 2 back on top of run 1.
    assert_eq!(blockers(&runs, &[1, 3]), [("a".to_owned(), by(2))]);
    assert!(closure(&runs, &set(&[1, 3])).is_err());
    // Undone, and done again: run 2 stands in the way again.
    undo(&mut runs, 4, 3);
    assert_eq!(blockers(&runs, &[1]), [("a".to_owned(), by(2))]);
    assert_eq!(blockers(&runs, &[2]), []);
    assert_eq!(blockers(&runs, &[1, 2]), []);
}

#[test]
fn a_chain_of_undos_brings_back_what_it_counters() {
    // 2 is undone by 3, 3 by 4, 4 by 5: 3 stands again, and 5 took 2 away last.
    let mut runs = vec![node(1, vec![change("a")]), node(2, vec![change("a")])];
    for undone in [2, 3, 4] {
        undo(&mut runs, undone + 1, undone);
    }
    assert_eq!(runs[1].standing, Standing::Undone { by: run_id(5) });
    assert_eq!(runs[2].standing, Standing::Live);
    assert_eq!(blockers(&runs, &[1]), []);
    assert_eq!(blockers(&runs, &[1, 3]), [("a".to_owned(), by(2))]);
    // Undoing 5 brings 4 back too, and with it 2.
    assert_eq!(blockers(&runs, &[1, 5]), [("a".to_owned(), by(2)), ("a".to_owned(), by(4))]);
}

#[test]
fn an_undo_of_something_earlier_is_work_like_any_other() {
    let mut runs = vec![node(1, vec![change("a")]), node(2, vec![change("a")])];
    // Forced by a person although run 2 came later: run 3 wrote `a` after run 2.
    undo(&mut runs, 3, 1);
    assert_eq!(blockers(&runs, &[2]), [("a".to_owned(), by(3))]);
}

#[test]
fn readers_of_undone_places_are_listed() {
    let reader =
        |n: u64, read: &str| Node { reads: vec![read.into()], standing: Standing::NoEffect, ..node(n, vec![]) };
    let runs = [
        reader(1, "a/b"),
        node(2, vec![change("a/b")]),
        reader(3, "a/b"),
        reader(4, "a"),
        reader(5, "."),
        reader(6, "a/bc"),
        reader(7, "c"),
        Node { standing: Standing::Undone { by: run_id(9) }, ..reader(8, "a") },
        on_shop(reader(9, "a")),
    ];
    assert_eq!(readers(&runs, &set(&[2])), [run_id(3), run_id(4), run_id(5)]);
    let runs = [on_shop(node(1, vec![change("customers 17")])), on_shop(reader(2, "customers"))];
    assert_eq!(readers(&runs, &set(&[1])), [run_id(2)]);
}

#[test]
fn conflicts_are_explained_or_foreign() {
    let conflict = |place: &str| Conflict { place: place.into(), fields: vec![], why: "changed since".into() };
    let later = [node(2, vec![change("a")]), node(3, vec![change("a"), make("d/e")]), {
        let mut undone = node(4, vec![change("b")]);
        undone.standing = Standing::Undone { by: run_id(5) };
        undone
    }];
    let found = attribute(vec![conflict("a"), conflict("b"), conflict("d"), conflict("x")], &later);
    assert_eq!(found.iter().map(|b| b.by).collect::<Vec<_>>(), [by(3), None, by(3), None]);
}

/// One random step of a history: a write of some keys, or an undo of one earlier run.
#[derive(Clone, Debug)]
enum Op {
    Write(Vec<(u8, Option<u64>)>),
    Undo(Vec<prop::sample::Index>),
}

fn op() -> impl Strategy<Value = Op> {
    let write = prop::collection::btree_map(0..5u8, prop::option::of(0..4u64), 1..4);
    prop_oneof![
        3 => write.prop_map(|keys| Op::Write(keys.into_iter().collect())),
        1 => prop::collection::vec(any::<prop::sample::Index>(), 1..3).prop_map(Op::Undo),
    ]
}

/// A value before and after; `None` where there is none.
type Image = (Option<u64>, Option<u64>);

/// A key-value world with every run's values before and after, and the last writer of each key.
#[derive(Clone, Debug, Default)]
struct World {
    values: BTreeMap<String, u64>,
    runs: Vec<Node>,
    images: HashMap<RunId, BTreeMap<String, Image>>,
}

impl World {
    fn set(&mut self, key: &str, value: Option<u64>) {
        match value {
            Some(value) => self.values.insert(key.to_owned(), value),
            None => self.values.remove(key),
        };
    }

    fn commit(&mut self, new: &BTreeMap<String, Option<u64>>, undoes: Vec<RunId>) {
        let n = self.runs.len() as u64 + 1;
        let mut image = BTreeMap::new();
        let mut touches = Vec::new();
        for (key, value) in new {
            let before = self.values.get(key).copied();
            image.insert(key.clone(), (before, *value));
            touches.push(Touch {
                place: key.clone(),
                fields: vec![],
                before: before.map(print),
                after: value.map(print),
            });
            self.set(key, *value);
        }
        let run = node(n, touches);
        self.images.insert(run.run, image);
        for undone in &undoes {
            flip(&mut self.runs, *undone, run.run);
        }
        self.runs.push(Node { undoes, ..run });
    }

    /// Undoes `wanted` when that is legal; checks every promise on the way.
    fn undo(&mut self, wanted: &BTreeSet<RunId>) -> Result<bool, TestCaseError> {
        let Ok(order) = plan(&self.runs, wanted) else { return Ok(false) };
        let before = self.values.clone();
        let mut now = self.values.clone();
        let mut new = BTreeMap::new();
        let runs: Vec<RunId> = order.parts.into_iter().flat_map(|(_, runs)| runs).collect();
        prop_assert_eq!(runs.iter().copied().collect::<BTreeSet<_>>(), wanted.clone());
        for run in &runs {
            for (key, (was, became)) in &self.images[run] {
                // NO-CLOBBER: what is replaced is exactly what this run left there.
                prop_assert_eq!(now.get(key).copied(), *became, "{} of {}", key, run);
                match was {
                    Some(value) => now.insert(key.clone(), *value),
                    None => now.remove(key),
                };
                new.insert(key.clone(), *was);
            }
        }
        // Each place is as before the earliest of the set that touched it; all others are untouched.
        for key in now.keys().chain(before.keys()) {
            let first = runs.iter().rev().find_map(|run| self.images[run].get(key));
            let expected = first.map_or(before.get(key).copied(), |(was, _)| *was);
            prop_assert_eq!(now.get(key).copied(), expected);
        }
        self.commit(&new, runs);
        Ok(true)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random histories with undos, undos of undos and undos of sets: whatever `plan` calls legal
    /// restores exactly the values before and never replaces anybody else's.
    #[test]
    fn a_legal_undo_restores_and_never_clobbers(ops in prop::collection::vec(op(), 1..25)) {
        let mut world = World::default();
        for op in ops {
            match op {
                Op::Write(keys) => {
                    let new = keys.into_iter().map(|(key, value)| (format!("k{key}"), value)).collect();
                    world.commit(&new, vec![]);
                }
                Op::Undo(picks) if !world.runs.is_empty() => {
                    let wanted: BTreeSet<RunId> = picks.iter().map(|i| i.get(&world.runs).run).collect();
                    if !world.undo(&wanted)? && let Ok(wide) = closure(&world.runs, &wanted) {
                        prop_assert!(wide.is_superset(&wanted));
                        prop_assert!(world.undo(&wide)?, "a closure must be legal");
                    }
                }
                Op::Undo(_) => {}
            }
        }
    }
}
