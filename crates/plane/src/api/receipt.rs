//! Receipts: how a handler learns whether its answer has left the server.
//!
//! Some answers carry away what they tell of. A row that is placed with `receipt` gives one back
//! beside the message. It goes with the answer, as an extension of the HTTP response, into the
//! response's body; it is signed when the transport has taken the last frame. Wherever it is
//! dropped before that (a handler that its caller left, a panic, a body that nobody read to its
//! end, a stream that was reset), it tells that the answer was lost.
//!
//! "Sent" means that the transport has taken all of it, which it does only while it may send. A
//! large answer goes to it in pieces, so that it takes no more than its own buffer beyond what the
//! caller lets it send. What is then on the wire counts as sent, though the connection may break
//! or the caller leave before it arrives; HTTP/2 has no word for "arrived". So the caller that asks
//! again with the same key must get the same answer; for one that leaves at that very moment, and
//! never asks again, the answer has come.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::limits::RECEIPT_PIECE_BYTES_MAX;

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
    response.map(|body| Body::new(Receipted { body, piece: Bytes::new(), receipt }))
}

/// A body that signs its receipt at its end.
struct Receipted {
    body: Body,
    /// What of the last frame has not been handed on.
    piece: Bytes,
    receipt: Receipt,
}

impl Receipted {
    fn next_piece(&mut self) -> Frame<Bytes> {
        let len = self.piece.len().min(RECEIPT_PIECE_BYTES_MAX);
        Frame::data(self.piece.split_to(len))
    }
}

impl http_body::Body for Receipted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.piece.is_empty() {
            return Poll::Ready(Some(Ok(self.next_piece())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => {
                self.receipt.sign(Fate::Sent);
                return Poll::Ready(None);
            }
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => {
                self.piece = data;
                self.next_piece()
            }
            // A unary answer is one message and the trailers.
            Err(trailers) => {
                self.receipt.sign(Fate::Sent);
                trailers
            }
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let piece = self.piece.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + piece);
        }
        hint.set_lower(hint.lower() + piece);
        hint
    }
}
