//! What must hold between world and journal after any kill, for any script of calls, undos and answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Door, Place, World};

/// One act of a script, and what it changes when it is done.
pub struct Act {
    pub does: Do,
    pub changes: Box<dyn Fn(&mut World) + Send + Sync>,
}

pub enum Do {
    Call(&'static str, Value),
    /// Of earlier acts, all in one.
    Undo(Vec<usize>),
    Approve(usize),
    Reject(usize),
}

/// What was heard of an act before the kill.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Heard {
    /// Asked; nobody answered.
    Nothing,
    /// It is done, by this run.
    Done(String),
    /// It waits.
    Pending(String),
    /// The answer counts.
    Answered,
    /// It was refused, in these words.
    Refused(String),
}

pub fn call(tool: &'static str, arguments: Value, changes: impl Fn(&mut World) + Send + Sync + 'static) -> Act {
    Act { does: Do::Call(tool, arguments), changes: Box::new(changes) }
}

/// A field of a row that is a word.
pub fn word<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

/// The act a run belongs to.
pub fn act_of(node: &Door, acts: &[Act], heard: &[Heard], row: &Value) -> usize {
    let contract = node.show(word(row, "run"))["contract"].clone();
    let undone: BTreeSet<&str> = row["undoes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fits = |act: &Act| match &act.does {
        Do::Call(tool, arguments) => contract["tool"] == json!(tool) && contract["arguments"] == *arguments,
        Do::Undo(of) => {
            let of = of.iter().filter_map(|of| match heard.get(*of) {
                Some(Heard::Done(run)) => Some(run.as_str()),
                _ => None,
            });
            !undone.is_empty() && of.collect::<BTreeSet<_>>() == undone
        }
        _ => false,
    };
    acts.iter().position(fits).unwrap_or_else(|| panic!("nobody asked for {row}: {contract}"))
}

/// What was done and could not be read back counts as done: whoever asked heard so. The journal leaves an undo
/// like that to a person and marks nothing; here what it counters is marked.
fn read_back(node: &Door, acts: &[Act], heard: &[Heard], rows: &mut [Value]) {
    let told = |row: &Value| {
        let act = act_of(node, acts, heard, row);
        matches!(&heard[act], Heard::Refused(why) if why.contains("could not be read back"))
    };
    let here = |row: &&mut Value| row["state"] == "diverged" && row["actor"]["kind"] != "turnback" && told(row);
    let Some(row) = rows.iter_mut().find(here) else { return };
    row["state"] = json!("settled");
    let mut todo = vec![(row.clone(), true)];
    while let Some((by, dead)) = todo.pop() {
        for undone in by["undoes"].as_array().into_iter().flatten() {
            let row = rows.iter_mut().find(|row| row["run"] == *undone).unwrap();
            row["state"] = json!(if dead { "undone" } else { "settled" });
            row["undone_by"] = if dead { by["run"].clone() } else { Value::Null };
            todo.push((row.clone(), !dead));
        }
    }
}

/// World and journal agree with each other and with everything that was heard. `known` remembers which
/// act each run belongs to.
pub fn fits(
    node: &Door,
    place: &Place,
    base: &World,
    acts: &[Act],
    heard: &[Heard],
    known: &mut BTreeMap<String, usize>,
) {
    let mut rows = node.rows();
    read_back(node, acts, heard, &mut rows);
    let of_run: BTreeMap<&str, &Value> = rows.iter().map(|row| (word(row, "run"), row)).collect();
    let mut of_act: BTreeMap<usize, &Value> = BTreeMap::new();
    // What was not read back is taken back by Turnback itself.
    let own = |row: &Value| row["actor"]["kind"] == "turnback";
    for row in rows.iter().filter(|row| !own(row)) {
        let act = *known.entry(word(row, "run").to_owned()).or_insert_with(|| act_of(node, acts, heard, row));
        assert!(of_act.insert(act, row).is_none(), "act {act} became two runs: {rows:?}");
        let ends = ["settled", "undone", "refused", "abandoned", "parked", "rejected"];
        assert!(ends.contains(&word(row, "state")), "left open: {row}");
        // Of what waited for a person, whoever answered heard that it could not be done.
        let refused = |(answer, heard): &(&Act, &Heard)| match answer.does {
            Do::Approve(of) => of == act && matches!(heard, Heard::Refused(_)),
            _ => false,
        };
        let told = matches!(heard[act], Heard::Refused(_)) || acts.iter().zip(heard).any(|pair| refused(&pair));
        if word(row, "state") == "refused" && !told {
            assert!(word(row, "summary").contains("nothing had happened"), "{row}");
        }
    }
    for (n, told) in heard.iter().enumerate() {
        let state = of_act.get(&n).map_or("", |row| word(row, "state"));
        match told {
            Heard::Nothing => {}
            // Who does not know says so.
            Heard::Refused(why) if why.contains("unknown") => {}
            Heard::Refused(why) => {
                let back = of_act.get(&n).and_then(|row| row["undone_by"].as_str()).is_some_and(|by| own(of_run[by]));
                let told = why.contains("could not be read back");
                let stands = ["settled", "undone"].contains(&state);
                assert!(back || told || !stands, "act {n} was refused ({why}) and is `{state}`");
            }
            Heard::Done(run) => {
                assert_eq!(word(of_act[&n], "run"), run);
                assert!(["settled", "undone"].contains(&state), "act {n} was done and is `{state}`");
            }
            Heard::Pending(run) => {
                assert_eq!(word(of_act[&n], "run"), run);
                let answer = acts.iter().zip(heard).find_map(|(act, heard)| match act.does {
                    Do::Approve(of) if of == n => Some(("settled", heard)),
                    Do::Reject(of) if of == n => Some(("rejected", heard)),
                    _ => None,
                });
                match answer {
                    None => assert_eq!(state, "parked", "act {n}"),
                    Some((end, Heard::Answered)) => assert_eq!(state, end, "the answer to act {n} is lost"),
                    // Intended and not done is a failure that says so (above), like that of any other call.
                    Some((end, _)) => assert!(["parked", "refused", end].contains(&state), "act {n} is `{state}`"),
                }
            }
            Heard::Answered => {}
        }
    }
    // Marks of undone runs and their undos agree, in both directions.
    for row in &rows {
        if let Some(by) = row["undone_by"].as_str() {
            assert_eq!((word(row, "state"), word(of_run[by], "state")), ("undone", "settled"), "{row}");
        }
        for undone in row["undoes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let alive = word(row, "state") == "settled";
            assert!(!alive || word(of_run[undone], "state") == "undone", "{undone} of {row}");
        }
    }
    let mut live: Vec<(&str, usize)> = Vec::new();
    for (n, row) in &of_act {
        if word(row, "state") == "settled" && row["undoes"].as_array().is_none_or(Vec::is_empty) {
            live.push((word(row, "committed"), *n));
        }
    }
    live.sort_unstable();
    let mut expected = base.clone();
    live.iter().for_each(|(_, n)| (acts[*n].changes)(&mut expected));
    expected.rows.values_mut().for_each(|rows| rows.sort());
    assert_eq!(place.world(), expected, "runs that stand: {live:?}");
    // What is kept aside belongs to something that happened.
    for slot in std::fs::read_dir(place.path("state/vault/slots/work")).into_iter().flatten() {
        let name = slot.unwrap().file_name();
        let row = name.to_str().and_then(|name| of_run.get(name));
        let happened = row.is_some_and(|row| ["settled", "undone"].contains(&word(row, "state")));
        assert!(happened, "left behind: {name:?} of {row:?}");
    }
}
