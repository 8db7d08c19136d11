//! `[autonomy]`: how autonomous any agent may be, by class of action.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::autonomy::{Ceilings, Level};
use turnback_core::tool::Risk;

use super::error::ConfigError;
use super::read::Reader;

#[derive(Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Raw(BTreeMap<Spanned<Risk>, Spanned<i64>>);

/// The ceilings.
pub(super) fn read(reader: &Reader<'_>, raw: &Raw) -> Result<Ceilings, ConfigError> {
    let mut ceilings = Ceilings::default();
    for (risk, number) in &raw.0 {
        if !risk.get_ref().writes() {
            return Err(reader.error(risk, "reads run at every level", "remove this line"));
        }
        let level = u8::try_from(*number.get_ref()).ok().and_then(Level::from_number).ok_or_else(|| {
            let next = "write 1 (proposes), 2 (with approval), 3 (routine alone) or 4 (alone within bounds)";
            reader.error(number, "this is no level of autonomy", next)
        })?;
        ceilings.0.insert(*risk.get_ref(), level);
    }
    Ok(ceilings)
}
