//! The operator's door: a Unix socket only its owner can open, never the agent's listener.
//!
//! One JSON object per line in each direction. Who asks is read from the kernel (`SO_PEERCRED`), never
//! from the message. Invariant `TWO-DOORS`: nothing an agent's credential opens leads here.

pub mod plans;
pub mod policy;
pub mod protocol;

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use turnback_core::refusal::{Code, Refusal};

use crate::mcp::{self, McpOptions};
use crate::runtime::{Runtime, user_name};
use protocol::{Reply, Request};

/// Name of the socket inside the state directory.
pub const SOCKET: &str = "operator.sock";

/// Longest request line, in bytes.
const LINE_LIMIT: u64 = 1 << 20;

/// Connections served at once.
const CONNECTIONS: usize = 64;

/// The line that turns a connection into an MCP stdio stream for the agent configured for it.
pub const STDIO_LINE: &str = "mcp-stdio";

/// The socket's path for a state directory.
pub fn socket_path(state: &Path) -> PathBuf {
    state.join(SOCKET)
}

/// Opens the socket, 0600. A socket left by a node that was killed is replaced; a living node holds
/// the state directory's lock, so there is none to take it from.
///
/// # Errors
/// When the socket cannot be made, or not be made private.
pub fn listen(state: &Path) -> std::io::Result<UnixListener> {
    let path = socket_path(state);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The directory is 0700, so nobody else can connect between these two calls.
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves operators until `shutdown` ends.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: UnixListener,
    runtime: Runtime,
    options: McpOptions,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // As many again may wait a moment to be told that there is no room.
    let hall = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to be freed instead of spinning.
                    tracing::error!(%error, "operator door");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!("operator door: more than {CONNECTIONS} connections, one refused");
            if let Ok(place) = Arc::clone(&hall).try_acquire_owned() {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(Duration::from_secs(1), turn_away(stream)).await;
                    drop(place);
                });
            }
            continue;
        };
        let (runtime, options) = (runtime.clone(), options.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, runtime, options).await {
                tracing::debug!(%error, "operator door: connection ended");
            }
            drop(place);
        });
    }
}

/// Says that there is no room. What was asked is read and dropped first: closed before it is read, the
/// other side would hear of a broken connection instead.
async fn turn_away(stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let refusal = Refusal::new(Code::Overloaded, format!("{CONNECTIONS} operators' connections are open already"))
        .next("try again in a second");
    let mut line = Vec::new();
    BufReader::new(read).take(LINE_LIMIT).read_until(b'\n', &mut line).await?;
    send(&mut write, &Reply::Refused(refusal)).await
}

async fn converse(stream: UnixStream, runtime: Runtime, options: McpOptions) -> std::io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let own = rustix::process::geteuid().as_raw();
    if peer != own && peer != 0 {
        let refusal = Refusal::new(Code::Unauthenticated, "this door is for the user who runs the node, and root");
        return send(&mut write, &Reply::Refused(refusal)).await;
    }
    let by = user_name(peer);
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        (&mut read).take(LINE_LIMIT).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        if line.strip_suffix(b"\n") == Some(STDIO_LINE.as_bytes()) {
            return match runtime.stdio_caller() {
                Ok(caller) => mcp::serve_stdio(Arc::new(runtime), caller, read, write, options).await,
                Err(refusal) => send(&mut write, &Reply::Refused(refusal)).await,
            };
        }
        let reply = match request(&line) {
            Ok(request) => runtime.operate(request, &by).await,
            Err(refusal) => Reply::Refused(refusal),
        };
        send(&mut write, &reply).await?;
    }
}

fn request(line: &[u8]) -> Result<Request, Refusal> {
    if line.last() != Some(&b'\n') {
        return Err(Refusal::new(Code::TooLarge, "a request is one line of at most 1 MiB"));
    }
    let value = turnback_core::json::parse(line).map_err(|e| Refusal::new(Code::BadInput, e.to_string()))?;
    serde_json::from_value(value).map_err(|e| Refusal::new(Code::BadInput, e.to_string()))
}

async fn send(write: &mut (impl tokio::io::AsyncWrite + Unpin), reply: &Reply) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(reply)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.flush().await
}
