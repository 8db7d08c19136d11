//! The stdio transport: one message a line, both ways, over any pair of byte streams.
//!
//! The caller is given, not asked: who may use the pipe was decided when it was opened. Lines are
//! bounded, requests are answered as they finish, one writer keeps every line whole. The bounds of
//! [`McpOptions`] hold for each pipe on its own.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use turnback_core::refusal::{Code, Refusal};

use super::McpOptions;
use super::message::{self, INTERNAL_ERROR, Message, Request, RpcError, TOO_LARGE};
use super::peer::Peer;
use super::server::{self, Line, Outcome, Server};
use crate::desk::{Caller, Desk};

/// What this door is called in the record.
const DOOR: &str = "mcp/stdio";
/// Lines that may wait to be written.
const QUEUE: usize = 64;

/// Serves one agent over a pair of byte streams until `reader` ends or `writer` fails.
///
/// At the end callers that wait for a person are let go; calls already handed to the desk have
/// [`McpOptions::grace`] to be answered and are never dropped.
///
/// # Errors
/// Reading failed, or the system has no randomness. A peer that is gone is no error.
pub async fn serve_stdio<D, R, W>(
    desk: Arc<D>,
    caller: Caller,
    reader: R,
    writer: W,
    options: McpOptions,
) -> io::Result<()>
where
    D: Desk,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let server = Arc::new(Server::new(desk, options)?);
    let (out, lines) = mpsc::channel(QUEUE);
    let writing = tokio::spawn(write(lines, writer));
    let mut pipe = Pipe { server, caller, peer: Arc::default(), out, tasks: JoinSet::new() };
    let read = pipe.read(BufReader::new(reader)).await;
    let Pipe { server, out, mut tasks, .. } = pipe;
    server.closing.send_replace(true);
    let finished = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(server.options.grace, finished).await.is_err() {
        // Runs are the desk's; only their answers have nobody to go to any more.
        tasks.detach_all();
    }
    drop(out);
    if tokio::time::timeout(server.options.grace, writing).await.is_err() {
        tracing::warn!("the last answers could not be written: the peer does not read");
    }
    read
}

struct Pipe<D> {
    server: Arc<Server<D>>,
    caller: Caller,
    peer: Arc<Peer>,
    out: mpsc::Sender<String>,
    tasks: JoinSet<()>,
}

/// One line, or what stands for it.
enum Read {
    Line,
    TooLong,
    End,
}

impl<D: Desk> Pipe<D> {
    async fn read(&mut self, mut reader: impl AsyncBufRead + Unpin) -> io::Result<()> {
        let options = &self.server.options;
        let limit = options.body_limit;
        let most = options.max_in_flight.saturating_add(options.max_waiting).saturating_add(QUEUE);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = tokio::select! {
                read = next_line(&mut reader, &mut line, limit) => read?,
                () = self.out.closed() => return Ok(()),
            };
            while self.tasks.try_join_next().is_some() {}
            // More tasks than places: the rest only wait to be written. A peer that does not read is not
            // read from either.
            while self.tasks.len() >= most && !self.out.is_closed() {
                self.tasks.join_next().await;
            }
            match read {
                Read::End => return Ok(()),
                Read::TooLong => {
                    let refusal = Refusal::new(Code::TooLarge, format!("more than {limit} bytes")).at("line");
                    self.refuse(None, RpcError::new(TOO_LARGE, refusal.next("send less in one message"))).await;
                }
                Read::Line if line.iter().all(u8::is_ascii_whitespace) => {}
                Read::Line => match message::read(&line) {
                    Ok(message) => self.take(message).await,
                    Err((id, error)) => self.refuse(id.as_deref(), error).await,
                },
            }
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Request(request) => self.request(request).await,
            Message::Notification { method, params } => {
                if method == "notifications/cancelled" {
                    self.peer.cancel(params.as_deref());
                }
            }
            Message::Response { id, result } => self.peer.answered(&id, result.as_deref()),
        }
    }

    async fn request(&mut self, request: Request) {
        let modern = request.method != "initialize" && server::enveloped(&request);
        if (modern || request.method == "server/discover")
            && let Err(error) = server::check_envelope(&request, |_, _, _| Ok(()))
        {
            return self.refuse(Some(&request.id), error).await;
        }
        let place = match self.server.admit(&self.caller) {
            Ok(place) => place,
            Err(error) => return self.refuse(Some(&request.id), error).await,
        };
        let line = Line {
            door: DOOR,
            caller: self.caller.clone(),
            peer: Arc::clone(&self.peer),
            modern,
            streams: true,
            out: self.out.clone(),
        };
        let server = Arc::clone(&self.server);
        // The handshake is finished before anything after it is looked at.
        let inline = request.method == "initialize";
        let task = async move {
            // Its own task once more, so that a panic is an answer and not silence.
            let id = request.id.clone();
            let out = line.out.clone();
            let served = tokio::spawn(async move { server.serve(&line, &request, place).await }).await;
            let text = match served {
                Ok(Outcome::Result(result)) => message::response(&id, &result),
                Ok(Outcome::Error(error)) => message::error(Some(&id), &error),
                Ok(Outcome::Cancelled) => return,
                Err(_) => {
                    let refusal = Refusal::new(Code::Failed, "the gateway failed; its log says why");
                    message::error(Some(&id), &RpcError::new(INTERNAL_ERROR, refusal))
                }
            };
            let _ = out.send(text).await;
        };
        if inline {
            task.await;
        } else {
            self.tasks.spawn(task);
        }
    }

    async fn refuse(&self, id: Option<&serde_json::value::RawValue>, error: RpcError) {
        self.server.turned(DOOR, Some(&self.caller), &error.refusal);
        let _ = self.out.send(message::error(id, &error)).await;
    }
}

/// Reads up to and without the next line end. Of a line over `limit` nothing is kept.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>, limit: usize) -> io::Result<Read> {
    let mut over = false;
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(match (over, line.is_empty()) {
                (true, _) => Read::TooLong,
                (false, true) => Read::End,
                (false, false) => Read::Line,
            });
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        over |= line.len() + part.len() > limit;
        if over {
            line.clear();
        } else {
            line.extend_from_slice(part);
        }
        let used = end.map_or(chunk.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(if over { Read::TooLong } else { Read::Line });
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(mut lines: mpsc::Receiver<String>, mut writer: W) {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        let written = async {
            writer.write_all(line.as_bytes()).await?;
            writer.flush().await
        };
        // Dropping the receiver tells everybody that nobody reads any more.
        if written.await.is_err() {
            return;
        }
    }
}
