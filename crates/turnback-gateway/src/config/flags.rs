//! `[flags]`: where the release flags are. Services that are asked for more of them: `ofrep.rs`.

use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::text::visible;

use super::Config;
use super::error::ConfigError;
use super::read::{Occupied, Reader};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    path: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) remote: Vec<super::ofrep::Raw>,
}

impl Raw {
    /// Where the file says it.
    pub(super) fn span(&self) -> Range<usize> {
        self.path.as_ref().map_or(0..0, Spanned::span)
    }
}

/// The file, absolute. Upholds `OUT-OF-REACH`.
pub(super) fn read(reader: &Reader<'_>, raw: &Raw, places: &[Occupied]) -> Result<Option<PathBuf>, ConfigError> {
    let Some(path) = &raw.path else { return Ok(None) };
    let file = reader.path_or(Some(path), "");
    match places.iter().find_map(|place| place.reaches(&file)) {
        Some(resource) => Err(reader.error(
            path,
            format!("the flags lie inside resource `{resource}`: agents could write them"),
            "set [flags] path to a place outside every resource",
        )),
        None => Ok(Some(file)),
    }
}

/// What is not there.
pub(super) fn missing(config: &Config) -> Option<ConfigError> {
    let file = config.flags.as_ref().filter(|file| !file.is_file())?;
    Some(config.source.error(
        config.spans.flags.clone(),
        format!("there is no file of flags at `{}`", visible(&file.to_string_lossy())),
        "write { \"flags\": {} } there, or remove [flags]",
    ))
}
