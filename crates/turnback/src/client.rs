//! The operator's side of the operator's door: one JSON line to the gateway, one back.
//!
//! Never decides anything and never touches the state directory itself.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_gateway::operator::protocol::{Reply, Request};

/// Longest answer accepted, in bytes. Diffs are never truncated, so this is far above any of them.
const REPLY_LIMIT: u64 = 1 << 30;

/// Longest time an answer may take. An approval stages, commits and reads back before it answers.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How the gateway is reached.
pub(crate) enum Door {
    /// Through the socket of a running gateway.
    Socket(PathBuf),
    /// No gateway runs on this state directory: every request says what to start.
    Nobody(PathBuf),
}

impl Door {
    /// The door beside `socket`. Whether somebody listens is found out by connecting, because a socket
    /// file stays behind when a gateway is killed.
    pub(crate) fn open(socket: PathBuf) -> Self {
        match UnixStream::connect(&socket) {
            Err(e) if nobody_listens(&e) => Self::Nobody(socket),
            // Other errors are met, and told, when something is asked.
            _ => Self::Socket(socket),
        }
    }

    /// Asks the gateway. A refusal comes back as an error.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply, Refusal> {
        let reply = match self {
            Self::Socket(socket) => ask(socket, request)?,
            Self::Nobody(socket) => return Err(nobody(socket)),
        };
        match reply {
            Reply::Refused(refusal) => Err(refusal),
            reply => Ok(reply),
        }
    }
}

fn nobody_listens(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

fn nobody(socket: &Path) -> Refusal {
    Refusal::new(Code::Unavailable, "no gateway is running here")
        .at(socket.to_string_lossy())
        .next("start one with `turnback up`, or name its configuration with --config")
}

/// A reply that does not answer the request: two versions that do not understand each other.
pub(crate) fn unexpected(reply: &Reply) -> Refusal {
    let kind = serde_json::to_value(reply)
        .ok()
        .and_then(|value| value.get("reply").and_then(|kind| kind.as_str().map(str::to_owned)))
        .unwrap_or_default();
    Refusal::new(Code::Failed, format!("the gateway answered with `{}`, which is no answer to this", visible(&kind)))
        .next("run the same version of `turnback` on both sides")
}

fn ask(socket: &Path, request: &Request) -> Result<Reply, Refusal> {
    let told = |what: &str, error: &std::io::Error| {
        let refusal = Refusal::new(Code::Failed, format!("{what}: {error}")).at(socket.to_string_lossy());
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                refusal.next("only the user who runs the gateway may ask it: change to that user")
            }
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                refusal.next("it may still be under way: look with `turnback runs`")
            }
            _ => refusal.next("look with `turnback doctor`"),
        }
    };
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(e) if nobody_listens(&e) => return Err(nobody(socket)),
        Err(e) => return Err(told("cannot reach the gateway", &e)),
    };
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(Duration::from_secs(10))))
        .map_err(|e| told("cannot set a time limit", &e))?;
    let mut line = serde_json::to_vec(request)
        .map_err(|e| Refusal::new(Code::Failed, format!("cannot write the request as JSON: {e}")))?;
    line.push(b'\n');
    let unheard = match stream.write_all(&line) {
        Ok(()) => None,
        // Whoever may not ask is answered before the question, and the door closed: that answer counts.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Some(e),
        Err(e) => return Err(told("cannot ask the gateway", &e)),
    };
    let mut answer = Vec::new();
    BufReader::new(stream.take(REPLY_LIMIT))
        .read_until(b'\n', &mut answer)
        .map_err(|e| told("the gateway did not answer", &e))?;
    if answer.pop() != Some(b'\n') {
        if let Some(e) = unheard {
            return Err(told("cannot ask the gateway", &e));
        }
        return Err(Refusal::new(Code::Failed, "the gateway stopped in the middle of its answer")
            .at(socket.to_string_lossy())
            .next("nothing is lost: start it again with `turnback up` and look with `turnback runs`"));
    }
    serde_json::from_slice(&answer).map_err(|e| {
        Refusal::new(Code::Failed, format!("the gateway's answer cannot be read: {e}"))
            .next("run the same version of `turnback` on both sides")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A listener that answers the first request with these bytes.
    fn answering(bytes: &'static [u8]) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("operator.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            (&stream).write_all(bytes).unwrap();
            line
        });
        (dir, socket, thread)
    }

    #[test]
    fn one_line_each_way() {
        let (_dir, socket, thread) = answering(b"{\"reply\":\"done\"}\n");
        assert_eq!(ask(&socket, &Request::Status).unwrap(), Reply::Done);
        assert_eq!(thread.join().unwrap(), "{\"op\":\"status\"}\n");
    }

    #[test]
    fn half_an_answer_is_an_error() {
        let (_dir, socket, _thread) = answering(b"{\"reply\":\"done\"}");
        assert!(ask(&socket, &Request::Status).unwrap_err().message.contains("middle of its answer"));
    }

    #[test]
    fn an_answer_before_the_question_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("operator.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"reply\":\"refused\",\"value\":{\"code\":\"denied\",\"message\":\"no\"}}\n").unwrap();
        });
        // More than a socket takes unread, so that the question surely meets a closed door.
        let request = Request::Show { run: "r".repeat(1 << 22) };
        assert!(matches!(ask(&socket, &request).unwrap(), Reply::Refused(no) if no.code == Code::Denied));
    }

    #[test]
    fn a_refusal_is_an_error() {
        let (_dir, socket, _thread) =
            answering(b"{\"reply\":\"refused\",\"value\":{\"code\":\"not_found\",\"message\":\"no such run\"}}\n");
        let refusal = Door::Socket(socket).ask(&Request::Status).unwrap_err();
        assert_eq!((refusal.code, refusal.message.as_str()), (Code::NotFound, "no such run"));
    }

    #[test]
    fn nobody_there_says_what_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("operator.sock");
        let refused = |door: Door| door.ask(&Request::Status).unwrap_err().next.unwrap();
        assert!(refused(Door::open(socket.clone())).contains("turnback up"));
        // Left behind by a gateway that was killed.
        drop(UnixListener::bind(&socket).unwrap());
        assert!(matches!(Door::open(socket.clone()), Door::Nobody(_)));
        assert!(refused(Door::open(socket)).contains("turnback up"));
    }
}
