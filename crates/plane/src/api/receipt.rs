//! Receipts: how a handler learns whether its answer has left the server.
//!
//! Some answers carry away what they tell of. A row that is placed with `receipt` gives one back
//! beside the message. It goes with the answer, as an extension of the HTTP response, into the
//! response's body; it is signed when the transport has taken the last frame. Wherever it is
//! dropped before that (a handler that its caller left, a panic, a body that nobody read to its
//! end, a stream that was reset), it tells that the answer was lost.
//!
//! "Sent" means handed to the transport, which does so only while it may still send: an answer that
//! is in the buffers of a connection that breaks counts as sent. The caller that asks again with
//! the same key must get the same answer; one that never asks again is gone.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The transport has taken all of it.
    Sent,
    /// It was dropped before.
    Lost,
}

type Hearer = Box<dyn FnOnce(Fate) + Send>;

/// Tells once what became of an answer.
#[derive(Default)]
pub struct Receipt(Option<Hearer>);

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipt").field("open", &self.0.is_some()).finish()
    }
}

impl Receipt {
    /// A receipt that tells `hearer`. It must not block.
    pub fn new(hearer: impl FnOnce(Fate) + Send + 'static) -> Self {
        Self(Some(Box::new(hearer)))
    }

    /// A receipt of an answer that carries nothing away.
    pub fn none() -> Self {
        Self::default()
    }

    fn sign(&mut self, fate: Fate) {
        if let Some(hearer) = self.0.take() {
            hearer(fate);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.sign(Fate::Lost);
    }
}

/// A receipt on its way through the extensions of a response, which must be cloneable.
#[derive(Debug, Clone)]
struct Enclosed(Arc<Mutex<Receipt>>);

/// Lets a receipt go with an answer.
pub(super) fn enclose(answer: &mut tonic::Response<Bytes>, receipt: Receipt) {
    if receipt.0.is_some() {
        answer.extensions_mut().insert(Enclosed(Arc::new(Mutex::new(receipt))));
    }
}

/// Ties the receipt that goes with a response, if one does, to its body.
pub(super) fn tie(mut response: Response<Body>) -> Response<Body> {
    let Some(enclosed) = response.extensions_mut().remove::<Enclosed>() else { return response };
    let receipt = std::mem::take(&mut *enclosed.0.lock().unwrap_or_else(PoisonError::into_inner));
    response.map(|body| Body::new(Receipted { body, receipt }))
}

/// A body that signs its receipt at its end.
struct Receipted {
    body: Body,
    receipt: Receipt,
}

impl http_body::Body for Receipted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            // A unary answer is one message and the trailers.
            Some(Ok(frame)) if frame.is_trailers() => self.receipt.sign(Fate::Sent),
            None => self.receipt.sign(Fate::Sent),
            Some(Ok(_) | Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
