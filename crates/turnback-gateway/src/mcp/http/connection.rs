//! Accepting connections: bounded in number, in head size, and in the time a head may take.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use turnback_core::refusal::{Code, Refusal};

use super::patient::Patient;
use super::session::Sessions;
use super::{DOOR, Door};
use crate::desk::Desk;
use crate::mcp::McpOptions;
use crate::mcp::guard::Guard;
use crate::mcp::message::{self, RETRY_AFTER};
use crate::mcp::server::{Server, closed};

/// Most header fields of one request.
const MAX_HEADERS: usize = 64;
/// Refused connections that are seen off at once.
const MAX_LEAVING: usize = 256;
/// Most bytes of one head.
const HEAD_LIMIT: usize = 32 * 1024;

/// Serves agents over HTTP on `listener` until `shutdown` resolves, then for at most
/// [`McpOptions::grace`] until the requests at work are answered. Callers that wait for a person are
/// answered `PENDING` at once.
///
/// Calls already handed to the desk are never dropped, not even by a client that hangs up.
///
/// # Errors
/// The listener has no address, or the system no randomness. A failing `accept` is retried.
pub async fn serve_http<D: Desk>(
    listener: TcpListener,
    desk: Arc<D>,
    options: McpOptions,
    shutdown: impl Future,
) -> io::Result<()> {
    let guard = Guard::new(&options, listener.local_addr()?);
    let sessions = Sessions::new(options.session_idle);
    let room = Arc::new(Semaphore::new(options.max_connections));
    let door = Arc::new(Door { server: Arc::new(Server::new(desk, options)?), guard, sessions });
    let leaving = Arc::new(Semaphore::new(MAX_LEAVING));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a peer that left while queued: neither ends the door.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Answers are small and come in several writes; without this each waits for an acknowledgement.
        let Ok(at) = stream.set_nodelay(true).and_then(|()| stream.local_addr()) else { continue };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                let door = Arc::clone(&door);
                connections.spawn(async move {
                    serve(&door, stream, at).await;
                    drop(permit);
                });
            }
            Err(_) => turn_away(&door, stream, &leaving),
        }
    }
    drop(listener);
    door.server.closing.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    // Connections still open after the grace are dropped with the set; their runs go on in the desk.
    let _ = tokio::time::timeout(door.server.options.grace, finished).await;
    Ok(())
}

async fn serve<D: Desk>(door: &Arc<Door<D>>, stream: TcpStream, at: SocketAddr) {
    let served = AtomicBool::new(false);
    let service = service_fn(|request| {
        let door = Arc::clone(door);
        served.store(true, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(door.answer(request, at).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(door.server.options.head_deadline)
        .max_headers(MAX_HEADERS)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(Patient::new(stream, door.server.options.write_deadline)), service);
    tokio::pin!(connection);
    let mut closing = door.server.closing.subscribe();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    let Err(error) = ended else { return };
    // There is no request to answer. A timeout after the first request is a kept connection nobody used
    // again, and a broken pipe a client that left: neither was turned away.
    if error.is_parse() || (error.is_timeout() && !served.load(Ordering::Relaxed)) {
        let refusal = Refusal::new(Code::BadInput, format!("the connection was closed: {error}")).at("request head");
        door.server.turned(DOOR, None, &refusal);
    }
}

/// Says why and closes, without letting a slow peer hold this up.
fn turn_away<D: Desk>(door: &Arc<Door<D>>, mut stream: TcpStream, leaving: &Arc<Semaphore>) {
    let most = door.server.options.max_connections;
    let refusal = Refusal::new(Code::Overloaded, format!("{most} connections are open already"));
    let refusal = refusal.next("try again in a second");
    door.server.turned(DOOR, None, &refusal);
    let body = message::error(None, &message::full("connections", most, refusal));
    let text = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: {RETRY_AFTER}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // It fits any socket buffer, so one attempt that does not block is enough.
    if stream.try_write(text.as_bytes()).is_err() {
        return;
    }
    // Closed while a request lies unread, the socket would be reset and the peer might never see the answer.
    // Over so many who leave at once the rest is closed that way all the same.
    let Ok(place) = Arc::clone(leaving).try_acquire_owned() else { return };
    tokio::spawn(async move {
        let unread = async {
            stream.shutdown().await?;
            let mut nowhere = [0; 4096];
            while stream.read(&mut nowhere).await? > 0 {}
            io::Result::Ok(())
        };
        // However that ends, it is over.
        let _ = tokio::time::timeout(Duration::from_secs(1), unread).await;
        drop(place);
    });
}
