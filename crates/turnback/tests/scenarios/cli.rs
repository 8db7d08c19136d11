//! The real program as operators run it, and what its output must never hold.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::Wrong;
use super::format::Step;
use super::place::{self, Picture};
use super::story::{Player, expected};

/// Longest run of marks that are drawn over one character. Written languages need fewer.
const MARKS: usize = 4;

impl Player<'_> {
    pub(crate) fn cli(&mut self, step: &Step, arguments: &[String], before: &Picture) -> Result<(), Wrong> {
        let arguments = arguments.iter().map(|text| self.fill(text)).collect::<Result<Vec<_>, _>>()?;
        let run = || -> std::io::Result<std::process::Output> {
            let mut child = Command::new(env!("CARGO_BIN_EXE_turnback"))
                .arg("--config")
                .arg(self.place.own("turnback.toml"))
                .args(&arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let (Some(mut pipe), Some(input)) = (child.stdin.take(), &step.input) {
                let input = self.fill(input).map_err(std::io::Error::other)?;
                pipe.write_all(input.as_bytes())?;
            }
            child.wait_with_output()
        };
        let output = run().map_err(|e| e.to_string())?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).map_err(|e| format!("it prints what is no text: {e}"))?;
        let check = || -> Result<(), Wrong> {
            let outcome = match output.status.code() {
                Some(0) => "fine",
                Some(1) => "failed",
                Some(2) => "findings",
                _ => "killed",
            };
            expected("outcome", Some(step.expect.outcome.as_str()), outcome)?;
            self.texts(&step.expect, &text)?;
            // What the program under `stdio` prints is for a machine.
            if arguments.first().is_none_or(|command| command != "stdio") {
                steers(&text)?;
            }
            if step.expect.changes { Ok(()) } else { place::same(before, &self.place.picture()?) }
        };
        check().map_err(|e| format!("{e}\n{text}"))
    }
}

/// Refuses what moves the cursor, changes the reading direction, hides, or piles up: control characters but
/// for line ends, and everything Unicode calls `Default_Ignorable_Code_Point` or `Bidi_Control`. Written
/// down here a second time, so that a gap in the program is not a gap in what looks for it.
fn steers(text: &str) -> Result<(), Wrong> {
    let mut marks = 0;
    for c in text.chars() {
        let ignorable = matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
        if (c.is_control() && c != '\n') || ignorable {
            return Err(format!("it prints U+{:04X}", u32::from(c)));
        }
        let mark = matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}'
            | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}');
        marks = if mark { marks + 1 } else { 0 };
        if marks > MARKS {
            return Err("it prints a pile of combining marks".into());
        }
    }
    Ok(())
}
