//! Safer forms: the action a constrained one becomes.

use std::collections::BTreeSet;
use std::sync::Arc;

use turnback_core::contract::{Assignment, Contract};
use turnback_core::decision::{Decision, Obligation, Ruling};
use turnback_core::form::{self, Asked, Changed, Formed};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::Run;

use super::{Inner, answer};
use crate::desk::Answer;

impl Inner {
    /// Goes on with the safer form of an action, as a run of its own that every gate judges from the beginning. That
    /// the first run is over is durable by now; after a crash in between nothing was done, and the agent asks again.
    pub(super) async fn constrained(self: &Arc<Self>, run: &Run, decision: &Decision) -> Answer {
        match self.made_over(run, decision) {
            Ok((contract, effect_match)) => {
                fail::fail_point!("after-constrained", |_| turnback_journal::crash());
                Box::pin(Arc::clone(self).propose(contract, effect_match)).await
            }
            Err(refusal) => answer::refused(Some(run.id), refusal),
        }
    }

    fn made_over(&self, run: &Run, decision: &Decision) -> Result<(Contract, turnback_core::tool::Match), Refusal> {
        let asked = &run.contract;
        let unfit = |why: String| Refusal::new(Code::Denied, format!("only a safer form may run, and {why}"));
        let wanted: BTreeSet<&str> = decision.obligations().filter_map(Obligation::form).collect();
        let forms = self.tools.get(asked.tool.as_str()).map_or(&[][..], |tool| &tool.forms);
        // The same function of the same contract and forms that the decision rests on.
        let (rewriting, arguments) = form::rewritten(asked, &wanted, forms).map_err(unfit)?;
        let tool = self
            .tools
            .get(rewriting.tool.as_str())
            .ok_or_else(|| unfit(format!("there is no tool `{}`", rewriting.tool)))?;
        let resource = &self.bound(&tool.resource)?.resource;
        let mut target = resource.domain.aim(&tool.local, &arguments)?;
        target.identity = resource.domain.identity();
        let first = asked.form.as_ref();
        let asking = decision.verdicts.iter().filter(|v| v.obligations.iter().any(|o| o.form().is_some()));
        let why: Vec<&str> =
            first.map(|formed| formed.why.as_str()).into_iter().chain(asking.map(|v| v.reason.as_str())).collect();
        // Obligations add up: what stood against it short of a refusal goes with it.
        let decisions = || run.state.decisions().0.into_iter().chain([decision]);
        let reviews = decisions().flat_map(|d| &d.verdicts).filter(|v| v.ruling == Ruling::Review);
        // Where it is the same tool the gates say so again themselves.
        let measured_only = tool.name != asked.tool && tool.risk.writes() && decisions().any(Decision::measure_only);
        let mut changed = rewriting.changed;
        if measured_only && !rewriting.dry_run {
            changed.push(Changed { what: "commit".into(), from: Some(true.into()), to: Some(false.into()) });
        }
        let formed = Formed {
            from: first.map_or(run.id, |formed| formed.from),
            of: first.map_or_else(|| asked.digest(), |formed| formed.of),
            forms: rewriting.forms,
            dry_run: rewriting.dry_run || measured_only,
            changed: first.iter().flat_map(|formed| formed.changed.clone()).chain(changed).collect(),
            why: why.join("; "),
            asked: first
                .iter()
                .flat_map(|formed| formed.asked.clone())
                .chain([Asked::of(asked, wanted.iter().map(|name| (*name).to_owned()).collect())])
                .collect(),
            reviews: first.iter().flat_map(|formed| formed.reviews.clone()).chain(reviews.cloned()).collect(),
        };
        let mut contract = Contract {
            assignment: Assignment::of(asked.assignment.clone(), &resource.assignment),
            target,
            arguments,
            form: Some(formed),
            ..asked.clone()
        };
        contract.call_instead(tool);
        Ok((contract, tool.effect_match))
    }
}
