//! The list of effect domains: one line each.
