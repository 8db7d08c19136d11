//! Rehearsing: several actions run one after the other in one open transaction that is rolled back, each
//! measured on top of those before it, its inverse tried there.

use std::sync::Arc;
use std::time::Instant;

use turnback_core::contract::Contract;
use turnback_core::names::RunId;
use turnback_core::refusal::{Code, Refusal};

use super::slot::{Lease, Slot};
use super::stage::{self, Action, Taken};
use super::{arguments, look, raw};
use crate::{Bounds, Fresh, Rehearsed, UndoRefused, Unrehearsed};
use turnback_core::run::Measurement;

/// Rehearses `steps` in this order. All of them together have the time of one.
pub(super) fn rehearse(
    slot: &Arc<Slot>,
    steps: &[(RunId, Contract)],
    bounds: &Bounds,
) -> Result<Vec<Rehearsed>, Unrehearsed> {
    let deadline = Instant::now() + bounds.time;
    let mut lease = slot.lease(bounds.lock_wait).map_err(|refusal| Unrehearsed { step: 0, refusal })?;
    let mut rehearsed = Vec::with_capacity(steps.len());
    for (step, (_, contract)) in steps.iter().enumerate() {
        let refused = |refusal| Unrehearsed { step, refusal };
        let (one, kept) = one(lease, step == 0, contract, bounds, deadline).map_err(refused)?;
        rehearsed.push(one);
        lease = kept;
    }
    // The lease goes here, and its transaction with it.
    Ok(rehearsed)
}

fn one(
    mut lease: Lease,
    first: bool,
    contract: &Contract,
    bounds: &Bounds,
    deadline: Instant,
) -> Result<(Rehearsed, Lease), Refusal> {
    if contract.local != "execute" {
        return Err(Refusal::new(Code::Unsupported, format!("`{}` is not a write", contract.local)));
    }
    let arguments = arguments(&contract.local, &contract.arguments)?;
    let action = arguments.action(bounds)?;
    if lease.catalog()?.counts || action.counts() {
        if !first {
            let why = "it asks how many changes its connection made, which is another number in a rehearsal";
            return Err(Refusal::new(Code::Unsupported, why).next("submit it as a plan of its own"));
        }
        lease = lease.without_past(bounds.lock_wait)?;
    }
    // As for an action of its own.
    raw::forget_last_insert(&lease.connection);
    let taken = stage::measure(&lease, &contract.resource, bounds, deadline, &action);
    let Taken { effect, plan, recipe, artifacts } = taken.map_err(UndoRefused::into_refusal)?;
    arguments.bounded(&effect)?;
    let hashes = artifacts.iter().map(|a| a.hash).collect();
    let measurement = Measurement { effect, plan, recipe, artifacts: hashes };
    let touches = look::touches(&measurement, &Fresh(&artifacts))?;
    Ok((Rehearsed { measurement, touches }, lease))
}
