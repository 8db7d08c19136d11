//! Policy as code: the outer bound of what an agent may ever do, in Cedar.
//!
//! ```text
//! sources ──split──► one Cedar policy each ──validate──► slices by tool
//!                                                         ├ hard: permits and plain forbids
//!                                                         ├ soft: forbids with @outcome
//!                                                         └ programs: the same, in our own words
//! ```
//!
//! Owns how Cedar's answer becomes a verdict. Never builds a Cedar value from raw argument JSON
//! (`schema.rs` builds typed ones), and never lets an evaluation error pass as an answer: Cedar skips
//! a policy that fails to evaluate, so a `forbid` that reads a missing attribute would silently allow.
//!
//! Invariant `FAIL-CLOSED`: any diagnostic error, panic or missing fact is a deny that says which.
//! Invariant `ONLY-TIGHTEN`: a forbid, soft or plain, never makes the answer less strict than without it.
//!
//! Cedar evaluates every policy of a set it is given. Policies are therefore sorted into slices when
//! they are loaded, one for each set of tools that the same policies match, and a decision evaluates
//! only its tool's slice: by its programs (`program.rs`) when they can settle it, by Cedar when not.

pub mod cases;
mod compile;
pub mod coverage;
pub mod draft;
pub mod explain;
pub mod lint;
mod program;
#[cfg(feature = "rego")]
pub mod rego;
pub mod schema;
pub mod simulate;
mod source;

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cedar_policy::{Authorizer, Decision as CedarDecision, Entities, EntityUid, PolicyId, PolicySet, Request, Schema};
use serde::{Deserialize, Serialize};

pub(crate) use self::compile::parse_bare;
use self::program::Test;
use self::schema::Question;
use crate::contract::Contract;
use crate::decision::{Obligation, Ruling, Verdict};
use crate::digest::Sha256;
use crate::form;
use crate::gates::Facts;
use crate::gates::authorization::NAME;
use crate::text::visible;
use crate::tool::Tool;

/// One policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name in messages and rule names.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// What is wrong with a policy, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{file}:{line}:{column}: {message}")]
pub struct PolicyError {
    /// The source's name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be accepted, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulePlace {
    /// The source's name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
}

/// What is known of one policy besides what is evaluated.
#[derive(Debug, PartialEq)]
struct Rule {
    place: RulePlace,
    /// The name people see: `@id`, or `file:line`.
    name: String,
    reason: Option<String>,
    next: Option<String>,
    /// `None` for permits and plain forbids.
    outcome: Option<Ruling>,
    obligations: Vec<Obligation>,
}

impl Rule {
    /// Whether it only asks for a safer form, and the action has it.
    fn is_met(&self, facts: &Facts<'_>) -> bool {
        let mut forms = self.obligations.iter().filter_map(Obligation::form).peekable();
        self.outcome == Some(Ruling::Constrain) && forms.peek().is_some() && forms.all(|name| form::is_met(facts, name))
    }
}

/// One policy in our own words, its action and resource scope left out: they match the whole slice.
#[derive(Debug)]
struct Program {
    rule: Arc<Rule>,
    permit: bool,
    test: Test,
}

/// A slice in our own words, each list sorted by the rules' names.
#[derive(Debug)]
struct Programs {
    hard: Vec<Arc<Program>>,
    soft: Vec<Arc<Program>>,
}

/// The policies one decision evaluates.
#[derive(Debug)]
struct Slice {
    hard: PolicySet,
    soft: PolicySet,
    /// `None` when a policy is outside what programs know.
    programs: Option<Programs>,
}

/// A registered tool, ready to be asked about.
#[derive(Debug)]
struct Entry {
    tool: Tool,
    action: EntityUid,
    resource: EntityUid,
    groups: [String; 2],
    /// The action with its groups, and the resource.
    entities: Entities,
    slice: Arc<Slice>,
}

/// A compiled policy, bound to the tools it was compiled for.
pub struct Policy {
    digest: Sha256,
    schema: Schema,
    entries: HashMap<String, Entry>,
    rules: HashMap<PolicyId, Arc<Rule>>,
    /// Whether there is a rule in Cedar at all. When all are in Rego, Cedar is not asked: it would deny everything.
    cedar: bool,
    rego: Option<Second>,
}

/// The other engine.
#[cfg(feature = "rego")]
type Second = rego::Rego;

