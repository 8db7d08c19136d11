//! Faults for Turnback's own tests. Never part of the product.
//!
//! ```text
//! tracer ─► recording ─► disk model ─► states ─► (a test reopens each and compares)
//!    └────► injection: an error, a short write or a kill at the n-th call
//! ```
//!
//! * `raw` is the kernel's tracing interface and holds all `unsafe`; `call` says in words what a system
//!   call is about to do to files; [`trace`] runs a command under a [`Judge`] who may let a call pass, fail
//!   it, cut it short, swallow it, or kill.
//! * [`Recorder`] is a judge that lets everything pass and writes it down as a [`Recording`].
//! * [`Injector`] is a judge that strikes once, at the n-th call of a kind.
//! * [`Disk`] knows what of a recording must, may and cannot be on disk at any moment; `states`
//!   numbers the possibilities; [`Image`] is one of them, made of real files again.
//!
//! `ptrace` rather than a preloaded library, because the governed-files domain calls the kernel without
//! going through libc, and because the program under test then is the one that is shipped.
//!
//! The idea is that of ALICE (Pillai et al., *All File Systems Are Not Created Equal*, OSDI 2014), of
//! CrashMonkey and ACE (Mohan et al., *Finding Crash-Consistency Bugs with Bounded Black-Box Crash
//! Testing*, OSDI 2018) and of SQLite's own crash tests.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod call;
mod disguise;
mod disk;
mod image;
mod inject;
mod raw;
mod recording;
mod states;
mod tracer;

pub use call::{Call, Kind};
pub use disguise::Disguise;
pub use disk::Disk;
pub use image::Image;
pub use inject::{Injector, Struck};
pub use recording::{Mark, Object, Op, Recorder, Recording, Tape};
pub use states::{State, States};
pub use tracer::{Judge, Traced, Verdict, trace};
