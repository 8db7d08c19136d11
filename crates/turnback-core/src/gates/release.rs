//! `release`: the mode of the action's environment, and what the release flags say.
//!
//! Every source – the environment's mode in `turnback.toml`, each flag that concerns the action – is judged for
//! itself, and the strictest judgement is this gate's. Modes are therefore not ranked among each other: what counts
//! is what each of them says about this one action.
//!
//! | mode | reads | writes |
//! |---|---|---|
//! | `off` | denied | denied |
//! | `search_only` | only of risk `search`: names and places, no content | denied |
//! | `fallback` | run | fallback: refused while the system is in a safe degraded mode |
//! | `observe` | run | staged, measured, judged and recorded, never committed |
//! | `draft_write`, `draft` | run | wait for a person |
//! | `approved_external` | run | of risk `reversible_write` run, all others wait for a person |
//! | `autonomous`, `enforce` | run | run: all other gates decide |

use serde::{Deserialize, Serialize};

use super::Facts;
use crate::contract::{Actor, Contract};
use crate::decision::{Obligation, Ruling, Verdict};
use crate::flags::Said;
use crate::text::visible;
use crate::tool::Risk;

/// This gate's name.
pub const NAME: &str = "release";

/// How much agents may do. Ordered for people, from nothing to everything the other gates allow: no two modes are
/// compared to decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing: every call is refused.
    Off,
    /// Agents find names and places, and see no content.
    SearchOnly,
    /// Reads run; the system is in a safe degraded mode.
    Fallback,
    /// Reads run. Writes are staged, measured, judged and recorded, never committed.
    #[default]
    Observe,
    /// Reads run. Every write waits for a person.
    #[serde(alias = "draft_write")]
    Draft,
    /// Reads and reversible writes run. Every other write waits for a person.
    ApprovedExternal,
    /// All gates decide.
    #[serde(alias = "autonomous")]
    Enforce,
}

impl Mode {
    /// The words flags use, from nothing to everything the other gates allow. `draft` and `enforce` are understood
    /// for `draft_write` and `autonomous`, here and in `turnback.toml`.
    pub const WORDS: &[&str] =
        &["off", "search_only", "fallback", "observe", "draft_write", "approved_external", "autonomous"];

    /// The word used in configuration and output.
    pub const fn word(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::SearchOnly => "search_only",
            Mode::Fallback => "fallback",
            Mode::Observe => "observe",
            Mode::Draft => "draft",
            Mode::ApprovedExternal => "approved_external",
            Mode::Enforce => "enforce",
        }
    }

    /// The mode a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "off" => Mode::Off,
            "search_only" => Mode::SearchOnly,
            "fallback" => Mode::Fallback,
            "observe" => Mode::Observe,
            "draft" | "draft_write" => Mode::Draft,
            "approved_external" => Mode::ApprovedExternal,
            "enforce" | "autonomous" => Mode::Enforce,
            _ => return None,
        })
    }

    /// What this mode says about one action, and whether it is only measured.
    fn ruling(self, contract: &Contract, approved: bool) -> (Ruling, bool, &'static str) {
        let asks =
            |what| if approved { (Ruling::Allow, false, "a person approved") } else { (Ruling::Review, false, what) };
        match self {
            Mode::Off => (Ruling::Deny, false, "nothing runs"),
            Mode::SearchOnly if contract.risk == Risk::Search => (Ruling::Allow, false, "searches run"),
            Mode::SearchOnly => (Ruling::Deny, false, "only searches run"),
            _ if !contract.writes() => (Ruling::Allow, false, "reads run"),
            Mode::Fallback => (Ruling::Fallback, false, "only reads run until it is over"),
            Mode::Observe => (Ruling::Allow, true, "writes are measured and recorded, never committed"),
            Mode::Draft => asks("every write waits for a person"),
            Mode::ApprovedExternal if contract.risk == Risk::ReversibleWrite => {
                (Ruling::Allow, false, "reversible writes run")
            }
            Mode::ApprovedExternal => asks("writes that are not reversible wait for a person"),
            Mode::Enforce => (Ruling::Allow, false, "all gates decide"),
        }
    }
}

/// Asks what the environment's mode and the flags allow.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let environment = &facts.contract.environment;
    if !matches!(facts.contract.actor, Actor::Agent(_)) {
        return Verdict::new(NAME, Ruling::Allow, "modes govern agents");
    }
    let (ruling, measured, what) = facts.mode.ruling(facts.contract, facts.approved);
    let mode = format!("environment `{environment}` is in mode `{}`: {what}", facts.mode.word());
    let mut verdict = Verdict::new(NAME, ruling, mode);
    if measured {
        verdict = verdict
            .oblige(Obligation::MeasureOnly)
            .next(format!("an operator sets mode = \"draft\" or \"enforce\" for `{environment}`"));
    }
    let verdict = facts
        .flags
        .iter()
        .flat_map(|flagged| &flagged.said)
        .fold(verdict, |verdict, said| tightened(verdict, said, facts));
    rehearsed(verdict, facts.contract)
}

