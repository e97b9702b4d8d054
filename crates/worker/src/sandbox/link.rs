//! The way to one supervisor: HTTP/2 over its socket.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tonic::body::Body;

use super::folder::Folder;
use crate::limits::{SUPERVISOR_ANSWER_MAX, SUPERVISOR_ORDER_BYTES_MAX, SUPERVISOR_WINDOW_BYTES};
use crate::supervisor::CONNECTION_WINDOW_BYTES;
use crate::supervisor::words::FREEZE;

/// Why a supervisor did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody is there.
    #[error("its supervisor does not answer: {0}")]
    Gone(#[source] io::Error),
    /// The connection was lost.
    #[error("the connection to its supervisor was lost: {0}")]
    Lost(#[from] hyper::Error),
    /// It takes too long.
    #[error("its supervisor did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// It says no; the text tells why.
    #[error("{0}")]
    Refused(String),
    /// It answers something else.
    #[error("its supervisor's answer: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
}

/// The way to a supervisor; connections are made when they are needed.
#[derive(Debug)]
pub(crate) struct Link {
    folder: Folder,
    sender: tokio::sync::Mutex<Option<SendRequest<Body>>>,
}

impl Link {
    /// The way to the supervisor of a folder.
    pub(crate) fn new(folder: Folder) -> Self {
        Self { folder, sender: tokio::sync::Mutex::new(None) }
    }

    /// The same way, to a folder that was moved.
    pub(super) fn moved(self, folder: Folder) -> Self {
        Self { folder, ..self }
    }

    /// Whether it is connected.
    pub(super) fn is_open(&self) -> bool {
        let sender = self.sender.try_lock();
        sender.is_ok_and(|sender| sender.as_ref().is_some_and(|sender| !sender.is_closed()))
    }

    async fn sender(&self) -> Result<SendRequest<Body>, Error> {
        let mut sender = self.sender.lock().await;
        if let Some(sender) = sender.as_mut()
            && sender.ready().await.is_ok()
        {
            return Ok(sender.clone());
        }
        let stream = self.folder.connect().map_err(Error::Gone)?;
        stream.set_nonblocking(true).map_err(Error::Gone)?;
        let stream = UnixStream::from_std(stream).map_err(Error::Gone)?;
        let mut http = Builder::new(TokioExecutor::new());
        // As on the other side: a bound for each stream, none for all together.
        http.initial_stream_window_size(SUPERVISOR_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SUPERVISOR_WINDOW_BYTES as usize);
        let (made, connection) = http.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a supervisor ended");
            }
        });
        Ok(sender.insert(made).clone())
    }

    /// Passes a request on; the answer's body arrives as it is read.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await?;
        Ok(response.map(Body::new))
    }

    /// Asks for something that does not take long.
    pub(crate) async fn ask<R: DeserializeOwned>(
        &self,
        path: &'static str,
        question: &impl Serialize,
    ) -> Result<R, Error> {
        let answer = tokio::time::timeout(SUPERVISOR_ANSWER_MAX, self.wait_for(path, question));
        answer.await.unwrap_or(Err(Error::Late(SUPERVISOR_ANSWER_MAX)))
    }

    /// Asks for something, however long it takes.
    pub(crate) async fn wait_for<R: DeserializeOwned>(
        &self,
        path: &'static str,
        question: &impl Serialize,
    ) -> Result<R, Error> {
        let body = self.order(path, question).await?;
        let body = Limited::new(body, SUPERVISOR_ORDER_BYTES_MAX).collect().await;
        let body = body.map_err(Error::Answer)?.to_bytes();
        serde_json::from_slice(&body).map_err(|e| Error::Answer(e.into()))
    }

    /// Has the whole sandbox stand still, as long as the answer is kept.
    pub(crate) async fn freeze(&self) -> Result<Frozen, Error> {
        let frozen = async {
            let mut body = self.order(FREEZE, &()).await?;
            match body.frame().await {
                Some(Ok(_)) => Ok(Frozen(body)),
                Some(Err(error)) => Err(Error::Answer(error.into())),
                None => Err(Error::Answer("it is empty".into())),
            }
        };
        let answer = tokio::time::timeout(SUPERVISOR_ANSWER_MAX, frozen);
        answer.await.unwrap_or(Err(Error::Late(SUPERVISOR_ANSWER_MAX)))
    }

    /// Sends an order; gives the answer to one that is followed.
    async fn order(&self, path: &'static str, order: &impl Serialize) -> Result<Body, Error> {
        let order = serde_json::to_vec(order).map_err(|e| Error::Answer(e.into()))?;
        let mut request = Request::new(Body::new(Full::new(Bytes::from(order))));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri(path)?;
        let response = self.send(request).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let why = Limited::new(response.into_body(), SUPERVISOR_ORDER_BYTES_MAX).collect().await;
        let why = why.map_err(Error::Answer)?.to_bytes();
        Err(Error::Refused(String::from_utf8_lossy(&why).into_owned()))
    }
}

/// A sandbox that stands still. It goes on when this is dropped, or by itself after a while.
pub(crate) struct Frozen(Body);

impl Frozen {
    /// Whether it has not gone on by itself.
    pub(crate) fn is_still(&mut self) -> bool {
        self.0.frame().now_or_never().is_none()
    }
}

/// The address of a path: HTTP/2 wants a host, and there is none.
pub(crate) fn uri(path: &str) -> Result<http::Uri, Error> {
    let uri = http::Uri::builder().scheme("http").authority("supervisor").path_and_query(path);
    uri.build().map_err(|e| Error::Answer(e.into()))
}
