//! The denylist, freezes and budgets.

use jiff::Timestamp;
use turnback_core::gates::controls::{Deny, Freeze};
use turnback_core::text::visible;
use turnback_gateway::operator::protocol::BudgetView;

use super::style::{BAD, STRONG, next};
use super::table::{Cell, table};

/// Where something stands that no operator added.
const FILE: &str = "turnback.toml";

/// The denylist.
pub(crate) fn denies(denies: &[Deny]) -> String {
    if denies.is_empty() {
        return format!(
            "nothing is on the denylist\n{}\n",
            next("turnback deny add <name> --agent <name> --reason ...")
        );
    }
    let rows = denies
        .iter()
        .map(|deny| {
            vec![
                Cell::styled(BAD, visible(&deny.name)),
                Cell::new(deny.what.to_string()),
                Cell::new(visible(deny.by.as_deref().unwrap_or(FILE))),
                Cell::new(visible(&deny.reason)),
            ]
        })
        .collect();
    table(&["DENY", "WHAT", "BY", "WHY"], rows)
}

/// All freezes, on or not.
pub(crate) fn freezes(freezes: &[Freeze], now: Timestamp) -> String {
    if freezes.is_empty() {
        return format!("no freeze is declared\n{}\n", next("turnback freeze add <name> --for 8h --reason ..."));
    }
    let rows = freezes
        .iter()
        .map(|freeze| {
            let name = visible(&freeze.name);
            let environments: Vec<_> = freeze.environments.iter().map(ToString::to_string).collect();
            let exceptions: Vec<_> = freeze.exceptions.iter().map(ToString::to_string).collect();
            let list = |list: Vec<String>, none: &str| if list.is_empty() { none.to_owned() } else { list.join("; ") };
            vec![
                if freeze.on(now).is_some() { Cell::styled(BAD, name) } else { Cell::new(name) },
                Cell::new(freeze.on(now).map_or_else(|| "not on now".to_owned(), |until| format!("on {until}"))),
                Cell::new(freeze.calendar.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
                Cell::new(list(environments, "everywhere")),
                Cell::new(list(exceptions, "nobody")),
                Cell::new(visible(freeze.by.as_deref().unwrap_or(FILE))),
                Cell::new(visible(&freeze.reason)),
            ]
        })
        .collect();
    table(&["FREEZE", "NOW", "WINDOW", "WHERE", "EXCEPTED", "BY", "WHY"], rows)
}

/// Budgets of which something is spent.
pub(crate) fn budgets(budgets: &[BudgetView]) -> String {
    if budgets.is_empty() {
        return "nothing is spent of any budget\n".into();
    }
    let rows = budgets
        .iter()
        .flat_map(|budget| {
            budget.amounts.iter().map(|(what, (spent, most))| {
                let spent_of = format!("{spent} of {most}");
                vec![
                    Cell::styled(STRONG, format!("{} {}", budget.per, visible(&budget.of)).trim_end().to_owned()),
                    Cell::new(what.clone()),
                    if spent >= most { Cell::styled(BAD, spent_of) } else { Cell::new(spent_of) },
                    Cell::new(budget.window_seconds.map_or_else(
                        || "until a person refills it".to_owned(),
                        |seconds| format!("in the last {seconds} s"),
                    )),
                ]
            })
        })
        .collect();
    table(&["WHOSE", "WHAT", "SPENT", "WHEN"], rows)
}
