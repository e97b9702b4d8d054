//! What the server holds for one door at a time: so many requests, so many bytes of messages.
//! Whoever sends more waits; he waits for nobody but himself.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;

use super::gate::Caller;
use super::service::Transport;
use crate::limits::{
    DOOR_BYTES_MAX, DOOR_REQUESTS_MAX, MESSAGE_BYTES_MAX, PORT_BYTES_MAX, RESTRICTED_BYTES_MAX,
    RESTRICTED_MESSAGE_BYTES_MAX, RESTRICTED_REQUESTS_MAX,
};

/// Bytes of the head of a message: a flag, and the length of what follows.
const HEAD_BYTES: usize = 5;

/// The unit in which held bytes are counted.
const UNIT_BYTES: usize = 1 << 10;

/// The limits of one door, or of the port.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    requests: Option<Arc<Semaphore>>,
    units: Arc<Semaphore>,
    message_bytes_max: usize,
}

impl Intake {
    /// The limits that hold for a transport.
    pub(super) fn new(transport: &Transport) -> Self {
        let restricted = match transport {
            Transport::Port => return Self::of(None, PORT_BYTES_MAX, MESSAGE_BYTES_MAX),
            Transport::Door(caller) => match caller.as_ref() {
                Caller::User(_) | Caller::Task(_) => false,
                Caller::Restricted(_) | Caller::Nobody(_) => true,
            },
        };
        if restricted {
            let requests = Some(RESTRICTED_REQUESTS_MAX);
            return Self::of(requests, RESTRICTED_BYTES_MAX, RESTRICTED_MESSAGE_BYTES_MAX);
        }
        Self::of(Some(DOOR_REQUESTS_MAX), DOOR_BYTES_MAX, MESSAGE_BYTES_MAX)
    }

    fn of(requests: Option<usize>, bytes: usize, message_bytes_max: usize) -> Self {
        Self {
            requests: requests.map(|most| Arc::new(Semaphore::new(most))),
            units: Arc::new(Semaphore::new(bytes / UNIT_BYTES)),
            message_bytes_max,
        }
    }

    /// The largest message that is taken.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// A request's turn: it lasts until the answer has gone.
    pub(super) async fn turn(&self) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let Some(requests) = &self.requests else { return Ok(None) };
        let turn = requests.clone().acquire_owned().await;
        turn.map(Some).map_err(|_| Status::unavailable("the server ends"))
    }

    /// A body that takes its message in once there is room for it, and nothing behind it. The
    /// room is held as long as the second value is.
    pub(super) fn weigh(&self, body: Body) -> (Body, Room) {
        let room = Room::default();
        let weighed = Weighed {
            body,
            head: BytesMut::new(),
            stage: Stage::Head,
            units: self.units.clone(),
            message_bytes_max: self.message_bytes_max,
            room: room.clone(),
        };
        (Body::new(weighed), room)
    }
}

/// Room for a message, once it is taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

enum Stage {
    /// The message's length is not known yet.
    Head,
    /// It waits for room.
    Waits(BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>, usize),
    /// So many bytes may still come.
    Passes(usize),
}

struct Weighed {
    body: Body,
    head: BytesMut,
    stage: Stage,
    units: Arc<Semaphore>,
    message_bytes_max: usize,
    room: Room,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl Weighed {
    /// Reads until the length is known. A body that ends before is handed on as it is.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while self.head.len() < HEAD_BYTES {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.head.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.stage = Stage::Passes(0);
                    let rest = self.head.split().freeze();
                    let rest = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
                    return Poll::Ready(rest);
                }
            }
        }
        let announced = usize::try_from((&self.head[1..HEAD_BYTES]).get_u32());
        let announced = announced.unwrap_or(usize::MAX);
        let all = announced.saturating_add(HEAD_BYTES);
        if announced > self.message_bytes_max {
            // It is refused as soon as its head is seen.
            self.stage = Stage::Passes(all);
            return self.poll_rest(cx);
        }
        let units = u32::try_from(all.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let room = self.units.clone().acquire_many_owned(units);
        self.stage = Stage::Waits(Box::pin(room), all);
        self.poll_stage(cx)
    }

    fn poll_stage(&mut self, cx: &mut Context<'_>) -> Polled {
        match &mut self.stage {
            Stage::Head => self.poll_head(cx),
            Stage::Waits(room, all) => {
                let all = *all;
                let Ok(permit) = ready!(room.as_mut().poll(cx)) else {
                    return Poll::Ready(Some(Err(Status::unavailable("the server ends"))));
                };
                *self.room.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
                self.stage = Stage::Passes(all);
                self.poll_rest(cx)
            }
            Stage::Passes(_) => self.poll_rest(cx),
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Polled {
        let Stage::Passes(left) = &mut self.stage else { return Poll::Ready(None) };
        let frame = if self.head.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end_or_error => return Poll::Ready(end_or_error),
            }
        } else {
            Frame::data(self.head.split().freeze())
        };
        let len = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(len) else {
            let text = "there is more in the request than one message";
            return Poll::Ready(Some(Err(Status::invalid_argument(text))));
        };
        *left = rest;
        Poll::Ready(Some(Ok(frame)))
    }
}

impl http_body::Body for Weighed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.poll_stage(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Ties a request's turn to its answer: it ends when the answer has gone, or is dropped.
pub(super) fn hold(response: Response<Body>, turn: Option<OwnedSemaphorePermit>) -> Response<Body> {
    match turn {
        Some(turn) => response.map(|body| Body::new(Held { body, _turn: turn })),
        None => response,
    }
}

struct Held {
    body: Body,
    _turn: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
