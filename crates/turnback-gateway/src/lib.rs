//! The async shell of Turnback: doors, runtime, configuration.
//!
//! A request enters through a door ([`mcp`]), is turned into a contract, and the [`runtime`] appends
//! every event to the journal before it performs what the pure core commands. People use another door
//! ([`operator`]).

pub mod config;
pub mod desk;
pub mod mcp;
pub mod node;
pub mod operator;
pub mod runtime;
