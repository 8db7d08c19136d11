//! Append and replay.
