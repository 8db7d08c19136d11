//! Policy as code.

use crate::decision::Verdict;
use crate::digest::Sha256;
use crate::gates::Facts;

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    digest: Sha256,
}

impl Policy {
    /// Digest of sources and schema.
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// Judges one action.
    pub fn judge(&self, _facts: &Facts<'_>) -> Verdict {
        Verdict::new("authorization", crate::decision::Ruling::Deny, "")
    }
}
