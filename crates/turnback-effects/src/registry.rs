//! The list of effect domains: one line each.

use std::path::Path;
use std::sync::Arc;

use turnback_core::refusal::Refusal;
use turnback_core::tool::{Kind, ToolSpec};

use crate::Domain;
use crate::files::Files;
use crate::sqlite::Sqlite;

/// Opens the domain for one configured resource.
///
/// `place` is the folder or file; `slots` is the directory, outside every resource and on the same
/// filesystem as `place`, where replaced and deleted things are kept. Domains that need none ignore it.
///
/// # Errors
/// A [`Refusal`] naming the place and what to configure instead.
pub fn open(kind: Kind, place: &Path, slots: &Path) -> Result<Arc<dyn Domain>, Refusal> {
    Ok(match kind {
        Kind::Files => Arc::new(Files::open(place, slots)?),
        Kind::Sqlite => Arc::new(Sqlite::open(place)?),
    })
}

/// The tools a kind of resource offers, known without opening one.
pub fn specs(kind: Kind) -> Vec<ToolSpec> {
    match kind {
        Kind::Files => crate::files::tools(),
        Kind::Sqlite => crate::sqlite::tools(),
    }
}
