//! `blast_radius`: the measured effect against limits per action and against budgets.
//!
//! Individually authorised, collectively catastrophic is a deny: a budget counts what was done inside a
//! sliding window, what is being done at this moment included. Everything exceeded is named.

mod limits;
mod measure;

use super::Facts;
use crate::decision::{Ruling, Verdict};
use crate::text::visible;

pub(in crate::gates) use limits::one_or_many;
pub use limits::{Budget, Caps, Limits, Per, Scoped, Spent};
pub use measure::{Amounts, Counted, DECIMALS, DECIMALS_MOST, Measure, amounts};

/// This gate's name.
pub const NAME: &str = "blast_radius";

/// One thing that is too large: what, why, and what would be acceptable.
struct Exceeded {
    rule: String,
    reason: String,
    /// For the agent, where the reason counts what agents of other owners did.
    told: Option<String>,
    next: String,
}

/// Asks whether the effect is small enough, alone and together with what went before.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Some(measured) = facts.measured else {
        return Verdict::new(NAME, Ruling::Deny, "nothing was measured");
    };
    // An undo is as large as what it counters, and people ask for it when something went wrong.
    if facts.contract.actor.agent().is_none() {
        return Verdict::new(NAME, Ruling::Allow, "limits govern agents");
    }
    let blast = &measured.effect.blast;
    match amounts(facts.contract, &facts.limits.measures) {
        Err(why) => return Verdict::new(NAME, Ruling::Deny, format!("not measurable: {why}")).rule("measure"),
        Ok(amounts) if (amounts.money, amounts.recipients) != (blast.money, blast.recipients) => {
            return Verdict::new(NAME, Ruling::Deny, "money and recipients were not measured").rule("measure");
        }
        Ok(_) => {}
    }
    let cost = Spent::of(blast);
    let mut exceeded = Vec::new();
    action(&facts.limits.action, "", cost, facts, &mut exceeded);
    for scoped in facts.limits.scoped.iter().filter(|s| s.of.covers(facts.contract, facts.agent)) {
        action(&scoped.caps, &format!(" of {}", scoped.of), cost, facts, &mut exceeded);
    }
    // Each sum beside its budget. One that is missing was not read.
    if facts.spent.len() != facts.limits.budgets.len() {
        return Verdict::new(NAME, Ruling::Deny, "what was spent of the budgets is not known");
    }
    for (budget, spent) in facts.limits.budgets.iter().zip(facts.spent) {
        sum(budget, *spent, cost, facts, &mut exceeded);
    }
    if exceeded.is_empty() {
        let says = if facts.limits.budgets.is_empty() {
            "within the limits of one action; no budget is set"
        } else {
            "within the limits of one action and the budgets"
        };
        return Verdict::new(NAME, Ruling::Allow, says);
    }
    let reasons: Vec<_> = exceeded.iter().map(|e| e.reason.as_str()).collect();
    let nexts: Vec<_> = exceeded.iter().map(|e| e.next.as_str()).collect();
    let verdict = Verdict::new(NAME, Ruling::Deny, reasons.join("; ")).next(nexts.join("; "));
    let mut verdict = exceeded.iter().fold(verdict, |verdict, e| verdict.rule(&*e.rule));
    if exceeded.iter().any(|e| e.told.is_some()) {
        let told: Vec<_> = exceeded.iter().map(|e| e.told.as_deref().unwrap_or(&e.reason)).collect();
        verdict.told = Some(told.join("; "));
    }
    verdict
}

/// Holds one action against its limits.
fn action(caps: &Caps, of: &str, cost: Spent, facts: &Facts<'_>, exceeded: &mut Vec<Exceeded>) {
    let over = |what: &str, size: u64, limit: u64| Exceeded {
        rule: format!("limit {what}{of}"),
        reason: format!("{size} {what} by one action, the limit{of} is {limit}"),
        told: None,
        next: format!("narrow it to at most {limit} {what}"),
    };
    for (what, size, limit) in caps.beside(cost) {
        if let Some(limit) = limit.filter(|limit| size > *limit) {
            exceeded.push(over(what, size, limit));
        }
    }
    let rows = facts.measured.map(|m| &m.effect.blast.rows);
    for (table, limit) in &caps.tables {
        let same = rows.into_iter().flatten().filter(|(name, _)| name.eq_ignore_ascii_case(table));
        let size = same.fold(0u64, |sum, (_, rows)| sum.saturating_add(rows.total()));
        if size > *limit {
            exceeded.push(over(&format!("rows of table `{}`", visible(table)), size, *limit));
        }
    }
}

