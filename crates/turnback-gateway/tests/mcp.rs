//! The agents' door over real sockets and pipes, in front of a small desk that keeps its runs in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "mcp/bad_input.rs"]
mod bad_input;
#[path = "mcp/desk.rs"]
mod desk;
#[path = "mcp/eras.rs"]
mod eras;
#[path = "mcp/limits.rs"]
mod limits;
#[path = "mcp/stdio.rs"]
mod stdio;
#[path = "mcp/waiting.rs"]
mod waiting;
#[path = "mcp/wire.rs"]
mod wire;