/// No other engine: a policy that wants one does not compile.
#[cfg(not(feature = "rego"))]
#[derive(Debug)]
enum Second {}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("digest", &self.digest)
            .field("tools", &self.entries.len())
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// Compiles policy files against the registered tools.
    ///
    /// Cedar validates strictly against a schema generated from `registry`. Understood annotations:
    /// `@id`, `@reason` and `@next` on any policy; `@outcome("review"|"constrain"|"fallback")` on
    /// forbids; `@approvers("anna,ben")` beside a `review`, `@form` beside a `constrain`.
    ///
    /// # Errors
    /// Every [`PolicyError`] found, in the order of the files.
    pub fn compile(sources: &[Source], registry: &[Tool]) -> Result<Self, Vec<PolicyError>> {
        compile::compile(sources, registry)
    }

    /// Digest of sources and schema: two policies with one digest judge alike.
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// The tools it was compiled for, in no order.
    pub fn tools(&self) -> impl Iterator<Item = &Tool> {
        self.entries.values().map(|entry| &entry.tool)
    }

    /// Where the rule of that name stands.
    pub fn place(&self, rule: &str) -> Option<&RulePlace> {
        self.rules.values().find(|known| known.name == rule).map(|known| &known.place)
    }

    /// Every rule and where it stands, in the order of files and lines.
    pub fn rules(&self) -> Vec<(&str, &RulePlace)> {
        let mut rules: Vec<_> = self.rules.values().map(|rule| (rule.name.as_str(), &rule.place)).collect();
        rules.sort_by(|a, b| (&a.1.file, a.1.line, a.0).cmp(&(&b.1.file, b.1.line, b.0)));
        rules
    }

    /// Why an action is not one this policy can be asked about: its tool is not registered, or is another by now.
    /// `None` when it can, and for what people do, which policy does not govern.
    pub fn unfit(&self, contract: &Contract) -> Option<String> {
        contract.actor.agent()?;
        match self.entries.get(contract.tool.as_str()) {
            None => Some(format!("tool `{}` is not registered", contract.tool)),
            Some(entry) => differs(contract, &entry.tool)
                .map(|what| format!("the {what} of tool `{}` is another by now", contract.tool)),
        }
    }

    /// Judges one action of an agent.
    ///
    /// The hard slice must allow; soft forbids that match then tighten to the strictest of their
    /// outcomes.
    pub fn judge(&self, facts: &Facts<'_>) -> Verdict {
        guarded(facts.contract.tool.as_str(), || {
            let cedar = || self.ask(facts).unwrap_or_else(|deny| *deny);
            match (self.in_rego(facts), self.cedar) {
                (None, _) => cedar(),
                (Some(rego), false) => rego,
                (Some(rego), true) => stricter(cedar(), rego),
            }
        })
    }

    /// What the rules in Rego say, when there are any.
    #[cfg(feature = "rego")]
    fn in_rego(&self, facts: &Facts<'_>) -> Option<Verdict> {
        let rego = self.rego.as_ref()?;
        let unfit = self.unfit(facts.contract);
        Some(unfit.map_or_else(|| rego.judge(facts), |why| Verdict::new(NAME, Ruling::Deny, why)))
    }

    #[cfg(not(feature = "rego"))]
    fn in_rego(&self, _: &Facts<'_>) -> Option<Verdict> {
        self.rego.as_ref().map(|none| match *none {})
    }

    /// `Err` holds the verdict of whatever is missing.
    fn ask(&self, facts: &Facts<'_>) -> Result<Verdict, Box<Verdict>> {
        let deny = |reason: String| Box::new(Verdict::new(NAME, Ruling::Deny, reason));
        let contract = facts.contract;
        let entry = self
            .entries
            .get(contract.tool.as_str())
            .ok_or_else(|| deny(format!("tool `{}` is not registered with the policy", contract.tool)))?;
        if let Some(what) = differs(contract, &entry.tool) {
            return Err(Box::new(
                Verdict::new(
                    NAME,
                    Ruling::Deny,
                    format!("the {what} of tool `{}` is not what the policy was compiled for", contract.tool),
                )
                .next("an operator reloads the policy"),
            ));
        }
        let agent = facts.agent.ok_or_else(|| deny(format!("{} is not registered", contract.actor)))?;
        if contract.actor.agent() != Some(&agent.name) {
            return Err(deny(format!("facts are about agent `{}`, not {}", agent.name, contract.actor)));
        }
        let question = Question::new(facts, agent, &entry.groups);
        let answer = match entry.slice.settle(&question) {
            Some(answer) => {
                debug_assert!(self.agrees(entry, &question, &answer), "{question:?}: {answer:?}");
                answer
            }
            None => self.by_cedar(entry, &question)?,
        };

        if !answer.allowed {
            return Ok(match answer.hard.as_slice() {
                [] => Verdict::new(
                    NAME,
                    Ruling::Deny,
                    format!("no rule permits {} to use `{}` on `{}`", contract.actor, contract.tool, contract.resource),
                )
                .next("an operator adds a permit for it, or use a tool that is permitted"),
                forbids => verdict(Ruling::Deny, forbids, "forbidden by"),
            });
        }
        // A rule that asks for the form this action has is satisfied by it.
        let soft: Vec<&Rule> = answer.soft.into_iter().filter(|rule| !rule.is_met(facts)).collect();
        let Some(strictest) = soft.iter().filter_map(|rule| rule.outcome).max() else {
            return Ok(verdict(Ruling::Allow, &answer.hard, "permitted by"));
        };
        // Every forbid that matched is named and its obligations hold; the strictest decide.
        let mut tightened = verdict(strictest, &soft, "asked for by");
        // A person who is asked is asked about the safer form, when one is asked for too.
        let form = (strictest == Ruling::Review).then_some(Ruling::Constrain);
        let speaks = |rule: &&Rule| rule.outcome == Some(strictest) || (form.is_some() && rule.outcome == form);
        tightened.reason = reasons(&soft.iter().copied().filter(speaks).collect::<Vec<_>>(), "asked for by");
        Ok(tightened)
    }

    /// The answer as Cedar gives it, with everything checked against the schema.
    fn by_cedar(&self, entry: &Entry, question: &Question<'_>) -> Result<Answer<'_>, Box<Verdict>> {
        let unusable = |what: &str, e: &dyn fmt::Display| {
            Box::new(Verdict::new(NAME, Ruling::Deny, format!("{what} does not fit the policy's schema: {e}")))
        };
        let principal = question.principal().map_err(|e| unusable("the agent", &e))?;
        let uid = principal.uid();
        let entities = entry.entities.clone().add_entities([principal], None).map_err(|e| unusable("the agent", &e))?;
        let context = question.context().map_err(|e| unusable("the context", &e))?;
        let request = Request::new(uid, entry.action.clone(), entry.resource.clone(), context, Some(&self.schema))
            .map_err(|e| unusable("the request", &e))?;
        let (decision, hard) = self.evaluate(&request, &entry.slice.hard, &entities)?;
        let allowed = decision == CedarDecision::Allow;
        let soft = if allowed { self.evaluate(&request, &entry.slice.soft, &entities)?.1 } else { Vec::new() };
        Ok(Answer { allowed, hard, soft })
    }

    /// Whether Cedar gives the same answer, or has no stack left to give one: an unoptimised build's is used up
    /// by some forty links of a chain.
    fn agrees(&self, entry: &Entry, question: &Question<'_>, answer: &Answer<'_>) -> bool {
        match self.by_cedar(entry, question) {
            Ok(cedar) => cedar == *answer,
            Err(verdict) => verdict.reason.contains("recursion limit reached"),
        }
    }

    /// Evaluates one set. Upholds `FAIL-CLOSED`: an error in any policy is the answer.
    fn evaluate(
        &self,
        request: &Request,
        set: &PolicySet,
        entities: &Entities,
    ) -> Result<(CedarDecision, Vec<&Rule>), Box<Verdict>> {
        let response = Authorizer::new().is_authorized(request, set, entities);
        let mut errors: Vec<(&str, String)> = response
            .diagnostics()
            .errors()
            .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(e)| {
                (self.rules.get(e.policy_id()).map_or("?", |rule| rule.name.as_str()), e.inner().to_string())
            })
            .collect();
        if !errors.is_empty() {
            errors.sort();
            let (name, error) = &errors[0];
            let mut verdict = Verdict::new(
                NAME,
                Ruling::Deny,
                format!("policy `{}` failed to evaluate: {}", visible(name), visible(error)),
            )
            .next("an operator corrects the policy");
            verdict.rules = errors.iter().map(|(name, _)| (*name).to_owned()).collect();
            return Err(Box::new(verdict));
        }
        let mut matched = Vec::new();
        for id in response.diagnostics().reason() {
            matched.push(self.rules.get(id).map(Arc::as_ref).ok_or_else(|| {
                Box::new(Verdict::new(NAME, Ruling::Deny, format!("policy `{id}` matched but is not loaded")))
            })?);
        }
        // Cedar returns a hash set; a record must read the same every time.
        matched.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((response.decision(), matched))
    }
}