/// Holds one action and what went before against a budget.
fn sum(budget: &Budget, spent: Spent, cost: Spent, facts: &Facts<'_>, exceeded: &mut Vec<Exceeded>) {
    let of = match budget.per {
        Per::Agent => String::new(),
        Per::Everything => " of everything".to_owned(),
        per => format!(" of {} `{}`", per.word(), visible(&per.of(facts.contract, facts.agent))),
    };
    let seconds = budget.window.as_secs();
    // Together with its own, which it knows, the sum and the limit would say what others spent.
    let of_others = matches!(budget.per, Per::Resource | Per::Tool | Per::Everything);
    for ((what, spent, _), (_, total, limit)) in budget.beside(spent).zip(budget.beside(spent.plus(cost))) {
        if let Some(limit) = limit.filter(|limit| total > *limit) {
            exceeded.push(Exceeded {
                rule: format!("budget{of} {what}"),
                told: of_others.then(|| format!("budget{of} used up: too many {what} in the last {seconds} s, by all together")),
                reason: format!(
                    "budget{of} used up: {spent} {what} in the last {seconds} s, this one would make {total}, the budget is {limit}"
                ),
                next: format!("wait until older actions leave the window of {seconds} s, or ask an operator"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use jiff::SignedDuration;

    use super::*;
    use crate::contract::Actor;
    use crate::effect::{Blast, Rows};
    use crate::fixtures::{World, blast, measurement};

    fn judged(blast: Blast, limits: Limits, spent: Spent) -> Verdict {
        let mut world = World::new("", "shop__execute");
        world.measurement = Some(measurement(blast, "x"));
        world.spent = vec![spent; limits.budgets.len()];
        world.limits = limits;
        judge(&world.facts())
    }

    fn budget(actions: Option<u64>, deletions: Option<u64>, rows: Option<u64>) -> Limits {
        let most = Caps { deletions, rows, ..Caps::default() };
        let budget = Budget { per: Per::Agent, window: SignedDuration::from_secs(600), actions, most };
        Limits { budgets: vec![budget], ..Limits::default() }
    }

    fn per_action(action: Caps) -> Limits {
        Limits { action, ..Limits::default() }
    }

    #[test]
    fn nothing_measured_is_a_deny() {
        assert_eq!(judge(&World::new("", "shop__execute").facts()).ruling, Ruling::Deny);
    }

    #[test]
    fn each_limit_counts_its_own_and_ends_exactly() {
        let mixed = Blast {
            rows: [("a".to_owned(), Rows { inserted: 1, updated: 2, deleted: 3 })].into(),
            schema_objects: 0,
            files_created: 4,
            files_changed: 5,
            files_deleted: 6,
            bytes: 7,
            ..Blast::default()
        };
        type Limit = fn(u64) -> Caps;
        let limits: [(&str, u64, Limit); 5] = [
            ("rows touched", 6, |n| Caps { rows: Some(n), ..Caps::default() }),
            ("deletions", 9, |n| Caps { deletions: Some(n), ..Caps::default() }),
            ("files touched", 15, |n| Caps { files: Some(n), ..Caps::default() }),
            ("bytes touched", 7, |n| Caps { bytes: Some(n), ..Caps::default() }),
            // Capitals are not told apart.
            ("rows of table `A`", 6, |n| Caps {
                tables: [("A".to_owned(), n), ("b".to_owned(), 0)].into(),
                ..Caps::default()
            }),
        ];
        for (what, size, limit) in limits {
            assert_eq!(
                judged(mixed.clone(), per_action(limit(size)), Spent::default()).ruling,
                Ruling::Allow,
                "{what}"
            );
            let over = judged(mixed.clone(), per_action(limit(size - 1)), Spent::default());
            assert_eq!(over.ruling, Ruling::Deny, "{what}");
            assert!(over.reason.contains(&format!("{size} {what}")), "{}", over.reason);
            assert_eq!(over.rules, [format!("limit {what}")]);
        }
        assert_eq!(judged(blast(u64::MAX), Limits::default(), Spent::default()).ruling, Ruling::Allow);
    }

    /// Incident 20: dozens of small deletes, each of them within every limit.
    #[test]
    fn together_too_much_is_a_deny() {
        let mut spent = Spent::default();
        let mut allowed = 0;
        for _ in 0..20 {
            let verdict = judged(blast(5), budget(None, Some(50), None), spent);
            if verdict.ruling == Ruling::Allow {
                allowed += 1;
                spent = spent.plus(Spent::of(&blast(5)));
            } else {
                assert!(
                    verdict.reason.contains("50 deletions in the last 600 s, this one would make 55"),
                    "{verdict:?}"
                );
            }
        }
        assert_eq!(allowed, 10);
    }

    #[test]
    fn each_budget_counts_its_own() {
        let spent = Spent { actions: 9, deletions: 9, rows: 9, ..Spent::default() };
        for (limits, ruling) in [
            (budget(Some(10), None, None), Ruling::Allow),
            (budget(Some(9), None, None), Ruling::Deny),
            (budget(None, Some(12), None), Ruling::Allow),
            (budget(None, Some(11), None), Ruling::Deny),
            (budget(None, None, Some(12)), Ruling::Allow),
            (budget(None, None, Some(11)), Ruling::Deny),
            (budget(None, None, None), Ruling::Allow),
        ] {
            assert_eq!(judged(blast(3), limits.clone(), spent).ruling, ruling, "{limits:?}");
        }
        // A sum over the end of the scale is over every budget.
        let full = Spent { deletions: u64::MAX, ..Spent::default() };
        assert_eq!(judged(blast(3), budget(None, Some(u64::MAX - 1), None), full).ruling, Ruling::Deny);
    }

    #[test]
    fn an_approval_does_not_lift_limits_and_people_have_none() {
        let mut world = World::new("", "shop__execute");
        world.measurement = Some(measurement(blast(3), "x"));
        world.limits = per_action(Caps { rows: Some(2), ..Caps::default() });
        world.approved = true;
        assert_eq!(judge(&world.facts()).ruling, Ruling::Deny);
        world.contract.actor = Actor::Turnback;
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    }

    #[test]
    fn the_strictest_limit_counts_and_all_that_are_exceeded_are_named() {
        let scoped = |kind: &str, name: &str, rows| Scoped {
            of: serde_json::from_value(serde_json::json!({ "kind": kind, "name": name })).unwrap(),
            caps: Caps { rows: Some(rows), ..Caps::default() },
        };
        let limits = Limits {
            action: Caps { rows: Some(100), deletions: Some(1), ..Caps::default() },
            scoped: vec![
                scoped("agent", "coder", 2),
                scoped("agent", "other", 0),
                scoped("owner", "anna", 2),
                scoped("owner", "ben", 0),
                scoped("resource", "shop", 2),
                scoped("tool", "shop__execute", 2),
                scoped("tool", "shop__query", 0),
                scoped("environment", "production", 3),
            ],
            ..Limits::default()
        };
        let verdict = judged(blast(3), limits, Spent::default());
        let rules = [
            "deletions",
            "rows touched of agent `coder`",
            "rows touched of owner `anna`",
            "rows touched of resource `shop`",
            "rows touched of tool `shop__execute`",
        ];
        assert_eq!(verdict.rules, rules.map(|rule| format!("limit {rule}")));
        assert!(verdict.reason.contains("3 rows touched by one action, the limit of owner `anna` is 2"), "{verdict:?}");
    }

    #[test]
    fn budgets_that_were_not_read_and_amounts_that_were_not_measured_deny() {
        let mut world = World::new("", "shop__execute");
        world.measurement = Some(measurement(blast(1), "x"));
        world.limits = budget(Some(9), None, None);
        assert_eq!(judge(&world.facts()).ruling, Ruling::Deny);
        world.limits = Limits {
            measures: vec![Measure {
                tool: world.contract.tool.clone(),
                kind: Counted::Money { decimals: 2 },
                field: "/amount".into(),
            }],
            ..per_action(Caps { money: Some(1999), ..Caps::default() })
        };
        assert!(judge(&world.facts()).reason.contains("`/amount` of `shop__execute` is missing"));
        world.contract.arguments = serde_json::json!({ "amount": 19.99 });
        assert!(judge(&world.facts()).reason.contains("not measured"), "what is judged is what is counted later");
        let measured = |world: &mut World, money| {
            let blast = Blast { money, ..blast(1) };
            world.measurement = Some(measurement(blast, "x"));
        };
        measured(&mut world, 1999);
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
        world.contract.arguments = serde_json::json!({ "amount": 20 });
        measured(&mut world, 2000);
        let verdict = judge(&world.facts());
        assert!(verdict.reason.contains("2000 of money (minor units) by one action, the limit is 1999"), "{verdict:?}");
    }

    #[test]
    fn limits_and_sums_of_earlier_records_are_read() {
        let old = r#"{"rows":5,"deletions":null,"files":null,"bytes":null,"budget":{"window":"PT10M","actions":1,"deletions":7,"rows":null}}"#;
        let read: Limits = serde_json::from_str(old).unwrap();
        let most = Caps { deletions: Some(7), ..Caps::default() };
        let window = SignedDuration::from_mins(10);
        let budgets = vec![Budget { per: Per::Agent, window, actions: Some(1), most }];
        assert_eq!(read, Limits { action: Caps { rows: Some(5), ..Caps::default() }, budgets, ..Limits::default() });
        assert_eq!(serde_json::from_str::<Limits>(&serde_json::to_string(&read).unwrap()).unwrap(), read);
        let none = r#"{"rows":null,"deletions":null,"files":null,"bytes":null,"budget":null}"#;
        assert_eq!(serde_json::from_str::<Limits>(none).unwrap(), Limits::default());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// More done, or more done before, never turns a deny into an allow.
        #[test]
        fn more_never_allows_more(rows in 0..100u64, more in 0..100u64, before in 0..100u64, limit in 0..200u64) {
            let action = Caps { rows: Some(limit), ..Caps::default() };
            let limits = Limits { action, ..budget(None, Some(limit), None) };
            let spent = |n| Spent { actions: 1, deletions: n, rows: n, ..Spent::default() };
            let base = judged(blast(rows), limits.clone(), spent(before)).ruling;
            let larger = judged(blast(rows + more), limits.clone(), spent(before)).ruling;
            prop_assert!(larger >= base);
            let later = judged(blast(rows), limits, spent(before + more)).ruling;
            prop_assert!(later >= base);
        }
    }
}
