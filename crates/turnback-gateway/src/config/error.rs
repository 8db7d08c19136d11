//! Errors that point at their place: file, line, column, the line itself and a caret.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;

/// The text of a configuration file, kept so that an error found later can still point into it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) text: Arc<str>,
}

impl Source {
    /// An error at `span` of this text.
    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>, next: impl Into<String>) -> ConfigError {
        let text = &*self.text;
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let shown = text[line_start..line_end].trim_end_matches('\r');
        let before = &text[line_start..start];
        let within = &text[start..floor(text, span.end).clamp(start, line_end)];
        ConfigError {
            file: self.file.clone(),
            place: Some(Box::new(Place {
                line: text[..start].matches('\n').count() + 1,
                column: before.chars().count() + 1,
                shown: visible_line(shown),
                // Counted on what is printed, so that the caret stays under its text when hostile
                // characters before it are spelled out.
                indent: visible_line(before).chars().count(),
                width: visible_line(within.trim_end()).chars().count().max(1),
            })),
            message: message.into(),
            next: Some(next.into()),
        }
    }

    /// [`Source::error`] about a line that may hold a secret and is not quoted.
    pub(super) fn hidden(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> ConfigError {
        let mut error = self.error(span, message, next);
        if let Some(place) = &mut error.place {
            **place =
                Place { shown: "(not shown)".to_owned(), indent: 0, width: "(not shown)".len(), ..(**place).clone() };
        }
        error
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One line with tabs as one space, so that a caret below it lines up.
fn visible_line(line: &str) -> String {
    visible(&line.replace('\t', " "))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    shown: String,
    indent: usize,
    width: usize,
}

/// What is wrong with a configuration and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    place: Option<Box<Place>>,
    message: String,
    next: Option<String>,
}

impl ConfigError {
    /// An error about the file as a whole: it cannot be read.
    pub(super) fn whole(file: &Path, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { file: file.to_owned(), place: None, message: message.into(), next: Some(next.into()) }
    }

    /// One-based line, when the error has a place.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|p| p.line)
    }

    /// One-based column in characters, when the error has a place.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|p| p.column)
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    /// `file:line:column`, as editors and terminals make it clickable.
    pub fn location(&self) -> String {
        let file = visible(&self.file.to_string_lossy());
        match &self.place {
            Some(place) => format!("{file}:{}:{}", place.line, place.column),
            None => file,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location(), self.message)?;
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            let gap = " ".repeat(number.len());
            write!(f, "\n{gap} |\n{number} | {}", place.shown)?;
            write!(f, "\n{gap} | {}{}", " ".repeat(place.indent), "^".repeat(place.width))?;
        }
        if let Some(next) = &self.next {
            write!(f, "\nnext: {next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<&ConfigError> for Refusal {
    fn from(error: &ConfigError) -> Self {
        let mut refusal = Refusal::new(Code::BadInput, error.message.clone()).at(error.location());
        refusal.next.clone_from(&error.next);
        refusal
    }
}