/// A safer form may be a dry run.
fn rehearsed(mut verdict: Verdict, contract: &Contract) -> Verdict {
    if let Some(formed) = contract.form.as_ref().filter(|formed| formed.dry_run) {
        let why = "its safer form is a dry run: measured and recorded, never committed";
        verdict.reason = format!("{why}; {}", verdict.reason);
        verdict.rules.extend(formed.forms.iter().map(|form| format!("form {form}")));
        verdict.next.get_or_insert_with(|| "ask for less, or an operator changes the rule".to_owned());
        if !verdict.obligations.contains(&Obligation::MeasureOnly) {
            verdict = verdict.oblige(Obligation::MeasureOnly);
        }
    }
    verdict
}

/// What was said so far and one flag more. Upholds `ONLY-TIGHTEN`: the ruling never falls, no obligation goes.
fn tightened(mut verdict: Verdict, said: &Said, facts: &Facts<'_>) -> Verdict {
    let flag = visible(&said.flag);
    let name = match &said.remote {
        None => format!("flag `{flag}`"),
        Some(heard) => format!("flag `{flag}` of {}", visible(&heard.service)),
    };
    let (ruling, measured, why) = match (&said.error, said.mode) {
        (Some(error), _) => {
            let lacks = if said.remote.is_some() { "is not known" } else { "cannot be evaluated" };
            (Ruling::Deny, false, format!("{name} {lacks}: {}", visible(error)))
        }
        (None, Some(mode)) => {
            let (ruling, measured, what) = mode.ruling(facts.contract, facts.approved);
            let variant = visible(said.variant.as_deref().unwrap_or("?"));
            (ruling, measured, format!("{name} is `{variant}`, mode `{}`{}: {what}", mode.word(), age(said, facts)))
        }
        // It says nothing, and does so on purpose.
        (None, None) => return verdict,
    };
    let observed = verdict.obligations.contains(&Obligation::MeasureOnly);
    let next = match (&said.remote, &said.error) {
        (Some(heard), Some(_)) => {
            format!("an operator sees to {}: turnback flags remote; then call again", visible(&heard.service))
        }
        (Some(heard), None) => format!("an operator changes it at {}", visible(&heard.service)),
        (None, Some(_)) => {
            format!("an operator corrects it: turnback flags set {flag} --state disabled --reason <why>")
        }
        (None, None) => format!("an operator changes it: turnback flags set {flag} --variant <variant> --reason <why>"),
    };
    if ruling > verdict.ruling {
        let stricter = Verdict::new(NAME, ruling, why).next(next).rule(&said.flag);
        let before = std::mem::replace(&mut verdict, stricter);
        verdict.obligations = before.obligations;
        // Why it is only measured stays part of the answer.
        if observed {
            verdict.reason.push_str(&format!("; {}", before.reason));
            verdict.rules.extend(before.rules);
        }
    } else if ruling == verdict.ruling || (measured && !observed) {
        verdict.reason.push_str(&format!("; {why}"));
        verdict.rules.push(said.flag.clone());
        if measured && !observed {
            verdict.next.get_or_insert(next);
        }
    }
    if measured && !observed {
        verdict = verdict.oblige(Obligation::MeasureOnly);
    }
    verdict
}

/// How old what a service said is, when it could not be asked again.
fn age(said: &Said, facts: &Facts<'_>) -> String {
    let heard = said.remote.as_ref().and_then(|heard| Some((heard.at?, heard.stale.as_ref()?)));
    heard.map_or_else(String::new, |(at, why)| {
        let seconds = facts.now.duration_since(at).as_secs();
        format!(" (stale, said {seconds} s ago, and not known now: {})", visible(why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::World;

    #[test]
    fn each_mode_does_what_it_says() {
        use Ruling::{Allow, Deny, Fallback, Review};
        for (mode, read, write, approved) in [
            (Mode::Off, Deny, Deny, Deny),
            (Mode::Observe, Allow, Allow, Allow),
            (Mode::Draft, Allow, Review, Allow),
            (Mode::Enforce, Allow, Allow, Allow),
            (Mode::SearchOnly, Deny, Deny, Deny),
            (Mode::Fallback, Allow, Fallback, Fallback),
            (Mode::ApprovedExternal, Allow, Allow, Allow),
        ] {
            let judged = |tool: &str, approved: bool| {
                let mut world = World::new("", tool);
                world.mode = mode;
                world.approved = approved;
                judge(&world.facts())
            };
            assert_eq!(judged("shop__query", false).ruling, read, "{mode:?}");
            assert_eq!(judged("shop__execute", false).ruling, write, "{mode:?}");
            assert_eq!(judged("shop__execute", true).ruling, approved, "{mode:?}");
            // Only observing measures, it measures only writes, and no approval changes that.
            for (tool, approved) in [("shop__execute", false), ("shop__execute", true), ("shop__query", false)] {
                assert_eq!(
                    judged(tool, approved).obligations.contains(&Obligation::MeasureOnly),
                    mode == Mode::Observe && tool == "shop__execute"
                );
            }
        }
    }

    #[test]
    fn what_nobody_configured_is_observed() {
        assert_eq!(Mode::default(), Mode::Observe);
    }

    #[test]
    fn modes_do_not_stop_people() {
        let mut world = World::new("", "shop__execute");
        world.mode = Mode::Off;
        world.contract.actor = Actor::Turnback;
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    }
}
