//! Rego, for people who bring policies of the Open Policy Agent: the same facts, the same five outcomes.
//!
//! Evaluated in process by `regorus`, which is not all of Rego: JWT, GraphQL, `http.send`, `opa.runtime` and the clock
//! are not there, and a rule that calls what is not there does not compile. `rand.intn` is refused, because a decision
//! must be the same when it is made again.
//!
//! One rule is asked, [`ENTRY`] when nothing else is configured. Its value is `true` (allow), `false` (deny) or an
//! object:
//!
//! | member | meaning |
//! |---|---|
//! | `outcome` | `allow`, `constrain`, `review`, `fallback` or `deny`; required |
//! | `reason` | a sentence; required for everything but `allow` |
//! | `next` | what would be acceptable instead |
//! | `rules` | names of the rules it rests on |
//! | `approvers` | beside `review`: who may answer |
//! | `form` | beside `constrain`: the name of the safer form in the tool's contract |
//!
//! Undefined, an error, a panic, another shape, a member that is not known, or longer than [`PATIENCE`]: deny.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use regorus::utils::limits::{ExecutionTimerConfig, set_fallback_execution_timer_config};
use regorus::{CompiledPolicy, Engine, Value as RegoValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::schema::{AGENT, EFFECT, Question};
use super::{PolicyError, Source};
use crate::decision::{Obligation, Ruling, Verdict};
use crate::digest::Sha256;
use crate::form;
use crate::gates::Facts;
use crate::gates::authorization::NAME;
use crate::text::visible;

/// The rule that is asked.
pub const ENTRY: &str = "data.turnback.decision";

/// How long one evaluation may take.
pub const PATIENCE: Duration = Duration::from_millis(50);

/// Units of work between two looks at the time.
const INTERVAL: NonZeroU32 = NonZeroU32::new(256).unwrap();

/// Longest policy file, in bytes.
const FILE_BYTES: usize = 1 << 20;

/// Compiled Rego.
pub struct Rego {
    policy: CompiledPolicy,
    digest: Sha256,
}

impl std::fmt::Debug for Rego {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rego").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// What a decision rule says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    outcome: String,
    reason: Option<String>,
    next: Option<String>,
    #[serde(default)]
    rules: Vec<String>,
    #[serde(default)]
    approvers: Vec<String>,
    form: Option<String>,
}

impl Rego {
    /// Compiles policy files; `entry` is the rule that is asked.
    ///
    /// # Errors
    /// The [`PolicyError`] found first.
    pub fn compile(sources: &[Source], entry: &str) -> Result<Self, Vec<PolicyError>> {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        // What is compiled forgets the limit of the engine that compiled it and goes by the one of the process.
        set_fallback_execution_timer_config(Some(ExecutionTimerConfig { limit: PATIENCE, check_interval: INTERVAL }));
        for source in sources {
            let error = |line, column, message: String, next: &str| {
                let next = Some(next.to_owned()).filter(|next| !next.is_empty());
                vec![PolicyError { file: source.name.clone(), line, column, message, next }]
            };
            if source.text.len() > FILE_BYTES {
                return Err(error(1, 1, format!("the file is longer than {FILE_BYTES} bytes"), "split it"));
            }
            if let Some(at) = source.text.find("rand.intn") {
                let (line, column) = super::source::position(&source.text, at);
                let message = "`rand.intn` gives another answer each time".to_owned();
                return Err(error(line, column, message, "decide by facts alone"));
            }
            let added = super::compile::with_room(|| {
                engine.add_policy(source.name.clone(), source.text.clone()).map_err(|e| e.to_string())
            });
            match added {
                Err(failed) => return Err(vec![failed]),
                Ok(Err(message)) => {
                    let (line, column, message) = placed(&message);
                    return Err(error(line, column, message, ""));
                }
                Ok(Ok(_)) => {}
            }
        }
        let whole = |message: String, next: &str| {
            let file = sources.first().map_or_else(String::new, |source| source.name.clone());
            vec![PolicyError { file, line: 1, column: 1, message, next: Some(next.to_owned()) }]
        };
        let compiled =
            super::compile::with_room(|| engine.compile_with_entrypoint(&entry.into()).map_err(|e| e.to_string()));
        let policy = compiled.map_err(|failed| vec![failed])?.map_err(|message| {
            let (_, _, message) = placed(&message);
            whole(message, "define that rule, or name another as the entry")
        })?;
        let parts = std::iter::once(entry.as_bytes())
            .chain(sources.iter().flat_map(|source| [source.name.as_bytes(), source.text.as_bytes()]));
        Ok(Self { policy, digest: Sha256::of_parts("turnback rego v1", parts) })
    }

    /// Digest of sources and entry.
    pub const fn digest(&self) -> Sha256 {
        self.digest
    }

    /// Judges one action of an agent.
    pub fn judge(&self, facts: &Facts<'_>) -> Verdict {
        let deny = |why: String| {
            Verdict::new(NAME, Ruling::Deny, format!("the Rego policy {why}")).next("an operator corrects the policy")
        };
        let Some(agent) = facts.agent else { return deny(format!("knows no {}", facts.contract.actor)) };
        let groups = [String::new(), String::new()];
        let input = input(&Question::new(facts, agent, &groups));
        match catch_unwind(AssertUnwindSafe(|| self.policy.eval_with_input(RegoValue::from(input)))) {
            Err(_) => deny("panicked".to_owned()),
            Ok(Err(e)) => deny(format!("failed to evaluate: {}", visible(&placed(&e.to_string()).2))),
            Ok(Ok(RegoValue::Undefined)) => deny("says nothing about it, which is a no".to_owned()),
            Ok(Ok(value)) => match serde_json::to_value(&value).map_err(|e| e.to_string()).and_then(said) {
                Ok(verdict) => met(verdict, facts),
                Err(why) => deny(format!("answered in another shape: {}", visible(&why))),
            },
        }
    }
}

/// The verdict, or that the action has the safer form it asks for.
fn met(verdict: Verdict, facts: &Facts<'_>) -> Verdict {
    let mut forms = verdict.obligations.iter().filter_map(Obligation::form).peekable();
    let met = forms.peek().is_some() && forms.all(|name| form::is_met(facts, name));
    if verdict.ruling != Ruling::Constrain || !met {
        return verdict;
    }
    let mut allowed = Verdict::new(NAME, Ruling::Allow, format!("in its safer form: {}", verdict.reason));
    allowed.rules = verdict.rules;
    allowed
}

fn said(value: Value) -> Result<Verdict, String> {
    if let Value::Bool(yes) = value {
        let (ruling, reason) =
            if yes { (Ruling::Allow, "permitted by Rego") } else { (Ruling::Deny, "the Rego policy says no") };
        return Ok(Verdict::new(NAME, ruling, reason));
    }
    let said: Said = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let ruling = Ruling::from_word(&said.outcome).ok_or_else(|| format!("`{}` is no outcome", said.outcome))?;
    let reason = match (said.reason, ruling) {
        (Some(reason), _) if !reason.trim().is_empty() => visible(&reason),
        (_, Ruling::Allow) => "permitted by Rego".to_owned(),
        _ => return Err(format!("`{}` without a reason", said.outcome)),
    };
    if !said.approvers.is_empty() && ruling != Ruling::Review {
        return Err("`approvers` without `review` asks nobody".to_owned());
    }
    if said.approvers.iter().any(|name| name.trim().is_empty()) {
        return Err("an approver without a name".to_owned());
    }
    if said.form.is_some() && ruling != Ruling::Constrain {
        return Err("`form` without `constrain` is never used".to_owned());
    }
    let mut verdict = Verdict::new(NAME, ruling, reason);
    verdict.next = said.next.map(|next| visible(&next));
    verdict.rules = said.rules;
    if !said.approvers.is_empty() {
        verdict = verdict.oblige(Obligation::Approvers { names: said.approvers });
    }
    if ruling == Ruling::Constrain {
        let form = said.form.unwrap_or_else(|| "a smaller or safer form".to_owned());
        verdict = verdict.oblige(Obligation::SaferForm { form: visible(&form) });
    }
    Ok(verdict)
}

/// The facts under the names Cedar rules know.
fn input(question: &Question<'_>) -> Value {
    let mut principal = json!({ "type": AGENT, "id": question.agent, "owner": question.owner });
    let mut context = json!({
        "verb": question.verb, "risk": question.risk, "environment": question.environment, "place": question.place,
        "folded_place": question.folded_place, "statement": question.statement, "names": question.names,
        "folded_names": question.folded_names, "approved": question.approved,
    });
    let optional = [("account", question.account), ("region", question.region), ("workflow", question.workflow)];
    for (name, value) in optional {
        if let Some(value) = value {
            context[name] = json!(value);
        }
    }
    if let Some(user) = question.user {
        principal["on_behalf_of"] = json!(user);
    }
    if let Some(confidence) = question.confidence {
        context["confidence"] = json!(confidence);
    }
    if let Some(effect) = question.effect {
        let fields: Map<String, Value> =
            EFFECT.into_iter().zip(effect).map(|(name, value)| (name.to_owned(), json!(value))).collect();
        context["effect"] = Value::Object(fields);
    }
    json!({
        "principal": principal,
        "action": { "id": question.tool },
        "resource": { "type": question.kind, "id": question.resource, "environment": question.environment },
        "context": context,
    })
}

/// Line, column and sentence of a message of the engine, which draws the place above it.
fn placed(message: &str) -> (usize, usize, String) {
    let place = message.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("--> ")?;
        let mut parts = rest.rsplitn(3, ':');
        let column = parts.next()?.trim().parse().ok()?;
        let line = parts.next()?.trim().parse().ok()?;
        Some((line, column))
    });
    let sentence = message.lines().rev().find_map(|line| line.trim().strip_prefix("error: ")).unwrap_or(message);
    let (line, column) = place.unwrap_or((1, 1));
    (line, column, sentence.trim().to_owned())
}

#[cfg(test)]
mod tests;
