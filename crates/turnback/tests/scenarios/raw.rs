//! Bytes to the agents' door as they are: what no well-behaved client sends, as slowly as it likes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::Wrong;
use super::doors::{Answer, PATIENCE};
use super::format::Step;
use super::place::Picture;
use super::story::{Heard, Player, expected};

impl Player<'_> {
    /// Sends and hears; or opens and keeps; or hears what came on connections that were kept.
    pub(crate) fn raw(&mut self, step: &Step, before: &Picture) -> Result<(), Wrong> {
        let mut streams = if step.hear_kept { std::mem::take(&mut self.kept) } else { self.open(step)? };
        if streams.is_empty() {
            return Err("no connection is open".into());
        }
        if step.keep {
            expected("outcome", Some(step.expect.outcome.as_str()), "open")?;
            self.kept.append(&mut streams);
            return Ok(());
        }
        for mut stream in streams {
            let heard = hear(&mut stream, step.drip.as_deref(), pause(step)).map_err(|e| e.to_string())?;
            let answers = split(&heard)?;
            let show = || String::from_utf8_lossy(&heard).into_owned();
            let first = match answers.first() {
                Some(bytes) => Answer::read(bytes)?,
                None => Answer::silence(),
            };
            let any = &step.expect.any_of;
            if !any.is_empty() {
                let outcome = Heard::of(&first).outcome;
                if !any.iter().any(|word| word == outcome) {
                    return Err(format!("it should end as one of {any:?}, ended {outcome}\n{}", show()));
                }
                continue;
            }
            let count = if first.status == 0 { 0 } else { step.expect.answers.unwrap_or(1) };
            expected("answers", Some(count), answers.len()).map_err(|e| format!("{e}\n{}", show()))?;
            let mut step = Step { expect: step.expect.clone(), ..Step::default() };
            if first.status == 0 {
                step.expect.status = Some(0);
            }
            self.heard(&step, &first, before).map_err(|e| format!("{e}\n{}", show()))?;
        }
        Ok(())
    }

    fn open(&self, step: &Step) -> Result<Vec<TcpStream>, Wrong> {
        let mut streams = Vec::new();
        for _ in 0..step.connections.unwrap_or(1) {
            let mut stream = TcpStream::connect(self.doors()?.address()).map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            for (number, piece) in step.raw.all().into_iter().enumerate() {
                if number > 0 {
                    std::thread::sleep(pause(step));
                }
                // A door that has seen enough may be closed already.
                if stream.write_all(self.fill(piece)?.as_bytes()).is_err() {
                    break;
                }
            }
            streams.push(stream);
        }
        Ok(streams)
    }
}

const fn pause(step: &Step) -> Duration {
    Duration::from_millis(match step.pause {
        Some(pause) => pause,
        None => 0,
    })
}

/// Everything until the door closes; meanwhile drops fall. The connection is left open on this side: who
/// hangs up is not answered.
fn hear(stream: &mut TcpStream, drip: Option<&str>, every: Duration) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut writing = stream.try_clone()?;
    let mut heard = Vec::new();
    std::thread::scope(|scope| {
        if let Some(drop) = drip {
            scope.spawn(move || {
                while writing.write_all(drop.as_bytes()).is_ok() {
                    std::thread::sleep(every);
                }
            });
        }
        let read = match stream.read_to_end(&mut heard) {
            // Reset: it closed while drops were still on their way.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
            other => other.map(drop),
        };
        let _ = stream.shutdown(Shutdown::Both);
        read
    })?;
    Ok(heard)
}

/// The HTTP answers in what was heard.
fn split(mut heard: &[u8]) -> Result<Vec<&[u8]>, Wrong> {
    let mut answers = Vec::new();
    while !heard.is_empty() {
        let text = String::from_utf8_lossy(heard);
        let wrong = || format!("not an HTTP answer: {text:?}");
        let head = heard.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(wrong)? + 4;
        let length = text.lines().take_while(|line| !line.is_empty()).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let end = head + length.unwrap_or(0);
        answers.push(heard.get(..end).ok_or_else(wrong)?);
        heard = heard.get(end..).unwrap_or_default();
    }
    Ok(answers)
}
