//! The pure rules of Turnback.
//!
//! Everything here is a function of its arguments: no clock, no files, no randomness, no async. Time
//! and identities are passed in, effects are returned as data.
//!
//! Read in the order a request travels: [`json`] → [`contract`] → [`gates`] → [`decision`] →
//! [`approval`] → [`permit`] → [`run`] → [`rollback`] → [`record`].

pub mod access;
pub mod approval;
pub mod budget;
pub mod contract;
pub mod decision;
pub mod digest;
pub mod effect;
#[cfg(test)]
mod fixtures;
pub mod flags;
pub mod form;
pub mod gates;
pub mod json;
pub mod lease;
pub mod names;
pub mod permit;
pub mod plan;
pub mod policy;
pub mod record;
pub mod refusal;
pub mod robust;
pub mod rollback;
pub mod run;
pub mod select;
pub mod text;
pub mod tool;
pub mod trace;
pub mod undo;
