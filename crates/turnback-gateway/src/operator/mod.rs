//! The operator's door: a Unix socket only its owner can open, never the agent's listener.
//!
//! One JSON object per line in each direction. Who asks is read from the kernel (`SO_PEERCRED`), never
//! from the message.

pub mod protocol;