/// What the rules say, before it becomes a verdict.
#[derive(Debug, PartialEq)]
struct Answer<'a> {
    /// A hard rule permits it and none forbids it.
    allowed: bool,
    /// The permits it is allowed by, or the forbids that deny it.
    hard: Vec<&'a Rule>,
    /// The soft forbids that match, when it is allowed.
    soft: Vec<&'a Rule>,
}

impl Slice {
    /// The answer, when every rule's program can tell. Upholds `FAIL-CLOSED`: a rule that cannot be settled,
    /// also one that would fail to evaluate, leaves the whole answer to Cedar.
    fn settle(&self, question: &Question<'_>) -> Option<Answer<'_>> {
        let programs = self.programs.as_ref()?;
        let (mut permits, mut forbids) = (Vec::new(), Vec::new());
        for program in &programs.hard {
            if program.test.holds(question)? {
                if program.permit { &mut permits } else { &mut forbids }.push(program.rule.as_ref());
            }
        }
        if permits.is_empty() || !forbids.is_empty() {
            return Some(Answer { allowed: false, hard: forbids, soft: Vec::new() });
        }
        let mut soft = Vec::new();
        for program in &programs.soft {
            if program.test.holds(question)? {
                soft.push(program.rule.as_ref());
            }
        }
        Some(Answer { allowed: true, hard: permits, soft })
    }
}

/// Both engines' answer: the stricter one, or both when they agree. Obligations of either hold.
fn stricter(cedar: Verdict, rego: Verdict) -> Verdict {
    let (mut first, second) = if rego.ruling > cedar.ruling { (rego, cedar) } else { (cedar, rego) };
    if first.ruling == second.ruling {
        first.reason = format!("{}; {}", first.reason, second.reason);
        first.rules.extend(second.rules);
        first.next = first.next.or(second.next);
    }
    first.obligations.extend(second.obligations);
    first
}

/// Runs `judge`; a panic is a deny. Cedar is a large evaluator fed by files people write, and the
/// authorization gate must not be the way to take the node down or through.
fn guarded(tool: &str, judge: impl FnOnce() -> Verdict) -> Verdict {
    catch_unwind(AssertUnwindSafe(judge)).unwrap_or_else(|panic| {
        let why = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no reason given".to_owned());
        Verdict::new(
            NAME,
            Ruling::Deny,
            format!("evaluating the policies of tool `{tool}` panicked: {}", visible(&why)),
        )
        .next("an operator looks for the policy at fault and reports it")
    })
}

/// What of a contract is not as the policy knows the tool. All of it decides which rules match.
fn differs(contract: &Contract, tool: &Tool) -> Option<&'static str> {
    [
        (contract.resource != tool.resource, "resource"),
        (contract.kind != tool.kind, "kind"),
        (contract.environment != tool.environment, "environment"),
        (contract.verb != tool.verb, "verb"),
        (contract.risk != tool.risk, "risk"),
        (contract.schema_hash != tool.schema_hash, "schema"),
    ]
    .into_iter()
    .find_map(|(different, what)| different.then_some(what))
}

fn verdict(ruling: Ruling, rules: &[&Rule], how: &str) -> Verdict {
    let mut verdict = Verdict::new(NAME, ruling, reasons(rules, how));
    verdict.rules = rules.iter().map(|rule| rule.name.clone()).collect();
    verdict.next = rules.iter().find_map(|rule| rule.next.clone()).or_else(|| {
        let generic = match ruling {
            Ruling::Allow => return None,
            Ruling::Constrain => "ask for a smaller or safer form",
            Ruling::Review => "a person looks at the measured effect and decides",
            Ruling::Fallback => "wait until the system is back to normal",
            Ruling::Deny => "choose an action that no rule forbids, or ask an operator to change the rule",
        };
        Some(generic.to_owned())
    });
    if ruling != Ruling::Allow {
        verdict.obligations = rules.iter().flat_map(|rule| rule.obligations.iter().cloned()).collect();
    }
    verdict
}

/// The reasons rules give, or their names.
fn reasons(rules: &[&Rule], how: &str) -> String {
    rules
        .iter()
        .map(|rule| match &rule.reason {
            Some(reason) => visible(reason),
            None => format!("{how} rule `{}`", visible(&rule.name)),
        })
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
