//! Scripts of calls, undos and answers, and the comparison of what was heard with journal and world.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Dead, Door, Node, Place, World};

/// One act of a script, and what it changes when it is done.
pub struct Act {
    pub does: Do,
    pub changes: fn(&mut World),
}

pub enum Do {
    Call(&'static str, Value),
    /// Of earlier acts, all in one.
    Undo(&'static [usize]),
    Approve(usize),
    Reject(usize),
}

/// What was heard of an act before the kill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

pub fn call(tool: &'static str, arguments: Value, changes: fn(&mut World)) -> Act {
    Act { does: Do::Call(tool, arguments), changes }
}

pub fn sql(statement: &str, changes: fn(&mut World)) -> Act {
    call("shop__execute", json!({ "sql": statement }), changes)
}

pub const fn act(does: Do) -> Act {
    Act { does, changes: |_| {} }
}

pub fn set(world: &mut World, table: &str, from: &str, to: &str) {
    let row = world.rows.get_mut(table).unwrap().iter_mut().find(|row| *row == from);
    *row.unwrap_or_else(|| panic!("no row `{from}`")) = to.to_owned();
}

pub fn without(world: &mut World, table: &str, gone: &[&str]) {
    world.rows.get_mut(table).unwrap().retain(|row| !gone.contains(&row.as_str()));
}

/// Rows come, change and go with what hangs on them; back and forth again.
pub fn rows() -> Vec<Act> {
    vec![
        sql("insert into ledger (what) values ('once')", |w| w.rows.get_mut("ledger").unwrap().push("once".into())),
        sql("update stock set n = n + 1 where id = 1", |w| set(w, "stock", "1 10", "1 11")),
        sql("delete from stock where id = 2", |w| {
            without(w, "stock", &["2 20"]);
            without(w, "parts", &["1 2"]);
        }),
        act(Do::Undo(&[1])),
        act(Do::Undo(&[3])),
        act(Do::Undo(&[0, 2])),
    ]
}

/// Files are made, replaced, moved, deleted with what is in them; back and forth again.
pub fn files() -> Vec<Act> {
    vec![
        call("work__write_file", json!({ "path": "new.txt", "content": "new\n" }), |w| {
            w.files.insert("new.txt".into(), "new\n".into());
        }),
        call("work__write_file", json!({ "path": "a.txt", "content": "two\n" }), |w| {
            w.files.insert("a.txt".into(), "two\n".into());
        }),
        call("work__delete", json!({ "path": "tree", "recursive": true }), |w| {
            w.files.retain(|path, _| !path.starts_with("tree/"));
        }),
        act(Do::Undo(&[2])),
        act(Do::Undo(&[3])),
        act(Do::Undo(&[0, 1, 2])),
    ]
}

/// A person is asked, says yes and no.
pub fn questions() -> Vec<Act> {
    vec![
        sql("delete from stock where id > 3", |w| without(w, "stock", &["4 40", "5 50", "6 60"])),
        act(Do::Approve(0)),
        call("work__delete", json!({ "path": "asked", "recursive": true }), |w| {
            w.files.retain(|path, _| !path.starts_with("asked/"));
        }),
        act(Do::Approve(2)),
        sql("delete from stock where id < 4", |w| w.rows.get_mut("stock").unwrap().clear()),
        act(Do::Reject(4)),
    ]
}

/// Why a script went no further.
#[derive(Debug)]
pub enum Cut {
    /// Nobody answered.
    Dead(String),
    /// Somebody answered, and it was not what a node that works answers.
    Refused(String),
}

impl From<Dead> for Cut {
    fn from(dead: Dead) -> Self {
        Cut::Dead(dead.0)
    }
}

impl From<std::io::Error> for Cut {
    fn from(e: std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::Other => Cut::Refused(e.to_string()),
            _ => Cut::Dead(e.to_string()),
        }
    }
}

/// Plays acts until the last, or until nobody answers as they should. `told` hears of every act when it is
/// asked for and when it is answered.
pub fn play(
    node: &Node,
    acts: &[Act],
    heard: &mut Vec<Heard>,
    token: &mut Option<String>,
    told: &dyn Fn(usize, &Heard),
) -> Result<(), Cut> {
    let secret = match token {
        Some(secret) => secret,
        None => token.insert(node.register()?),
    };
    let mut agent = node.agent(secret)?;
    while let Some(act) = acts.get(heard.len()) {
        heard.push(Heard::Nothing);
        told(heard.len() - 1, &Heard::Nothing);
        let run = |of: usize| match &heard[of] {
            Heard::Done(run) | Heard::Pending(run) => run.clone(),
            other => panic!("act {of} is {other:?}"),
        };
        let is = |reply: Value, state: &str| match reply["value"][0]["row"]["state"] == state {
            true => Ok(reply["value"][0]["row"]["run"].as_str().unwrap().to_owned()),
            false => Err(Cut::Refused(reply.to_string())),
        };
        let mut ask = || match &act.does {
            Do::Call(tool, arguments) => {
                let called = agent.call(tool, arguments)?;
                match (called.error, called.run) {
                    (false, Some(run)) => Ok(Heard::Done(run)),
                    (true, Some(run)) if called.text.contains("PENDING") => Ok(Heard::Pending(run)),
                    _ => Err(Cut::Refused(called.text)),
                }
            }
            Do::Undo(of) => {
                let runs: Vec<String> = of.iter().map(|of| run(*of)).collect();
                let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
                Ok(Heard::Done(is(node.undo(&runs)?, "settled")?))
            }
            Do::Approve(of) => {
                is(node.ask(&json!({ "op": "approve", "approval": run(*of) }))?, "settled")?;
                Ok(Heard::Answered)
            }
            Do::Reject(of) => {
                is(node.ask(&json!({ "op": "reject", "approval": run(*of), "reason": "no" }))?, "rejected")?;
                Ok(Heard::Answered)
            }
        };
        let (now, cut) = match ask() {
            Ok(now) => (now, None),
            Err(Cut::Refused(why)) => (Heard::Refused(why.clone()), Some(Cut::Refused(why))),
            Err(cut) => return Err(cut),
        };
        *heard.last_mut().unwrap() = now;
        if let Some(cut) = cut {
            return Err(cut);
        }
        told(heard.len() - 1, &heard[heard.len() - 1]);
    }
    Ok(())
}

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

/// World and journal agree with each other and with everything that was heard.
pub fn fits(node: &Door, place: &Place, base: &World, acts: &[Act], heard: &[Heard]) {
    let mut rows = node.rows();
    read_back(node, acts, heard, &mut rows);
    let of_run: BTreeMap<&str, &Value> = rows.iter().map(|row| (word(row, "run"), row)).collect();
    let mut of_act: BTreeMap<usize, &Value> = BTreeMap::new();
    // What was not read back is taken back by Turnback itself.
    let own = |row: &Value| row["actor"]["kind"] == "turnback";
    for row in rows.iter().filter(|row| !own(row)) {
        let act = act_of(node, acts, heard, row);
        assert!(of_act.insert(act, row).is_none(), "act {act} became two runs: {rows:?}");
        let known = ["settled", "undone", "refused", "abandoned", "parked", "rejected"];
        assert!(known.contains(&word(row, "state")), "left open: {row}");
        if word(row, "state") == "refused" && !matches!(heard[act], Heard::Refused(_)) {
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
    assert_eq!(place.world(), expected, "runs that stand: {live:?}");
    // What is kept aside belongs to something that happened.
    for slot in std::fs::read_dir(place.path("state/vault/slots/work")).into_iter().flatten() {
        let name = slot.unwrap().file_name();
        let row = name.to_str().and_then(|name| of_run.get(name));
        let happened = row.is_some_and(|row| ["settled", "undone"].contains(&word(row, "state")));
        assert!(happened, "left behind: {name:?} of {row:?}");
    }
}
