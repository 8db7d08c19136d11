//! Bodies: read with a limit and a deadline, written whole or as a stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use turnback_core::refusal::{Code, Refusal};

/// A body of ours.
pub(super) enum Body {
    /// All of it is known.
    Whole(Option<Bytes>),
    /// Events as they come.
    Events(mpsc::Receiver<Bytes>),
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::Whole(None)
    }

    pub(super) fn text(text: String) -> Self {
        Self::Whole(Some(Bytes::from(text)))
    }

    /// A stream and where its events go. A reader that is slow holds the writer, not memory.
    pub(super) fn events() -> (Self, mpsc::Sender<Bytes>) {
        let (sender, receiver) = mpsc::channel(4);
        (Self::Events(receiver), sender)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// One server-sent event with one message. JSON texts of ours have no line ends.
pub(super) fn event(text: &str) -> Bytes {
    Bytes::from(format!("event: message\ndata: {text}\n\n"))
}

/// A comment that keeps proxies and clients from giving up.
pub(super) fn comment() -> Bytes {
    Bytes::from_static(b": waiting\n\n")
}

/// Reads a request body of at most `limit` bytes within `deadline`.
///
/// What exceeds the limit is read on for a while and thrown away: a client that is still sending when the
/// connection is closed would not see why.
pub(super) async fn read(mut body: Incoming, limit: usize, deadline: Duration) -> Result<Vec<u8>, Refusal> {
    let over =
        || Refusal::new(Code::TooLarge, format!("more than {limit} bytes")).at("body").next("send less in one request");
    if body.size_hint().lower() > (limit as u64).saturating_mul(4) {
        return Err(over());
    }
    let reading = async {
        let mut bytes = Vec::new();
        let mut read = 0_usize;
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame =
                frame.map_err(|e| Refusal::new(Code::BadInput, format!("the body ended early: {e}")).at("body"))?;
            let Some(data) = frame.data_ref() else { continue };
            read = read.saturating_add(data.len());
            if read <= limit {
                bytes.extend_from_slice(data);
            } else if read > limit.saturating_mul(4) {
                break;
            }
        }
        if read > limit { Err(over()) } else { Ok(bytes) }
    };
    tokio::time::timeout(deadline, reading).await.unwrap_or_else(|_| {
        let message = format!("it did not arrive within {} ms", deadline.as_millis());
        Err(Refusal::new(Code::Busy, message).at("body").next("send the body without pauses"))
    })
}
