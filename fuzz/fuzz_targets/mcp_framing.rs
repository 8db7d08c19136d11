//! MCP framing: however a byte stream is cut into pieces, the same messages are heard and answered.
//!
//! Input: two bytes that say how it is cut, then the stream as it comes in over a pipe.
#![no_main]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turnback_core::contract::Actor;
use turnback_core::json::{Numbers, parse, parse_with};
use turnback_core::names::{AgentName, RunId};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::tool::Tool;
use turnback_fuzz::World;
use turnback_gateway::desk::{Answer, Call, Caller, Desk, Pending};
use turnback_gateway::mcp::{McpOptions, serve_stdio};

/// Longest line taken; small, so that longer ones are met.
const LINE: usize = 1_000;

/// Remembers what reached it.
#[derive(Default)]
struct Told {
    calls: Mutex<Vec<Call>>,
    turned: Mutex<Vec<String>>,
}

impl Desk for Told {
    fn authenticate(&self, _: &str) -> Result<Caller, Refusal> {
        Err(Refusal::new(Code::Unauthenticated, "no"))
    }

    fn tools(&self, _: &Caller) -> Vec<Tool> {
        World::get().tools.iter().take(2).cloned().collect()
    }

    fn call(&self, call: Call) -> impl Future<Output = Answer> + Send {
        let answer = match parse(&call.arguments) {
            Ok(arguments) => Answer::Done {
                run: RunId::new(uuid::Uuid::from_u128(1)),
                reply: json!({ "tool": call.tool, "arguments": arguments, "statement": call.statement }),
                note: None,
                constrained: None,
            },
            Err(e) => {
                Answer::Refused { run: None, refusal: Refusal::new(Code::BadInput, e.to_string()), details: json!({}) }
            }
        };
        self.calls.lock().unwrap().push(call);
        std::future::ready(answer)
    }

    async fn evaluate(
        &self,
        _: &Caller,
        _: &turnback_core::access::Evaluations,
    ) -> Result<Vec<turnback_core::decision::Verdict>, Refusal> {
        Err(Refusal::new(Code::Denied, "nobody may ask here"))
    }

    fn wait(&self, _: &Caller, pending: Pending, _: Duration) -> impl Future<Output = Answer> + Send {
        std::future::ready(Answer::Pending(pending))
    }

    fn turned(&self, _: &'static str, _: Option<Actor>, refusal: &Refusal) {
        self.turned.lock().unwrap().push(refusal.to_string());
    }

    fn question_page(&self, _: &str) -> Option<String> {
        None
    }
}

/// A stream that gives its bytes in pieces, and makes the reader wait between them.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    /// Lengths of the pieces, over and over; zero makes the reader wait once.
    lengths: Vec<usize>,
    next: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.lengths[self.next % self.lengths.len()];
        self.next += 1;
        if length == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let end = (self.at + length.min(buf.remaining())).min(self.bytes.len());
        buf.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for Written {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What came of a stream, each list in an order of its own: answers are sent as they are ready.
#[derive(PartialEq, Eq, Debug)]
struct Heard {
    answers: Vec<String>,
    calls: Vec<String>,
    turned: Vec<String>,
}

fn hear(bytes: &[u8], lengths: Vec<usize>) -> Heard {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());
    let desk = Arc::new(Told::default());
    let written = Written::default();
    let caller = Caller { agent: AgentName::new("coder").unwrap(), on_behalf_of: None, assignment: Default::default() };
    let options = McpOptions { body_limit: LINE, max_in_flight: 1 << 20, ..McpOptions::default() };
    let reader = Pieces { bytes: bytes.to_vec(), at: 0, lengths, next: 0 };
    runtime.block_on(serve_stdio(Arc::clone(&desk), caller, reader, written.clone(), options)).unwrap();

    let text = String::from_utf8(written.0.lock().unwrap().clone()).expect("answers are text");
    let mut answers: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut calls = Vec::new();
    for call in desk.calls.lock().unwrap().iter() {
        let raw = &call.arguments;
        assert!(raw == b"{}" || bytes.windows(raw.len()).any(|w| w == raw), "arguments nobody sent: {raw:?}");
        calls.push(format!("{} {raw:?} {:?}", call.tool, call.statement));
    }
    let mut turned = desk.turned.lock().unwrap().clone();
    answers.sort_unstable();
    calls.sort_unstable();
    turned.sort_unstable();
    Heard { answers, calls, turned }
}

fuzz_target!(|data: &[u8]| {
    let [first, second, stream @ ..] = data else { return };
    let whole = hear(stream, vec![usize::MAX]);
    let cut = hear(stream, vec![usize::from(*first), usize::from(*second) + 1, 0]);
    assert_eq!(whole, cut, "a cut changes what is heard");

    // Every line that could be one request has exactly one answer, in strict JSON, and nothing panicked.
    let lines: Vec<&[u8]> = stream.split(|b| *b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace)).collect();
    assert!(whole.answers.len() <= lines.len(), "more answers than messages");
    for answer in &whole.answers {
        let value = parse_with(answer.as_bytes(), Numbers::Any).unwrap_or_else(|e| panic!("{e}: {answer}"));
        assert_eq!(value["jsonrpc"], "2.0");
        assert_ne!(value["error"]["code"], -32603, "the gateway failed: {answer}");
        assert!(value.get("result").is_some() != value.get("error").is_some(), "{answer}");
    }
    let refused = whole.answers.iter().filter(|a| a.contains(r#""error":{"#)).count();
    assert!(whole.turned.len() >= refused.min(1), "a refusal that nobody hears of");
    for line in lines {
        let envelope = parse_with(line, Numbers::Any).unwrap_or(Value::Null);
        let id = envelope.get("id").and_then(Value::as_str);
        if let Some(id) = id.filter(|id| line.len() <= LINE && envelope["method"] == "ping" && id.len() < 100) {
            let id = serde_json::to_string(id).unwrap();
            let answered = whole
                .answers
                .iter()
                .any(|a| parse_with(a.as_bytes(), Numbers::Any).is_ok_and(|a| a["id"].to_string() == id));
            assert!(answered, "a request without an answer: {envelope}");
        }
    }
});
