//! Scripts of calls, undos and answers, and how they are played.

use serde_json::{Value, json};

use super::fits::{Act, Do, Heard, call};
use super::{Dead, Node, World};

pub fn sql(statement: &str, changes: fn(&mut World)) -> Act {
    call("shop__execute", json!({ "sql": statement }), changes)
}

pub fn act(does: Do) -> Act {
    Act { does, changes: Box::new(|_| {}) }
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
        act(Do::Undo(vec![1])),
        act(Do::Undo(vec![3])),
        act(Do::Undo(vec![0, 2])),
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
        act(Do::Undo(vec![2])),
        act(Do::Undo(vec![3])),
        act(Do::Undo(vec![0, 1, 2])),
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
